"""What every store promises about history: what is kept, paged, resumed and counted."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from chatservice.store import Appended, Cursor, Entry, MemberState, MoveCursor, Store
from tests.chatservice.store.conftest import Messages, Storage

KEEP = 20


@pytest.fixture
async def store(storage: Storage, messages: Messages) -> AsyncIterator[Store]:
    """A store whose workspace `w` has had 50 messages of ann and keeps 31 to 50."""
    store = storage(keep=KEEP)
    await store.start()
    await store.open("w")
    for _ in range(10):
        await store.commit(messages.many(5), [])
    yield store
    await store.close()


async def seqs(store: Store, after: int, upto: int) -> list[int]:
    return [message.seq for message in await store.since("w", after, upto)]


async def enter(store: Store, user: str, *, upto: int, after: int | None, newest: int) -> Entry:
    return await store.enter("w", user, user, upto=upto, after=after, newest=newest)


async def test_only_the_newest_are_kept(store: Store) -> None:
    state = await store.open("w")
    assert (state.seq, state.floor) == (50, 30)
    assert await seqs(store, 0, 99) == list(range(31, 51))


@pytest.mark.parametrize(
    ("after", "upto", "expected"),
    [
        (45, 50, [46, 47, 48, 49, 50]),
        (45, 48, [46, 47, 48]),
        (45, 45, []),
        (48, 45, []),
        (29, 31, [31]),
        (-5, 30, []),
        (50, 99, []),
    ],
)
async def test_since_gives_the_kept_messages_between(
    store: Store, after: int, upto: int, expected: list[int]
) -> None:
    assert await seqs(store, after, upto) == expected


@pytest.mark.parametrize(
    ("before", "limit", "expected", "more"),
    [
        (51, 3, [48, 49, 50], True),
        (9_999, 3, [48, 49, 50], True),
        (48, 3, [45, 46, 47], True),
        (34, 3, [31, 32, 33], False),
        (34, 2, [32, 33], True),
        (34, 99, [31, 32, 33], False),
        (31, 5, [], False),
        (-3, 5, [], False),
        (51, 0, [], True),
        (51, -1, [], True),
        (51, 20, list(range(31, 51)), False),
    ],
)
async def test_history_pages_backwards_and_says_when_older_ones_are_kept(
    store: Store, before: int, limit: int, expected: list[int], more: bool
) -> None:
    page = await store.history("w", before, limit)
    assert ([message.seq for message in page.messages], page.more) == (expected, more)


@pytest.mark.parametrize(
    ("after", "upto", "newest", "resumed", "expected", "more"),
    [
        (None, 50, 3, False, [48, 49, 50], True),
        (None, 50, 99, False, list(range(31, 51)), False),
        (None, 45, 3, False, [43, 44, 45], True),
        (None, 50, 0, False, [], True),
        (47, 50, 2, True, [48, 49, 50], False),
        (47, 48, 2, True, [48], False),
        (50, 50, 2, True, [], False),
        (30, 50, 2, True, list(range(31, 51)), False),
        (29, 50, 2, False, [49, 50], True),  # number 30 is gone
        (51, 50, 2, False, [49, 50], True),  # a number that was never given out
        (48, 47, 2, False, [46, 47], True),
        (-1, 50, 2, False, [49, 50], True),
        (10, 20, 2, False, [], False),
    ],
)
async def test_who_enters_gets_what_they_missed_or_else_the_newest(
    store: Store,
    after: int | None,
    upto: int,
    newest: int,
    resumed: bool,
    expected: list[int],
    more: bool,
) -> None:
    entry = await enter(store, "bob", upto=upto, after=after, newest=newest)
    assert [message.seq for message in entry.messages] == expected
    assert (entry.resumed, entry.more) == (resumed, more)


async def test_all_of_a_young_workspace_can_be_resumed(store: Store, messages: Messages) -> None:
    await store.open("v")
    await store.commit(messages.many(2, "v"), [])
    entry = await store.enter("v", "bob", "Bob", upto=2, after=0, newest=1)
    assert ([message.seq for message in entry.messages], entry.resumed) == ([1, 2], True)


async def test_unread_counts_kept_messages_only(store: Store, messages: Messages) -> None:
    assert (await enter(store, "bob", upto=50, after=None, newest=0)).cursor == Cursor(0, 20)
    assert (await enter(store, "ann", upto=50, after=None, newest=0)).cursor == Cursor(0, 0)
    committed = await store.commit(
        [messages.one(user="bob")], [MoveCursor("w", "bob", 10), MoveCursor("w", "ann", 10)]
    )
    assert committed.cursors == [Cursor(10, 19), Cursor(10, 1)]
    assert await store.members("w") == [
        MemberState("ann", "ann", Cursor(10, 1)),
        MemberState("bob", "bob", Cursor(10, 19)),
    ]


async def test_what_one_enters_with_is_as_of_the_number_given(
    store: Store, messages: Messages
) -> None:
    """Neither messages nor a cursor from after `upto` show."""
    await store.commit([], [MoveCursor("w", "bob", 48)])
    assert (await enter(store, "bob", upto=49, after=None, newest=0)).cursor == Cursor(48, 1)
    assert (await enter(store, "bob", upto=45, after=None, newest=0)).cursor == Cursor(45, 0)
    assert (await enter(store, "eve", upto=45, after=None, newest=0)).cursor == Cursor(0, 15)
    assert (await enter(store, "eve", upto=20, after=None, newest=9)).cursor == Cursor(0, 0)
    entry = await enter(store, "eve", upto=10**9, after=48, newest=0)
    assert (entry.cursor, [message.seq for message in entry.messages]) == (Cursor(0, 20), [49, 50])
    await store.commit([messages.one(user="eve")], [])
    assert (await enter(store, "eve", upto=49, after=None, newest=0)).cursor == Cursor(0, 18)


async def test_unread_is_right_over_a_long_history(storage: Storage, messages: Messages) -> None:
    """As of numbers far behind the newest, for someone who wrote before and after."""
    store = storage(keep=1000)
    await store.start()
    await store.open("w")
    await store.commit(
        [messages.one(user="bob" if seq % 10 == 0 else "ann") for seq in range(1, 1201)], []
    )
    for upto, unread in ((1200, 900), (1199, 900), (700, 450), (241, 37), (201, 1), (150, 0)):
        entry = await enter(store, "bob", upto=upto, after=None, newest=0)
        assert entry.cursor == Cursor(0, unread)
    committed = await store.commit([], [MoveCursor("w", "bob", 500)])
    assert committed.cursors == [Cursor(500, 630)]
    assert await store.members("w") == [MemberState("bob", "bob", Cursor(500, 630))]
    await store.close()


async def test_members_are_those_who_entered_under_their_newest_name(
    store: Store, messages: Messages
) -> None:
    """In the order of their ids; writing alone makes nobody a member."""
    for user, name in (("zoe", "Zoe"), ("bob", "Bob"), ("émile", "É"), ("Al", "Al")):
        await store.enter("w", user, name, upto=50, after=None, newest=0)
    await store.commit([], [MoveCursor("w", "bob", 49)])
    await store.enter("w", "bob", "Robert", upto=50, after=None, newest=0)
    assert await store.members("w") == [
        MemberState("Al", "Al", Cursor(0, 20)),
        MemberState("bob", "Robert", Cursor(49, 1)),
        MemberState("zoe", "Zoe", Cursor(0, 20)),
        MemberState("émile", "É", Cursor(0, 20)),
    ]


async def test_an_id_that_fell_out_of_history_is_a_new_message(
    store: Store, messages: Messages
) -> None:
    """At each distance around the edge of history, whether or not the first is still on disk."""
    for distance in (KEEP - 1, KEEP, KEEP + 1, KEEP + 2, 3 * KEEP):
        id = f"edge-{distance}"
        first = messages.one(id=id)
        [before] = (await store.commit([first], [])).appended
        await store.commit(messages.many(distance - 1), [])
        last = before.seq + distance - 1
        again = messages.one(id=id)
        [after] = (await store.commit([again], [])).appended
        if distance <= KEEP:
            assert after == Appended(before.seq, first.ts, repeated=True)
        else:
            assert after == Appended(last + 1, again.ts, repeated=False)
        newest = (await store.open("w")).seq
        assert await seqs(store, 0, newest) == list(range(newest - KEEP + 1, newest + 1))


# PostgreSQL numbers a batch as a whole: there, what the batch repeats is repeated.
@pytest.mark.parametrize("new_storage", ["sqlite"], indirect=True)
async def test_an_id_that_falls_out_of_history_within_its_own_batch(
    store: Store, messages: Messages
) -> None:
    x = [messages.one(id="x") for _ in range(3)]
    batch = [x[0], *messages.many(KEEP), x[1], x[2], *messages.many(9)]
    appended = (await store.commit(batch, [])).appended
    assert appended[0] == Appended(51, x[0].ts, repeated=False)
    assert appended[KEEP + 1 : KEEP + 3] == [
        Appended(72, x[1].ts, repeated=False),
        Appended(72, x[1].ts, repeated=True),
    ]
    assert appended[-1].seq == 81
    assert await seqs(store, 0, 99) == list(range(62, 82))


async def test_keeping_fewer_hides_the_rest_at_once(storage: Storage, store: Store) -> None:
    await store.close()
    fewer = storage(keep=5)
    await fewer.start()
    assert (await fewer.open("w")).floor == 45
    assert await seqs(fewer, 0, 99) == [46, 47, 48, 49, 50]
    await fewer.close()


async def test_keeping_more_brings_back_nothing_that_is_gone(
    storage: Storage, store: Store, messages: Messages
) -> None:
    """What is said to be kept is all there, however `keep` went down and up."""
    repeated = messages.one(id="x")
    await store.commit([repeated], [])
    for keep in (3, 1000, 2, 7, 1000):
        await store.close()
        store = storage(keep=keep)
        await store.start()
        state = await store.open("w")
        assert await seqs(store, 0, state.seq) == list(range(state.floor + 1, state.seq + 1))
        assert state.seq - state.floor <= keep
        await store.commit([*messages.many(4), messages.one(id="x")], [])
        state = await store.open("w")
        assert await seqs(store, 0, state.seq) == list(range(state.floor + 1, state.seq + 1))
        assert state.seq - state.floor <= keep
        page = await store.history("w", state.seq + 1, 1000)
        assert page.more is False
        entry = await enter(store, "bob", upto=state.seq, after=state.floor, newest=0)
        assert entry.resumed
        assert len(entry.messages) == state.seq - state.floor == entry.cursor.unread
    assert state.seq - state.floor > 7
    await store.close()
