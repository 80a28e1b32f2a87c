"""A handover that fails at any point: either the old process serves on, or the new one serves all.

Those who chat, and those in the middle of something, notice nothing but a pause.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chatservice.control import ControlError
from chatservice.handover_format import LENGTH, Clients, End, unpack
from chatservice.passing import Taker
from tests.chatservice.bystanders import Bystanders
from tests.chatservice.midway import SETTINGS, Midway
from tests.chatservice.newcomer import (
    conversation,
    end_of,
    launcher,
    newcomer,
    pid_that_serves,
)
from tests.chatservice.wire import DEADLINE, Wire, eventually, log_lines, status, troubles
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, ServiceProcess

ORDER = b'{"order":"take-over","version":1,"versions":[2],"room":1000}\n'
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY)}
DYING = {
    "while it takes the first parcel": (
        "import chatservice.handover as handover\n"
        "handover.Inheritance.add = lambda self, *parcel: os._exit(9)"
    ),
    "when it has everything": (
        "inherit = takeover._inherit\n"
        "def die(*all):\n"
        "    inherit(*all)\n"
        "    os._exit(9)\n"
        "takeover._inherit = die"
    ),
    "when it has confirmed": (
        "def die(self):\n"
        "    self._peer.sendall(b'{\"confirmed\":true}\\n')\n"
        "    os._exit(9)\n"
        "takeover.Claim.confirm = die"
    ),
    "when it may serve and has not said that it does": (
        "def die(self):\n"
        "    self._peer.sendall(b'{\"confirmed\":true}\\n')\n"
        "    assert self._lines.line(1000) == b'{\"ok\":true}\\n'\n"
        "    os._exit(9)\n"
        "takeover.Claim.confirm = die"
    ),
    "with no memory left": (
        "import chatservice.handover as handover\n"
        "def fail(self, *parcel): raise MemoryError\n"
        "handover.Inheritance.add = fail"
    ),
    "of a bug while it takes a connection": (
        "import chatservice.handover as handover\n"
        "handover.Inheritance._add_member = lambda self, *all: 1 / 0"
    ),
}


@pytest.fixture(scope="module")
def module_overrides() -> dict[str, dict[str, object]]:
    return SETTINGS | {"timing": {"presence_grace": 0.0, "handshake": 300.0}}


@pytest.fixture(scope="module")
def midway(module_service: ServiceProcess) -> Iterator[Midway]:
    """Clients in the middle of something, who go on when all else is over."""
    with Midway(module_service) as midway:
        yield midway
        midway.finish()


@pytest.fixture
def serving(
    module_service: ServiceProcess, midway: Midway, bystanders: Bystanders
) -> Iterator[ServiceProcess]:
    """A service whose members must notice nothing, and which must be the one that still serves."""
    yield module_service
    assert pid_that_serves(module_service) == module_service.pid == status(module_service)["pid"]


@pytest.mark.parametrize("when", DYING)
def test_a_newcomer_dies(
    serving: ServiceProcess, chatting: Bystanders, tmp_path: Path, when: str
) -> None:
    code, said = end_of(newcomer(serving, program=launcher(tmp_path / "dying.py", DYING[when])))
    assert code != 0, said
    assert log_lines(serving)[-1]["msg"] != "stopped"
    chatting.confirm()


def test_a_newcomer_that_has_too_few_descriptors_is_refused_before_anything_moves(
    serving: ServiceProcess, tmp_path: Path
) -> None:
    short = launcher(
        tmp_path / "short.py",
        "import resource\n"
        "from chatservice.descriptors import SPARE\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (SPARE + 5, SPARE + 5))",
    )
    count = status(serving)["connections"]
    code, said = end_of(newcomer(serving, program=short))
    assert code == 1
    assert said == (
        f"chatservice: the running process refused: {count} members are connected, and the new "
        "process has descriptors for 5"
    )


def test_a_newcomer_that_runs_out_of_descriptors_on_the_way_gives_up(
    serving: ServiceProcess, chatting: Bystanders, tmp_path: Path
) -> None:
    """The kernel passes as many as fit, and says that it cut them off (MSG_CTRUNC)."""
    short = launcher(
        tmp_path / "short.py",
        "import resource\n"
        "inherit = takeover._inherit\n"
        "def shorten(*all):\n"
        "    now = len(os.listdir('/proc/self/fd'))\n"
        "    resource.setrlimit(resource.RLIMIT_NOFILE, (now + 3, now + 3))\n"
        "    inherit(*all)\n"
        "takeover._inherit = shorten",
    )
    code, said = end_of(newcomer(serving, program=short))
    assert code == 1
    assert said == (
        "chatservice: the running process passed more sockets than this process may open: "
        "raise LimitNOFILE"
    )
    chatting.confirm()


@pytest.mark.parametrize(
    ("confirmation", "then"),
    [
        (b"", b""),
        (b"garbage\n", b""),
        (b'{"confirmed":1}\n', b""),
        (b'{"confirmed":true}\n', b""),
        (b'{"confirmed":true}\n', b"garbage\n"),
        (b'{"confirmed":true}\n', b'{"serving":false}\n'),
        (b'{"confirmed":true}\n', b'{"serving":true}'),
        (b'{"confirmed":true}\n', b"x" * 70_000),
    ],
)
def test_a_newcomer_says_something_else(
    serving: ServiceProcess, chatting: Bystanders, confirmation: bytes, then: bytes
) -> None:
    with conversation(serving, ORDER) as peer:
        descriptors = take_everything(peer)
        peer.sendall(confirmation)
        if then:
            assert peer.makefile().readline() == '{"ok":true}\n'
        try:
            peer.sendall(then)
            peer.shutdown(socket.SHUT_WR)
            while peer.recv(4096):
                pass
        except OSError:
            pass
        for descriptor in descriptors:
            os.close(descriptor)
    chatting.confirm()


def take_everything(peer: socket.socket) -> list[int]:
    """Take what a process hands over as a new one does; give the descriptors."""
    taker = Taker(peer)
    offer = json.loads(taker.line(65_536))
    assert offer["version"] == 2
    clients = 0
    while True:
        (size,) = LENGTH.unpack(taker.exactly(LENGTH.size))
        parcel = unpack(taker.exactly(size))
        if isinstance(parcel, Clients):
            clients += len(parcel.clients)
        if isinstance(parcel, End):
            assert parcel.clients == clients == offer["connections"]
            break
    descriptors = list(taker._descriptors)
    taker._descriptors.clear()
    return descriptors


@pytest.mark.parametrize(
    "patch",
    [
        "confirm = takeover.Claim.confirm\n"
        "def later(self):\n"
        "    time.sleep(1.5)\n"
        "    confirm(self)\n"
        "takeover.Claim.confirm = later",
        "def later(self):\n"
        "    self._peer.sendall(b'{\"confirmed\":true}\\n')\n"
        "    self._lines.line(1000)\n"
        "    time.sleep(1.5)\n"
        "    try: self._peer.sendall(b'{\"serving\":true}\\n')\n"
        "    except OSError: raise takeover.ControlError('cannot say so any more') from None\n"
        "takeover.Claim.confirm = later",
        "inherit = takeover._inherit\n"
        "def later(*all):\n"
        "    time.sleep(1.5)\n"
        "    inherit(*all)\n"
        "takeover._inherit = later",
    ],
    ids=["before it confirms", "before it says that it serves", "before it takes anything"],
)
def test_a_newcomer_that_hangs_is_given_up_and_cannot_serve_later(
    service_factory: ServiceFactory, tmp_path: Path, patch: str
) -> None:
    impatient = launcher(tmp_path / "impatient.py", "takeover.CONFIRM_SECONDS = 0.5")
    service = service_factory(SETTINGS, program=impatient, environment=ENVIRONMENT)
    with Midway(service) as midway, Bystanders(service) as chatting:
        code, said = end_of(newcomer(service, program=launcher(tmp_path / "slow.py", patch)))
        assert code == 1, said
        chatting.confirm()
        assert pid_that_serves(service) == service.pid
        midway.finish()


def test_a_newcomer_that_misses_somebody_refuses(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """The old process says that it has one more than it passes."""
    wrong = launcher(
        tmp_path / "wrong.py",
        "import chatservice.handover as handover\n"
        "end = handover.End\n"
        "handover.End = lambda rooms, members, visitors: end(rooms, members + 1, visitors)",
    )
    service = service_factory(SETTINGS, program=wrong, environment=ENVIRONMENT)
    with Midway(service) as midway, Bystanders(service) as chatting:
        code, said = end_of(newcomer(service, program=("-m", "chatservice")))
        assert code == 1
        assert said == (
            "chatservice: what the running process handed over is not understood: of 2 rooms, 9 "
            "members and 1 half-open connections came 2, 8 and 1"
        )
        chatting.confirm()
        midway.finish()
        assert pid_that_serves(service) == service.pid


def serves(service: ServiceProcess, pid: int) -> bool:
    """Whether it is this process that answers on the control socket."""
    try:
        return bool(status(service)["pid"] == pid)
    except ControlError:  # nobody does, for a moment
        return False


DEATHS = {
    "before it has passed everything": (
        "give = takeover.give\n"
        "async def die(peer, data, descriptors=()):\n"
        "    await give(peer, data, descriptors)\n"
        "    if data[:1] != b'{' and descriptors: os.kill(os.getpid(), 9)\n"
        "takeover.give = die"
    ),
    "before it is told that all was taken": (
        "async def die(peer): os.kill(os.getpid(), 9)\ntakeover.read_line = die"
    ),
    "before it lets go": "async def die(peer): os.kill(os.getpid(), 9)\ntakeover._let_go = die",
    "when it has let go": (
        "async def die(peer): os.kill(os.getpid(), 9)\n"
        "import chatservice.relief\n"
        "chatservice.relief.settled = die"
    ),
}


@pytest.mark.parametrize("when", list(DEATHS)[1:])
def test_the_old_process_is_killed_and_the_new_one_serves_everybody(
    service_factory: ServiceFactory, tmp_path: Path, when: str
) -> None:
    program = launcher(tmp_path / "dying.py", DEATHS[when])
    service = service_factory(SETTINGS, program=program, environment=ENVIRONMENT)
    with Midway(service) as midway, Bystanders(service) as chatting:
        process = newcomer(service, program=("-m", "chatservice"))
        try:
            eventually(lambda: service.returncode == -signal.SIGKILL)
            eventually(lambda: serves(service, process.pid))
            chatting.confirm()
            midway.finish()
            assert status(service)["last_start"]["started"] == "handover"
        finally:
            chatting.stop()
            process.terminate()
            process.wait(DEADLINE)


def test_the_old_process_is_killed_half_way_and_the_new_one_starts_without_it(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Nobody has everything then: the members come back, and find all that was acknowledged."""
    when = "before it has passed everything"
    program = launcher(tmp_path / "dying.py", DEATHS[when])
    service = service_factory(program=program, environment=ENVIRONMENT)
    with Wire.join(service, user="ann") as ann:
        ann.send("send", id="1", text="x")
        ack = ann.until("ack")
        process = newcomer(service, program=("-m", "chatservice"))
        try:
            eventually(lambda: service.returncode == -signal.SIGKILL)
            assert ann.end().code == 0  # no close frame: nobody knows where its stream stood
            eventually(lambda: serves(service, process.pid))
            assert status(service)["last_start"]["started"] == "cold"
            with Wire.join(service, user="ann", after=0, epoch=ann.welcome["epoch"]) as ann_again:
                assert [message["id"] for message in ann_again.past] == [ack["id"]]
        finally:
            process.terminate()
            process.wait(DEADLINE)
    assert troubles(service) == []


def test_nothing_is_left_open_by_handovers_that_failed(
    service_factory: ServiceFactory, tmp_path: Path
) -> None:
    """Descriptors of sockets that were separated from what waits for them, above all."""
    service = service_factory(SETTINGS)
    dying = launcher(tmp_path / "dying.py", DYING["when it has confirmed"])
    with Midway(service) as midway:
        before = len(os.listdir(f"/proc/{service.pid}/fd"))
        for _ in range(5):
            end_of(newcomer(service, program=dying))
        deadline = time.monotonic() + DEADLINE
        while len(os.listdir(f"/proc/{service.pid}/fd")) > before:  # each would leave several
            assert time.monotonic() < deadline
            time.sleep(0.02)
        midway.finish()
