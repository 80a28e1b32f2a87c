"""What a device is told of its user's cursor never goes back, however late word of it comes."""

from __future__ import annotations

from typing import Any

import pytest

from chatservice.actions import Fetch, Recount, ToAll, ToMember
from chatservice.protocol import Message, ReadCursor
from chatservice.room import Room, Rules
from chatservice.store import Cursor, Entry, WorkspaceState


def room() -> Room[str]:
    rules = Rules(presence_grace=10.0, text_limit=100, heartbeat=25.0)
    return Room("w", WorkspaceState("epoch", 20, 0), rules)


def join(room: Room[str], device: str, read: int) -> list[Any]:
    room.join(device, "ann", "Ann", after=20, epoch="epoch")
    return room.entered(device, Entry(Cursor(read, 20 - read), [], resumed=True, more=False))


def shown(actions: list[Any]) -> list[tuple[str, int]]:
    return [
        (action.key, action.frame.seq)
        for action in actions
        if isinstance(action, ToMember) and isinstance(action.frame, ReadCursor)
    ]


def test_word_that_was_overtaken_is_not_shown() -> None:
    ann = room()
    join(ann, "phone", 10)
    assert shown(ann.moved("ann", Cursor(16, 4), 20)) == [("phone", 16)]
    assert shown(ann.moved("ann", Cursor(15, 5), 20)) == []
    assert shown(ann.moved("ann", Cursor(16, 4), 20)) == [("phone", 16)]
    assert shown(ann.moved("ann", Cursor(17, 3), 20)) == [("phone", 17)]


def test_word_older_than_the_welcome_is_not_shown() -> None:
    ann = room()
    join(ann, "phone", 16)
    assert shown(ann.moved("ann", Cursor(15, 5), 20)) == []


@pytest.mark.parametrize(("read", "told"), [(15, []), (16, [("phone", 16)]), (17, [("phone", 17)])])
def test_word_that_comes_while_the_past_is_read_is_shown_if_it_is_newer(
    read: int, told: list[tuple[str, int]]
) -> None:
    ann = room()
    ann.join("phone", "ann", "Ann", after=20, epoch="epoch")
    ann.moved("ann", Cursor(read, 20 - read), 20)
    entry = Entry(Cursor(16, 4), [], resumed=True, more=False)
    assert shown(ann.entered("phone", entry)) == told


def test_a_count_that_was_read_before_the_cursor_moved_on_is_not_shown() -> None:
    ann = room()
    join(ann, "phone", 10)
    assert ann.moved("ann", Cursor(14, 5), 19) == [Recount("ann", "Ann", 20)]
    assert shown(ann.moved("ann", Cursor(16, 4), 20)) == [("phone", 16)]
    assert shown(ann.recounted("ann", Cursor(14, 6))) == []


def test_nothing_is_remembered_of_users_without_a_device() -> None:
    ann = room()
    join(ann, "phone", 16)
    ann.leave("phone", 0.0)
    assert ann._shown == {}
    ann.moved("ann", Cursor(18, 2), 20)
    assert ann._shown == {}


def test_all_counts_are_taken_anew_once_what_is_stored_is_published() -> None:
    """Who was kept over a crash may have it already: a count shown first would leave it out."""
    ann = room()
    join(ann, "phone", 10)
    assert ann.noticed(22) == [Fetch(20, 22)]
    assert ann.recount_all() == []
    first, last = (Message(seq, f"m{seq}", "bob", "Bob", "hello", 0) for seq in (21, 22))
    assert ann.fetched([first]) == [ToAll(first), Fetch(21, 22)]
    assert ann.fetched([last]) == [ToAll(last), Recount("ann", "Ann", 22)]
    assert shown(ann.recounted("ann", Cursor(10, 12))) == [("phone", 10)]
    assert ann.noticed(22) == []


def test_counts_are_taken_anew_though_others_go_on_writing() -> None:
    """What is written meanwhile is no reason to wait longer: in a busy room that is for ever."""
    ann = room()
    join(ann, "phone", 10)
    ann.noticed(21)
    assert ann.recount_all() == []
    first = Message(21, "m21", "bob", "Bob", "hello", 0)
    assert ann.noticed(30) == []
    actions = ann.fetched([first])
    assert actions == [ToAll(first), Fetch(21, 30), Recount("ann", "Ann", 21)]
