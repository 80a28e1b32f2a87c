"""What members of other nodes do, brought into the rooms of this one.

Implements `cluster.Listener`. What is heard of a workspace while its room is being opened or
compared with the store is kept, and wins over what was read meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence, Set
from contextlib import contextmanager, suppress
from typing import Any, Final

from chatservice.cluster import Alone, Bus, Committed, Here, Moved, Typed, Word
from chatservice.fanout import LiveRoom
from chatservice.logs import get_logger
from chatservice.store import StoreError, WorkspaceState

log = get_logger("neighbours")

AT_ONCE: Final = 8
"""Rooms that are compared with the store at the same time after words may have been lost."""

RETRY_SECONDS: Final = 0.5
"""How long after a failure a comparison is begun again."""

TAIL_SECONDS: Final = 1.0
"""How often the numbers of all live rooms are read, in one statement."""


class Heard:
    """What is heard of a workspace while something is read about it.

    Attributes:
        words: each with the node that said it, in order.
        broken: whether words may have been lost meanwhile.
    """

    __slots__ = ("broken", "words")

    def __init__(self) -> None:
        self.words: list[tuple[str, Word]] = []
        self.broken = False

    def mend(self) -> None:
        """Forget what may be untrue since words were lost, as all is about to be read anew."""
        if self.broken:
            self.words = [each for each in self.words if not isinstance(each[1], Here)]
            self.broken = False


class Neighbours:
    """The other nodes, as the rooms of this one see them.

    Args:
        bus: the way to them.
        live_rooms: gives the rooms in memory.
        find: gives one of them by its workspace.
        watch: is told of a room whose deadline may have changed.
        state: reads the state of a workspace from the store.
        replaced: is told of a room whose history the store no longer holds.
    """

    def __init__(
        self,
        bus: Bus,
        *,
        live_rooms: Callable[[], Iterable[LiveRoom]],
        find: Callable[[str], LiveRoom | None],
        watch: Callable[[LiveRoom], None],
        state: Callable[[str], Awaitable[WorkspaceState]],
        replaced: Callable[[LiveRoom], None],
    ) -> None:
        self.bus = bus
        self._live_rooms = live_rooms
        self._find = find
        self._watch = watch
        self._state = state
        self._replaced = replaced
        self._loop = asyncio.get_running_loop()
        self._listening: dict[str, list[Heard]] = {}
        self._resyncs = 0
        self._reviews: dict[str, list[set[tuple[str, str]]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._predecessor = ""
        self._frozen: list[str] | None = None

    async def start(self) -> None:
        """Begin to listen."""
        await self.bus.start(self)
        self._spawn(self._tail())

    async def close(self) -> None:
        """Say goodbye."""
        for task in self._tasks:
            task.cancel()
        await self.bus.close()

    async def _tail(self) -> None:
        """Notice what was committed without a word: its node died in between."""
        while True:
            await asyncio.sleep(TAIL_SECONDS)
            if self._frozen is not None:
                continue
            workspaces = [live.room.workspace for live in self._live_rooms()]
            try:
                newest = await self.bus.newest(workspaces) if workspaces else {}
            except StoreError:
                continue  # it is said, and tried again, by those who need it sooner
            for workspace, (epoch, seq) in newest.items():
                live = self._find(workspace)
                if live is None or self._frozen is not None:
                    continue
                if epoch != live.room.epoch:
                    self._replaced(live)
                else:
                    live.carry_out(live.room.noticed(seq))

    # --- moving to another process -------------------------------------------------------

    def succeed(self, node: str) -> None:
        """Pass over what is heard of a node whose rooms this one has."""
        self._predecessor = node

    def freeze(self) -> None:
        """Change no room, as another process goes on from where they stand."""
        self._frozen = []

    def thaw(self) -> None:
        """Undo `freeze`: what was missed is read."""
        gone, self._frozen = self._frozen or [], None
        for node in gone:
            self.node_gone(node)
        if not isinstance(self.bus, Alone):
            self.resync()

    # --- a room that comes into being ----------------------------------------------------

    @contextmanager
    def listening(self, workspace: str) -> Iterator[Heard]:
        """Collect what is heard of a workspace while something is read about it."""
        heard = Heard()
        self._listening.setdefault(workspace, []).append(heard)
        try:
            yield heard
        finally:
            self._listening[workspace].remove(heard)
            if not self._listening[workspace]:
                del self._listening[workspace]

    async def introduce(self, live: LiveRoom, heard: Heard) -> None:
        """Bring a new room up to date: who is present elsewhere, and what was heard meanwhile.

        Raises:
            StoreError: it cannot be read.
        """
        while True:
            heard.mend()
            present = await self.bus.present(live.room.workspace)
            if not heard.broken:
                break
        self._settle(live, present, frozenset(self.bus.others), heard)
        for node, word in heard.words:
            self._apply(live, node, word)
        self._suspect(live)

    def _suspect(self, live: LiveRoom) -> None:
        """See to it that the users of nodes that died unnoticed do not stay for ever."""
        self.bus.suspect({node for node, _ in live.room.remote_users()})

    def _settle(
        self,
        live: LiveRoom,
        present: Sequence[tuple[str, str, str]],
        lived: Set[str],
        heard: Heard,
    ) -> None:
        """Make the room agree with what was read of other nodes, where nothing newer was heard.

        Those of a node that did not live when that was read are left to `node_gone`, which gives
        them time: nobody was read of it, though it may be back by now.
        """
        present = [each for each in present if each[0] != self._predecessor]
        newer = {(node, word.user) for node, word in heard.words if isinstance(word, Here)}
        room = live.room
        for node, user in room.remote_users() - {(node, user) for node, user, _ in present}:
            if (node, user) not in newer and node in lived and node in self.bus.others:
                live.carry_out(room.remote_presence(node, user, "", present=False))
        for node, user, name in present:
            if (node, user) not in newer:
                live.carry_out(room.remote_presence(node, user, name, present=True))

    # --- cluster.Listener ----------------------------------------------------------------

    def heard(self, node: str, words: Sequence[Word]) -> None:
        """Another node said this."""
        if self._frozen is not None or node == self._predecessor:
            return
        reviews = self._reviews.get(node, ())
        for word in words:
            if isinstance(word, Here):
                for review in reviews:
                    review.add((word.workspace, word.user))
            for heard in self._listening.get(word.workspace, ()):
                heard.words.append((node, word))
            live = self._find(word.workspace)
            if live is not None:
                self._apply(live, node, word)

    def node_gone(self, node: str) -> None:
        """Give the users of a node their grace period to come to another one."""
        if self._frozen is not None:
            self._frozen.append(node)
            return
        now = self._loop.time()
        for live in tuple(self._live_rooms()):
            live.carry_out(live.room.node_gone(node, now))
            self._watch(live)

    def anew(self, node: str) -> None:
        """Another node's words may have been lost, its farewells to users among them."""
        if self._frozen is not None or node == self._predecessor:
            return
        self._distrust()
        heard: set[tuple[str, str]] = set()
        self._reviews.setdefault(node, []).append(heard)
        self._spawn(self._review(node, heard, self._resyncs))

    def _distrust(self) -> None:
        """Have what was heard for rooms that are being opened read again."""
        for listening in self._listening.values():
            for heard in listening:
                heard.broken = True

    async def _review(self, node: str, heard: set[tuple[str, str]], turn: int) -> None:
        """Forget the users whom a node no longer has, unless everything is compared anyway."""
        try:
            while True:
                if self._resyncs != turn or self._frozen is not None:
                    return
                with suppress(StoreError):
                    present = await self.bus.presence_of(node)
                    break
                await asyncio.sleep(RETRY_SECONDS)
        finally:
            self._reviews[node] = [one for one in self._reviews[node] if one is not heard]
            if not self._reviews[node]:
                del self._reviews[node]
        if self._frozen is not None:
            return
        for live in tuple(self._live_rooms()):
            room = live.room
            for there, user in room.remote_users():
                told = (room.workspace, user)
                if there == node and told not in present and told not in heard:
                    live.carry_out(room.remote_presence(node, user, "", present=False))

    def resync(self) -> None:
        """Tell everything anew, and compare every room with the store."""
        if self._frozen is not None:
            return
        self._distrust()
        for live in self._live_rooms():
            room = live.room
            self.bus.tell(Committed(room.workspace, room.seq))
            for word in room.announcements():
                self.bus.tell(Here(room.workspace, word.user, word.name, True))
        self._resyncs += 1
        self._spawn(self._compare_all(asyncio.Semaphore(AT_ONCE), self._resyncs))

    async def _compare_all(self, at_once: asyncio.Semaphore, turn: int) -> None:
        async def compare(live: LiveRoom) -> None:
            workspace = live.room.workspace
            async with at_once:
                # The store may be away for longer than the bus; a new turn compares anew anyway.
                while self._resyncs == turn and self._find(workspace) is live:
                    with suppress(StoreError):
                        await self._compare(live)
                        return
                    await asyncio.sleep(RETRY_SECONDS)

        await asyncio.gather(*(compare(live) for live in tuple(self._live_rooms())))

    async def _compare(self, live: LiveRoom) -> None:
        """Make a room agree with the store.

        Raises:
            StoreError: it cannot be read.
        """
        workspace = live.room.workspace
        with self.listening(workspace) as heard:
            while True:
                heard.mend()
                present = await self.bus.present(workspace)
                lived = frozenset(self.bus.others)
                # Last: it opens the workspace anew, so that a room of another history must be sent
                # away before anything else happens, or its sends would be stored in this one.
                state = await self._state(workspace)
                if self._frozen is not None or self._find(workspace) is not live:
                    return
                if state.epoch != live.room.epoch:
                    self._replaced(live)
                    return
                if not heard.broken:  # else somebody read may have been forgotten since
                    break
            self._settle(live, present, lived, heard)
            self._suspect(live)
            live.carry_out(live.room.noticed(state.seq))
            live.carry_out(live.room.recount_all())

    def _apply(self, live: LiveRoom, node: str, word: Word) -> None:
        room = live.room
        match word:
            case Committed():
                live.carry_out(room.noticed(word.seq))
            case Moved():
                live.carry_out(room.moved(word.user, word.cursor, word.upto))
            case Typed():
                live.carry_out(room.remote_typing(word.user))
            case Here():
                live.carry_out(
                    room.remote_presence(node, word.user, word.name, present=word.present)
                )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
