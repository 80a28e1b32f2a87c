"""Being relieved: the orders after which others serve, or nobody does, and what they leave to end.

`take-over` hands everything to the process that asks; `reload` starts the successor that asks so;
`drain` sends the members away; `stop` ends. One at a time decides who serves. Where a new process
does not take over after all, this one serves on as if nothing had been.

The conversation itself is in `takeover`, what is said of connections in `handover`; the orders
that change nobody's service are in `orders`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from chatservice.cluster import Bus
from chatservice.control import ControlError, Order, Reply
from chatservice.farewell import say_farewell
from chatservice.handover import parcels
from chatservice.handover_format import CONNECTIONS, Offer
from chatservice.listening import Listeners
from chatservice.logs import get_logger
from chatservice.reporting import RELOAD_SECONDS
from chatservice.server import ChatServer
from chatservice.succession import Successor
from chatservice.systemd import Notifier
from chatservice.takeover import agreed_version, hand_over, settled

log = get_logger("relief")

ANSWER_SECONDS: Final = 10.0
"""How long a relieved process stays to say how that went."""


class Relief:
    """Carries out the orders that end this process's service.

    Args:
        server: what serves.
        listeners: by which clients come in.
        bus: says who this process is to the other nodes.
        farewell: where word is left of who was online.
        notifier: the way to the manager that follows the process.

    Attributes:
        ending: set when the process is to end: it was told so, or relieved.
        relieved: whether another process serves in its place.
    """

    def __init__(
        self,
        server: ChatServer,
        listeners: Listeners,
        *,
        bus: Bus,
        farewell: Path,
        notifier: Notifier,
    ) -> None:
        self._server = server
        self._listeners = listeners
        self._bus = bus
        self._farewell = farewell
        self._notifier = notifier
        self.ending = asyncio.Event()
        self.relieved = False
        self.under_way = asyncio.Lock()
        """Held while it is being decided who serves."""
        self._heir: socket.socket | None = None
        self._answered = asyncio.Event()
        self._answered.set()

    def all(self) -> dict[str, Order]:
        """Give each order's name, and what carries it out."""
        return {
            "stop": self._stop,
            "take-over": self._take_over,
            "reload": self._reload,
            "drain": self._drain,
        }

    def say_farewell(self) -> None:
        """Leave word of who was online, as the connections do not move."""
        rooms = self._server.rooms.captured()
        if not rooms:
            return
        within = self._server.spread(self._server.admission.counts.total)
        say_farewell(self._farewell, rooms, within=within)

    async def let_go(self) -> None:
        """Let go of the connections that moved, once the other nodes know where they are."""
        if self._heir is not None:
            await settled(self._heir)
            self._heir.close()
            self._server.give_away()

    async def answered(self) -> None:
        """Wait, for a while, until whoever ordered the successor was told how that went."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._answered.wait()

    def _require_nothing_under_way(self) -> None:
        if self.under_way.locked() or self.ending.is_set():
            raise ControlError("this process is being relieved or stopped already")

    # --- orders --------------------------------------------------------------------------

    async def _stop(self, _: Mapping[str, Any], __: socket.socket) -> Reply:
        self.ending.set()
        return {"ok": True, "pid": os.getpid()}

    async def _take_over(self, order: Mapping[str, Any], peer: socket.socket) -> Reply | None:
        version = agreed_version(order)
        room = order.get("room")
        self._require_nothing_under_way()
        async with self.under_way:
            count = self._server.admission.counts.total
            log.info("being relieved", version=version, connections=count)
            if version >= CONNECTIONS and isinstance(room, int) and room < count:
                raise ControlError(
                    f"{count} members are connected, and the new process has descriptors for {room}"
                )
            self._listeners.refuse_more()
            try:
                if version >= CONNECTIONS:
                    await self._hand_over_connections(peer)
                else:
                    await self._hand_over_listeners(peer, count)
            except BaseException:
                log.warning("the new process did not take over; serving on")
                if version < CONNECTIONS:
                    self._farewell.unlink(missing_ok=True)
                    self._server.resume()
                await self._listeners.accept_again()
                raise
            self._listeners.close()
            self.relieved = True
            self.ending.set()
        return {"ok": True} if version < CONNECTIONS else None

    async def _hand_over_listeners(self, peer: socket.socket, count: int) -> None:
        await self._server.quiesce(let_in=True)
        self.say_farewell()
        await hand_over(peer, self._listeners.sockets, Offer(True, connections=count))

    async def _hand_over_connections(self, peer: socket.socket) -> None:
        """Pass everybody; whatever fails, they are served on as if nothing had been tried."""
        server = self._server
        heir = peer.dup()
        gc.disable()
        try:
            await server.freeze()
            offer = Offer(
                True,
                version=CONNECTIONS,
                connections=len(server.members),
                paused=server.paused,
                node=self._bus.node,
            )
            await hand_over(peer, self._listeners.sockets, offer, parcels(server))
        except BaseException as error:
            heir.close()
            await server.reattach()
            server.thaw()
            if isinstance(error, TimeoutError):
                raise ControlError("commits under way do not finish; try again later") from None
            if isinstance(error, OSError):
                raise ControlError(f"the sockets could not be passed: {error}") from None
            raise
        finally:
            gc.enable()
        self._heir = heir

    async def _drain(self, _: Mapping[str, Any], __: socket.socket) -> Reply:
        self._require_nothing_under_way()
        log.info("draining", connections=self._server.admission.counts.total)
        started = time.monotonic()
        drained = await self._server.drain()
        log.info("drained", connections=drained)
        return {"ok": True, "drained": drained, "seconds": round(time.monotonic() - started, 1)}

    async def _reload(self, order: Mapping[str, Any], peer: socket.socket) -> Reply | None:
        """Start the successor, and say how that went. Where it failed, this one serves on."""
        argv = order.get("argv")
        if not isinstance(argv, list) or not all(isinstance(each, str) for each in argv):
            raise ControlError("reload needs the argv of a successor")
        if not self._answered.is_set():
            raise ControlError("this process is being relieved or stopped already")
        self._require_nothing_under_way()
        self._answered.clear()
        try:
            try:
                successor = Successor(argv)
            except OSError as error:
                raise ControlError(f"{argv[:1]}: cannot be started: {error.strerror}") from None
            log.info("started a successor", pid=successor.pid)
            outcome = await successor.outcome(RELOAD_SECONDS)
            if not outcome.serving:
                raise ControlError(
                    f"the successor does not serve, this process does: {outcome.error}"
                )
            if self._notifier:  # which may not have heard it of the successor itself
                self._notifier.tell(f"MAINPID={outcome.pid}")
                await asyncio.to_thread(self._notifier.barrier)
            reply = {"ok": True, "pid": outcome.pid, "last_start": outcome.last_start}
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(
                    peer, msgspec.json.encode(reply) + b"\n"
                )
        finally:
            self._answered.set()
        return None
