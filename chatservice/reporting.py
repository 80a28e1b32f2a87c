"""What a successor says to the process that started it: that it serves, or why it does not."""

from __future__ import annotations

import contextlib
import os
from typing import Any, Final

import msgspec

VARIABLE: Final = "CHATSERVICE_REPORT_FD"
MAX_REPORT: Final = 65_536
RELOAD_SECONDS: Final = 60.0
"""How long a successor may take until it serves; then it is killed."""


class Outcome(msgspec.Struct, omit_defaults=True):
    """How a start went: it serves, or `error` says why not."""

    pid: int
    serving: bool = False
    error: str = ""
    last_start: dict[str, Any] = {}


class Report:
    """The successor's side; without a parent that waits, nothing happens."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        number = os.environ.pop(VARIABLE, "")
        if number.isdigit():
            self._descriptor = int(number)
            with contextlib.suppress(OSError):
                os.set_inheritable(self._descriptor, False)

    def serving(self, last_start: dict[str, Any]) -> None:
        """It serves."""
        self._say(Outcome(os.getpid(), serving=True, last_start=last_start))

    def failed(self, why: str) -> None:
        """It does not."""
        self._say(Outcome(os.getpid(), error=why))

    def _say(self, outcome: Outcome) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with contextlib.suppress(OSError):
                os.write(descriptor, msgspec.json.encode(outcome)[:MAX_REPORT])
                os.close(descriptor)
