"""The servers under load, each a process of its own on a core of its own."""

from __future__ import annotations

import contextlib
import selectors
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.dialects import Chat, Dialect, SocketIO
from bench.machine import Cores
from bench.member import LoadError
from bench.peers.listening import ANNOUNCEMENT
from chatservice.auth import sign
from tests.service_process import REPOSITORY, ServiceProcess

OURS: Final = "chatservice"
BROADCAST: Final = "websockets"
SOCKETIO: Final = "python-socketio"
_PEERS: Final = {
    BROADCAST: "bench.peers.websockets_broadcast",
    SOCKETIO: "bench.peers.socketio_rooms",
}
NAMES: Final = (OURS, *_PEERS)

START_SECONDS: Final = 30.0
STOP_SECONDS: Final = 30.0
TOKEN_SECONDS: Final = 86_400.0
NEVER: Final = 86_400.0

LIFTED: Final[dict[str, dict[str, Any]]] = {
    "limits": {"rate": 1e6, "burst": 1_000_000, "queued_writes": 1_000_000},
}
"""Settings of the chat service that would refuse the load; all others are as it comes."""


class Running(NamedTuple):
    """A server that serves."""

    name: str
    pid: int
    port: int
    secret: str
    dialect: Dialect
    log: Callable[[], str]

    def token(self, user: str, room: str) -> str:
        """Sign a token for one room."""
        return sign(self.secret, user=user, workspaces=[room], ttl=TOKEN_SECONDS)


@contextlib.contextmanager
def running(
    name: str, directory: Path, cores: Cores, *, keep_alive: bool = False
) -> Iterator[Running]:
    """Run a server; everything of it is under `directory`, which must be on a real disk.

    Args:
        name: one of `NAMES`.
        directory: one of its own.
        cores: where it runs.
        keep_alive: whether it pings its clients, as it does by default.

    Raises:
        LoadError: it failed while this ran; the message ends with the end of its log.
    """
    start = _chatservice if name == OURS else _peer
    with start(name, directory, cores, keep_alive) as server:
        try:
            yield server
        except LoadError as error:
            raise LoadError(f"{name}: {error}\n{server.log()}") from None


@contextlib.contextmanager
def _chatservice(name: str, directory: Path, cores: Cores, keep_alive: bool) -> Iterator[Running]:
    service = ServiceProcess(directory, overrides=LIFTED)
    if not keep_alive:
        service.configure({"timing": {"heartbeat": NEVER}})
    try:
        with cores.of_server():
            service.start()
        yield Running(name, service.pid, service.port, service.secret, Chat(), service.log_tail)
    finally:
        service.close()


@contextlib.contextmanager
def _peer(name: str, directory: Path, cores: Cores, keep_alive: bool) -> Iterator[Running]:
    directory.mkdir(parents=True)
    secret = "bench" * 10
    secret_file = directory / "secret"
    secret_file.write_text(secret, encoding="ascii")
    argv = [sys.executable, "-m", _PEERS[name], "--secret-file", str(secret_file)]
    argv += ["--keep-alive"] * keep_alive
    log = directory / "log"
    with log.open("wb") as errors, cores.of_server():
        process = subprocess.Popen(
            argv, cwd=REPOSITORY, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        )

    def tail() -> str:
        return log.read_text(encoding="utf-8", errors="replace")[-4000:]

    dialect: Dialect = SocketIO() if name == SOCKETIO else Chat()
    try:
        port = _announced(process, name, tail)
        yield Running(name, process.pid, port, secret, dialect, tail)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()


def _announced(process: subprocess.Popen[bytes], name: str, tail: Callable[[], str]) -> int:
    """Wait until a peer says where it listens."""
    assert process.stdout is not None
    until = time.monotonic() + START_SECONDS
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        if selector.select(until - time.monotonic()):
            line = process.stdout.readline().decode()
            if line.startswith(ANNOUNCEMENT):
                return int(line.removeprefix(ANNOUNCEMENT))
    raise LoadError(f"{name} did not start within {START_SECONDS:g} s\n{tail()}")
