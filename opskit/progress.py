"""The steps of an act, shown as they happen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Final

from opskit.deploy.plan import Event, Kind
from opskit.terminal import Terminal

if TYPE_CHECKING:
    from checks.smoke import CheckResult

    OnCheck = Callable[[CheckResult], None]

STEP_WIDTH: Final = 10
TEXT_WIDTH: Final = 68
_AROUND: Final = len("  ✓ ") + len(" 000.00 s") + 1


class Progress:
    """Shows the steps of an act as they happen; on a terminal with a running clock."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._live: AbstractContextManager[Callable[[str], None]] | None = None
        self._change: Callable[[str], None] = lambda text: None
        self._undoing = False
        self._checked = 0
        self._lock = threading.RLock()

    def __call__(self, event: Event) -> None:
        """Show one event."""
        with self._lock:
            match event.kind:
                case Kind.STARTED:
                    self._begin(f"{event.step:<{STEP_WIDTH}} {event.node}".rstrip())
                case Kind.UNDOING:
                    self._begin(f"{event.step:<{STEP_WIDTH}} {_of(event)}putting back")
                case Kind.NOTE:
                    text = self._terminal.paint("dim", _of(event) + event.text)
                    self._terminal.line(f"    {text}")
                case Kind.SKIPPED:
                    if event.step in ("switch", "smoke"):
                        self._line("skipped", event)
                case Kind.DONE:
                    self._line("done", event)
                case Kind.FAILED:
                    self._line("failed", event)
                case Kind.STUCK:
                    self._first_undo()
                    self._line("failed", event)
                case Kind.UNDONE if event.text:
                    self._first_undo()
                    self._line("undone", event)
                case Kind.UNDONE:
                    self._end()

    def check(self, result: CheckResult) -> None:
        """Show which smoke check has just ended."""
        with self._lock:
            self._checked += 1
            self._change(f"{'smoke':<{STEP_WIDTH}} {self._checked} checks, {result.title}")

    @contextmanager
    def watching(self, step: str) -> Iterator[OnCheck]:
        """Show the smoke checks of a run that is no step of an act."""
        self._begin(step)
        try:
            yield self.check
        finally:
            self._end()

    def _begin(self, text: str) -> None:
        self._end()
        self._live = self._terminal.live(text)
        self._change = self._live.__enter__()

    def _end(self) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def _line(self, mark: str, event: Event) -> None:
        self._end()
        first = event.text.splitlines()[0] if event.text else ""
        first = first.removeprefix(_of(event))
        text = f"{event.step:<{STEP_WIDTH}} {_of(event)}{first}"
        if event.seconds >= 0.005:
            took = self._terminal.paint("dim", f"{event.seconds:>6.2f} s")
            room = min(TEXT_WIDTH, self._terminal.width - _AROUND)  # 80 columns hold a whole line
            text = f"{text:<{room}} {took}"
        self._terminal.line(f"  {self._terminal.mark(mark)} {text}".rstrip())

    def _first_undo(self) -> None:
        if not self._undoing:
            self._end()
            self._terminal.line("  undoing")
            self._undoing = True


def _of(event: Event) -> str:
    """Write which node an event is about; nothing where there is one, or for all."""
    return f"{event.node}: " if event.node else ""
