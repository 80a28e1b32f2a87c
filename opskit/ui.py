"""Everything that opskit says to a person. The only module with prose for them, errors apart."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from opskit.commands import quote, shown
from opskit.durations import short
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.progress import STEP_WIDTH
from opskit.terminal import Terminal

if TYPE_CHECKING:
    from checks.smoke import Report
    from opskit.deploy.act import Act
    from opskit.deploy.dry_run import Differences, Planned
    from opskit.environment import Environment
    from opskit.tokens import Issued

_COMMANDS = (
    "alerts",
    "check",
    "dashboard",
    "deploy",
    "deployments",
    "drain",
    "exec",
    "monitor",
    "probe",
    "provision",
    "render",
    "rollback",
    "smoke",
    "status",
    "stop",
    "tail",
    "token",
    "top",
)


class Ui:
    """Speaks to a person on a terminal (or a file, or a pipe).

    Args:
        terminal: where to.
        program: how the person calls opskit, so that what is suggested can be run as it is.
    """

    def __init__(self, terminal: Terminal, program: str) -> None:
        self.terminal = terminal
        self.program = program

    # --- words --------------------------------------------------------------------------------

    def say(self, text: str = "") -> None:
        """Say one line."""
        self.terminal.line(text)

    def runnable(self, text: str) -> str:
        """Write the commands in a text as this person has to type them."""
        return re.sub(
            rf"(?<![\w./-])opskit (?=(?:{'|'.join(_COMMANDS)})\b)",
            lambda match: f"{self.program} ",
            text,
        )

    def error(self, error: Failure | Exception) -> None:
        """Say what went wrong and what to do next."""
        paint, failure = self.terminal.paint, error if isinstance(error, Failure) else None
        lines = failure.lines if failure else ()
        if lines:
            self.say()
            for line in lines:
                self.say(f"  {paint('dim', '|')} {self.runnable(line)}")
        self.say()
        first, *more = str(error).splitlines() or [""]
        self.say(f"{self.terminal.mark('failed')} {paint('bold', self.runnable(first))}")
        for line in more:
            self.say(f"  {self.runnable(line)}")
        if failure and failure.hint:
            word = "run" if failure.status == 3 else "next"
            self.say(f"  {paint('cyan', word + ':')} {self.runnable(failure.hint)}")

    def warnings(self, texts: Iterable[str]) -> None:
        """Say what went wrong beside."""
        for text in texts:
            self.say(f"{self.terminal.mark('warning')} {self.runnable(text)}")

    # --- acts ---------------------------------------------------------------------------------

    def heading(self, verb: str, environment: Environment) -> None:
        """Say what begins."""
        where = "this machine" if environment.target == "local" else ", ".join(environment.hosts)
        if environment.nodes > 1:
            where = f"{environment.nodes} nodes on this machine"
        place = self.terminal.paint("dim", f"({where}, {nearby(environment.root)})")
        self.say(f"{self.terminal.paint('bold', f'{verb} {environment.name}'.strip())} {place}")

    def smoke(self, report: Report) -> None:
        """Show the smoke test's table."""
        self.say()
        for line in report.table(colour=self.terminal.colour).splitlines():
            self.say(f"  {line}".rstrip())

    def deployed(self, act: Act) -> None:
        """Say what serves now, and what a person may want next."""
        environment, paint = act.environment, self.terminal.paint
        if act.report is not None:
            self.smoke(act.report)
        self.warnings(act.warnings)
        seconds = short((datetime.now(UTC) - act.started).total_seconds())
        self.say()
        if act.unchanged:
            what = f"{act.name} serves, as before"
            if act.action == "deploy":
                what = f"{act.name} serves already: nothing to deploy; it was tested again"
        elif act.before and act.before != act.number:
            what = f"{act.name} serves, instead of {release_name(act.before)}"
        else:
            what = f"{act.name} serves"
        address = ", ".join(environment.node_urls)
        self.say(
            f"{self.terminal.mark('done')} {paint('bold', what)} at "
            f"{paint('cyan', address)} {paint('dim', f'({seconds})')}"
        )
        if act.action == "rollback" and act.changed_secrets:
            names = ", ".join(act.changed_secrets)
            self.warnings([f"secrets are not rolled back; changed since then: {names}"])
        back = act.record.rollback_target(act.number, act.installed)
        self.suggest(
            [
                (f"token {environment.name} --workspace team --user ada", "get a token to connect"),
                (f"tail {environment.name}", "watch its log"),
                (f"rollback --env {environment.name}", f"go back to {release_name(back)}")
                if back
                else (f"status {environment.name}", "see how it is"),
            ]
        )

    def suggest(self, commands: Sequence[tuple[str, str]]) -> None:
        """Show commands that a person may want next."""
        self.say()
        width = max(len(command) for command, _ in commands)
        for command, why in commands:
            text = f"{self.program} {command:<{width}}"
            self.say(f"  {text}  {self.terminal.paint('dim', why)}")

    def stopped(self, act: Act) -> None:
        """Say that nothing serves any more."""
        self.warnings(act.warnings)
        what = "nothing was running" if act.unchanged else "stopped; the data stays"
        self.say()
        self.say(f"{self.terminal.mark('done')} {self.terminal.paint('bold', what)}")
        self.suggest([(f"deploy {act.environment.name}", "start it again")])

    def plan(self, act: Act, planned: Sequence[Planned], changes: Differences) -> None:
        """Show what a deploy would do, then what that changes."""
        paint = self.terminal.paint
        for one in planned:
            node = f"{one.node}: " if one.node else ""
            if one.skipped:
                text = f"{one.step:<{STEP_WIDTH}} {node}{one.skipped}"
                self.say(f"  {self.terminal.mark('skipped')} {paint('dim', text)}")
                continue
            self.say(f"  {paint('bold', f'{one.step:<{STEP_WIDTH}}')}   {node}{one.text}")
            if one.step == "build":
                self.say(f"      {paint('cyan', one.result)}")
            for command in one.commands:
                sign = "$" if command.changes else "?"
                line = shown(command)
                self.say(paint("dim", f"      {sign} {line}"))
        self._changes(act, changes)
        self.say()
        if act.unchanged:
            self.say(f"nothing would change: {act.name} serves this content already")
        else:
            self.say(f"{act.name} would serve; nothing was changed ($ changes, ? only looks)")

    def _changes(self, act: Act, changes: Differences) -> None:
        """Show which files would differ from those that serve; all of a first release would."""
        if act.before is None or act.lead.release is None:
            return
        self.say()
        self.say(f"  {self.terminal.paint('bold', f'changes from {release_name(act.before)}')}")
        for sign, style, paths in (
            ("+", "green", changes.added),
            ("~", "yellow", changes.changed),
            ("-", "red", changes.removed),
        ):
            for path in paths:
                self.say(f"    {self.terminal.paint(style, f'{sign} {path}')}")
        for line in changes.configuration.splitlines():
            self.say(f"      {self._diff_line(line)}")

    # --- files and tokens ---------------------------------------------------------------------

    def diff(self, text: str) -> None:
        """Show a diff."""
        if not text:
            self.say("what is live is what would be rendered")
        for line in text.splitlines():
            self.say(self._diff_line(line))

    def _diff_line(self, line: str) -> str:
        style = {"+": "green", "-": "red", "@": "cyan"}.get(line[:1])
        return self.terminal.paint(style, line) if style else line

    def files(self, files: Mapping[str, str]) -> None:
        """Show files, each under its name."""
        for path, text in sorted(files.items()):
            self.say(self.terminal.paint("dim", f"# --- {path}"))
            for line in text.splitlines():
                self.say(line)

    def connect_with(self, issued: Issued) -> None:
        """Say where a token lets in."""
        self.say()
        where = ", ".join(issued.workspaces)
        text = f"{issued.user} may enter {where} for {short(issued.ttl)}; connect to"
        self.say(f"{self.terminal.paint('dim', text)}")
        self.say(f"  {issued.url}?token=...")


def nearby(path: Path) -> str:
    """Write a path relative to the current directory, when it is below it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def program(arguments: Sequence[str] = ()) -> str:
    """Say how to call opskit from here: by its name where that finds this very program.

    Args:
        arguments: the global options that it was called with, to be given again.
    """
    called = Path(sys.argv[0])
    if called.name == "__main__.py":
        name = [nearby(Path(sys.executable)), "-m", "opskit"]
    else:
        found = shutil.which("opskit")
        same = found is not None and os.path.realpath(found) == os.path.realpath(called)
        name = ["opskit" if same else nearby(called.absolute())]
    return quote([*name, *arguments])
