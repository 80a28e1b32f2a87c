"""What every store promises (`chatservice.store`); runs against each implementation."""

from __future__ import annotations

import asyncio
import secrets
import time
from typing import Any

import pytest

from chatservice.protocol import Message
from chatservice.store import (
    Append,
    Appended,
    Cursor,
    Entry,
    MemberState,
    MoveCursor,
    Page,
    Store,
    StoreError,
    StoreErrorKind,
    WorkspaceState,
)
from tests.chatservice.store.conftest import Messages, Storage


def stored(append: Append, seq: int) -> Message:
    """How a message comes back."""
    return Message(seq, append.id, append.user, append.name, append.text, append.ts)


async def enter(store: Store, user: str, **how: Any) -> Entry:
    how = {"upto": 10**9, "after": None, "newest": 50, "name": user.capitalize()} | how
    return await store.enter("w", user, **how)


async def numbers(store: Store, workspace: str = "w") -> list[int]:
    return [message.seq for message in await store.since(workspace, 0, 10**9)]


# --- opening ------------------------------------------------------------------------------


async def test_a_new_workspace_is_empty_and_has_an_epoch_of_its_own(store: Store) -> None:
    first, second = await store.open("w"), await store.open("v")
    assert (first.seq, first.floor) == (0, 0)
    assert first.epoch != second.epoch
    assert len(first.epoch) == 32
    assert int(first.epoch, 16) > 0


async def test_a_workspace_is_the_same_when_opened_again(store: Store, messages: Messages) -> None:
    before = await store.open("w")
    await store.commit(messages.many(3), [])
    assert await store.open("w") == WorkspaceState(before.epoch, 3, 0)


async def test_many_who_open_one_workspace_at_once_see_the_same(store: Store) -> None:
    states = await asyncio.gather(*(store.open("w") for _ in range(100)))
    assert len({state.epoch for state in states}) == 1


async def test_workspaces_share_nothing(store: Store, messages: Messages) -> None:
    """The same id of the same user in two workspaces is two messages; numbers are apart."""
    for workspace in ("w", "W", "w.", "w~-_9"):
        await store.open(workspace)
    [one, other] = (
        await store.commit([messages.one("w", id="x"), messages.one("W", id="x")], [])
    ).appended
    assert (one.seq, one.repeated, other.seq, other.repeated) == (1, False, 1, False)
    assert await numbers(store, "w.") == []


# --- appending ----------------------------------------------------------------------------


async def test_messages_are_numbered_without_a_gap_in_the_order_given(
    store: Store, messages: Messages
) -> None:
    for workspace in ("w", "v"):
        await store.open(workspace)
    batch = [messages.one("wv"[index % 3 == 0]) for index in range(10)]
    committed = await store.commit(batch, [])
    expected = {"w": 0, "v": 0}
    for append, appended in zip(batch, committed.appended, strict=True):
        expected[append.workspace] += 1
        assert appended == Appended(expected[append.workspace], append.ts, repeated=False)
    again = await store.commit([messages.one("w"), messages.one("v")], [])
    assert [appended.seq for appended in again.appended] == [expected["w"] + 1, expected["v"] + 1]


@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 1500, 4000])
async def test_a_batch_of_any_size_is_stored_whole(
    store: Store, messages: Messages, size: int
) -> None:
    await store.open("w")
    batch = messages.many(size)
    await store.commit(batch, [])
    kept = [stored(append, seq) for seq, append in enumerate(batch, 1)][-1000:]
    assert await store.since("w", 0, size) == kept


async def test_a_thousand_workspaces_in_one_batch(store: Store, messages: Messages) -> None:
    names = [f"room-{index}" for index in range(1000)]
    await asyncio.gather(*(store.open(name) for name in names))
    await store.commit([messages.one(name) for name in names], [])
    batch = [messages.one(name) for name in reversed(names)]
    committed = await store.commit(batch, [])
    assert {appended.seq for appended in committed.appended} == {2}
    assert await store.since("room-7", 1, 2) == [stored(batch[-8], 2)]


