"""All live rooms of a process: opened on demand, committed together, dropped when idle.

The way of a message: a room asks for it to be stored; the committer puts it into the next batch;
when the batch is on disk every room concerned publishes its part and is flushed.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Final, TypeVar

import msgspec

from chatservice.actions import Announce, Fetch, Recount
from chatservice.actions import Store as StoreAction
from chatservice.cluster import Alone, Bus, Here, Moved, Typed
from chatservice.cluster import Committed as CommittedWord
from chatservice.committer import Committer, Done, Failed
from chatservice.config import CHECKS_GRACE, CHECKS_PREFIX
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.handover_format import Workspace
from chatservice.health import StoreHealth
from chatservice.logs import get_logger
from chatservice.metrics import Metrics
from chatservice.neighbours import Neighbours
from chatservice.room import Room, Rules
from chatservice.store import (
    Append,
    Appended,
    Cursor,
    MoveCursor,
    Store,
    StoreError,
    StoreErrorKind,
)
from chatservice.survival import Survival
from chatservice.tasks import Tasks
from chatservice.timers import TimerWheel

log = get_logger("rooms")

IDLE_SECONDS = 60.0
"""How long a room without members stays in memory, so that a reload does not read it anew."""

REACH_SECONDS: Final = 5.0
"""How long a client from another node waits for what it saw there, before it reloads."""
CATCH_UP_SECONDS = 5.0
"""How long members wait after a crash for a store that does not answer."""
FETCH_RETRY_SECONDS = 0.5
"""How long after a failure what a room misses is read again."""

Result = TypeVar("Result")


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where an operation came from, and when, in seconds of `perf_counter`."""

    live: LiveRoom
    connection: Connection
    received: float


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
        self._health = health
        self._metrics = metrics
        self._wheel = wheel
        self._rules = rules
        self._evict = evict
        self._loop = asyncio.get_running_loop()
        self._live: dict[str, LiveRoom] = {}
        self._opening: dict[str, asyncio.Future[LiveRoom]] = {}
        self._forgetting: dict[str, asyncio.Event] = {}
        self._tasks = Tasks()
        self._missing: dict[LiveRoom, Fetch] = {}
        self._fetching: asyncio.Task[None] | None = None
        self.survival: Survival | None = None
        """Where it is noted what members were given, beyond a crash."""
        self._verifying: asyncio.Task[None] | None = None
        self._expected: dict[str, tuple[Workspace, float, float]] = {}
        self._running = asyncio.Event()
        self._running.set()
        self.neighbours = Neighbours(
            bus,
            live_rooms=self._live.values,
            find=self._live.get,
            watch=self.watch,
            state=lambda workspace: self.measured("open", lambda: store.open(workspace)),
            replaced=self._replaced,
        )
        self._bus = bus
        self.committer: Committer[Origin] = Committer(store, queued_writes, self._report)

    def __len__(self) -> int:
        return len(self._live)

    def _rules_of(self, workspace: str) -> Rules:
        """Give the rules of a workspace; those of the checks wait for nobody long."""
        if not workspace.startswith(CHECKS_PREFIX):
            return self._rules
        grace = min(self._rules.presence_grace, CHECKS_GRACE)
        return msgspec.structs.replace(self._rules, presence_grace=grace)

    def __iter__(self) -> Iterator[LiveRoom]:
        return iter(self._live.values())

    def get(self, workspace: str) -> LiveRoom | None:
        """Give the room of a workspace if it is in memory."""
        return self._live.get(workspace)

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

    async def reached(self, workspace: str, seq: int, epoch: str | None) -> LiveRoom:
        """Give the room as `open` does, once it has published up to `seq` of this epoch.

        So a client may come from another node, where it saw what has not arrived here. Where the
        store has no such number the room is given as it is.

        Raises:
            StoreError: it cannot be read.
        """
        live = await self.open(workspace)
        if live.room.seq >= seq or live.room.epoch != epoch or not self._rules.shared:
            return live
        state = await self.measured("open", lambda: self._store.open(workspace))
        if state.epoch == live.room.epoch and state.seq >= seq and not live.stale:
            live.carry_out(live.room.noticed(state.seq))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REACH_SECONDS):
                    while live.room.seq < seq and self._fetching is not None:
                        await asyncio.shield(self._fetching)
        return await self.open(workspace)

    async def _open(self, workspace: str) -> LiveRoom:
        try:
            with self.neighbours.listening(workspace) as heard:
                state = await self.measured("open", lambda: self._store.open(workspace))
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

    def _make(self, room: Room[Connection]) -> LiveRoom:
        return LiveRoom(
            room,
            metrics=self._metrics,
            defer=self._loop.call_soon,
            store=self._durably,
            read=self._begin_read,
            announce=self._announce,
            flushed=self._flushed,
        )

    def _flushed(self, live: LiveRoom) -> None:
        if self.survival is not None:
            room = live.room
            self.survival.publish(room.workspace, room.epoch, room.seq)
            for user in live.gone:
                self.survival.offline(room.workspace, user)

    def _enlist(self, live: LiveRoom) -> None:
        self._live[live.room.workspace] = live
        self._metrics.rooms.set(len(self._live))
        self.watch(live)

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
        self._verifying = self._tasks.spawn(self._verify([live for live, _ in rooms.values()]))

    async def catch_up(self) -> None:
        """Wait until rooms that were adopted have published all that is stored, or for a while."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CATCH_UP_SECONDS):
                if self._verifying is not None:
                    await asyncio.wait([self._verifying])
                while any(live.room.behind for live in self._live.values()):  # noqa: ASYNC110
                    await asyncio.sleep(0.002)

    async def _verify(self, rooms: list[LiveRoom]) -> None:
        """See whether the store holds the histories that rooms of another process go on from.

        What was stored and not published before a crash is published now.
        """
        for live in rooms:
            workspace = live.room.workspace
            while self._live.get(workspace) is live:
                try:
                    state = await self.measured("open", partial(self._store.open, workspace), live)
                except StoreError:
                    await asyncio.sleep(FETCH_RETRY_SECONDS)
                    continue
                await self._running.wait()
                if state.epoch != live.room.epoch:
                    self._replaced(live)
                else:
                    live.carry_out(live.room.noticed(state.seq))
                break

    def freeze(self) -> None:
        """Change no room, as another process goes on from where they stand."""
        self._running.clear()
        self.neighbours.freeze()

    def thaw(self) -> None:
        """Undo `freeze`."""
        self._running.set()
        self.neighbours.thaw()

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

    async def close(self) -> None:
        """Commit and read no more."""
        await self.committer.close()
        await self.neighbours.close()
        self._tasks.cancel()

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

    def _drop(self, live: LiveRoom) -> None:
        if self._live.get(live.room.workspace) is live:  # and not one that came after it
            del self._live[live.room.workspace]
            if self.survival is not None:
                self.survival.forget_room(live.room.workspace)
            self._metrics.rooms.set(len(self._live))

    # --- the way to the disk and back ----------------------------------------------------

    def _durably(self, live: LiveRoom, action: StoreAction[Connection]) -> None:
        operation = action.operation
        why = "the store cannot take it now; send it again later"
        if self._health.ok:
            origin = Origin(live, action.key, perf_counter())
            queued = (
                self.committer.append(origin, operation)
                if isinstance(operation, Append)
                else self.committer.move(origin, operation)
            )
            if queued:
                live.pending += 1
                action.key.pending += 1
                return
            why = "too many messages wait to be stored; send it again later"
        self._metrics.requests[_operation(operation), "error"].inc()
        live.carry_out(live.room.refused(action.key, operation, why))

    def _report(self, batch: Done[Origin] | Failed[Origin]) -> None:
        touched = self._refuse(batch) if isinstance(batch, Failed) else self._publish(batch)
        for live in touched:
            live.flush()
            self.watch(live)
        for entry in (*batch.appends, *batch.cursors):
            entry[0].connection.answered()

    def _publish(self, batch: Done[Origin]) -> dict[LiveRoom, None]:
        started = perf_counter()
        metrics = self._metrics
        appended: dict[LiveRoom, list[tuple[Connection, Append, Appended]]] = {}
        touched: dict[LiveRoom, None] = {}
        for origin, append, result in batch.appends:
            appended.setdefault(origin.live, []).append((origin.connection, append, result))
        for live, results in appended.items():
            touched[live] = None
            live.pending -= len(results)
            live.carry_out(live.room.committed(results))
            newest = max(result.seq for _, _, result in results)
            self._bus.tell(CommittedWord(live.room.workspace, newest))
        for origin, move, cursor in batch.cursors:
            live = origin.live
            upto = batch.newest.get(move.workspace, live.room.seq)
            touched[live] = None
            live.pending -= 1
            live.carry_out(live.room.moved(move.user, cursor, upto))
            self._bus.tell(Moved(move.workspace, move.user, cursor.read, cursor.unread, upto))
        for live in touched:
            live.flush()
        written = perf_counter()
        metrics.storage["commit", "ok"].inc()
        metrics.storage_duration["commit"].observe(batch.seconds)
        metrics.commit_batch.observe(len(batch.appends))
        metrics.messages.inc(sum(not result.repeated for _, _, result in batch.appends))
        metrics.requests["send", "ok"].inc(len(batch.appends))
        metrics.requests["read", "ok"].inc(len(batch.cursors))
        delivered = metrics.delivery_duration
        answered = metrics.request_duration["send"]
        for origin, _, _ in batch.appends:
            delivered.observe(written - origin.received)
            answered.observe(written - origin.received)
        for origin, _, _ in batch.cursors:
            metrics.request_duration["read"].observe(started - origin.received)
        return touched

    def _refuse(self, batch: Failed[Origin]) -> dict[LiveRoom, None]:
        operations: list[tuple[Origin, Append | MoveCursor]] = [*batch.appends, *batch.cursors]
        self.failed("commit", batch.error, *{origin.live for origin, _ in operations})
        metrics = self._metrics
        metrics.requests["send", "error"].inc(len(batch.appends))
        metrics.requests["read", "error"].inc(len(batch.cursors))
        metrics.room_errors[batch.error.kind].inc(len(batch.appends) + len(batch.cursors))
        touched: dict[LiveRoom, None] = {}
        for origin, operation in operations:
            live = origin.live
            touched[live] = None
            live.pending -= 1
            why = "it could not be stored; send it again later"
            live.carry_out(live.room.refused(origin.connection, operation, why))
        return touched

    # --- reads ---------------------------------------------------------------------------

    async def measured(
        self, operation: str, call: Callable[[], Awaitable[Result]], *concerned: LiveRoom
    ) -> Result:
        """Call the store, counting and timing the call; `concerned` is the room it is about.

        Raises:
            StoreError: as the store raised it; the health check has been told.
        """
        started = perf_counter()
        try:
            result = await call()
        except StoreError as error:
            self.failed(operation, error, *concerned)
            raise
        self._metrics.storage[operation, "ok"].inc()
        self._metrics.storage_duration[operation].observe(perf_counter() - started)
        return result

    def failed(self, operation: str, error: StoreError, *concerned: LiveRoom) -> None:
        """Count a failed call of the store, and have the store, or the rooms, checked."""
        self._metrics.storage[operation, "error"].inc()
        if error.kind is StoreErrorKind.STALE:
            for live in concerned:
                self._tasks.spawn(self._compare(live))
            return
        if error.kind is StoreErrorKind.INTERNAL:
            log.error("bug in the store", operation=operation, reason=str(error))
        self._health.failed(error)

    async def _compare(self, live: LiveRoom) -> None:
        """See whether the store still holds the history that the room goes on from.

        It does not when a backup was restored, or the workspace was deleted.
        """
        workspace = live.room.workspace
        try:
            state = await self.measured("open", lambda: self._store.open(workspace))
        except StoreError:
            return
        await self._running.wait()
        if state.epoch != live.room.epoch:
            self._replaced(live)

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

    def _begin_read(self, live: LiveRoom, action: Fetch | Recount) -> None:
        if isinstance(action, Fetch):
            self._missing[live] = action
            if self._fetching is None or self._fetching.done():
                self._fetching = self._tasks.spawn(self._fetch())
        else:
            self._tasks.spawn(self._recount(live, action))

    async def _recount(self, live: LiveRoom, action: Recount) -> None:
        workspace, upto = live.room.workspace, action.upto
        cursor: Cursor | None = None
        try:
            entry = await self.measured(
                "enter",
                lambda: self._store.enter(
                    workspace, action.user, action.name, upto=upto, after=upto, newest=0
                ),
                live,
            )
            cursor = entry.cursor
        except StoreError:
            pass
        await self._running.wait()
        live.carry_out(live.room.recounted(action.user, cursor))

    async def _fetch(self) -> None:
        """Read what rooms miss, all of them together, until it is there.

        Nothing is published past a gap, so a failure is tried again.
        """
        while self._missing:
            missing = {live: fetch for live, fetch in self._missing.items() if not live.stale}
            self._missing.clear()
            wanted = [(live.room.workspace, f.after, f.upto) for live, f in missing.items()]
            try:
                found = await self.measured(
                    "since", partial(self._store.since_each, wanted), *missing
                )
            except StoreError:
                self._missing = missing | self._missing
                await asyncio.sleep(FETCH_RETRY_SECONDS)
                continue
            await self._running.wait()
            for (live, fetch), messages in zip(missing.items(), found, strict=True):
                if messages and messages[0].seq == fetch.after + 1:
                    live.carry_out(live.room.fetched(messages))
                else:  # it is out of history already
                    self._replaced(live)


def _operation(operation: object) -> str:
    return "send" if isinstance(operation, Append) else "read"


class _RoomTimer:
    """One entry of a room in the timer wheel."""

    __slots__ = ("_due", "_live", "_rooms")

    def __init__(self, rooms: Rooms, live: LiveRoom, due: float) -> None:
        self._rooms = rooms
        self._live = live
        self._due = due

    def on_timer(self, now: float) -> None:
        self._rooms.on_timer(self._live, self._due, now)
