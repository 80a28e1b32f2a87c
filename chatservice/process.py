"""The life of one process: start (cold, or relieving another), serve, and end.

What it is ordered meanwhile is in `relief` (stop, take-over, reload, drain) and in `orders`; where
clients come in, in `listening`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
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
from chatservice.control import ControlError, ControlSocket, Reply, connect
from chatservice.descriptor_store import kept
from chatservice.farewell import take_farewell
from chatservice.handover import Inheritance, Result
from chatservice.listening import ListenError, Listeners, Wanted
from chatservice.log_format import ROOT
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.orders import Orders
from chatservice.recovery import Recovery
from chatservice.relief import Relief
from chatservice.reporting import Report
from chatservice.server import ChatServer
from chatservice.store import Store, StoreError, StoreErrorKind
from chatservice.systemd import Notifier
from chatservice.takeover import Claim, claim

log = get_logger("process")

TOLD_SECONDS: Final = 4.0
"""How long the other nodes may take to know a successor; its predecessor stays for longer."""


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
        self._bus = bus
        self._result = Result()
        self._inheritance: Inheritance | None = None
        self._recovery: Recovery | None = None
        self._notifier = Notifier()
        self._listeners = self._make_listeners(metrics)
        self._relief = Relief(
            self._server,
            self._listeners,
            bus=bus,
            farewell=self._farewell,
            notifier=self._notifier,
        )
        self._control = ControlSocket(
            settings.control_socket,
            {**Orders(self._server, self._state).all(), **self._relief.all()},
        )

    def _make_listeners(self, metrics: Metrics) -> Listeners:
        server, loop = self._server, asyncio.get_running_loop()
        return Listeners(
            {
                "public": lambda: Connection(server, loop),
                "admin": lambda: AdminConnection(metrics),
            }
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
            loop.add_signal_handler(number, self._relief.ending.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        log.info(
            "serving", pid=os.getpid(),
            host=self._settings.service.host, port=self._listeners.port("public"),
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
        await self._relief.ending.wait()
        await self._end()

    def _state(self) -> Reply:
        """Say what `status` tells of the process."""
        return {
            "host": self._settings.service.host,
            "port": self._listeners.port("public"),
            "admin_port": self._listeners.port("admin"),
            "last_start": msgspec.structs.asdict(self._result),
        }

    # --- start ---------------------------------------------------------------------------

    async def _begin(self, *, take_over: bool) -> Claim | None:
        """Do all that can fail alone, then ask the running process to step back."""
        try:
            await self._server.start()
        except StoreError as error:
            readable = self._server.health.readable
            if error.kind is StoreErrorKind.SCHEMA or (take_over and not readable):
                await self._server.close()
                raise StartError(str(error)) from None
            how = "with a store that takes no writes" if readable else "without the store"
            log.error(f"starting {how}; it is tried again", reason=str(error))
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
        self._listeners.open(
            {
                "public": Wanted((service.host, service.port), "service.port"),
                "admin": Wanted((service.admin_host, service.admin_port), "service.admin_port"),
            },
            inherited=relieving.listeners if relieving is not None else {},
            where=self._where,
        )
        self._control.bind()
        await self._listeners.get_ready()
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
        await self._listeners.accept()
        self._control.open()
        try:
            self._pid_file.write_text(f"{os.getpid()}\n", encoding="ascii")
        except OSError as error:
            log.error("the pid file cannot be written", path=self._pid_file, reason=str(error))

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

    async def _abandon(self) -> None:
        """Let go of everything, as it was never confirmed."""
        self._listeners.close()
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

    # --- end -----------------------------------------------------------------------------

    async def _end(self) -> None:
        relief = self._relief
        async with relief.under_way:  # one that is under way decides what there is to end
            log.info("stopping", relieved=relief.relieved)
            if not relief.relieved:
                self._notifier.stopping()
                self._listeners.close()
                await self._server.quiesce(let_in=False)
                relief.say_farewell()
        await relief.let_go()
        await self._server.dismiss()
        await relief.answered()
        await self._server.close()
        if self._recovery is not None and self._recovery.lifeline is not None:
            self._recovery.lifeline.close(remove=not relief.relieved)
        self._control.close(replaced=relief.relieved)
        if not relief.relieved:
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