async def test_the_same_id_is_stored_once_with_its_first_number_and_time(
    store: Store, messages: Messages
) -> None:
    await store.open("w")
    first = messages.one(id="x", text="first")
    await store.commit([first, messages.one()], [])
    committed = await store.commit([messages.one(id="x", text="second"), messages.one()], [])
    assert committed.appended[0] == Appended(1, first.ts, repeated=True)
    assert committed.appended[1].seq == 3
    assert (await store.since("w", 0, 9))[0] == stored(first, 1)


async def test_the_same_id_twice_in_one_batch_is_stored_once(
    store: Store, messages: Messages
) -> None:
    await store.open("w")
    first = messages.one(id="x")
    committed = await store.commit([first, messages.one(id="x"), messages.one()], [])
    assert committed.appended[:2] == [
        Appended(1, first.ts, repeated=False),
        Appended(1, first.ts, repeated=True),
    ]
    assert await numbers(store) == [1, 2]


async def test_another_user_may_use_the_same_id(store: Store, messages: Messages) -> None:
    await store.open("w")
    committed = await store.commit(
        [messages.one(user="ann", id="x"), messages.one(user="bob", id="x")], []
    )
    assert [appended.seq for appended in committed.appended] == [1, 2]


async def test_repeats_all_over_a_large_batch(store: Store, messages: Messages) -> None:
    """Every third message was sent before; the rest is numbered as if those were not there."""
    await store.open("w")
    before = messages.many(700)
    await store.commit(before, [])
    batch = [
        messages.one(id=before[index].id) if index % 3 == 0 else messages.one()
        for index in range(700)
    ]
    seq = 700
    for index, appended in enumerate((await store.commit(batch, [])).appended):
        if index % 3 == 0:
            assert appended == Appended(index + 1, before[index].ts, repeated=True)
        else:
            seq += 1
            assert appended == Appended(seq, batch[index].ts, repeated=False)
    assert await numbers(store) == list(range(seq - 999, seq + 1))


@pytest.mark.parametrize(
    "text", ["", "\"'\\;--", "\U0001f600é\u2028\u202e", "\x7f\x1f", "x" * 100_000]
)
async def test_any_unicode_comes_back_as_it_was(
    store: Store, messages: Messages, text: str
) -> None:
    await store.open("w")
    first = Append("w", f"u{text}"[:200], f"n{text}", f"i{text}"[:64], text, 5)
    await store.commit([first, messages.one()], [MoveCursor("w", first.user, 1)])
    repeated = await store.commit([first], [])
    assert repeated.appended == [Appended(1, 5, repeated=True)]
    assert (await store.history("w", 2, 1)).messages == [stored(first, 1)]
    await store.enter("w", first.user, first.name, upto=2, after=None, newest=0)
    assert await store.members("w") == [MemberState(first.user, first.name, Cursor(1, 1))]


async def test_what_failed_left_nothing(store: Store, messages: Messages) -> None:
    """A workspace nobody opened fails the batch; the other workspace's part is not stored."""
    await store.open("w")
    with pytest.raises(StoreError) as caught:
        await store.commit([messages.one("w"), messages.one("nowhere")], [])
    assert caught.value.kind is StoreErrorKind.STALE
    assert "nowhere" in str(caught.value)
    assert await numbers(store) == []
    assert (await store.commit([messages.one()], [])).appended[0].seq == 1


async def test_the_order_of_calls_is_the_order_of_numbers(store: Store, messages: Messages) -> None:
    await store.open("w")
    results = await asyncio.gather(*(store.commit([messages.one()], []) for _ in range(200)))
    assert [committed.appended[0].seq for committed in results] == list(range(1, 201))


# --- cursors ------------------------------------------------------------------------------


async def test_unread_counts_messages_of_others_after_the_cursor(
    store: Store, messages: Messages
) -> None:
    await store.open("w")
    await enter(store, "bob")
    batch = messages.many(3, user="ann") + messages.many(2, user="bob")
    await store.commit(batch, [])
    committed = await store.commit([messages.one()], [MoveCursor("w", "bob", 2)])
    assert committed.cursors == [Cursor(read=2, unread=2)]


