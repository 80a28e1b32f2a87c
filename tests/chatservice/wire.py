"""A client of chat.v1 made of bytes and a blocking socket: it can do everything wrong.

Everything that waits has a deadline; what a test expects and does not get is an AssertionError
that says what came instead.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import socket
import struct
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Final, NamedTuple, Self
from urllib.parse import quote

import pytest

from chatservice.control import ask
from tests.service_process import ServiceProcess

DEADLINE: Final = 30.0

CONT, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10

Frame = dict[str, Any]


class Answer(NamedTuple):
    """An HTTP response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Ended(Exception):
    """The connection ended: with a close frame, or (code 0) with EOF or a reset."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"{code} {reason}")
        self.code = code
        self.reason = reason


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    masked: bool = True,
    length: int | None = None,
) -> bytes:
    """Serialise one frame as a client would; `length` is what it announces, true or not."""
    announced = len(payload) if length is None else length
    head = bytes([fin << 7 | rsv << 4 | opcode])
    bit = masked << 7
    if announced < 126:
        head += bytes([bit | announced])
    elif announced < 1 << 16:
        head += bytes([bit | 126]) + struct.pack("!H", announced)
    else:
        head += bytes([bit | 127]) + struct.pack("!Q", announced)
    if not masked:
        return head + payload
    key = b"\x37\xfa\x21\x3d"
    pad = key * (len(payload) // 4 + 1)
    size = len(payload)
    mixed = int.from_bytes(payload, "big") ^ int.from_bytes(pad[:size], "big")
    return head + key + mixed.to_bytes(size, "big")


def text(value: str | Frame) -> bytes:
    """Serialise a text frame, of JSON where it is given a dictionary."""
    payload = value if isinstance(value, str) else json.dumps(value)
    return frame(TEXT, payload.encode())


def request(
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
    version: str = "1.1",
) -> bytes:
    """Serialise a request without a body."""
    lines = [f"{method} {path} HTTP/{version}", "Host: chat.test"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def connect_path(workspace: str, **query: str | int) -> str:
    """Give the path to connect to."""
    pairs = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
    return f"/api/chat/workspace/{workspace}/connect" + (f"?{pairs}" if pairs else "")


def upgrade_headers(token: str = "") -> dict[str, str]:
    """Give the headers of an upgrade request."""
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    if token:
        headers["Authorization"] = f"Bearer {token}"
    return headers


class Wire:
    """One TCP connection to a service."""

    def __init__(self, service: ServiceProcess, *, receive_buffer: int = 0, port: int = 0) -> None:
        self.socket = socket.socket()
        self.socket.settimeout(DEADLINE)
        if receive_buffer:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.connect(("127.0.0.1", port or service.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        self.welcome: Frame = {}
        self.past: list[Frame] = []
        """What followed the welcome: the history, or the messages missed."""

    @classmethod
    def join(
        cls,
        service: ServiceProcess,
        workspace: str = "w",
        user: str = "ann",
        *,
        token: str = "",
        receive_buffer: int = 0,
        **query: str | int,
    ) -> Self:
        """Become a member, and take the welcome and the past."""
        wire = cls(service, receive_buffer=receive_buffer)
        answer = wire.upgrade(workspace, token or service.token(user, workspace), **query)
        assert answer.status == 101, answer
        wire.welcome = wire.next("welcome")
        if wire.welcome["resumed"]:
            missed = wire.welcome["seq"] - int(query["after"])
            wire.past = [wire.next("message") for _ in range(missed)]
        else:
            wire.past = [wire.next("history")]
        return wire

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.socket.close()

    # --- HTTP --------------------------------------------------------------------------------

    def upgrade(self, workspace: str, token: str, **query: str | int) -> Answer:
        """Ask for an upgrade, and give the answer."""
        self.write(request(connect_path(workspace, **query), upgrade_headers(token)))
        return self.answer()

    def answer(self) -> Answer:
        """Read one HTTP response."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        pairs = (line.split(": ", 1) for line in lines)
        headers = {name.lower(): value for name, value in pairs}
        self._buffer = bytearray(rest)
        length = int(headers.get("content-length", 0))
        status = int(first.split(" ")[1])
        while len(self._buffer) < length:
            self._more()
        body = bytes(self._buffer[:length])
        del self._buffer[:length]
        return Answer(status, headers, body)

    # --- WebSocket ---------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def send(self, type: str, **fields: Any) -> None:
        """Send one frame of chat.v1."""
        self.write(text({"type": type, **fields}))

    def frame(self) -> tuple[int, bytes]:
        """Read one frame of any kind; it must be whole, unmasked and without reserved bits."""
        head = self._exactly(2)
        assert head[0] & 0xF0 == 0x80, f"a frame begins with {head[0]:#x}"
        size = head[1]
        assert size < 128, "a frame of the server is masked"
        if size == 126:
            (size,) = struct.unpack("!H", self._exactly(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._exactly(8))
        return head[0] & 0x0F, self._exactly(size)

    def next(self, type: str | None = None) -> Frame:
        """Give the next frame of chat.v1, which must be of that type; pings are answered.

        Raises:
            Ended: the connection was closed instead.
        """
        while True:
            opcode, payload = self.frame()
            if opcode == PING:
                self.write(frame(PONG, payload))
            elif opcode == CLOSE:
                (code,) = struct.unpack("!H", payload[:2])
                with contextlib.suppress(OSError):
                    self.write(frame(CLOSE, payload))
                raise Ended(code, payload[2:].decode())
            elif opcode == TEXT:
                assert payload.startswith(b'{"type":'), "type is not the first field"
                received: Frame = json.loads(payload)
                assert type in (None, received["type"]), received
                return received

    def until(self, type: str, **fields: Any) -> Frame:
        """Give the next frame of that type with these fields; others are passed over."""
        deadline = time.monotonic() + DEADLINE
        while time.monotonic() < deadline:
            received = self.next()
            if received["type"] == type and fields.items() <= received.items():
                return received
        raise AssertionError(f"no {type} with {fields} came in {DEADLINE:g} s")

    def end(self) -> Ended:
        """Read up to the end, and say what it was."""
        while True:
            try:
                self.next()
            except Ended as ended:
                return ended

    def hung_up(self) -> bool:
        """Whether the server closes the socket (within the deadline)."""
        self.socket.settimeout(DEADLINE)
        try:
            while self.socket.recv(65536):
                pass
        except ConnectionError:
            pass
        return True

    def reset(self) -> None:
        """Close with RST instead of FIN."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()

    def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def _more(self) -> None:
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise AssertionError(f"nothing came in {DEADLINE:g} s") from None
        except ConnectionError as error:
            raise Ended(0, str(error)) from None
        if not data:
            raise Ended(0, "end of stream")
        self._buffer += data


def say(wire: Wire, *texts: str) -> list[Frame]:
    """Send texts, one after the other; give the messages as the sender saw them."""
    messages = []
    for each in texts:
        wire.send("send", id=secrets.token_hex(4), text=each)
        messages.append(wire.until("message", text=each))
        wire.until("ack")
    return messages


def eventually(condition: Callable[[], Any], what: str = "", deadline: float = DEADLINE) -> Any:
    """Wait until `condition` gives something true, and give that."""
    until = time.monotonic() + deadline
    while True:
        found = condition()
        if found:
            return found
        assert time.monotonic() < until, f"not within {deadline:g} s: {what or condition}"
        time.sleep(0.02)


def metrics(service: ServiceProcess) -> dict[str, float]:
    """Give every series of `/metrics` with its value."""
    status, exposition = service.get("/metrics", admin=True)
    assert status == 200, exposition
    lines = (line for line in exposition.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def status(service: ServiceProcess) -> Frame:
    """Give what the control socket says of the process."""
    return ask(service.settings.control_socket, "status")


def descriptors(service: ServiceProcess) -> int:
    """Count the open file descriptors of the process."""
    return len(os.listdir(f"/proc/{service.pid}/fd"))


def resident_bytes(service: ServiceProcess) -> int:
    """Give the memory that the process occupies."""
    with open(f"/proc/{service.pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(service: ServiceProcess) -> float:
    """Give the time that the process has computed so far."""
    with open(f"/proc/{service.pid}/stat", encoding="ascii") as stat:
        user, system = stat.read().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def log_lines(service: ServiceProcess) -> list[Frame]:
    """Give the lines of the log, each of which must be JSON."""
    return [json.loads(line) for line in service.log.splitlines()]


def troubles(service: ServiceProcess) -> list[Frame]:
    """Give the lines of the log that tell of a bug."""
    return [
        line
        for line in log_lines(service)
        if "exc" in line or line["level"] in ("error", "critical")
    ]


def http(
    service: ServiceProcess,
    path: str,
    headers: Mapping[str, str] | None = None,
    *,
    method: str = "GET",
) -> Answer:
    """Ask for something over HTTP; the connection is closed after the answer."""
    with Wire(service) as wire:
        wire.write(request(path, headers, method=method))
        answer = wire.answer()
        with pytest.raises(Ended, match="end of stream"):  # and nothing after it
            wire.frame()
        return answer


def bearer(token: str) -> dict[str, str]:
    """Give the header that shows a token."""
    return {"Authorization": f"Bearer {token}"}
