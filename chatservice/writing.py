"""What rooms have stored: the way of messages and cursors to the disk and back.

A room asks for an operation to be stored; the committer puts it into the next batch; when the
batch is on disk, every room concerned publishes its part and is flushed.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import msgspec

from chatservice.actions import Store as StoreAction
from chatservice.cluster import Bus, Moved
from chatservice.cluster import Committed as CommittedWord
from chatservice.committer import Committer, Done, Failed
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.health import StoreHealth
from chatservice.metrics import Metrics
from chatservice.reading import Reading
from chatservice.store import Append, Appended, MoveCursor, Store


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where an operation came from, and when, in seconds of `perf_counter`."""

    live: LiveRoom
    connection: Connection
    received: float


class Writing:
    """Takes what rooms want durable, and brings back to them what became of it.

    Args:
        store: where it goes.
        health: says whether the store takes it now.
        metrics: where it is counted and timed.
        bus: the other nodes, which are told of what is stored.
        reading: is told of commits that failed.
        capacity: operations that may wait; past that, rooms are refused.
        watch: is told of a room whose deadline may have changed.
    """

    def __init__(
        self,
        store: Store,
        health: StoreHealth,
        metrics: Metrics,
        bus: Bus,
        reading: Reading,
        *,
        capacity: int,
        watch: Callable[[LiveRoom], None],
    ) -> None:
        self._health = health
        self._metrics = metrics
        self._bus = bus
        self._reading = reading
        self._watch = watch
        self.committer: Committer[Origin] = Committer(store, capacity, self._report)

    def take(self, live: LiveRoom, action: StoreAction[Connection]) -> None:
        """Have an operation of a room in the next batch, or refuse it at once."""
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
        name = "send" if isinstance(operation, Append) else "read"
        self._metrics.requests[name, "error"].inc()
        live.carry_out(live.room.refused(action.key, operation, why))

    def _report(self, batch: Done[Origin] | Failed[Origin]) -> None:
        touched = self._refuse(batch) if isinstance(batch, Failed) else self._publish(batch)
        for live in touched:
            live.flush()
            self._watch(live)
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
        self._reading.failed("commit", batch.error, *{origin.live for origin, _ in operations})
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
