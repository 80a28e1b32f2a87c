"""The chat service with a handler that fails or blocks while a file says so.

    FAULTS=DIRECTORY python faulty_service.py serve --settings F

While `handler-fails` is there every `typing` frame raises, with `handler-fails-at-times` every
fourth; `handler-blocks` makes each hold the event loop for 0.4 s.
"""

from __future__ import annotations

import itertools
import os
import sys
import time
from pathlib import Path
from typing import Any

from chatservice.__main__ import main
from chatservice.room import Room

FAULTS = Path(os.environ["FAULTS"])


def faulty(original: Any) -> Any:
    numbers = itertools.count()

    def typing(room: Any, *arguments: Any) -> Any:
        at_times = (FAULTS / "handler-fails-at-times").exists() and next(numbers) % 4 == 0
        if at_times or (FAULTS / "handler-fails").exists():
            raise RuntimeError("a fault was injected")
        if (FAULTS / "handler-blocks").exists():
            time.sleep(0.4)
        return original(room, *arguments)

    return typing


if __name__ == "__main__":
    setattr(Room, "typing", faulty(Room.typing))  # noqa: B010 - a method, for mypy not to see
    sys.exit(main())
