"""A webhook receiver: what Alertmanager tells, kept for the test to look at."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

DEADLINE: Final = 45.0


@dataclass(frozen=True)
class Told:
    """One alert of one notification."""

    at: float
    path: str
    authorization: str
    status: str
    labels: dict[str, str]
    annotations: dict[str, str]

    @property
    def name(self) -> str:
        return self.labels["alertname"]

    @property
    def environment(self) -> str:
        return self.labels.get("environment", "")


class Receiver(ThreadingHTTPServer):
    """Takes notifications on a port of its own."""

    daemon_threads = True

    def __init__(self, address: str = "127.0.0.1") -> None:
        super().__init__((address, 0), _Request)
        self.told: list[Told] = []
        self._news = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}"

    def take(self, path: str, authorization: str, notification: dict[str, Any]) -> None:
        with self._news:
            for one in notification["alerts"]:
                self.told.append(
                    Told(
                        time.monotonic(), path, authorization, one["status"], one["labels"],
                        one["annotations"],
                    )
                )  # fmt: skip
            self._news.notify_all()

    def heard(self, name: str, environment: str, status: str, since: float = 0.0) -> list[Told]:
        """What was told of an alert, from a time on."""
        return [
            one
            for one in self.told
            if (one.name, one.environment, one.status) == (name, environment, status)
            and one.at >= since
        ]

    def wait(
        self,
        name: str,
        environment: str,
        status: str,
        *,
        since: float = 0.0,
        deadline: float = DEADLINE,
    ) -> Told:
        """Wait until an alert is told of with a status."""
        until = time.monotonic() + deadline
        with self._news:
            while not (heard := self.heard(name, environment, status, since)):
                left = until - time.monotonic()
                if left <= 0 or not self._news.wait(left):
                    seen = sorted({(t.environment, t.name, t.status) for t in self.told})
                    raise AssertionError(
                        f"{name} of {environment} was not told of as {status} within "
                        f"{deadline:g} s; told of were {seen}"
                    )
        return heard[0]


class _Request(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.take(self.path, self.headers.get("Authorization", ""), json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def receiving(address: str = "127.0.0.1") -> Iterator[Receiver]:
    """Receive on one of this machine's addresses until the end of the block."""
    with Receiver(address) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield receiver
        finally:
            receiver.shutdown()
            thread.join()