async def test_a_cursor_covers_the_messages_of_its_own_batch(
    store: Store, messages: Messages
) -> None:
    await store.open("w")
    await enter(store, "bob")
    committed = await store.commit(messages.many(4), [MoveCursor("w", "bob", 3)])
    assert committed.cursors == [Cursor(read=3, unread=1)]


async def test_a_cursor_never_moves_back_nor_ahead_of_the_workspace(
    store: Store, messages: Messages
) -> None:
    await store.open("w")
    await enter(store, "bob")
    await store.commit(messages.many(5), [])
    seen = [
        (await store.commit([], [MoveCursor("w", "bob", seq)])).cursors[0]
        for seq in (3, 1, -7, 99, 4)
    ]
    assert seen == [Cursor(3, 2), Cursor(3, 2), Cursor(3, 2), Cursor(5, 0), Cursor(5, 0)]


async def test_several_moves_of_one_user_give_the_last_cursor(
    store: Store, messages: Messages
) -> None:
    await store.open("w")
    await store.open("v")
    for user in ("bob", "eve"):
        await enter(store, user)
    moves = [
        MoveCursor("w", "bob", 1),
        MoveCursor("w", "eve", 2),
        MoveCursor("w", "bob", 4),
        MoveCursor("w", "bob", 3),
        MoveCursor("v", "bob", 4),
    ]
    committed = await store.commit(messages.many(5), moves)
    bob = Cursor(4, 1)
    assert committed.cursors == [bob, Cursor(2, 3), bob, bob, Cursor(0, 0)]


async def test_a_thousand_cursors_in_one_batch(store: Store, messages: Messages) -> None:
    await store.open("w")
    await asyncio.gather(*(enter(store, f"u{index}") for index in range(1000)))
    await store.commit(messages.many(1000), [])
    moves = [MoveCursor("w", f"u{index}", index) for index in range(1000)]
    committed = await store.commit([], moves)
    assert committed.cursors == [Cursor(index, 1000 - index) for index in range(1000)]


async def test_moving_the_cursor_of_someone_unknown_makes_them_a_member(
    store: Store, messages: Messages
) -> None:
    await store.open("w")
    moves = [MoveCursor("w", "zoe", 1), MoveCursor("w", "eve", -5)]
    committed = await store.commit(messages.many(2), moves)
    assert committed.cursors == [Cursor(1, 1), Cursor(0, 2)]
    assert await store.members("w") == [
        MemberState("eve", "eve", Cursor(0, 2)),
        MemberState("zoe", "zoe", Cursor(1, 1)),
    ]


# --- deleting -----------------------------------------------------------------------------


async def test_forgetting_a_workspace_leaves_nothing_of_it(
    store: Store, messages: Messages
) -> None:
    before = await store.open("w")
    await store.open("v")
    await enter(store, "ann")
    await store.commit([messages.one(id="x"), messages.one("v")], [])
    assert await store.forget("w") is True
    assert await store.forget("w") is False
    assert await store.history("w", 9, 9) == Page([], more=False)
    assert await store.members("w") == []
    after = await store.open("w")
    assert (after.seq, after.floor) == (0, 0)
    assert after.epoch != before.epoch
    assert (await store.commit([messages.one(id="x")], [])).appended[0].seq == 1
    assert await numbers(store, "v") == [1]


async def test_a_forgotten_workspace_must_be_opened_again(store: Store, messages: Messages) -> None:
    await store.open("w")
    await store.forget("w")
    with pytest.raises(StoreError) as caught:
        await store.commit([messages.one()], [])
    assert caught.value.kind is StoreErrorKind.STALE
    with pytest.raises(StoreError) as caught:
        await enter(store, "ann")
    assert caught.value.kind is StoreErrorKind.STALE


