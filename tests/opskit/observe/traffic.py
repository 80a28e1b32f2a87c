"""Members who talk all the time, whatever becomes of the service: load for what watches it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Protocol

from chatservice.client import Backoff, ChatClient

PAUSE: Final = 0.05
"""Seconds between two messages of a service's traffic."""
BACKOFF: Final = Backoff(base=0.05, cap=0.3)


class Loop:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any], deadline: float = 60.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(deadline)

    def close(self) -> None:
        self.run(self._cancel())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    @staticmethod
    async def _cancel() -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def looping() -> Iterator[Loop]:
    """Have an event loop until the end of the block."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.close()


class Member(Protocol):
    """A service, as far as its members need to know."""

    @property
    def url(self) -> str: ...

    def token(self, user: str, /, *workspaces: str) -> str: ...


class Traffic:
    """Members of one service; one of them sends, another reads, types and asks for the past."""

    def __init__(self, loop: Loop, service: Member, *, members: int = 3, url: str = "") -> None:
        self._loop = loop
        self._clients = [
            ChatClient(
                url or service.url,
                workspace="talk",
                token=partial(service.token, f"member-{number}", "talk"),
                backoff=BACKOFF,
                connect_timeout=None,
            )
            for number in range(members)
        ]

    def start(self) -> None:
        self._loop.run(self._start())

    async def _start(self) -> None:
        await asyncio.gather(*(client.connect() for client in self._clients))
        first, second = self._clients[:2]
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._talk(first)), loop.create_task(self._use(second))]

    async def _talk(self, client: ChatClient) -> None:
        number = 0
        while True:
            number += 1
            with contextlib.suppress(Exception):
                await client.send(f"message {number}", timeout=10.0)
            await asyncio.sleep(PAUSE)

    async def _use(self, client: ChatClient) -> None:
        while True:
            asking: list[Callable[[ChatClient], Awaitable[object]]] = [
                self._reads, ChatClient.typing, self._looks_back, ChatClient.ping,
            ]  # fmt: skip
            for ask in asking:
                with contextlib.suppress(Exception):
                    await ask(client)
                await asyncio.sleep(PAUSE)

    @staticmethod
    async def _reads(client: ChatClient) -> None:
        await client.read(client.seq)

    @staticmethod
    async def _looks_back(client: ChatClient) -> None:
        await client.history(limit=5, timeout=5.0)
