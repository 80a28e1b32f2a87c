"""A TCP proxy on loopback that can be cut: what a network does to a connection."""

from __future__ import annotations

import asyncio
import contextlib
from types import TracebackType
from typing import Self

from tests.service_process import free_ports


class TcpProxy:
    """Passes bytes between its own port and a target's, until it is cut."""

    def __init__(self, target: int) -> None:
        [self.port] = free_ports(1)
        self.target = target
        """The port to connect to from now on."""
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        await self.mend()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.cut()

    async def mend(self) -> None:
        """Let connections through."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)

    async def cut(self) -> None:
        """End all connections, and refuse new ones."""
        self.thaw()
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in tuple(self._writers):
            writer.transport.abort()
        while self._writers:
            await asyncio.sleep(0.01)

    def freeze(self) -> None:
        """Pass nothing on, in either direction, without ending a connection."""
        self._flowing.clear()

    def thaw(self) -> None:
        """Pass on what waits, and everything after it."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both = [writer]
        self._writers.add(writer)
        try:
            theirs, ours = await asyncio.open_connection("127.0.0.1", self.target)
            both.append(ours)
            self._writers.add(ours)
            await asyncio.gather(self._pump(reader, ours), self._pump(theirs, writer))
        except OSError:
            pass
        finally:
            for one in both:
                one.transport.abort()
            self._writers.difference_update(both)

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(65536):
                await self._flowing.wait()
                sink.write(data)
                await sink.drain()
        sink.transport.abort()
