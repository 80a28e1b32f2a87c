"""A chat room, described by what happens in it. No sockets, no clock, no disk."""

from __future__ import annotations

from typing import Any

import pytest

from chatservice.actions import Admit, Announce, Fetch, Load, Recount, Store, ToAll, ToMember
from chatservice.protocol import (
    Ack,
    Error,
    ErrorCode,
    History,
    Message,
    Person,
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    ServerFrame,
    Typing,
    Welcome,
)
from chatservice.room import Room, Rules
from chatservice.store import Append, Appended, Cursor, Entry, MoveCursor, WorkspaceState

RULES = Rules(presence_grace=10.0, text_limit=20, heartbeat=25.0)
NOTHING = Entry(Cursor(0, 0), [], resumed=False, more=False)


def room(seq: int = 0) -> Room[str]:
    return Room("w", WorkspaceState("e1", seq, 0), RULES)


def enter(r: Room[str], key: str, user: str, entry: Entry = NOTHING) -> list[Any]:
    r.join(key, user, user.title(), after=None, epoch=None)
    return r.entered(key, entry)


def message(seq: int, user: str = "ann", text: str = "hi") -> Message:
    return Message(seq, f"m{seq}", user, user.title(), text, 1000 + seq)


def stored(key: str, seq: int, user: str = "ann", *, repeated: bool = False) -> Any:
    append = Append("w", user, user.title(), f"m{seq}", "hi", 1000 + seq)
    return (key, append, Appended(seq, 1000 + seq, repeated))


def to(actions: list[Any], key: str) -> list[ServerFrame]:
    return [a.frame for a in actions if isinstance(a, ToMember) and a.key == key]


def shared(actions: list[Any]) -> list[ServerFrame]:
    return [a.frame for a in actions if isinstance(a, ToAll)]


# --- coming and going -----------------------------------------------------------------------


def test_a_fresh_member_is_welcomed_with_the_newest_history() -> None:
    r = room(seq=2)
    assert r.join("a", "ann", "Ann", after=None, epoch=None) == Load("a", "ann", "Ann", 2, None)
    page = [message(1), message(2)]
    actions = r.entered("a", Entry(Cursor(1, 1), page, resumed=False, more=True))
    assert actions[2:] == [
        Admit("a"),
        ToMember(
            "a", Welcome("ann", "w", "e1", 2, 1, 1, [Person("ann", "Ann")], False, 25.0)
        ),
        ToMember("a", History(page, True)),
    ]  # fmt: skip


def test_others_hear_of_a_new_user_but_the_user_does_not() -> None:
    r = room()
    enter(r, "a", "ann")
    actions = enter(r, "b", "bob")
    came = ToAll(PresenceChange("bob", "Bob", Presence.ONLINE))
    assert actions.index(came) < actions.index(Admit("b"))


def test_a_second_device_changes_nothing_for_others() -> None:
    r = room()
    enter(r, "a1", "ann")
    assert shared(enter(r, "a2", "ann")) == []


def test_a_new_name_is_told_to_all() -> None:
    r = room()
    enter(r, "a1", "ann")
    r.join("a2", "ann", "Ann B.", after=None, epoch=None)
    actions = r.entered("a2", NOTHING)
    assert shared(actions) == [PresenceChange("ann", "Ann B.", Presence.ONLINE)]


def test_a_user_is_offline_only_after_the_grace_period() -> None:
    r = room()
    enter(r, "a", "ann")
    assert r.leave("a", now=100.0) == []
    assert r.deadline == 110.0
    assert r.is_online("ann")
    assert r.tick(109.9) == []
    assert r.tick(110.0) == [
        Announce("ann", "Ann", present=False),
        ToAll(PresenceChange("ann", "Ann", Presence.OFFLINE)),
    ]
    assert r.online() == []
    assert r.deadline is None


def test_who_comes_back_within_the_grace_period_never_left() -> None:
    r = room()
    enter(r, "a", "ann")
    r.leave("a", now=100.0)
    assert shared(enter(r, "a2", "ann")) == []
    assert r.tick(1000.0) == []
    assert r.is_online("ann")


def test_a_user_with_another_device_does_not_go_offline() -> None:
    r = room()
    enter(r, "a1", "ann")
    enter(r, "a2", "ann")
    r.leave("a1", now=100.0)
    assert r.tick(1000.0) == []
    assert r.is_online("ann")


