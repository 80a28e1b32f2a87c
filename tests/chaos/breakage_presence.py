"""Breakages of who is shown as online, and of what is read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec

from chatservice.protocol import (
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    Welcome,
)
from tests.chaos.breakage import (
    Case,
    add,
    at,
    finds,
    is_frame,
    put,
    second_sources,
)
from tests.chaos.checker import Fault
from tests.chaos.history import (
    Left,
    Lost,
    Opening,
    Received,
    Record,
    Stayed,
)


def _last_words(case: Case, state: Presence) -> Iterator[tuple[Record, int]]:
    """Give the last that devices hear of users, where it is that they came, or left."""
    for record, index, change in case.places(PresenceChange):
        later = (event.frame for event in record.events[index + 1 :] if is_frame(event))
        renewed = any(
            isinstance(frame, Welcome)
            or (isinstance(frame, PresenceChange) and frame.user == change.user)
            for frame in later
        )
        if change.state is state and not renewed and record.stayed:
            yield record, index


@finds(Fault.GHOST)
def nobody_says_that_somebody_left(case: Case) -> None:
    record, index = case.pick(_last_words(case, Presence.OFFLINE))
    del record.events[index]


@finds(Fault.ABSENT)
def nobody_says_that_somebody_came(case: Case) -> None:
    record, index = case.pick(_last_words(case, Presence.ONLINE))
    del record.events[index]


@finds(Fault.ABSENT)
def a_welcome_leaves_out_its_own_user(case: Case) -> None:
    record, index, welcome = case.pick(
        place for place in case.places(Welcome) if not isinstance(place[0].events[-1], Stayed)
    )
    others = [person for person in welcome.online if person.user != record.user]
    put(record, index, msgspec.structs.replace(welcome, online=others))


@finds(Fault.ABSENT)
def somebody_is_shown_offline_who_is_there(case: Case) -> None:
    """For a while only: then they are shown online again."""

    def moments() -> Iterator[tuple[Record, int]]:
        for record, index, _ in case.places(Pong):
            if isinstance(record.events[-1], Stayed) and _steady(record, at(record, index)):
                yield record, index

    record, index = case.pick(moments())
    for state in (Presence.ONLINE, Presence.OFFLINE):
        change = PresenceChange(record.user, record.name, state)
        add(record, index, Received(at(record, index), change))


def _steady(record: Record, moment: float) -> bool:
    """Whether a device's connection certainly held for a while around a moment."""
    frames = [event.at for event in record.events if isinstance(event, Received)]
    breaks = [event.at for event in record.events if isinstance(event, Opening | Lost | Left)]
    return (
        any(0.15 < moment - each < 0.4 for each in frames)
        and any(0.15 < each - moment < 0.4 for each in frames)
        and not any(abs(each - moment) < 0.5 for each in breaks)
    )


@finds(Fault.NOISE)
def somebody_comes_online_who_was(case: Case) -> None:
    record, index, _ = case.pick(case.places(Pong))
    change = PresenceChange(record.user, record.name, Presence.ONLINE)
    add(record, index, Received(at(record, index), change))


@finds(Fault.ALTERED)
def somebody_goes_by_another_name(case: Case) -> None:
    record = case.pick(record for record in case.raw() if record.stayed)
    change = PresenceChange(record.user, "Nobody", Presence.ONLINE)
    add(record, len(record.events) - 2, Received(at(record, -1), change))


# --- cursors ----------------------------------------------------------------------------------


@finds(Fault.UNREAD)
def a_count_of_unread_is_wrong(case: Case) -> None:
    record, index, cursor = case.pick(case.places(ReadCursor))
    put(record, index, ReadCursor(cursor.seq, cursor.unread + 1))


@finds(Fault.UNREAD)
def a_welcome_counts_wrongly(case: Case) -> None:
    record, index, welcome = case.pick(case.places(Welcome))
    put(record, index, msgspec.structs.replace(welcome, unread=welcome.unread + 1))


@finds(Fault.UNREAD)
def a_source_counts_wrongly(case: Case) -> None:
    index, each = case.pick(second_sources(case))
    case.stored[index] = replace(
        each, unread={user: count + 1 for user, count in each.unread.items()}
    )


def _move(case: Case, by: Callable[[int], int]) -> None:
    """Have a confirmed cursor stand elsewhere in every source."""
    record, _, _ = case.pick(place for place in case.places(ReadCursor) if place[2].seq > 0)
    for index, each in enumerate(case.stored):
        if each.workspace == record.workspace:
            cursors = {**each.cursors, record.user: by(each.cursors[record.user])}
            case.stored[index] = replace(each, cursors=cursors, unread={})


@finds(Fault.CURSOR)
def a_confirmed_cursor_is_lost(case: Case) -> None:
    _move(case, lambda _: 0)


@finds(Fault.CURSOR)
def a_cursor_stands_where_nobody_put_it(case: Case) -> None:
    _move(case, lambda seq: seq + 1)


@finds(Fault.CURSOR)
def somebody_who_was_here_is_no_member(case: Case) -> None:
    record, _, _ = case.pick(case.places(Welcome))
    for index, each in enumerate(case.stored):
        if each.workspace == record.workspace:
            cursors = {user: seq for user, seq in each.cursors.items() if user != record.user}
            case.stored[index] = replace(each, cursors=cursors, unread={})


@finds(Fault.CURSOR, Fault.UNREAD)
def a_cursor_goes_back(case: Case) -> None:
    record, index, cursor = case.pick(
        place for place in case.places(ReadCursor) if place[2].seq > 1
    )
    add(record, index, Received(at(record, index), ReadCursor(1, cursor.unread)))


@finds(Fault.FOREIGN)
def somebody_is_a_member_who_was_never_here(case: Case) -> None:
    workspace = case.pick(each.workspace for each in case.stored)
    for index, each in enumerate(case.stored):
        if each.workspace == workspace:
            case.stored[index] = replace(each, cursors={**each.cursors, "stranger": 0})


@finds(Fault.NOISE)
def a_welcome_names_somebody_twice(case: Case) -> None:
    record, index, welcome = case.pick(case.places(Welcome))
    online = [*welcome.online, welcome.online[0]]
    put(record, index, msgspec.structs.replace(welcome, online=online))


@finds(Fault.NOISE)
def somebody_goes_offline_twice(case: Case) -> None:
    record, index, change = case.pick(
        place for place in case.places(PresenceChange) if place[2].state is Presence.OFFLINE
    )
    add(record, index, Received(at(record, index), change))


@finds(Fault.GHOST)
def that_somebody_left_is_said_too_late(case: Case) -> None:
    """In the end all is well."""

    def words() -> Iterator[tuple[Record, int, int]]:
        for record, index, change in case.places(PresenceChange):
            if change.state is Presence.OFFLINE:
                for later, event in enumerate(record.events):
                    late = event.at > at(record, index) + 2.5
                    if later > index and late and _undisturbed(record, index, later):
                        yield record, index, later

    record, index, later = case.pick(words())
    word = record.events[index]
    assert isinstance(word, Received)
    add(record, later, replace(word, at=at(record, later)))
    del record.events[index]


def _undisturbed(record: Record, begin: int, end: int) -> bool:
    """Whether a device stays connected from one event to another, and nobody comes or goes."""
    between = record.events[begin + 1 : end + 1]
    return any(is_frame(event) for event in between) and not any(
        isinstance(event, Opening | Lost | Left | Stayed)
        or (is_frame(event) and isinstance(event.frame, PresenceChange | Welcome))
        for event in between
    )
