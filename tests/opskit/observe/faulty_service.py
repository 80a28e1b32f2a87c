"""The chat service with a handler that fails or blocks while a file says so.

    FAULTS=DIRECTORY python faulty_service.py serve --settings F

`handler-fails` there makes every `typing` frame raise; `handler-blocks` makes it hold the event
loop for 0.4 s.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from chatservice.__main__ import main
from chatservice.room import Room

FAULTS = Path(os.environ["FAULTS"])


def _typing(room: Any, *arguments: Any) -> Any:
    if (FAULTS / "handler-fails").exists():
        raise RuntimeError("a fault was injected")
    if (FAULTS / "handler-blocks").exists():
        time.sleep(0.4)
    return _original(room, *arguments)


_original = Room.typing
Room.typing = _typing  # type: ignore[method-assign]

if __name__ == "__main__":
    sys.exit(main())