def test_without_a_grace_period_leaving_is_seen_at_once() -> None:
    r: Room[str] = Room("w", WorkspaceState("e1", 0, 0), Rules(0.0, 20, 25.0))
    enter(r, "a", "ann")
    assert shared(r.leave("a", now=5.0)) == [PresenceChange("ann", "Ann", Presence.OFFLINE)]


def test_who_leaves_before_being_welcomed_was_never_there() -> None:
    r = room()
    r.join("a", "ann", "Ann", after=None, epoch=None)
    assert r.leave("a", now=1.0) == []
    assert r.entered("a", NOTHING) == []
    assert r.online() == []
    assert r.empty


def test_leaving_twice_is_leaving_once() -> None:
    r = room()
    enter(r, "a", "ann")
    r.leave("a", now=1.0)
    assert r.leave("a", now=2.0) == []
    assert r.deadline == 11.0


def test_a_room_is_empty_when_nobody_is_there_and_no_grace_period_runs() -> None:
    r = room()
    assert r.empty
    enter(r, "a", "ann")
    r.leave("a", now=0.0)
    assert not r.empty
    r.tick(10.0)
    assert r.empty


# --- resuming -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("after", "epoch", "asked"),
    [
        (3, "e1", 3),
        (5, "e1", 5),
        (0, "e1", 0),
        (6, "e1", None),
        (3, "other", None),
        (3, None, None),
        (None, "e1", None),
    ],
)
def test_only_a_number_of_this_history_is_resumed(
    after: int | None, epoch: str | None, asked: int | None
) -> None:
    assert room(seq=5).join("a", "ann", "Ann", after=after, epoch=epoch).after == asked


def test_a_resumed_member_gets_what_it_missed_as_messages() -> None:
    r = room(seq=3)
    r.join("a", "ann", "Ann", after=1, epoch="e1")
    actions = r.entered("a", Entry(Cursor(0, 2), [message(2), message(3)], True, False))
    frames = to(actions, "a")
    assert isinstance(frames[0], Welcome)
    assert frames[0].resumed
    assert frames[1:] == [message(2), message(3)]


def test_what_is_published_while_a_member_joins_reaches_it_after_its_past() -> None:
    r = room(seq=1)
    enter(r, "b", "bob")
    r.join("a", "ann", "Ann", after=0, epoch="e1")
    r.committed([stored("b", 2, "bob")])
    r.moved("ann", Cursor(2, 0), 2)
    frames = to(r.entered("a", Entry(Cursor(0, 1), [message(1)], True, False)), "a")
    assert isinstance(frames[0], Welcome)
    assert frames[0].seq == 1
    assert frames[1:] == [message(1), message(2, "bob"), ReadCursor(2, 0)]


# --- messages -------------------------------------------------------------------------------


def test_a_send_is_published_to_all_and_acknowledged_only_when_it_is_stored() -> None:
    r = room()
    enter(r, "a", "ann")
    append = Append("w", "ann", "Ann", "m1", "hi", 1001)
    assert r.send("a", "m1", "hi", ts=1001) == [Store("a", append)]
    assert r.seq == 0
    assert r.committed([stored("a", 1)]) == [
        ToAll(message(1)),
        ToMember("a", Ack("m1", 1, 1001)),
    ]
    assert r.seq == 1


def test_a_batch_is_published_in_order_before_any_of_it_is_acknowledged() -> None:
    r = room()
    enter(r, "a", "ann")
    enter(r, "b", "bob")
    actions = r.committed([stored("a", 1), stored("b", 2, "bob")])
    assert shared(actions) == [message(1), message(2, "bob")]
    assert to(actions, "a") == [Ack("m1", 1, 1001)]
    assert to(actions, "b") == [Ack("m2", 2, 1002)]
    assert [type(a) for a in actions] == [ToAll, ToAll, ToMember, ToMember]


def test_a_repeated_send_is_acknowledged_with_the_first_number_and_not_published_again() -> None:
    r = room()
    enter(r, "a", "ann")
    r.committed([stored("a", 1)])
    assert r.committed([stored("a", 1, repeated=True)]) == [ToMember("a", Ack("m1", 1, 1001))]
    assert r.seq == 1


def test_a_sender_who_left_is_not_acknowledged_but_the_message_is_published() -> None:
    r = room()
    enter(r, "a", "ann")
    r.leave("a", now=0.0)
    assert r.committed([stored("a", 1)]) == [ToAll(message(1))]


