"""What watching shows to a person."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opskit.durations import short
from opskit.observe.probing import warning
from opskit.ui import Ui, nearby

if TYPE_CHECKING:
    from opskit.environment import Environment
    from opskit.observe.firing import Firing, Seen
    from opskit.observe.probe import Probe
    from opskit.observe.remote import RemoteSite
    from opskit.observe.site import Changes, MonitoringSite
    from opskit.observe.standing import Program, Standing
    from opskit.observe.top import Ranking

_BEGINNING = 60
"""Seconds after a start in which the watchdog need not have fired yet."""
_STYLES = {"critical": "red", "warning": "yellow", "none": "dim"}


# --- monitor ----------------------------------------------------------------------------------


def changes_json(
    environment: Environment, site: MonitoringSite | RemoteSite, changes: Changes
) -> dict[str, Any]:
    """Give what was done for --json; the keys are stable."""
    return {
        "configuration": changes.configuration,
        "switched": changes.switched,
        "started": list(changes.started),
        "restarted": list(changes.restarted),
        "reloaded": list(changes.reloaded),
        "prometheus": site.prometheus_url,
        "alertmanager": site.alertmanager_url,
        "warnings": [one for one in [warning(environment)] if one],
    }


def show_changes(
    ui: Ui, environment: Environment, site: MonitoringSite | RemoteSite, changes: Changes
) -> None:
    """Show what was done, and where to look now."""
    paint, name = ui.terminal.paint, environment.name
    ui.heading("Watching", environment)
    done = [
        *(f"started {one}" for one in changes.started),
        *(f"restarted {one}" for one in changes.restarted),
        *(f"reloaded {one}" for one in changes.reloaded),
    ]
    said = ", ".join(done) or "everything runs already, from this configuration"
    ui.say(f"{ui.terminal.mark('done')} {paint('bold', said)}")
    ui.say(f"  {paint('dim', 'prometheus   ')} {paint('cyan', site.prometheus_url)}")
    ui.say(f"  {paint('dim', 'alertmanager ')} {paint('cyan', site.alertmanager_url)}")
    ui.say(f"  {paint('dim', 'configuration')} {_place(site.current)} ({changes.configuration})")
    receivers = environment.monitoring.receivers
    warnings = [warning(environment)]
    if not (receivers.webhook or receivers.email or receivers.slack):
        warnings.append("nobody is told of alerts: name somebody under monitoring.receivers")
    ui.warnings([ui.runnable(one) for one in warnings if one])
    ui.suggest(
        [
            (f"alerts {name}", "see what fires"),
            (f"dashboard {name}", "draw the dashboards"),
            (f"monitor {name} --stop", "end it"),
        ]
    )


def _place(current: Path | str) -> str:
    return current if isinstance(current, str) else nearby(current)


def show_stopped(ui: Ui, environment: Environment, ended: Sequence[str]) -> None:
    """Show what was ended."""
    said = f"ended {', '.join(ended)}" if ended else "nothing was running"
    ui.say(f"{ui.terminal.mark('done')} {ui.terminal.paint('bold', said)}")
    ui.suggest([(f"monitor {environment.name}", "watch it again")])


# --- status -----------------------------------------------------------------------------------


def standing_rows(ui: Ui, standing: Standing) -> list[tuple[str, str]]:
    """Give the rows of `status` that are about watching: by what, and what fires."""
    paint = ui.terminal.paint
    rows = []
    if standing.programs:
        whole = ", ".join(_program(ui, one) for one in standing.programs)
        where = f", on {standing.host}" if standing.host else ""
        rows.append(("watched by", f"{whole}{where}"))
        rows.append(("rules", _configuration(standing)))
    alerts = [paint("red", standing.silence)] if standing.silence else []
    if standing.alerts is not None:
        alerts += filter(None, [_firing(ui, standing)])
    if standing.next:
        alerts.append(f"{paint('cyan', 'next:')} {ui.runnable(standing.next)}")
    rows.append(("alerts", "; ".join(alerts)))
    return rows


def _program(ui: Ui, one: Program) -> str:
    since = f" for {short(one.seconds)}" if one.seconds is not None else ""
    if one.runs:
        return f"{one.name}{since}"
    return ui.terminal.paint("red", f"{one.name} {one.state}{since}")


def _configuration(standing: Standing) -> str:
    if not standing.configuration:
        return "none yet"
    whose = f"of {', '.join(standing.releases[-3:])}" if standing.releases else "of no release"
    return f"{standing.configuration}, {whose}"


def _firing(ui: Ui, standing: Standing) -> str:
    """Give in one line what fires, the worst first; empty where that nothing does says nothing."""
    assert standing.alerts is not None
    paint = ui.terminal.paint
    firing = [one for one in standing.alerts.alerts if one.state == "firing"]
    said = ", ".join(
        f"{paint(_STYLES.get(one.severity, 'dim'), one.severity)} {paint('bold', one.name)} "
        f"for {short(one.age)}"
        for one in firing
    )
    if not standing.alerts.watchdog:
        young = any(one.runs and (one.seconds or 0) < _BEGINNING for one in standing.programs)
        why = "so that no other alert would be told"
        why = "which takes half a minute after a start" if young else why
        deaf = paint("yellow" if young else "red", f"the watchdog does not fire, {why}")
        return f"{said}; {deaf}" if said else deaf
    return said or ("" if standing.silence else paint("green", "no alert fires"))


# --- alerts -----------------------------------------------------------------------------------


def show_alerts(ui: Ui, seen: Seen) -> None:
    """Show what fires, the worst first, each with what to do."""
    paint = ui.terminal.paint
    firing = [one for one in seen.alerts if one.state == "firing"]
    others = [one for one in seen.alerts if one.state != "firing"]
    for one in firing:
        _show_alert(ui, one)
    for one in others:
        state = paint("dim", f"{one.state:<9}")
        ui.say(f"  {state} {one.name:<24} {paint('dim', one.summary)}")
    if firing or others:
        ui.say()
    if not seen.watchdog:
        ui.say(f"{ui.terminal.mark('failed')} {paint('bold', 'the watchdog does not fire')}")
        ui.say("  nothing else would be told either; it takes half a minute after a start")
    elif firing:
        said = f"{len(firing)} alert{'s' * (len(firing) > 1)} firing"
        ui.say(f"{ui.terminal.mark('failed')} {paint('bold', said)}")
    else:
        said = paint("bold", "nothing fires")
        ui.say(f"{ui.terminal.mark('done')} {said} {paint('dim', '(and the watchdog does)')}")


def _show_alert(ui: Ui, one: Firing) -> None:
    paint = ui.terminal.paint
    style = _STYLES.get(one.severity, "dim")
    ui.say(
        f"{ui.terminal.mark('failed')} {paint(style, f'{one.severity:<8}')} "
        f"{paint('bold', one.name)}  {paint('dim', f'for {short(one.age)}')}"
    )
    ui.say(f"    {one.summary}")
    ui.say(f"    {paint('dim', one.description)}")
    ui.say(f"    {paint('cyan', 'do:  ')} {one.runbook}")
    ui.say(f"    {paint('cyan', 'look:')} {one.dashboard}")


# --- probe ------------------------------------------------------------------------------------


def show_probe(ui: Ui, found: Probe, path: Path) -> None:
    """Show what the probe found."""
    paint = ui.terminal.paint
    if found.report is not None:
        ui.smoke(found.report)
    else:
        ui.say(f"{ui.terminal.mark('failed')} {paint('bold', ui.runnable(found.why))}")
    if found.certificate is not None:
        left = found.certificate - datetime.now(UTC).timestamp()
        said = f"valid for {short(left)} more" if left > 0 else f"expired {short(-left)} ago"
        ui.say(f"  {paint('dim', 'certificate')} {said if left > 0 else paint('red', said)}")
    ui.say(f"  {paint('dim', 'exported to')} {nearby(path)}")


# --- top --------------------------------------------------------------------------------------


def show_top(ui: Ui, seen: Ranking) -> None:
    """Show the ranking as a table."""
    if not seen.rows:
        ui.say("nobody said anything lately")
        return
    head = ["workspace", "messages", "bytes", "connections"]
    rows = [
        [one.workspace, f"{one.messages}", _bytes(one.bytes), f"{one.connections}"]
        for one in seen.rows
    ]
    ui.terminal.table(head, rows)
    minutes = f"messages and bytes of the last {short(seen.seconds)}"
    ui.say(f"  {ui.terminal.paint('dim', minutes)}")


def _bytes(number: int) -> str:
    from opskit.observe.pace import size

    return size(number)
