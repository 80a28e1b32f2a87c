"""All live rooms of a process: opened on demand, woken by their timers, dropped when idle.

What rooms have stored goes through `writing`, what they miss is read by `reading`, and what the
other nodes do is brought into them by `neighbours`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from chatservice.actions import Announce
from chatservice.cluster import Alone, Bus, Here, Typed
from chatservice.config import CHECKS_GRACE, CHECKS_PREFIX
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.handover_format import Workspace
from chatservice.health import StoreHealth
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.neighbours import Neighbours
from chatservice.reading import Reading
from chatservice.room import Room, Rules
from chatservice.store import Store
from chatservice.survival import Survival
from chatservice.timers import TimerWheel
from chatservice.writing import Writing

log = get_logger("rooms")

IDLE_SECONDS = 60.0
"""How long a room without members stays in memory, so that a reload does not read it anew."""


class RoomBusyError(Exception):
    """The workspace has members; it cannot be forgotten."""


class Rooms:
    """The live rooms, by workspace.

    `evict` sends the members of a stale room away, to come back at once and reload.
    """

    def __init__(
        self,
        store: Store,
        health: StoreHealth,
        metrics: Metrics,
        wheel: TimerWheel,
        rules: Rules,
        *,
        bus: Bus,
        queued_writes: int,
        evict: Callable[[LiveRoom], None],
    ) -> None:
        self._store = store
        self._metrics = metrics
        self._wheel = wheel
        self._rules = rules
        self._evict = evict
        self._loop = asyncio.get_running_loop()
        self._live: dict[str, LiveRoom] = {}
        self._opening: dict[str, asyncio.Future[LiveRoom]] = {}
        self._forgetting: dict[str, asyncio.Event] = {}
        self.survival: Survival | None = None
        """Where it is noted what members were given, beyond a crash."""
        self._expected: dict[str, tuple[Workspace, float, float]] = {}
        self.reading = Reading(store, health, metrics, find=self._live.get, replaced=self._replaced)
        self.neighbours = Neighbours(
            bus,
            live_rooms=self._live.values,
            find=self._live.get,
            watch=self.watch,
            state=self.reading.state,
            replaced=self._replaced,
        )
        self._bus = bus
        self._writing = Writing(
            store, health, metrics, bus, self.reading, capacity=queued_writes, watch=self.watch
        )
        self.committer = self._writing.committer

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[LiveRoom]:
        return iter(self._live.values())

    def get(self, workspace: str) -> LiveRoom | None:
        """Give the room of a workspace if it is in memory."""
        return self._live.get(workspace)

    async def close(self) -> None:
        """Commit and read no more."""
        await self.committer.close()
        await self.neighbours.close()
        self.reading.close()

    # --- opening -------------------------------------------------------------------------

    async def open(self, workspace: str) -> LiveRoom:
        """Give the room of a workspace, reading it from the store where it is not in memory.

        Join it before anything else is awaited, or it may be dropped again.

        Raises:
            StoreError: it cannot be read.
        """
        while (live := self._live.get(workspace)) is None:  # or it was dropped meanwhile
            if (forgetting := self._forgetting.get(workspace)) is not None:
                await forgetting.wait()
            elif (opening := self._opening.get(workspace)) is not None:
                await asyncio.shield(opening)
            else:
                self._opening[workspace] = asyncio.ensure_future(self._open(workspace))
        return live

    async def reached(self, workspace: str) -> LiveRoom:
        """Give the room as `open` does, once it has published all that is stored by now.

        So who comes in from another node, or whose other devices are there, finds what they saw
        and how far they read, though word of it has not arrived here.

        Raises:
            StoreError: it cannot be read.
        """
        read_now = workspace not in self._live and workspace not in self._opening
        live = await self.open(workspace)
        if read_now or not self._rules.shared:
            return live
        state = await self.reading.state(workspace)
        if state.epoch == live.room.epoch and state.seq > live.room.seq and not live.stale:
            live.carry_out(live.room.noticed(state.seq))
            await self.reading.reach(live, state.seq)
        return await self.open(workspace)

    async def _open(self, workspace: str) -> LiveRoom:
        try:
            with self.neighbours.listening(workspace) as heard:
                state = await self.reading.state(workspace)
                live = self._make(Room(workspace, state, self._rules_of(workspace)))
                self._await_returning(live)
                await self.neighbours.introduce(live, heard)
        finally:
            del self._opening[workspace]
        self._enlist(live)
        return live

    def expect(self, workspaces: Sequence[Workspace], *, ago: float, within: float) -> None:
        """Have users count as online who were when the process before this one ended.

        Args:
            workspaces: where they were.
            ago: how long ago that was, in seconds.
            within: how long after that everybody should be back.
        """
        ended = self._loop.time() - ago
        self._expected = {each.workspace: (each, ended, within) for each in workspaces}

    def _await_returning(self, live: LiveRoom) -> None:
        expected = self._expected.pop(live.room.workspace, None)
        if expected is not None:
            captured, ended, within = expected
            live.room.expect(captured.users, ended, within)
            live.carry_out(live.room.tick(self._loop.time()))

    def _rules_of(self, workspace: str) -> Rules:
        """Give the rules of a workspace; those of the checks wait for nobody long."""
        if not workspace.startswith(CHECKS_PREFIX):
            return self._rules
        grace = min(self._rules.presence_grace, CHECKS_GRACE)
        return msgspec.structs.replace(self._rules, presence_grace=grace)

    def _make(self, room: Room[Connection]) -> LiveRoom:
        return LiveRoom(
            room,
            metrics=self._metrics,
            defer=self._loop.call_soon,
            store=self._writing.take,
            read=self.reading.begin,
            announce=self._announce,
            flushed=self._flushed,
        )

    def _enlist(self, live: LiveRoom) -> None:
        self._live[live.room.workspace] = live
        self._metrics.rooms.set(len(self._live))
        self.watch(live)

    # --- time ----------------------------------------------------------------------------

    def watch(self, live: LiveRoom) -> None:
        """See to it that the room is called when its next deadline comes, or when it is idle."""
        due = live.room.deadline
        if due is None:
            if not live.idle:
                return
            due = self._loop.time() + IDLE_SECONDS
        if due < live.due:
            live.due = due
            self._wheel.schedule(_RoomTimer(self, live, due), due)

    def on_timer(self, live: LiveRoom, due: float, now: float) -> None:
        """A deadline of a room has come."""
        if live.due != due:  # an earlier call took its place
            return
        live.due = float("inf")
        had_deadline = live.room.deadline is not None
        live.carry_out(live.room.tick(now))
        if live.idle and not had_deadline:
            self._drop(live)
        else:
            self.watch(live)

    # --- dropping ------------------------------------------------------------------------

    def _drop(self, live: LiveRoom) -> None:
        if self._live.get(live.room.workspace) is live:  # and not one that came after it
            del self._live[live.room.workspace]
            if self.survival is not None:
                self.survival.forget_room(live.room.workspace)
            self._metrics.rooms.set(len(self._live))

    async def forget(self, workspace: str) -> bool:
        """Delete a workspace; False where there was none.

        Raises:
            RoomBusyError: somebody is connected to it, or about to be.
            StoreError: the store did not do it.
        """
        live = self._live.get(workspace)
        if workspace in self._opening or workspace in self._forgetting:
            raise RoomBusyError(workspace)
        if live is not None:
            if len(live.room) or live.pending:
                raise RoomBusyError(workspace)
            self._drop(live)
        self._forgetting[workspace] = forgotten = asyncio.Event()
        try:
            return await self._store.forget(workspace)
        finally:
            del self._forgetting[workspace]
            forgotten.set()

    # --- moving to another process -------------------------------------------------------

    def captured(self) -> list[Workspace]:
        """Say where the rooms stand that somebody is in, or may come back to."""
        now = self._loop.time()
        return [
            live.room.captured(now)
            for live in self._live.values()
            if not live.stale and not live.room.empty
        ]

    def restore(self, captured: Workspace, now: float) -> LiveRoom:
        """Go on with a room of another process; it is live with `adopt`."""
        rules = self._rules_of(captured.workspace)
        return self._make(Room.restore(captured, rules, now))

    def adopt(self, rooms: Mapping[str, tuple[LiveRoom, int]], *, succeeding: str) -> None:
        """Have these rooms live. Each comes with the number up to which messages are stored.

        Args:
            rooms: by workspace, with that number.
            succeeding: the node that they come from; it is about to end.
        """
        self.neighbours.succeed(succeeding)
        for live, known in rooms.values():
            self._enlist(live)
            live.carry_out(live.room.noticed(known))
        if not isinstance(self._bus, Alone):
            self.neighbours.resync()
        self.reading.verify([live for live, _ in rooms.values()])

    async def catch_up(self) -> None:
        """Wait until rooms that were adopted have published all that is stored, or for a while."""
        await self.reading.caught_up(self._live.values())

    def freeze(self) -> None:
        """Change no room, as another process goes on from where they stand."""
        self.reading.freeze()
        self.neighbours.freeze()

    def thaw(self) -> None:
        """Undo `freeze`."""
        self.reading.thaw()
        self.neighbours.thaw()

    # --- what the parts tell -------------------------------------------------------------

    def _flushed(self, live: LiveRoom) -> None:
        if self.survival is not None:
            room = live.room
            self.survival.publish(room.workspace, room.epoch, room.seq)
            for user in live.gone:
                self.survival.offline(room.workspace, user)

    def _replaced(self, live: LiveRoom) -> None:
        if not live.stale:
            log.warning("the history was replaced; members reload", workspace=live.room.workspace)
            live.stale = True
            self._drop(live)
            self._evict(live)

    def _announce(self, live: LiveRoom, action: Announce) -> None:
        self._bus.tell(Here(live.room.workspace, action.user, action.name, action.present))

    def tell_typing(self, connection: Connection) -> None:
        """Tell the other nodes that a member types."""
        self._bus.tell(Typed(connection.workspace, connection.user))


class _RoomTimer:
    """One entry of a room in the timer wheel."""

    __slots__ = ("_due", "_live", "_rooms")

    def __init__(self, rooms: Rooms, live: LiveRoom, due: float) -> None:
        self._rooms = rooms
        self._live = live
        self._due = due

    def on_timer(self, now: float) -> None:
        self._rooms.on_timer(self._live, self._due, now)
