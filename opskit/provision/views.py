"""What provisioning says to a person, and to a script."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from opskit.commands import shown
from opskit.provision.change import Change
from opskit.provision.run import Observer, Outcome

if TYPE_CHECKING:
    from opskit.environment import Environment
    from opskit.ui import Ui

_WIDTH = len("directories")


def progress(ui: Ui) -> Observer:
    """Give what says each change as it begins."""
    lock = threading.Lock()

    def observe(host: str, change: Change) -> None:
        with lock:
            ui.say(f"  {ui.terminal.paint('dim', host)}  {change.step:<{_WIDTH}} {change.text}")

    return observe


def show(ui: Ui, environment: Environment, outcomes: Sequence[Outcome]) -> None:
    """Say of each host what was changed, and what a person may want next."""
    paint, mark = ui.terminal.paint, ui.terminal.mark
    ui.say()
    for one in outcomes:
        if one.failure is not None:
            made = f" (after {_count(one)})" if one.changes else ""
            ui.say(f"{mark('failed')} {paint('bold', one.host)} is not ready{made}")
        elif one.changes:
            ui.say(f"{mark('done')} {paint('bold', one.host)} is ready: {_count(one)} made")
        else:
            ui.say(f"{mark('done')} {paint('bold', one.host)} was ready: nothing to change")
    if all(one.failure is None for one in outcomes):
        ui.suggest(
            [
                (f"check {environment.name}", "see whether a deploy could work"),
                (f"deploy {environment.name}", "deploy to it"),
            ]
        )


def show_plan(ui: Ui, outcomes: Sequence[Outcome]) -> None:
    """Show every command and every change of a file, host by host."""
    paint = ui.terminal.paint
    for one in outcomes:
        ui.say()
        ui.say(paint("bold", one.host))
        if not one.changes and one.failure is None:
            ui.say("  nothing to change")
        for change in one.changes:
            ui.say(f"  {paint('bold', f'{change.step:<{_WIDTH}}')} {change.text}")
            for command in change.commands:
                ui.say(paint("dim", f"      $ {shown(command)}"))
            for line in change.diff.splitlines():
                style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
                ui.say(f"        {paint(style, line) if style else line}")
    ui.say()
    ui.say("nothing was changed")


def to_json(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Give the same with stable keys."""
    return {
        "ok": all(one.failure is None for one in outcomes),
        "changed": any(one.changes for one in outcomes),
        "hosts": [
            {
                "host": one.host,
                "changes": [
                    {
                        "step": change.step,
                        "text": change.text,
                        "commands": [shown(command) for command in change.commands],
                        "diff": change.diff,
                    }
                    for change in one.changes
                ],
                "failure": str(one.failure) if one.failure else None,
                "hint": one.failure.hint if one.failure else None,
            }
            for one in outcomes
        ],
    }


def _count(outcome: Outcome) -> str:
    number = len(outcome.changes)
    return f"{number} change" if number == 1 else f"{number} changes"
