"""What is there, shown to a person: status, the record of deployments, verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from opskit.deployments import Deployment, Outcome, Record
from opskit.durations import short
from opskit.layout import release_name
from opskit.node_status import NodeStatus
from opskit.observe.views import standing_rows
from opskit.progress import STEP_WIDTH
from opskit.status import Status
from opskit.ui import Ui

if TYPE_CHECKING:
    from opskit.deploy.preflight import Verdict

_OUTCOME_STYLES = {
    Outcome.GOOD: "green",
    Outcome.FAILED: "red",
    Outcome.UNDONE: "red",
    Outcome.INTERRUPTED: "yellow",
    Outcome.BROKEN: "red",
}


def show_status(ui: Ui, status: Status) -> None:
    """Show how an environment is."""
    environment, paint = status.fleet.environment, ui.terminal.paint
    ui.heading("", environment)
    if len(status.nodes) == 1:
        rows = _node_rows(ui, status.seen[0])
    else:
        _nodes_table(ui, status)
        rows = []
    if (last := status.record.last) is not None:
        rows.insert(-2 if rows else 0, ("last act", _act_line(ui, last)))
    if any(node.facts.current for node in status.seen):
        same = "as it would be rendered now"
        command = f"{ui.program} render {environment.name} --diff"
        differs = paint("yellow", f"differs from what is rendered now: {command}")
        drift = any(node.drift for node in status.seen)
        rows.insert(-2 if len(status.nodes) == 1 else 1, ("settings", differs if drift else same))
    if status.certificate is not None:
        left = status.certificate - datetime.now(UTC).timestamp()
        ends = f"valid for {short(left)}" if left > 0 else paint("red", "expired")
        rows.insert(-2 if len(status.nodes) == 1 else len(rows), ("certificate", ends))
    for node in status.surplus:
        said = f"{node.target.name}: {node.where_it_runs}"
        if isinstance(node, NodeStatus):
            said += f", {(node.service or {}).get('connections', '?')} connections"
        rows.append(("too many", paint("yellow", said)))
    if status.standing is not None:
        rows += standing_rows(ui, status.standing)
    width = max([STEP_WIDTH, *(len(name) for name, _ in rows)])
    for name, text in rows:
        ui.say(f"  {paint('dim', f'{name:<{width}}')} {text}")
    if status.busy is not None:
        holder = status.busy.holder
        ui.say()
        ui.warnings([f"{holder.who} is busy since {holder.since}: {holder.what}"])
    if status.record.torn:
        ui.warnings([_torn(status.record)])
    trouble, command = status.trouble
    if trouble:
        ui.say()
        ui.say(f"{ui.terminal.mark('failed')} {paint('bold', ui.runnable(trouble))}")
        if command:
            ui.say(f"  {paint('cyan', 'next:')} {ui.runnable(command)}")


def _node_rows(ui: Ui, node: NodeStatus) -> list[tuple[str, str]]:
    """Give what there is to say of the only node; the last two are about its disk."""
    facts, paint = node.facts, ui.terminal.paint
    rows: list[tuple[str, str]] = []
    manifest = facts.releases.get(facts.current) if facts.current else None
    if facts.current:
        said = f"commit {short_commit(manifest.commit, manifest.dirty)}" if manifest else "damaged"
        rows.append(("release", f"{release_name(facts.current)}, {said}"))
    service = node.service or {}
    if facts.serving:
        one = facts.serving
        where = f"pid {one.pid}, {one.host}:{one.port}"
        rows.append(("serving", f"{release_name(one.release)} for {_uptime(service)}, {where}"))
        health = paint("red", one.unready) if one.unready else paint("green", "ready")
        rows.append(("health", health))
    else:
        rows.append(("serving", paint("red", "nothing")))
    if service:
        members = f"{service.get('connections')} connections, {service.get('rooms')} rooms"
        rows.append(("members", members))
        rows.append(("store", f"{_megabytes(service)}schema {service.get('schema')}"))
    elif facts.serving:
        rows.append(("control", paint("red", node.silence)))
    if facts.proxy is not None:
        colour = "green" if facts.proxy == "active" else "red"
        rows.append(("proxy", paint(colour, facts.proxy or "not there")))
    kept = ", ".join(release_name(number) for number in sorted(facts.releases)) or "none"
    rows.append(("releases", kept))
    rows.append(("disk", f"{facts.free_bytes / 1e9:.0f} GB free"))
    return rows


def _nodes_table(ui: Ui, status: Status) -> None:
    """Show every node in a line."""
    paint, rows = ui.terminal.paint, []
    for node in status.nodes:
        mark = ui.terminal.mark("done" if node.ok else "failed")
        if not isinstance(node, NodeStatus):
            rows.append([mark, node.target.name, paint("red", "out of reach"), *[""] * 7])
            continue
        facts, service = node.facts, node.service or {}
        serving = facts.serving
        health = paint("red", "nothing serves")
        if serving:
            health = paint("red", serving.unready) if serving.unready else paint("green", "ready")
        rows.append(
            [
                mark,
                node.target.name,
                release_name(facts.current) if facts.current else "-",
                health,
                _uptime(service) if serving else "-",
                f"{serving.host}:{serving.port}" if serving else "-",
                str(service.get("connections", "-")),
                str(service.get("rooms", "-")),
                facts.proxy or "-",
                f"{facts.free_bytes / 1e9:.0f} GB",
            ]
        )
    head = [
        "",
        "node",
        "release",
        "health",
        "up",
        "at",
        "connections",
        "rooms",
        "proxy",
        "disk free",
    ]
    ui.terminal.table(head, rows)
    ui.say()


def _uptime(service: Mapping[str, Any]) -> str:
    return short(float(service["uptime"])) if "uptime" in service else "?"


def _megabytes(service: Mapping[str, Any]) -> str:
    size = service.get("database_bytes")
    return f"{size / 1e6:.1f} MB, " if isinstance(size, int) else ""


def _act_line(ui: Ui, one: Deployment) -> str:
    paint = ui.terminal.paint
    what = f"{one.action} {release_name(one.release)}" if one.release else str(one.action)
    smoke = f", {one.smoke.passed} smoke checks passed" if one.smoke else ""
    outcome = paint(_OUTCOME_STYLES[one.result], one.result.value)
    return f"{what} by {one.who} {ago(one.started)}: {outcome}{smoke}"


def show_deployments(ui: Ui, status: Status, limit: int) -> None:
    """Show the record, newest first."""
    record, environment = status.record, status.fleet.environment.name
    current = next((node.facts.current for node in status.seen if node.facts.current), None)
    paint, newest = ui.terminal.paint, list(reversed(record.deployments))[:limit]
    if not newest:
        ui.say("no deployments yet")
    rows = []
    for one in newest:
        name = release_name(one.release) if one.release else "-"
        serves = one.release == current and one is record.last_good(current or 0)
        smoke = f"{one.smoke.passed}/{one.smoke.passed + one.smoke.failed}" if one.smoke else "-"
        rows.append(
            [
                ui.terminal.mark("current") if serves else " ",
                name,
                one.action.value,
                paint(_OUTCOME_STYLES[one.result], one.result.value),
                short_commit(one.commit, one.dirty),
                one.who,
                local(one.started),
                short(one.duration_s),
                smoke,
                one.reason,
            ]
        )
    if rows:
        head = ["", "release", "action", "result", "commit", "who", "when", "took", "smoke", ""]
        ui.terminal.table(head, rows)
    if record.torn:
        ui.warnings([_torn(record)])
    broken_off = status.interrupted
    if broken_off is not None:
        what = f"{broken_off.record.action} {release_name(broken_off.release)}"
        ui.say()
        ui.warnings(
            [
                f"{what} by {broken_off.record.who} was interrupted in the step "
                f"{broken_off.step}; the next deploy, rollback or stop mends "
                f"that; see: opskit status {environment}"
            ]
        )


def show_verdicts(ui: Ui, verdicts: Sequence[Verdict]) -> None:
    """Show what `check` found."""
    node = ""
    for one in verdicts:
        if one.node != node:
            node = one.node
            ui.say(f"  {ui.terminal.paint('bold', node or 'from here')}")
        mark = ui.terminal.mark("done" if one.ok else "failed")
        ui.say(f"  {mark} {one.name:<12} {one.detail}")
        if one.hint:
            ui.say(f"      {ui.terminal.paint('cyan', 'next:')} {ui.runnable(one.hint)}")


def short_commit(commit: str, dirty: bool) -> str:
    """Write a commit in few characters; a `+` says that what was built differs from it."""
    return f"{commit[:10]}{'+' * dirty}" if commit not in ("", "none") else "-"


def _torn(record: Record) -> str:
    lines = ", ".join(map(str, record.torn))
    return f"the record of deployments has lines that cannot be read: {lines}"


def local(moment: str) -> str:
    """Write a recorded moment in local time."""
    try:
        return datetime.fromisoformat(moment).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except ValueError:
        return moment


def ago(moment: str) -> str:
    """Write how long ago a recorded moment was."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(moment)).total_seconds()
    except ValueError:
        return moment
    return f"{short(seconds) if seconds >= 10 else f'{seconds:.0f} s'} ago"
