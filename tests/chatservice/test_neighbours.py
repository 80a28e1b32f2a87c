"""What other nodes say gets into the rooms of this one, whatever is read meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence, Set
from pathlib import Path
from typing import TypeVar

import pytest

from chatservice.actions import Announce, Fetch, Recount
from chatservice.cluster import Committed, Here, Listener, Typed, Word
from chatservice.connection import Connection
from chatservice.fanout import LiveRoom
from chatservice.metrics import Metrics
from chatservice.neighbours import Neighbours
from chatservice.room import Room, Rules
from chatservice.store import StoreError, StoreErrorKind, WorkspaceState

T = TypeVar("T")

AWAY = StoreError(StoreErrorKind.IO, "away")


class ScriptedBus:
    """A bus whose answers come when, and as, the test says; keeps what is told."""

    node = "n1"

    def __init__(self) -> None:
        self.words: list[Word] = []
        self.others: Set[str] = {"n2", "n3"}
        self.present_now: list[tuple[str, str, str]] = []
        self.presence_now: set[tuple[str, str]] = set()
        self.newest_now: dict[str, tuple[str, int]] = {}
        self.meanwhile: Callable[[], None] = lambda: None
        self.fails = False
        self.calls: list[str] = []
        self.suspected: set[str] = set()

    async def start(self, listener: Listener) -> None:
        pass

    async def close(self) -> None:
        self.calls.append("close")

    def tell(self, word: Word) -> None:
        self.words.append(word)

    async def told(self) -> None:
        self.calls.append("told")

    def suspect(self, nodes: Iterable[str]) -> None:
        self.suspected.update(nodes)

    async def newest(self, workspaces: Sequence[str]) -> dict[str, tuple[str, int]]:
        return self._answer("newest", self.newest_now)

    async def present(self, workspace: str) -> list[tuple[str, str, str]]:
        return self._answer("present", list(self.present_now))

    async def presence_of(self, node: str) -> set[tuple[str, str]]:
        return self._answer("presence_of", set(self.presence_now))

    def _answer(self, call: str, answer: T) -> T:
        self.calls.append(call)
        self.meanwhile()
        if self.fails:
            raise AWAY
        return answer


class Stage:
    """One live room without members, the bus, and what the room asked for."""

    def __init__(self, state_dir: Path) -> None:
        self.bus = ScriptedBus()
        self.state = WorkspaceState("epoch", 5, 0)
        self.asked: list[Fetch | Recount] = []
        self.replaced: list[str] = []
        self.watched = 0
        rules = Rules(presence_grace=1.0, text_limit=100, heartbeat=25.0)
        self.live = LiveRoom(
            Room[Connection]("w", self.state, rules),
            metrics=Metrics(release="v1", commit="c", state_dir=state_dir),
            defer=lambda call: None,
            store=lambda live, action: None,
            read=lambda live, action: self.asked.append(action),
            announce=self._announce,
        )
        self.neighbours = Neighbours(
            self.bus,
            live_rooms=lambda: [self.live],
            find=lambda workspace: self.live if workspace == "w" else None,
            watch=self._watch,
            state=self._state,
            replaced=lambda live: self.replaced.append(live.room.workspace),
        )

    def _announce(self, live: LiveRoom, action: Announce) -> None:
        pass

    def _watch(self, live: LiveRoom) -> None:
        self.watched += 1

    async def _state(self, workspace: str) -> WorkspaceState:
        self.bus.calls.append("state")
        return self.state

    @property
    def remote(self) -> set[tuple[str, str]]:
        return self.live.room.remote_users()

    async def settled(self) -> None:
        """Let what was begun in the background come to its end."""
        async with asyncio.timeout(10):
            while self.neighbours._tasks:
                await asyncio.sleep(0)


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path)


async def test_a_wake_up_makes_the_room_fetch_what_it_lacks(stage: Stage) -> None:
    stage.neighbours.heard("n2", [Committed("w", 8), Committed("elsewhere", 9)])
    assert stage.asked == [Fetch(5, 8)]


async def test_users_of_other_nodes_come_and_go(stage: Stage) -> None:
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True), Typed("w", "bob")])
    assert stage.remote == {("n2", "bob")}
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", False)])
    assert stage.remote == set()


async def test_the_users_of_a_dead_node_are_let_go_and_the_room_is_watched(stage: Stage) -> None:
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    stage.neighbours.heard("n3", [Here("w", "cat", "Cat", True)])
    stage.neighbours.node_gone("n2")
    assert stage.remote == {("n3", "cat")}
    assert stage.watched == 1


async def test_a_new_room_prefers_what_was_heard_to_what_was_read(stage: Stage) -> None:
    """The one who was read as present has said goodbye while that was read."""
    stage.bus.present_now = [("n2", "bob", "Bob"), ("n3", "cat", "Cat")]
    with stage.neighbours.listening("w") as heard:
        stage.bus.meanwhile = lambda: heard.words.append(("n2", Here("w", "bob", "Bob", False)))
        await stage.neighbours.introduce(stage.live, heard)
    assert stage.remote == {("n3", "cat")}


async def test_what_is_heard_after_listening_is_not_kept(stage: Stage) -> None:
    with stage.neighbours.listening("w") as first, stage.neighbours.listening("w") as second:
        stage.neighbours.heard("n2", [Typed("w", "bob")])
    stage.neighbours.heard("n2", [Typed("w", "cat")])
    assert first.words == second.words == [("n2", Typed("w", "bob"))]


async def test_a_new_room_forgets_what_was_heard_before_words_may_have_been_lost(
    stage: Stage,
) -> None:
    """Otherwise somebody whose goodbye was lost would stay for ever."""
    for lost in (stage.neighbours.resync, lambda: stage.neighbours.anew("n2")):
        with stage.neighbours.listening("w") as heard:
            heard.words.append(("n2", Here("w", "bob", "Bob", True)))
            lost()
            await stage.neighbours.introduce(stage.live, heard)
        await stage.settled()
        assert stage.remote == set()


async def test_a_new_room_is_read_again_when_words_are_lost_meanwhile(stage: Stage) -> None:
    stage.bus.present_now = [("n2", "bob", "Bob")]

    def meanwhile() -> None:
        stage.bus.meanwhile = lambda: None
        stage.bus.present_now = [("n3", "cat", "Cat")]
        stage.neighbours.anew("n2")

    stage.bus.meanwhile = meanwhile
    with stage.neighbours.listening("w") as heard:
        await stage.neighbours.introduce(stage.live, heard)
    await stage.settled()
    assert stage.bus.calls.count("present") == 2
    assert stage.remote == {("n3", "cat")}


async def test_nodes_whose_users_are_here_are_suspected_of_having_died(stage: Stage) -> None:
    """One may have died before its room came into being, or while nobody could be heard."""
    with stage.neighbours.listening("w") as heard:
        heard.words.append(("dead", Here("w", "dan", "Dan", True)))
        await stage.neighbours.introduce(stage.live, heard)
    assert stage.bus.suspected == {"dead"}
    stage.bus.suspected.clear()
    stage.neighbours.resync()
    await stage.settled()
    assert stage.bus.suspected == {"dead"}


async def test_comparing_forgets_whom_living_nodes_no_longer_have(stage: Stage) -> None:
    """Those of a node that does not live are left to its lease, which gives them time."""
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    stage.neighbours.heard("dead", [Here("w", "dan", "Dan", True)])
    stage.bus.present_now = [("n3", "cat", "Cat")]
    stage.state = WorkspaceState("epoch", 9, 0)
    stage.neighbours.resync()
    assert stage.bus.words == [Committed("w", 5)]
    await stage.settled()
    assert stage.remote == {("dead", "dan"), ("n3", "cat")}
    assert stage.asked == [Fetch(5, 9)]


async def test_who_leaves_while_a_room_is_compared_stays_away(stage: Stage) -> None:
    """Their node said so after the table was read."""
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    stage.bus.present_now = [("n2", "bob", "Bob")]
    gone = Here("w", "bob", "Bob", False)
    stage.bus.meanwhile = lambda: stage.neighbours.heard("n2", [gone])
    stage.neighbours.resync()
    await stage.settled()
    assert stage.remote == set()


async def test_who_is_on_a_node_that_comes_back_while_a_room_is_compared_stays(
    stage: Stage,
) -> None:
    """Its lease had run out when the table was read, so that nobody was read of it."""
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    stage.bus.others = {"n3"}

    async def state(_: str) -> WorkspaceState:
        stage.bus.others = {"n2", "n3"}
        return stage.state

    stage.neighbours._state = state
    stage.neighbours.resync()
    await stage.settled()
    assert stage.remote == {("n2", "bob")}


async def test_who_is_forgotten_while_a_room_is_compared_stays_away(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their node begins anew after the table was read: their goodbye was lost in between."""
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    stage.bus.present_now = [("n2", "bob", "Bob")]
    state = stage._state

    async def meanwhile(workspace: str) -> WorkspaceState:
        if stage.bus.present_now:
            stage.bus.present_now = []
            stage.neighbours.anew("n2")
            async with asyncio.timeout(10):
                while stage.remote:
                    await asyncio.sleep(0)
        return await state(workspace)

    monkeypatch.setattr(stage.neighbours, "_state", meanwhile)
    stage.neighbours.resync()
    await stage.settled()
    assert stage.remote == set()
    assert stage.bus.calls.count("present") == 2


