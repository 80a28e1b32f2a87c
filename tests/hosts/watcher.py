"""Watches a deployed service from outside, as its users do: over HTTPS, through the proxy."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from chatservice.client import ChatClient
from opskit.tokens import signer
from tests.hosts.proven import ask, trust
from tests.hosts.site import HostSite

WORKSPACE = "watched"


@dataclass
class Watcher:
    """What a visitor and a member noticed.

    Attributes:
        unanswered: requests without a good answer: when, and what came.
        connections: how often the member had to connect.
        sent: messages of the member that were acknowledged, by their numbers.
    """

    unanswered: list[str] = field(default_factory=list)
    connections: int = 0
    sent: list[int] = field(default_factory=list)
    failure: str = ""

    def noticed(self) -> tuple[list[str], int, str]:
        """Give everything that nobody should notice: failed requests, connections, a failure."""
        return self.unanswered, self.connections, self.failure

    def await_more(self, deadline: float = 20.0) -> None:
        """Wait until one more message is acknowledged than were before."""
        before, end = len(self.sent), time.monotonic() + deadline
        while len(self.sent) == before and time.monotonic() < end and not self.failure:
            time.sleep(0.02)
        assert len(self.sent) > before, f"nothing was acknowledged any more; {self}"


UNNOTICED: tuple[list[str], int, str] = ([], 1, "")
"""What `noticed` gives when all went well: the member connected once, and that was all."""


@contextmanager
def watched(site: HostSite) -> Iterator[Watcher]:
    """Ask for /healthz five times a second, and have a member send all the time."""
    watcher, ended = Watcher(), threading.Event()
    context = trust(list(site.hosts))
    threads = [
        threading.Thread(target=_visit, args=(site, context, watcher, ended), daemon=True),
        threading.Thread(target=_chat, args=(site, context, watcher, ended), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        watcher.await_more()
        yield watcher
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _visit(
    site: HostSite, context: ssl.SSLContext, watcher: Watcher, ended: threading.Event
) -> None:
    url = f"https://{site.hosts[0].address}/healthz"
    while not ended.wait(0.2):
        started = time.monotonic()
        status, said = ask(url, context, timeout=20.0)
        if status != 200:
            after = time.monotonic() - started
            watcher.unanswered.append(f"{time.time():.3f}: {status} {said} after {after:.2f} s")


def _chat(
    site: HostSite, context: ssl.SSLContext, watcher: Watcher, ended: threading.Event
) -> None:
    environment = site.environment
    token = signer(environment, environment.resolve_secrets()).sign(
        user="member", workspaces=[WORKSPACE], ttl=3600
    )

    async def chat() -> None:
        url = f"wss://{site.hosts[0].address}"
        async with ChatClient(url, workspace=WORKSPACE, token=token, ssl=context) as member:
            while not ended.is_set():
                ack = await member.send(f"message {len(watcher.sent) + 1}", timeout=60)
                watcher.sent.append(ack.seq)
                watcher.connections = member.connections
                await asyncio.sleep(0.1)

    try:
        asyncio.run(chat())
    except Exception as error:
        watcher.failure = repr(error)