async def test_idle_workspaces_are_named_by_prefix_and_age_of_the_newest_message(
    store: Store,
) -> None:
    now = time.time_ns() // 1_000_000
    for name in ("smoke-b", "smoke-a", "smoke-c", "smoke", "other"):
        await store.open(name)
    await store.commit([Append("smoke-a", "ann", "Ann", "1", "", now + 60_000)], [])
    await store.commit([Append("smoke-b", "ann", "Ann", "1", "", now + 90_000)], [])
    await store.commit([Append("smoke-b", "ann", "Ann", "2", "", 1000)], [])
    assert await store.idle_workspaces("smoke-", now - 60_000) == ["smoke-b"]
    assert await store.idle_workspaces("smoke-", 1000) == []
    assert await store.idle_workspaces("smoke-", now + 60_000) == ["smoke-b", "smoke-c"]
    assert await store.idle_workspaces("smoke-", now + 60_001) == ["smoke-a", "smoke-b", "smoke-c"]
    assert await store.idle_workspaces("", now + 60_000) == ["other", "smoke", "smoke-b", "smoke-c"]


# --- lifecycle ----------------------------------------------------------------------------


async def test_everything_is_there_after_a_restart(storage: Storage, messages: Messages) -> None:
    store = storage()
    await store.start()
    before = await store.open("w")
    await enter(store, "bob", name="Bob!")
    batch = messages.many(3)
    await store.commit(batch, [MoveCursor("w", "bob", 2)])
    await store.close()
    store = storage()
    await store.start()
    assert await store.open("w") == WorkspaceState(before.epoch, 3, 0)
    assert await store.since("w", 0, 3) == [stored(a, seq) for seq, a in enumerate(batch, 1)]
    assert await store.members("w") == [MemberState("bob", "Bob!", Cursor(2, 1))]
    repeated = await store.commit([batch[1]], [])
    assert repeated.appended == [Appended(2, batch[1].ts, repeated=True)]
    await store.close()


async def test_a_store_that_was_not_started_or_was_closed_says_so(storage: Storage) -> None:
    store = storage()

    async def refuses_everything() -> None:
        for call in (
            store.check(),
            store.open("w"),
            store.enter("w", "ann", "Ann", upto=0, after=None, newest=0),
            store.commit([], []),
            store.since("w", 0, 1),
            store.history("w", 1, 1),
            store.members("w"),
            store.forget("w"),
            store.idle_workspaces("", 1),
            store.size_bytes(),
        ):
            with pytest.raises(StoreError) as caught:
                await call
            assert caught.value.kind is StoreErrorKind.CLOSED

    await refuses_everything()
    await store.start()
    await store.check()
    await store.close()
    await refuses_everything()
    with pytest.raises(StoreError) as caught:
        await store.start()
    assert caught.value.kind is StoreErrorKind.CLOSED
    await store.close()


async def test_closing_finishes_what_was_begun(storage: Storage, messages: Messages) -> None:
    store = storage()
    await store.start()
    await store.open("w")
    commits = [asyncio.ensure_future(store.commit(messages.many(9), [])) for _ in range(50)]
    await asyncio.sleep(0)  # lets each of them begin
    await store.close()
    assert [(await commit).appended[-1].seq for commit in commits] == list(range(9, 451, 9))
    store = storage()
    await store.start()
    assert (await store.open("w")).seq == 450
    await store.close()


async def test_a_caller_who_gave_up_harms_nobody(store: Store, messages: Messages) -> None:
    await store.open("w")
    commits = [asyncio.ensure_future(store.commit([messages.one()], [])) for _ in range(9)]
    await asyncio.sleep(0)
    for commit in commits[::2]:
        commit.cancel()
    results = await asyncio.gather(*commits, return_exceptions=True)
    assert [isinstance(result, asyncio.CancelledError) for result in results[::2]] == [True] * 5
    assert [result.appended[0].seq for result in results[1::2]] == [2, 4, 6, 8]  # type: ignore[union-attr]


async def test_size_grows_with_what_is_stored(store: Store, messages: Messages) -> None:
    await store.open("w")
    before = await store.size_bytes()
    await store.commit([messages.one(text=secrets.token_hex(2000)) for _ in range(500)], [])
    assert await store.size_bytes() >= before + 500 * 4000