def test_a_refused_send_is_told_to_its_sender_alone() -> None:
    r = room()
    enter(r, "a", "ann")
    append = Append("w", "ann", "Ann", "m1", "hi", 1)
    assert r.refused("a", append, "later") == [
        ToMember("a", Error(ErrorCode.UNAVAILABLE, "later", "m1"))
    ]
    assert r.refused("gone", append, "later") == []
    assert r.refused("a", MoveCursor("w", "ann", 1), "later") == [
        ToMember("a", Error(ErrorCode.UNAVAILABLE, "later"))
    ]


@pytest.mark.parametrize(
    ("id", "text", "code"),
    [
        ("", "hi", ErrorCode.BAD_FRAME),
        ("x" * 65, "hi", ErrorCode.BAD_FRAME),
        ("x", "", ErrorCode.BAD_FRAME),
        ("x", "a\0b", ErrorCode.BAD_FRAME),
        ("x\0", "a", ErrorCode.BAD_FRAME),
        ("x", "y" * 21, ErrorCode.TOO_LONG),
    ],
)
def test_what_cannot_be_stored_is_refused_before_the_store(
    id: str, text: str, code: ErrorCode
) -> None:
    r = room()
    enter(r, "a", "ann")
    [action] = r.send("a", id, text, ts=1)
    assert isinstance(action, ToMember)
    assert isinstance(action.frame, Error)
    assert action.frame.code == code


@pytest.mark.parametrize(("id", "text"), [("x" * 64, "y" * 20), ("x", "\N{PILE OF POO}" * 20)])
def test_limits_count_characters_and_are_inclusive(id: str, text: str) -> None:
    r = room()
    enter(r, "a", "ann")
    assert isinstance(r.send("a", id, text, ts=1)[0], Store)


def test_a_gap_is_fetched_before_anything_after_it_is_published() -> None:
    r = room()
    enter(r, "a", "ann")
    actions = r.committed([stored("a", 3)])
    assert actions == [Fetch(0, 3), ToMember("a", Ack("m3", 3, 1003))]
    assert r.committed([stored("a", 4)]) == [ToMember("a", Ack("m4", 4, 1004))]
    assert shared(r.fetched([message(1), message(2), message(3)])) == [
        message(1),
        message(2),
        message(3),
        message(4),
    ]
    assert r.seq == 4


def test_a_repeat_of_an_unpublished_message_fetches_it() -> None:
    r = room()
    enter(r, "a", "ann")
    assert r.committed([stored("a", 1, repeated=True)])[0] == Fetch(0, 1)
    assert shared(r.fetched([message(1)])) == [message(1)]


def test_what_is_missing_is_asked_for_once_until_it_was_read() -> None:
    r = room()
    assert r.committed([stored("a", 2)]) == [Fetch(0, 2)]
    assert r.committed([stored("a", 4)]) == []
    assert r.fetched([message(1)])[-1] == Fetch(2, 4)


# --- cursors, typing, ping ------------------------------------------------------------------


def test_reading_is_stored_and_told_to_every_device_of_the_user() -> None:
    r = room(seq=4)
    for key, user in (("a1", "ann"), ("a2", "ann"), ("b", "bob")):
        enter(r, key, user)
    assert r.read("a1", 3) == [Store("a1", MoveCursor("w", "ann", 3))]
    actions = r.moved("ann", Cursor(3, 1), 4)
    assert to(actions, "a1") == to(actions, "a2") == [ReadCursor(3, 1)]
    assert to(actions, "b") == []
    assert shared(actions) == []


@pytest.mark.parametrize("seq", [-1, 5])
def test_nobody_can_have_read_what_is_not_there(seq: int) -> None:
    r = room(seq=4)
    enter(r, "a", "ann")
    [action] = r.read("a", seq)
    assert isinstance(action, ToMember)
    assert isinstance(action.frame, Error)
    assert action.frame.code == ErrorCode.BAD_FRAME


def test_typing_reaches_the_others_at_most_once_a_second() -> None:
    r = room()
    enter(r, "a", "ann")
    assert r.typing("a", now=10.0) == [ToAll(Typing("ann"), but="ann")]
    assert r.typing("a", now=10.9) == []
    assert r.typing("a", now=11.0) == [ToAll(Typing("ann"), but="ann")]


def test_ping_answers_the_newest_number() -> None:
    r = room(seq=7)
    enter(r, "a", "ann")
    assert r.ping("a") == [ToMember("a", Pong(7))]


# --- other nodes ----------------------------------------------------------------------------


