"""What is there, shown to a person: status, the record of deployments, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from opskit.deployments import Deployment, Outcome, Record
from opskit.durations import short
from opskit.layout import release_name
from opskit.progress import STEP_WIDTH
from opskit.status import Status, interrupted
from opskit.ui import Ui

if TYPE_CHECKING:
    from opskit.deploy.preflight import Verdict
    from opskit.facts import Facts

_OUTCOME_STYLES = {
    Outcome.GOOD: "green",
    Outcome.FAILED: "red",
    Outcome.UNDONE: "red",
    Outcome.INTERRUPTED: "yellow",
    Outcome.BROKEN: "red",
}


def show_status(ui: Ui, status: Status) -> None:
    """Show how an environment is."""
    facts, environment, paint = status.facts, status.target.environment, ui.terminal.paint
    ui.heading("", environment)
    rows: list[tuple[str, str]] = []
    manifest = facts.releases.get(facts.current) if facts.current else None
    if facts.current:
        said = f"commit {short_commit(manifest.commit, manifest.dirty)}" if manifest else "damaged"
        rows.append(("release", f"{release_name(facts.current)}, {said}"))
    service = status.service or {}
    if facts.serving:
        one = facts.serving
        up = short(float(service["uptime"])) if "uptime" in service else "?"
        rows.append(
            (
                "serving",
                f"{release_name(one.release)} for {up}, pid {one.pid}, {one.host}:{one.port}",
            )
        )
        rows.append(
            ("health", paint("red", one.unready) if one.unready else paint("green", "ready"))
        )
    else:
        rows.append(("serving", paint("red", "nothing")))
    if service:
        rows.append(
            (
                "members",
                f"{service.get('connections')} connections, {service.get('rooms')} rooms",
            )
        )
        size = service.get("database_bytes")
        megabytes = f"{size / 1e6:.1f} MB, " if isinstance(size, int) else ""
        rows.append(("store", f"{megabytes}schema {service.get('schema')}"))
    elif facts.serving:
        rows.append(("control", paint("red", status.silence)))
    if (last := status.record.last) is not None:
        rows.append(("last act", _act_line(ui, last)))
    if facts.current:
        same = "as it would be rendered now"
        command = f"{ui.program} render {environment.name} --diff"
        differs = f"differs from what is rendered now: {command}"
        rows.append(("settings", paint("yellow", differs) if status.drift else same))
    kept = ", ".join(release_name(number) for number in sorted(facts.releases)) or "none"
    rows.append(("releases", kept))
    rows.append(("disk", f"{facts.free_bytes / 1e9:.0f} GB free"))
    for name, text in rows:
        ui.say(f"  {paint('dim', f'{name:<{STEP_WIDTH}}')} {text}")
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
        ui.say(f"  {paint('cyan', 'next:')} {ui.runnable(command)}")


def _act_line(ui: Ui, one: Deployment) -> str:
    paint = ui.terminal.paint
    what = f"{one.action} {release_name(one.release)}" if one.release else str(one.action)
    smoke = f", {one.smoke.passed} smoke checks passed" if one.smoke else ""
    outcome = paint(_OUTCOME_STYLES[one.result], one.result.value)
    return f"{what} by {one.who} {ago(one.started)}: {outcome}{smoke}"


def show_deployments(ui: Ui, record: Record, facts: Facts, environment: str, limit: int) -> None:
    """Show the record, newest first."""
    current = facts.current
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
    broken_off = interrupted(facts, record)
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
    for one in verdicts:
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
