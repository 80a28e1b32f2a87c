"""Ending a run from outside, whichever way the wish comes."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

ENDING: Final = (signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Have a termination and a lost terminal do what Ctrl-C does, around an `asyncio.run`.

    That one cancels its main task and no other at the first Ctrl-C, so that the run cleans up. An
    exception out of a handler of one's own would cancel every task there is, the requests included
    whose answers the cleaning waits for. Does nothing in another thread than the main one; what
    is ignored (`nohup`) still is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard = [number for number in ENDING if signal.getsignal(number) is not signal.SIG_IGN]
    before = [(number, signal.signal(number, _interrupt)) for number in heard]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler or signal.SIG_DFL)


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.raise_signal(signal.SIGINT)