def test_the_other_nodes_hear_once_that_a_user_is_here_and_once_that_it_left() -> None:
    r = room()
    first, second = enter(r, "a1", "ann"), enter(r, "a2", "ann")
    assert Announce("ann", "Ann", present=True) in first
    assert not any(isinstance(action, Announce) for action in second)
    assert r.announcements() == [Announce("ann", "Ann", present=True)]
    assert r.leave("a1", now=0.0) == []
    assert r.leave("a2", now=0.0) == []
    assert r.announcements() == [Announce("ann", "Ann", present=True)]
    assert r.tick(10.0)[0] == Announce("ann", "Ann", present=False)
    assert r.announcements() == []


def test_a_user_of_another_node_is_online_here() -> None:
    r = room()
    enter(r, "a", "ann")
    actions = r.remote_presence("n2", "bob", "Bob", present=True)
    assert actions == [ToAll(PresenceChange("bob", "Bob", Presence.ONLINE))]
    assert r.remote_presence("n3", "bob", "Bob", present=True) == []
    assert r.remote_presence("n2", "bob", "Bob", present=False) == []
    actions = r.remote_presence("n3", "bob", "Bob", present=False)
    assert actions == [ToAll(PresenceChange("bob", "Bob", Presence.OFFLINE))]
    assert r.remote_presence("n3", "bob", "Bob", present=False) == []


def test_who_moves_to_another_node_never_leaves() -> None:
    r = room()
    enter(r, "a", "ann")
    r.leave("a", now=0.0)
    assert r.remote_presence("n2", "ann", "Ann", present=True) == []
    assert r.tick(10.0) == [Announce("ann", "Ann", present=False)]
    assert r.is_online("ann")
    assert shared(r.remote_presence("n2", "ann", "Ann", present=False)) == [
        PresenceChange("ann", "Ann", Presence.OFFLINE)
    ]


def test_who_comes_from_another_node_is_announced_without_a_second_online() -> None:
    r = room()
    r.remote_presence("n2", "ann", "Ann", present=True)
    actions = enter(r, "a", "ann")
    assert shared(actions) == []
    assert actions[0] == Announce("ann", "Ann", present=True)
    assert r.remote_presence("n2", "ann", "Ann", present=False) == []
    assert r.is_online("ann")


def test_the_users_of_a_dead_node_have_the_grace_period_to_come_back() -> None:
    r = room()
    for user in ("bob", "cat", "dan"):
        r.remote_presence("n2", user, user.title(), present=True)
    r.remote_presence("n3", "dan", "Dan", present=True)
    assert r.node_gone("n2", now=50.0) == []
    assert shared(enter(r, "b", "bob")) == []
    assert r.tick(60.0) == [ToAll(PresenceChange("cat", "Cat", Presence.OFFLINE))]
    assert {person.user for person in r.online()} == {"bob", "dan"}


def test_messages_of_another_node_are_fetched_and_published() -> None:
    r = room()
    enter(r, "a", "ann")
    assert r.noticed(2) == [Fetch(0, 2)]
    assert r.noticed(3) == []
    assert r.fetched([message(1), message(2)]) == [
        ToAll(message(1)),
        ToAll(message(2)),
        Fetch(2, 3),
    ]
    assert r.noticed(1) == []


def test_an_unread_count_waits_for_the_messages_that_it_counts() -> None:
    r = room()
    enter(r, "a", "ann")
    assert r.moved("ann", Cursor(0, 2), 2) == []
    assert r.noticed(2) == [Fetch(0, 2)]
    assert r.fetched([message(1, "bob"), message(2, "bob")]) == [
        ToAll(message(1, "bob")),
        ToAll(message(2, "bob")),
        ToMember("a", ReadCursor(0, 2)),
    ]


def test_an_unread_count_that_comes_late_is_taken_anew() -> None:
    r = room(seq=1)
    enter(r, "a", "ann")
    r.committed([stored("b", 2, "bob")])
    assert r.moved("ann", Cursor(1, 0), 1) == [Recount("ann", "Ann", 2)]
    assert r.moved("ann", Cursor(1, 0), 1) == []
    r.committed([stored("b", 3, "bob"), stored("a", 4)])
    assert r.recounted("ann", Cursor(1, 1)) == [
        ToMember("a", ReadCursor(1, 2)),
        Recount("ann", "Ann", 4),
    ]
    assert r.recounted("ann", None) == []


def test_typing_on_another_node_shows_here_but_not_to_the_typist() -> None:
    assert room().remote_typing("bob") == [ToAll(Typing("bob"), but="bob")]
