"""Starting one's own successor: what `ctl reload` has the running process do.

The successor is a child, so it is in the same cgroup and has the same rights, and it outlives its
parent. It says how it went through a pipe (`reporting.Report`); what it logs goes where its
parent's goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from typing import Final

import msgspec

from chatservice.reporting import MAX_REPORT, VARIABLE, Outcome

INHERITED: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""What systemd passed to the parent alone."""


class Successor:
    """The parent's side: a process that was started to take over.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, argv: Sequence[str]) -> None:
        ours, theirs = os.pipe()
        environment = {name: text for name, text in os.environ.items() if name not in INHERITED}
        try:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                env=environment | {VARIABLE: str(theirs)},
                pass_fds=[theirs],
                start_new_session=True,
            )
        except BaseException:
            os.close(ours)
            raise
        finally:
            os.close(theirs)
        self._ours = ours
        self.pid = self._process.pid

    async def outcome(self, seconds: float) -> Outcome:
        """Wait until it serves or has ended; who does neither in time is killed."""
        try:
            async with asyncio.timeout(seconds):
                said = await asyncio.to_thread(self._read)
        except TimeoutError:
            self.kill()
            return Outcome(self.pid, error=f"it did not serve within {seconds:g} s, and was killed")
        finally:
            with contextlib.suppress(OSError):
                os.close(self._ours)
        try:
            return msgspec.json.decode(said, type=Outcome)
        except msgspec.DecodeError:
            status = await asyncio.to_thread(self._process.wait)
            how = f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
            return Outcome(self.pid, error=f"it ended with {how} and no last words; see the log")

    def _read(self) -> bytes:
        said = b""
        while len(said) < MAX_REPORT and (more := os.read(self._ours, MAX_REPORT)):
            said += more
        return said

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()
