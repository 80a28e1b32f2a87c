"""Very many connections, and such as vanish: nobody is kept out, and nothing is left behind.

As in `test_bad_input`, two members chat meanwhile.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from tests.chatservice.wire import (
    Wire,
    connect_path,
    descriptors,
    eventually,
    metrics,
    request,
    text,
    upgrade_headers,
)
from tests.service_process import Overrides, ServiceProcess

HANDSHAKES = 200

pytestmark = pytest.mark.usefixtures("bystanders")


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "limits": {"handshakes": HANDSHAKES, "rate": 100},
        "timing": {"presence_grace": 0.0, "handshake": 1.0, "close": 1.0},
    }


# --- very many ----------------------------------------------------------------------------


@pytest.fixture
def crowd() -> Iterator[list[socket.socket]]:
    """Sockets that are closed at the end."""
    sockets: list[socket.socket] = []
    yield sockets
    for each in sockets:
        each.close()


def test_10_000_half_open_handshakes_keep_nobody_out(
    module_service: ServiceProcess, crowd: list[socket.socket]
) -> None:
    before = descriptors(module_service)
    for number in range(10_000):
        each = socket.create_connection(("127.0.0.1", module_service.port), timeout=30)
        crowd.append(each)
        with contextlib.suppress(ConnectionError):
            each.sendall(b"GET /api/chat/workspace/w/connect HTTP/1.1\r\nHost: x\r\n")
        if number % 1000 == 999:
            with Wire.join(module_service, user="late") as wire:
                wire.send("send", id=str(number), text="let in")
                assert wire.until("ack")
            assert descriptors(module_service) < before + 2 * HANDSHAKES


def test_clients_that_keep_their_connection_after_the_answer_keep_nobody_out(
    module_service: ServiceProcess, crowd: list[socket.socket]
) -> None:
    """They were answered and told to close; they count as half-open until they do."""
    before = descriptors(module_service)
    for number in range(3 * HANDSHAKES):
        each = socket.create_connection(("127.0.0.1", module_service.port), timeout=30)
        crowd.append(each)
        each.sendall(request("/healthz") if number % 2 else b"nonsense\r\n")
        with contextlib.suppress(ConnectionError):
            each.recv(1)
    assert descriptors(module_service) < before + 2 * HANDSHAKES
    with Wire.join(module_service, user="late") as wire:
        wire.send("ping")
        assert wire.until("pong")


# --- clients that vanish ------------------------------------------------------------------


def test_who_leaves_before_asking_is_counted_as_abandoned(module_service: ServiceProcess) -> None:
    series = 'chat_handshakes_total{result="abandoned"}'
    before = metrics(module_service)[series]
    with Wire(module_service) as wire:
        wire.write(b"GET /")
    eventually(lambda: metrics(module_service)[series] == before + 1)


def test_a_reset_at_any_moment_leaves_nothing_behind(module_service: ServiceProcess) -> None:
    headers = upgrade_headers(module_service.token("ann", "w"))
    for sent in (
        b"",
        b"GET /",
        request("/healthz"),
        request(connect_path("w"), headers),
        request(connect_path("w", after=0), headers),
    ):
        for _ in range(10):
            wire = Wire(module_service)
            wire.write(sent)
            wire.reset()
    for sent in (b"", text({"type": "ping"})[:-1], text({"type": "send", "id": "1", "text": "x"})):
        for _ in range(10):
            wire = Wire.join(module_service, user="fleeting")
            wire.write(sent)
            wire.reset()


def test_an_end_without_a_close_frame_is_a_lost_connection(module_service: ServiceProcess) -> None:
    series = 'chat_connections_closed_total{reason="lost"}'
    before = metrics(module_service)[series]
    with Wire.join(module_service) as wire:
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.hung_up()
    assert metrics(module_service)[series] == before + 1