async def test_a_room_of_another_history_is_sent_away_at_once(stage: Stage) -> None:
    """Reading the state opens the workspace: nothing may be awaited between that and the verdict.

    Whatever the room still sends would otherwise be stored in a history that is not its own.
    """
    stage.state = WorkspaceState("another", 3, 0)
    stage.neighbours.resync()
    await stage.settled()
    assert stage.bus.calls == ["present", "state"]
    assert stage.replaced == ["w"]
    assert stage.asked == []


async def test_a_comparison_that_fails_is_made_again_until_it_is_done(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store may be away for longer than the bus; a ghost would stay for ever."""
    monkeypatch.setattr("chatservice.neighbours.RETRY_SECONDS", 0.001)
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    known = []

    def meanwhile() -> None:
        known.append(set(stage.remote))
        stage.bus.fails = len(known) < 4

    stage.bus.meanwhile = meanwhile
    stage.neighbours.resync()
    await stage.settled()
    assert known == [{("n2", "bob")}] * 4
    assert stage.remote == set()


async def test_a_comparison_that_fails_gives_way_to_the_next(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatservice.neighbours.RETRY_SECONDS", 0.001)
    stage.bus.fails = True
    stage.neighbours.resync()
    async with asyncio.timeout(10):
        while not stage.bus.calls:
            await asyncio.sleep(0)
    stage.bus.fails = False
    stage.neighbours.resync()
    await stage.settled()
    assert stage.bus.calls == ["present", "present", "state"]


async def test_a_review_that_fails_is_made_again_until_it_is_done(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatservice.neighbours.RETRY_SECONDS", 0.001)
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    known = []

    def meanwhile() -> None:
        known.append(set(stage.remote))
        stage.bus.fails = len(known) < 3

    stage.bus.meanwhile = meanwhile
    stage.neighbours.anew("n2")
    await stage.settled()
    assert known == [{("n2", "bob")}] * 3
    assert stage.remote == set()


async def test_a_review_gives_way_to_a_comparison(stage: Stage) -> None:
    stage.bus.fails = True
    stage.neighbours.anew("n2")
    stage.bus.fails = False
    stage.neighbours.resync()
    await stage.settled()
    assert stage.bus.calls == ["present", "state"]


async def test_each_of_two_reviews_keeps_who_comes_meanwhile(stage: Stage) -> None:
    """The first, once done, took from the second what it should not forget."""
    answers = iter([{("w", "bob")}, set[tuple[str, str]]()])

    def meanwhile() -> None:
        stage.bus.presence_now = next(answers)
        if not stage.bus.presence_now:  # the second was read before this was said
            stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])

    stage.bus.meanwhile = meanwhile
    stage.neighbours.anew("n2")
    stage.neighbours.anew("n2")
    await stage.settled()
    assert stage.remote == {("n2", "bob")}


async def test_a_node_that_begins_anew_loses_whom_it_does_not_have(stage: Stage) -> None:
    """But not whom it announces while that is being read."""
    for user in ("bob", "cat"):
        stage.neighbours.heard("n2", [Here("w", user, user, True)])
    stage.neighbours.heard("n3", [Here("w", "bob", "bob", True)])
    stage.bus.meanwhile = lambda: stage.neighbours.heard("n2", [Here("w", "dan", "dan", True)])
    stage.bus.presence_now = {("w", "cat"), ("elsewhere", "bob")}
    stage.neighbours.anew("n2")
    await stage.settled()
    assert stage.remote == {("n2", "cat"), ("n2", "dan"), ("n3", "bob")}


async def test_a_review_that_ends_before_an_older_one_leaves_it_what_it_heard(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    older, read = asyncio.Event(), []

    async def presence_of(node: str) -> set[tuple[str, str]]:
        read.append(node)
        if len(read) == 1:
            await older.wait()
        return set()

    monkeypatch.setattr(stage.bus, "presence_of", presence_of)
    stage.neighbours.anew("n2")
    stage.neighbours.anew("n2")
    async with asyncio.timeout(10):
        while len(stage.neighbours._tasks) > 1:
            await asyncio.sleep(0)
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    older.set()
    await stage.settled()
    assert stage.remote == {("n2", "bob")}
    assert stage.neighbours._reviews == {}


async def test_a_frozen_node_changes_no_room_and_catches_up_when_it_thaws(stage: Stage) -> None:
    stage.neighbours.heard("n2", [Here("w", "bob", "Bob", True)])
    stage.neighbours.freeze()
    stage.neighbours.heard("n3", [Committed("w", 9), Here("w", "cat", "Cat", True)])
    stage.neighbours.node_gone("n2")
    assert (stage.asked, stage.remote) == ([], {("n2", "bob")})
    stage.bus.present_now = [("n3", "cat", "Cat")]
    stage.state = WorkspaceState("epoch", 9, 0)
    stage.neighbours.thaw()
    await stage.settled()
    assert (stage.asked, stage.remote) == ([Fetch(5, 9)], {("n3", "cat")})


@pytest.mark.parametrize(
    ("newest", "asked", "replaced"),
    [(("epoch", 7), [Fetch(5, 7)], []), (("another", 7), [], ["w"]), (("epoch", 5), [], [])],
)
async def test_numbers_are_read_again_for_words_that_were_never_said(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    newest: tuple[str, int],
    asked: list[Fetch],
    replaced: list[str],
) -> None:
    monkeypatch.setattr("chatservice.neighbours.TAIL_SECONDS", 0.001)
    stage.bus.newest_now = {"w": newest, "dropped meanwhile": newest}
    looked = asyncio.Event()
    stage.bus.meanwhile = lambda: looked.set() if len(stage.bus.calls) > 1 else None
    await stage.neighbours.start()
    async with asyncio.timeout(10):
        await looked.wait()
    await stage.neighbours.close()
    assert stage.asked == asked
    assert set(stage.replaced) == set(replaced)
