"""A service manager in small: it keeps descriptors for a service and starts it again when it dies.

What systemd does for a unit with `FileDescriptorStoreMax` and `Restart=always` (sd_notify(3),
sd_listen_fds(3)); real ones are in tests/hosts.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.chatservice.manager import receive
from tests.chatservice.wire import eventually, status
from tests.service_process import REPOSITORY, ServiceProcess

_START = """
import fcntl, json, os, sys
kept = json.loads(sys.argv[1])
high = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 5000) for _, number in kept]
os.closerange(3, 5000)
for position, number in enumerate(high):
    os.dup2(number, 3 + position)
if kept:
    os.environ["LISTEN_PID"] = str(os.getpid())
    os.environ["LISTEN_FDS"] = str(len(kept))
    os.environ["LISTEN_FDNAMES"] = ":".join(name for name, _ in kept)
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


class Keeper:
    """While it is entered, the service runs, whatever happens to it."""

    def __init__(self, service: ServiceProcess, directory: Path, *, restart: bool = True) -> None:
        self.service = service
        self.kept: dict[str, list[int]] = {}
        self.starts = 0
        self.told: list[str] = []
        self.restart = restart
        self._path = directory / "notify"
        self._notifications = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notifications.bind(str(self._path))
        self._enough = False
        self._main: int | None = None
        self._thread = threading.Thread(target=self._run, name="keeper")

    def __enter__(self) -> Self:
        self._start()
        self._thread.start()
        self.service.wait_ready()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._enough = True
        self._thread.join()
        self.service.close()
        self._notifications.close()
        for descriptors in self.kept.values():
            for descriptor in descriptors:
                os.close(descriptor)

    def kill(self, *, idle: bool = True) -> None:
        """Kill -9 the service, and wait until it serves again.

        With `idle`, at a moment at which it has nothing to do.
        """
        if idle and self.service.returncode is None:
            status(self.service)  # which it answers in a later turn of its loop
        starts = self.starts
        self.service.kill()
        eventually(lambda: self.starts > starts)
        self.service.wait_ready()

    def settled(self, count: int) -> None:
        """Wait until so many descriptors are kept."""
        eventually(lambda: sum(map(len, self.kept.values())) == count, f"{count} are kept")

    def _start(self) -> None:
        service = self.service
        kept = [(name, number) for name, numbers in self.kept.items() for number in numbers]
        argv = [*service.program, "serve", "--settings", str(service.settings_file)]
        with service.log_file.open("ab") as log:
            service.process = subprocess.Popen(
                [sys.executable, "-c", _START, json.dumps(kept), *argv],
                cwd=REPOSITORY,
                env=os.environ | service.environment | {"NOTIFY_SOCKET": str(self._path)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[number for _, number in kept],
            )
        self.starts += 1

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._notifications, select.POLLIN)
        while not self._enough:
            if poll.poll(10):
                self._take()
            self._let_go_of_the_dead()
            if self.restart and self.service.returncode is not None and not self._enough:
                time.sleep(0.05)
                while poll.poll(0):
                    self._take()
                self._start()

    def _take(self) -> None:
        data, descriptors = receive(self._notifications)
        fields = dict(line.partition("=")[::2] for line in data.decode().splitlines())
        name = fields.get("FDNAME", "")
        if "FDSTORE" in fields:
            self.kept.setdefault(name, []).extend(descriptors)
            return
        for descriptor in descriptors:  # a barrier, above all
            os.close(descriptor)
        if "FDSTOREREMOVE" in fields:
            for descriptor in self.kept.pop(name, []):
                os.close(descriptor)
        elif "BARRIER" not in fields:
            self.told.append(data.decode())

    def _let_go_of_the_dead(self) -> None:
        """As systemd does with what hangs up."""
        poll = select.poll()
        names = {}
        for name, descriptors in self.kept.items():
            for descriptor in descriptors:
                names[descriptor] = name
                poll.register(descriptor, 0)
        for descriptor, _ in poll.poll(0):
            with contextlib.suppress(ValueError):
                self.kept[names[descriptor]].remove(descriptor)
            os.close(descriptor)
            if not self.kept[names[descriptor]]:
                del self.kept[names[descriptor]]
