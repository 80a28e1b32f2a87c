"""Whatever comes before an upgrade is answered over HTTP or cut, and members notice nothing.

As in `test_bad_input`, two members chat meanwhile, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

import pytest

from tests.chatservice.wire import (
    PING,
    TEXT,
    Ended,
    Wire,
    connect_path,
    eventually,
    frame,
    metrics,
    request,
    text,
    upgrade_headers,
)
from tests.service_process import Overrides, ServiceProcess

HANDSHAKES = 200
HANDSHAKE_SECONDS = 1.0

pytestmark = pytest.mark.usefixtures("bystanders")


@pytest.fixture(scope="module")
def module_overrides() -> Overrides:
    return {
        "limits": {"handshakes": HANDSHAKES, "rate": 100},
        "timing": {"presence_grace": 0.0, "handshake": HANDSHAKE_SECONDS, "close": 1.0},
    }


def handshakes(service: ServiceProcess, result: str) -> float:
    return metrics(service)[f'chat_handshakes_total{{result="{result}"}}']


# --- what is no request -------------------------------------------------------------------


def client_hello() -> bytes:
    """Give what a TLS client says first."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="x")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"\x00\xff\x00\xff\r\n", 400),
        (b"GET /healthz\r\n\r\n", 400),
        pytest.param(client_hello(), 400, id="TLS"),
        (b"GET /healthz HTTP/2.0\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\n\n", 400),
        (b"GET /h\xc3\xa4 HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nno colon\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nBad Name: x\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400),
        (b"POST /healthz HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}", 400),
        (b"POST /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET //[ HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n" + b"X: x\r\n" * 200 + b"\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\n\r\n" + text({"type": "ping"}), 400),
        (b"GET /healthz HTTP/1.1\r\n\r\n" + b"\xff" * 100, 400),
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_what_is_no_request_is_answered_once_and_closed(
    module_service: ServiceProcess, sent: bytes, status: int
) -> None:
    with Wire(module_service) as wire:
        wire.write(sent)
        answer = wire.answer()
        assert (answer.status, answer.headers["connection"]) == (status, "close")
        if status == 400:
            assert list(answer.json) == ["error"]
        with pytest.raises(Ended, match="end of stream"):
            wire.frame()  # a second answer would be one


@pytest.mark.parametrize(
    "early",
    [text({"type": "ping"}), frame(PING), frame(TEXT, b"x", fin=False), b"\xff\xff"],
    ids=["frame", "ping", "fragment", "garbage"],
)
def test_frames_that_come_before_the_upgrade_is_answered_are_refused(
    module_service: ServiceProcess, early: bytes
) -> None:
    with Wire(module_service) as wire:
        token = module_service.token("hasty", "w")
        wire.write(request(connect_path("w"), upgrade_headers(token)) + early)
        answer = wire.answer()
        assert answer.status == 400
        assert answer.json == {"error": "nothing may be sent before the upgrade is answered"}
        assert wire.hung_up()


def test_what_comes_after_a_refusal_is_ignored(module_service: ServiceProcess) -> None:
    with Wire(module_service) as wire:
        wire.write(request(connect_path("w")))
        assert wire.answer().status == 401
        wire.write(frame(PING) + text("x") + request("/healthz") * 3)
        with pytest.raises(Ended):
            wire.frame()
    with Wire(module_service) as wire:  # refused by the library, not by us
        token = module_service.token("ann", "w")
        wire.write(request(connect_path("w"), {"Authorization": f"Bearer {token}"}))
        assert wire.answer().status == 426
        wire.write(request("/healthz") * 3)
        with pytest.raises(Ended):
            wire.frame()


def test_http_1_0_is_answered(module_service: ServiceProcess) -> None:
    with Wire(module_service) as wire:
        wire.write(request("/healthz", version="1.0"))
        assert wire.answer().body == b"ok\n"
    with Wire(module_service) as wire:
        headers = upgrade_headers(module_service.token("ann", "w"))
        wire.write(request(connect_path("w"), headers, version="1.0"))
        assert wire.answer().status == 505


def test_a_request_that_comes_byte_by_byte_is_answered(module_service: ServiceProcess) -> None:
    with Wire(module_service) as wire:
        for byte in request("/healthz"):
            wire.write(bytes([byte]))
        assert wire.answer().body == b"ok\n"


def test_a_client_that_sends_no_more_after_its_request_is_answered(
    module_service: ServiceProcess,
) -> None:
    with Wire(module_service) as wire:
        wire.write(request("/healthz"))
        wire.socket.shutdown(socket.SHUT_WR)
        assert wire.answer().body == b"ok\n"
        assert wire.hung_up()


# --- half a request, and then silence -----------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\n"],
    ids=["nothing", "a letter", "half a request"],
)
def test_who_asks_for_nothing_is_cut_when_the_handshake_takes_too_long(
    module_service: ServiceProcess, sent: bytes
) -> None:
    before = handshakes(module_service, "timeout")
    with Wire(module_service) as wire:
        wire.write(sent)
        assert wire.hung_up()
    eventually(lambda: handshakes(module_service, "timeout") == before + 1)


def test_a_header_that_trickles_in_does_not_postpone_the_deadline(
    module_service: ServiceProcess,
) -> None:
    with Wire(module_service) as wire:
        started = time.monotonic()
        wire.write(b"GET /healthz HTTP/1.1\r\nX: ")
        with contextlib.suppress(ConnectionError):
            while time.monotonic() - started < 30:
                wire.write(b"x")
                time.sleep(0.05)
        assert time.monotonic() - started < 15
        assert wire.hung_up()
