"""Starting after a crash: what was kept is taken up, unless it may be what crashed the process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from websockets.frames import Close, Frame, Opcode

from chatservice.config import Settings
from chatservice.descriptor_store import DescriptorStore
from chatservice.handover import Inheritance
from chatservice.lifeline import Lifeline, cut, name_of, salvage
from chatservice.logs import get_logger
from chatservice.protocol import CloseCode
from chatservice.server import ChatServer
from chatservice.survival import Survival

log = get_logger("recovery")

CRASHES: Final = 3
"""So many crashes in a row are survived; then it may be the connections that cause them."""
SOON_SECONDS: Final = 30.0
"""A crash that comes so soon after another is one in a row."""
FAREWELL: Final = Frame(
    Opcode.CLOSE, Close(CloseCode.RESTART, "the service crashed").serialize()
).serialize(mask=False, extensions=[])


class Recovery:
    """What members' connections need to outlive a process, where that can be.

    Args:
        settings: say whether that is wanted.
        address: NOTIFY_SOCKET; empty where no manager keeps anything.
    """

    def __init__(self, settings: Settings, address: str) -> None:
        self._file = Path(settings.service.run_dir) / "lifeline"
        self._grace = settings.timing.presence_grace
        self._heartbeat = settings.timing.heartbeat
        self._store: DescriptorStore | None = None
        self.lifeline: Lifeline | None = None
        self.doubtful = 0
        """Members whose streams were in doubt, and who were sent away."""
        if not address:
            return
        try:
            self._store = DescriptorStore(address)
            if settings.service.survive_crashes:
                slots = 2 * settings.limits.connections
                survival = Survival(self._file, slots)
                self.lifeline = Lifeline(survival, self._store, self._grace)
        except OSError as error:
            log.warning("members will not stay connected in a crash", reason=str(error))

    def forget(self, slots: Iterable[int]) -> None:
        """Have nothing kept that another process had kept, where this one does without.

        What is kept would stay open when this process closes it.
        """
        if self._store is not None and self.lifeline is None:
            for number in slots:
                self._store.drop(name_of(number))
            self._discard()

    def _discard(self) -> None:
        """Remove the list of who was kept; left where that cannot be, it only takes room."""
        with contextlib.suppress(OSError):
            self._file.unlink()

    def take_up(
        self, server: ChatServer, found: list[tuple[str, socket.socket]]
    ) -> Inheritance | None:
        """Take up what was kept; None where there is nothing, or nothing that can be."""
        if self._store is None:
            return None
        if self.lifeline is None:
            cut(self._store, found)
            self._discard()
            return None
        survival = self.lifeline.survival
        if found and survival.crashed(SOON_SECONDS) <= CRASHES:
            try:
                return self._salvage(server, self.lifeline, self._store, found)
            except Exception:  # whatever is there must not keep the service from starting
                log.exception("what was kept over a crash is not understood: starting without")
        elif found:
            log.error(
                "crashed again and again: starting without the connections of before",
                connections=len(found),
            )
        cut(self._store, found)
        survival.clear()
        return None

    def _salvage(
        self,
        server: ChatServer,
        lifeline: Lifeline,
        store: DescriptorStore,
        found: list[tuple[str, socket.socket]],
    ) -> Inheritance:
        heritage = Inheritance(server, asyncio.get_running_loop())
        saved = salvage(
            lifeline.survival,
            store,
            found,
            grace=self._grace,
            heartbeat=self._heartbeat,
            farewell=FAREWELL,
        )
        for parcel, sockets in saved.parcels:
            heritage.add(parcel, sockets)
        lifeline.survival.reload()
        self.doubtful = saved.doubtful
        return heritage
