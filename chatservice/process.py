"""The life of one process: start (cold, or relieving another), serve, be relieved or stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final

import msgspec

from chatservice import descriptors
from chatservice.admin import AdminConnection
from chatservice.admission import Build
from chatservice.auth import Authenticator
from chatservice.cluster import Bus
from chatservice.config import Settings, SettingsError
from chatservice.connection import Connection
from chatservice.control import (
    RETRY_SECONDS,
    ControlError,
    ControlSocket,
    Reply,
    connect,
)
from chatservice.descriptor_store import kept
from chatservice.farewell import say_farewell, take_farewell
from chatservice.handover import Inheritance, Result, parcels
from chatservice.handover_format import CONNECTIONS, Offer
from chatservice.listening import BACKLOG, ListenError, listen, listens_on
from chatservice.log_format import ROOT
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.orders import Orders
from chatservice.recovery import Recovery
from chatservice.reporting import RELOAD_SECONDS
from chatservice.server import ChatServer
from chatservice.store import Store, StoreError, StoreErrorKind
from chatservice.succession import Report, Successor
from chatservice.systemd import Notifier
from chatservice.takeover import Claim, agreed_version, claim, hand_over, settled

log = get_logger("process")

TOLD_SECONDS: Final = 4.0
"""How long the other nodes may take to know a successor; its predecessor stays for longer."""
ANSWER_SECONDS: Final = 10.0
"""How long a relieved process stays to say how that went."""


class StartError(Exception):
    """The process cannot serve; the message is one line that says what to do."""


class Process:
    """One running service."""

    def __init__(
        self, settings: Settings, build: Build, store: Store, bus: Bus, where: str
    ) -> None:
        limits = descriptors.claim(settings.limits)
        self._settings = settings = msgspec.structs.replace(settings, limits=limits)
        self._build = build
        self._where = where
        state_dir = Path(settings.service.state_dir)
        run_dir = Path(settings.service.run_dir)
        try:
            for directory in (state_dir, run_dir):
                directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise StartError(f"{error.filename}: cannot be made: {error.strerror}") from None
        self._authenticator = Authenticator.from_settings(settings.auth, where=where)
        metrics = Metrics(release=build.release, commit=build.commit, state_dir=state_dir)
        self._server = ChatServer(settings, build, store, bus, self._authenticator, metrics)
        self._pid_file = run_dir / "chatservice.pid"
        self._farewell = run_dir / "farewell"
        self._listeners: dict[str, socket.socket] = {}
        self._servers: list[asyncio.Server] = []
        self._stopped = asyncio.Event()
        self._relieved = False
        self._bus = bus
        self._result = Result()
        self._inheritance: Inheritance | None = None
        self._heir: socket.socket | None = None
        self._notifier = Notifier()
        self._recovery: Recovery | None = None
        self._answered = asyncio.Event()
        self._answered.set()
        self._handover = asyncio.Lock()
        self._control = ControlSocket(
            settings.control_socket,
            {
                **Orders(self._server, self._state).all(),
                "stop": self._order_stop,
                "take-over": self._take_over,
                "reload": self._reload_release,
                "drain": self._drain,
            },
        )

    async def run(self, *, take_over: bool, report: Report | None = None) -> None:
        """Serve until told to stop or relieved.

        Args:
            take_over: relieve the running process, if there is one.
            report: is told when this one serves.

        Raises:
            StartError: it cannot serve. Whoever served before still does.
        """
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._unforeseen)
        relieving = await self._begin(take_over=take_over)
        try:
            await self._serve(relieving)
        except BaseException as error:
            if relieving is not None:
                relieving.abandon()
            await self._abandon()
            if isinstance(error, ControlError | ListenError):
                raise StartError(str(error)) from None
            raise
        gc.enable()
        if relieving is None:
            gc.collect()
        gc.freeze()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopped.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        log.info(
            "serving", pid=os.getpid(),
            host=self._settings.service.host, port=self._port("public"),
            took_over=relieving is not None, **msgspec.structs.asdict(self._result),
        )  # fmt: skip
        if self._inheritance is not None:
            await self._review()
        count = self._server.admission.counts.total
        status = f"release {self._build.release} serves, with {count} members from the start"
        await asyncio.to_thread(self._notifier.ready, status)
        if report is not None:
            report.serving(msgspec.structs.asdict(self._result))
        if relieving is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TOLD_SECONDS):
                    await self._bus.told()
            await asyncio.to_thread(relieving.settled)
        await self._stopped.wait()
        await self._end()

    # --- start ---------------------------------------------------------------------------

    async def _begin(self, *, take_over: bool) -> Claim | None:
        """Do all that can fail alone, then ask the running process to step back."""
        try:
            await self._server.start()
        except StoreError as error:
            if take_over or error.kind is StoreErrorKind.SCHEMA:
                await self._server.close()
                raise StartError(str(error)) from None
            log.error("starting without the store; it is tried again", reason=str(error))
        found = kept()
        self._recovery = recovery = Recovery(self._settings, self._notifier.address)
        claimed: Claim | None = None
        try:
            if take_over:
                claimed = await self._ask()
            else:
                await asyncio.to_thread(require_nobody, self._settings.control_socket)
        except ControlError as error:
            await self._server.close()
            raise StartError(str(error)) from None
        if claimed is None:
            self._inheritance = recovery.take_up(self._server, found)
        return claimed

    async def _ask(self) -> Claim | None:
        """Ask the running process to step back; None where there is none."""
        self._inheritance = Inheritance(self._server, asyncio.get_running_loop())
        gc.disable()  # nothing of what comes is garbage
        path, heir = self._settings.control_socket, self._inheritance
        return await asyncio.to_thread(partial(claim, path, heir, room=descriptors.room()))

    async def _serve(self, relieving: Claim | None) -> None:
        service = self._settings.service
        given = dict(relieving.listeners) if relieving is not None else {}
        wanted = {
            "public": (service.host, service.port),
            "admin": (service.admin_host, service.admin_port),
        }
        for name, address in wanted.items():
            listener = given.pop(name, None)
            if listener is None or not listens_on(listener, address):
                if listener is not None:
                    listener.close()
                key = f"service.{'admin_' * (name == 'admin')}port"
                listener = listen(address, key, self._where)
            self._listeners[name] = listener
        for unknown in given.values():
            unknown.close()
        self._control.bind()
        await self._get_ready_to_accept()
        if relieving is not None:
            await asyncio.to_thread(relieving.confirm)
        # From here on nobody else serves: nothing may fail. Nor does this one serve before: if it
        # died then, the old one would serve on, and know nothing of what this one had stored.
        lifeline = self._recovery.lifeline if self._recovery is not None else None
        if lifeline is not None:
            if relieving is not None and relieving.moves_connections:
                lifeline.survival.reload()
            elif relieving is not None:
                lifeline.survival.clear()
            self._server.keep(lifeline)
        self._result = await self._inherit(relieving)
        self._expect_returning()
        await self._accept()
        self._control.open()
        try:
            self._pid_file.write_text(f"{os.getpid()}\n", encoding="ascii")
        except OSError as error:
            log.error("the pid file cannot be written", path=self._pid_file, reason=str(error))

    def _say_farewell(self) -> None:
        rooms = self._server.rooms.captured()
        if not rooms:
            return
        within = self._server.spread(self._server.admission.counts.total)
        say_farewell(self._farewell, rooms, within=within)

    def _expect_returning(self) -> None:
        farewell = take_farewell(self._farewell)
        if farewell is not None and self._result.started != "handover":
            ago = time.time() - farewell.at
            self._server.rooms.expect(farewell.workspaces, ago=ago, within=farewell.within)

    async def _inherit(self, relieving: Claim | None) -> Result:
        """Serve whoever came along."""
        heritage = self._inheritance
        if relieving is not None and not relieving.moves_connections:
            self._inheritance = None
            return Result("listeners", drained=relieving.offer.connections)
        if heritage is None or self._recovery is None:
            return Result()
        if relieving is not None:
            offer = relieving.offer
            self._recovery.forget(heritage.slots)
            return await heritage.enter(paused=offer.paused, succeeding=offer.node)
        result = await heritage.enter(paused=None, succeeding="")
        result.started = "crash"
        result.dropped += self._recovery.doubtful
        return result

    async def _review(self) -> None:
        """Close who is no longer allowed, now that everybody is served."""
        assert self._inheritance is not None
        closed = await self._inheritance.review()
        self._inheritance = None
        self._result.moved -= closed
        self._result.dropped += closed
        if closed:
            log.warning("closed members who are no longer allowed", count=closed)

    async def _get_ready_to_accept(self) -> None:
        """Do all that can fail. Listeners are duplicated: closing a server keeps ours open."""
        loop = asyncio.get_running_loop()
        server, metrics = self._server, self._server.metrics
        for listener, factory in (
            (self._listeners["public"], lambda: Connection(server, loop)),
            (self._listeners["admin"], lambda: AdminConnection(metrics)),
        ):
            duplicate = listener.dup()
            duplicate.listen(BACKLOG)  # as `_accept` does again, and cannot fail to do then
            self._servers.append(
                await loop.create_server(
                    factory, sock=duplicate, backlog=BACKLOG, start_serving=False
                )
            )

    async def _accept(self) -> None:
        for server in self._servers:
            await server.start_serving()

    def _refuse_more(self) -> None:
        """Accept no more; who connects meanwhile waits in the backlog."""
        for server in self._servers:
            server.close()
        self._servers = []

    async def _abandon(self) -> None:
        """Let go of everything, as it was never confirmed."""
        self._refuse_more()
        for listener in self._listeners.values():
            listener.close()
        self._control.close(replaced=True)
        await self._server.dismiss()
        await self._server.close()

    def _unforeseen(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Log and count what was raised where nobody catches it."""
        error = context.get("exception")
        logging.getLogger(f"{ROOT}.process").error(
            "bug: %s", context.get("message"), exc_info=error if error is not None else None
        )
        self._server.metrics.room_errors[StoreErrorKind.INTERNAL].inc()

    def _port(self, name: str) -> int:
        port: int = self._listeners[name].getsockname()[1]
        return port

    # --- end -----------------------------------------------------------------------------

    async def _end(self) -> None:
        async with self._handover:  # one that is under way decides what there is to end
            log.info("stopping", relieved=self._relieved)
            if not self._relieved:
                self._notifier.stopping()
                self._refuse_more()
                for listener in self._listeners.values():
                    listener.close()
                await self._server.quiesce(let_in=False)
                self._say_farewell()
        if self._heir is not None:
            await settled(self._heir)
            self._heir.close()
            self._server.give_away()
        await self._server.dismiss()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._answered.wait()
        await self._server.close()
        if self._recovery is not None and self._recovery.lifeline is not None:
            self._recovery.lifeline.close(remove=not self._relieved)
        self._control.close(replaced=self._relieved)
        if not self._relieved:
            self._pid_file.unlink(missing_ok=True)
        log.info("stopped")

    def _reload(self) -> None:
        """Read secrets and keys anew (SIGHUP)."""
        try:
            self._authenticator.reload()
        except SettingsError as error:
            log.error("the secrets were not reloaded; the old ones stay", reason=str(error))
        else:
            log.info("the secrets were reloaded")

    # --- orders --------------------------------------------------------------------------

    def _state(self) -> Reply:
        """Say what `status` tells of the process."""
        return {
            "host": self._settings.service.host,
            "port": self._port("public"),
            "admin_port": self._port("admin"),
            "last_start": msgspec.structs.asdict(self._result),
        }

    async def _order_stop(self, _: Mapping[str, Any], __: socket.socket) -> Reply:
        self._stopped.set()
        return {"ok": True, "pid": os.getpid()}

    async def _take_over(self, order: Mapping[str, Any], peer: socket.socket) -> Reply | None:
        version = agreed_version(order)
        room = order.get("room")
        if self._handover.locked() or self._stopped.is_set():
            raise ControlError("this process is being relieved or stopped already")
        async with self._handover:
            count = self._server.admission.counts.total
            log.info("being relieved", version=version, connections=count)
            if version >= CONNECTIONS and isinstance(room, int) and room < count:
                raise ControlError(
                    f"{count} members are connected, and the new process has descriptors for {room}"
                )
            self._refuse_more()
            try:
                if version >= CONNECTIONS:
                    await self._hand_over_connections(peer)
                else:
                    await self._server.quiesce(let_in=True)
                    self._say_farewell()
                    await hand_over(peer, self._listeners, Offer(True, connections=count))
            except BaseException:
                log.warning("the new process did not take over; serving on")
                if version < CONNECTIONS:
                    self._farewell.unlink(missing_ok=True)
                    self._server.resume()
                await self._accept_again()
                raise
            for listener in self._listeners.values():
                listener.close()
            self._relieved = True
            self._stopped.set()
        return {"ok": True} if version < CONNECTIONS else None

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
            await hand_over(peer, self._listeners, offer, parcels(server))
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
        if self._handover.locked() or self._stopped.is_set():
            raise ControlError("this process is being relieved or stopped already")
        log.info("draining", connections=self._server.admission.counts.total)
        started = time.monotonic()
        drained = await self._server.drain()
        log.info("drained", connections=drained)
        return {"ok": True, "drained": drained, "seconds": round(time.monotonic() - started, 1)}

    async def _reload_release(self, order: Mapping[str, Any], peer: socket.socket) -> Reply | None:
        """Start the successor, and say how that went. Where it failed, this one serves on."""
        argv = order.get("argv")
        if not isinstance(argv, list) or not all(isinstance(each, str) for each in argv):
            raise ControlError("reload needs the argv of a successor")
        if not self._answered.is_set() or self._handover.locked() or self._stopped.is_set():
            raise ControlError("this process is being relieved or stopped already")
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

    async def _accept_again(self) -> None:
        while not self._servers:
            try:
                await self._get_ready_to_accept()
                await self._accept()
            except OSError as error:
                self._refuse_more()
                log.error("connections are not accepted; trying again", reason=str(error))
                await asyncio.sleep(RETRY_SECONDS)


def require_nobody(path: Path) -> None:
    """Make sure that nobody serves yet.

    Raises:
        ControlError: somebody does.
    """
    try:
        peer = connect(path, 1.0)
    except OSError as error:
        raise ControlError(f"{path}: cannot see whether somebody serves: {error}") from None
    if peer is not None:
        peer.close()
        raise ControlError(
            f"somebody serves already, and answers at {path}: stop it with `ctl stop`, or start "
            "this one with --take-over"
        )
