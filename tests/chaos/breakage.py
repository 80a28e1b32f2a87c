"""Ways to break a history that was perfect, one fault each, for the tests of the checker."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeGuard, TypeVar

import msgspec

from chatservice.protocol import (
    Ack,
    Error,
    ErrorCode,
    History,
    Message,
    Pong,
    Presence,
    PresenceChange,
    ReadCursor,
    Typing,
    Welcome,
)
from tests.chaos.checker import Fault, Stored
from tests.chaos.history import (
    Event,
    Left,
    Lost,
    Malformed,
    Opening,
    Received,
    Record,
    Returned,
    Sending,
    Stayed,
    Vantage,
)
from tests.chaos.world import World

T = TypeVar("T")


class NotHere(Exception):
    """The history has no place that can be broken in this way."""


@dataclass
class Case:
    """A finished run, as the checker will get it."""

    world: World
    records: list[Record]
    stored: list[Stored]
    chance: random.Random

    def pick(self, places: Iterator[T]) -> T:
        """Choose one of the places that fit."""
        found = list(places)
        if not found:
            raise NotHere
        return self.chance.choice(found)

    def raw(self) -> Iterator[Record]:
        """Records of raw devices."""
        return (record for record in self.records if record.vantage is Vantage.RAW)

    def places(self, kind: type[T], raw: bool = True) -> Iterator[tuple[Record, int, T]]:
        """Give where frames of one kind were received, by raw devices: records and indexes."""
        for record in self.raw() if raw else self.records:
            for index, event in enumerate(record.events):
                if isinstance(event, Received) and isinstance(event.frame, kind):
                    yield record, index, event.frame

    def in_store(self, change: Callable[[Stored], Stored]) -> None:
        """Change what all sources of a workspace that is not empty hold."""
        full = self.pick(each.workspace for each in self.stored if len(each.messages) > 3)
        self.stored = [change(each) if each.workspace == full else each for each in self.stored]


def put(record: Record, index: int, frame: object) -> None:
    """Have another frame come in the place of one."""
    event = record.events[index]
    assert isinstance(event, Received)
    record.events[index] = replace(event, frame=frame)  # type: ignore[arg-type]


def add(record: Record, index: int, event: Event) -> None:
    """Have something happen after something else."""
    record.events.insert(index + 1, event)


def at(record: Record, index: int) -> float:
    """Give when something happened."""
    return record.events[index].at


Breakage = Callable[[Case], None]
BREAKAGES: dict[str, tuple[Breakage, set[Fault], set[Fault]]] = {}
"""By name: what breaks it, what the checker must find, and what may follow from that."""


def finds(*faults: Fault, also: Iterable[Fault] = ()) -> Callable[[Breakage], Breakage]:
    """Enter a breakage in the table."""

    def enter(breakage: Breakage) -> Breakage:
        BREAKAGES[breakage.__name__] = (breakage, set(faults), set(also))
        return breakage

    return enter


# --- the store --------------------------------------------------------------------------------


@finds(Fault.LOST)
def acknowledged_and_not_stored(case: Case) -> None:
    record, index, ack = case.pick(case.places(Ack))
    add(record, index, Received(at(record, index), Ack("gone", ack.seq, ack.ts)))
    add(record, index, Sending(at(record, index), "gone", "gone"))


@finds(Fault.LOST)
def a_client_returns_what_is_not_stored(case: Case) -> None:
    clients = (record for record in case.records if record.vantage is Vantage.CLIENT)
    record = case.pick(record for record in clients if len(record.events) > 5)
    add(record, 4, Returned(at(record, 4), Ack("gone", 1, 1)))
    add(record, 4, Sending(at(record, 4), "gone", "gone"))


@finds(Fault.MISNUMBERED)
def acknowledged_under_another_number(case: Case) -> None:
    record, index, ack = case.pick(case.places(Ack))
    put(record, index, msgspec.structs.replace(ack, seq=ack.seq + 1))


@finds(Fault.MISNUMBERED)
def acknowledged_with_another_time(case: Case) -> None:
    record, index, ack = case.pick(case.places(Ack))
    put(record, index, msgspec.structs.replace(ack, ts=ack.ts + 1))


def _latest(case: Case) -> tuple[Message, list[Record]]:
    """Give the last message of a workspace, if its devices all saw it come last; and them."""
    world = case.world
    room = case.pick(room for room in world.rooms if room.messages)
    return room.messages[-1], [
        record for device in room.devices if not device.left for record in device.records
    ]


def _store_one_more(case: Case, message: Message, records: list[Record]) -> None:
    """Have a message stored, and seen by everybody, at the very end."""
    workspace = records[0].workspace if records else ""
    if not records:
        raise NotHere
    for record in records:
        add(record, len(record.events) - 2, Received(at(record, -1), message))
    for index, each in enumerate(case.stored):
        if each.workspace == workspace:
            unread = {user: count + (user != message.user) for user, count in each.unread.items()}
            case.stored[index] = replace(
                each, seq=message.seq, messages=[*each.messages, message], unread=unread
            )


@finds(Fault.DUPLICATE)
def stored_twice(case: Case) -> None:
    message, records = _latest(case)
    again = msgspec.structs.replace(message, seq=message.seq + 1)
    _store_one_more(case, again, records)


@finds(Fault.INVENTED)
def stored_and_sent_by_nobody(case: Case) -> None:
    message, records = _latest(case)
    invented = msgspec.structs.replace(message, seq=message.seq + 1, id="invented")
    _store_one_more(case, invented, records)


@finds(Fault.REFUSED)
def refused_and_stored(case: Case) -> None:
    refused = case.pick(
        (record, event)
        for record in case.raw()
        for event in record.events
        if isinstance(event, Sending) and event.text == "refused"
    )
    record, sending = refused
    room = next(room for room in case.world.rooms if room.name == record.workspace)
    records = [one for device in room.devices if not device.left for one in device.records]
    seq = len(room.messages) + 1
    message = Message(seq, sending.id, record.user, record.name, sending.text, 1)
    _store_one_more(case, message, records)


@finds(Fault.ALTERED)
def stored_with_another_text(case: Case) -> None:
    """Everybody sees it as it is stored; it was sent otherwise."""
    record, sending = case.pick(
        (record, event)
        for record in case.raw()
        for event in record.events
        if isinstance(event, Sending)
        and any(
            (message.user, message.id) == (record.user, event.id)
            for each in case.stored
            for message in each.messages
        )
    )
    for place, event in enumerate(record.events):
        if isinstance(event, Sending) and event.id == sending.id:
            record.events[place] = replace(event, text="otherwise")


@finds(Fault.HOLE, Fault.PHANTOM, Fault.LOST, also={Fault.UNREAD})
def a_message_is_missing_in_the_store(case: Case) -> None:
    case.in_store(lambda each: replace(each, messages=[*each.messages[:1], *each.messages[2:]]))


@finds(Fault.HOLE)
def too_little_history_is_kept(case: Case) -> None:
    def prune(each: Stored) -> Stored:
        messages = each.messages[-1:]
        unread = {
            user: int(each.cursors[user] < each.seq and messages[0].user != user)
            for user in each.unread
        }
        return replace(each, messages=messages, unread=unread)

    case.in_store(prune)


@finds(Fault.REORDERED)
def numbered_before_what_was_acknowledged_earlier(case: Case) -> None:
    """The first message was sent, it turns out, after all others had been acknowledged."""
    name, first = case.pick(
        (each.workspace, each.messages[0])
        for each in case.stored
        if len({message.user for message in each.messages}) > 1 and len(each.messages) > 3
    )
    record, index, sending = next(
        (record, index, event)
        for record in case.records
        if (record.workspace, record.user) == (name, first.user)
        for index, event in enumerate(record.events)
        if isinstance(event, Sending) and event.id == first.id
    )
    record.events[index] = replace(sending, at=case.world.now)
    for place, event in enumerate(record.events):
        if isinstance(event, Sending) and event.id == first.id:
            record.events[place] = replace(event, at=case.world.now)


@finds(Fault.DISAGREEMENT)
def two_sources_differ_on_a_message(case: Case) -> None:
    index, each = case.pick(pair for pair in _second_sources(case) if pair[1].messages)
    changed = msgspec.structs.replace(each.messages[0], text="other")
    case.stored[index] = replace(each, messages=[changed, *each.messages[1:]])


@finds(Fault.DISAGREEMENT)
def two_sources_differ_on_the_epoch(case: Case) -> None:
    index, each = case.pick(_second_sources(case))
    case.stored[index] = replace(each, epoch="other")


@finds(Fault.DISAGREEMENT)
def one_source_has_less(case: Case) -> None:
    index, each = case.pick(pair for pair in _second_sources(case) if pair[1].messages)
    case.stored[index] = replace(each, messages=each.messages[:-1])


def _second_sources(case: Case) -> Iterator[tuple[int, Stored]]:
    return ((i, each) for i, each in enumerate(case.stored) if each.source == "the GET API")


# --- delivery ---------------------------------------------------------------------------------


def _is_frame(event: Event) -> TypeGuard[Received]:
    return isinstance(event, Received)


def _midst(case: Case) -> Iterator[tuple[Record, int, Message]]:
    """Messages that are followed by another one, next to them."""
    for record, index, message in case.places(Message):
        following = record.events[index + 1]
        if isinstance(following, Received) and isinstance(following.frame, Message):
            yield record, index, message


@finds(Fault.GAP)
def a_message_does_not_come(case: Case) -> None:
    record, index, _ = case.pick(_midst(case))
    del record.events[index]


@finds(Fault.GAP)
def a_page_of_history_has_a_gap(case: Case) -> None:
    record, index, page = case.pick(
        place for place in case.places(History) if len(place[2].messages) == 3
    )
    put(record, index, History([page.messages[0], page.messages[2]], page.more))


@finds(Fault.REPEAT)
def a_message_comes_twice(case: Case) -> None:
    record, index, message = case.pick(case.places(Message))
    add(record, index, Received(at(record, index), message))


@finds(Fault.GAP, Fault.SWAP)
def two_messages_are_swapped(case: Case) -> None:
    record, index, _ = case.pick(_midst(case))
    one, other = record.events[index : index + 2]
    record.events[index : index + 2] = [other, one]


@finds(Fault.TAIL)
def the_last_message_does_not_come(case: Case) -> None:
    def lasts() -> Iterator[tuple[Record, int]]:
        """Messages after which nothing tells how many there are, or how many are unread."""
        telling = Message | Welcome | ReadCursor | Pong
        for record, index, message in case.places(Message):
            later = [event.frame for event in record.events[index + 1 :] if _is_frame(event)]
            new = all(one[2].seq < message.seq for one in case.places(Welcome) if one[0] is record)
            if record.stayed and new and not any(isinstance(one, telling) for one in later):
                yield record, index

    record, index = case.pick(lasts())
    del record.events[index]


@finds(Fault.PHANTOM)
def a_message_comes_that_is_not_stored(case: Case) -> None:
    message, records = _latest(case)
    record = case.pick(iter(records))
    phantom = msgspec.structs.replace(message, seq=message.seq + 1)
    add(record, len(record.events) - 2, Received(at(record, -1), phantom))


@finds(Fault.PHANTOM)
def a_pong_tells_of_what_is_not_stored(case: Case) -> None:
    record, index, pong = case.pick(case.places(Pong))
    put(record, index, Pong(pong.seq + 1000))


@finds(Fault.REWOUND)
def a_pong_goes_back(case: Case) -> None:
    record, index, pong = case.pick(place for place in case.places(Pong) if place[2].seq > 0)
    put(record, index, Pong(pong.seq - 1))


@finds(Fault.ALTERED)
def one_device_sees_another_text(case: Case) -> None:
    record, index, message = case.pick(case.places(Message))
    put(record, index, msgspec.structs.replace(message, text="other"))


@finds(Fault.FOREIGN)
def a_message_of_another_workspace_comes(case: Case) -> None:
    record, index, message = case.pick(case.places(Message))
    other = case.pick(
        each
        for source in case.stored
        if source.workspace != record.workspace
        for each in source.messages
    )
    put(record, index, msgspec.structs.replace(other, seq=message.seq))


@finds(Fault.FOREIGN, Fault.GHOST)
def a_stranger_is_online(case: Case) -> None:
    record = case.pick(record for record in case.raw() if record.stayed)
    stranger = PresenceChange("stranger", "Stranger", Presence.ONLINE)
    add(record, len(record.events) - 2, Received(at(record, -1), stranger))


@finds(Fault.RESET)
def a_device_starts_afresh_without_need(case: Case) -> None:
    record, index, welcome = case.pick(
        place
        for place in case.places(Welcome)
        if place[2].resumed and not _is_message(place[0].events[place[1] + 1])
    )
    put(record, index, msgspec.structs.replace(welcome, resumed=False))
    room = next(room for room in case.world.rooms if room.name == record.workspace)
    newest = room.messages[: welcome.seq][-5:]
    page = History(newest, more=welcome.seq > 5)
    add(record, index, Received(at(record, index), page))


def _is_message(event: Event) -> bool:
    return isinstance(event, Received) and isinstance(event.frame, Message)


@finds(Fault.EPOCH)
def the_epoch_changes(case: Case) -> None:
    record, index, welcome = case.pick(case.places(Welcome))
    put(record, index, msgspec.structs.replace(welcome, epoch="another"))


@finds(Fault.MISADDRESSED)
def an_acknowledgement_of_another_comes(case: Case) -> None:
    _, _, ack = case.pick(case.places(Ack))
    user = ack.id.partition(".")[0]
    record, index, _ = case.pick(place for place in case.places(Pong) if place[0].user != user)
    add(record, index, Received(at(record, index), ack))


@finds(Fault.MISADDRESSED)
def a_welcome_of_another_comes(case: Case) -> None:
    record, index, welcome = case.pick(case.places(Welcome))
    put(record, index, msgspec.structs.replace(welcome, user="somebody"))


@finds(Fault.MISADDRESSED)
def a_device_is_told_that_its_own_user_types(case: Case) -> None:
    record, index, _ = case.pick(case.places(Pong))
    add(record, index, Received(at(record, index), Typing(record.user)))


@finds(Fault.MALFORMED)
def a_frame_is_not_of_the_contract(case: Case) -> None:
    record, index, _ = case.pick(case.places(Welcome))
    add(record, index, Malformed(at(record, index), "no JSON"))


@finds(Fault.MALFORMED)
def the_first_frame_is_no_welcome(case: Case) -> None:
    record, index = case.pick(
        (record, index)
        for record in case.raw()
        for index, event in enumerate(record.events)
        if isinstance(event, Opening)
    )
    page = History([], more=False)
    add(record, index, Received(at(record, index), page))


@finds(Fault.ERROR)
def an_error_comes(case: Case) -> None:
    record, index, _ = case.pick(case.places(Pong))
    error = Error(ErrorCode.BAD_JSON, "the frame is not JSON")
    add(record, index, Received(at(record, index), error))


@finds(Fault.CLOSED)
def a_device_does_not_come_back(case: Case) -> None:
    """Another device of the same user is there, so that presence is as it should be."""

    def also_here(record: Record) -> bool:
        return any(
            other is not record
            and other.stayed is not None
            and other.vantage is not Vantage.EVENTS
            and (other.user, other.workspace) == (record.user, record.workspace)
            for other in case.records
        )

    record = case.pick(record for record in case.raw() if record.stayed and also_here(record))
    record.events[-1] = Stayed(at(record, -1), connected=False, why="refused")


# --- presence ---------------------------------------------------------------------------------


@finds(Fault.GHOST)
def nobody_says_that_somebody_left(case: Case) -> None:
    """The last word on a user who is gone is taken out of one device's history."""

    def last_words() -> Iterator[tuple[Record, int]]:
        for record, index, change in case.places(PresenceChange):
            later = any(
                isinstance(event, Received)
                and (
                    isinstance(event.frame, Welcome)
                    or (isinstance(event.frame, PresenceChange) and event.frame.user == change.user)
                )
                for event in record.events[index + 1 :]
            )
            if change.state is Presence.OFFLINE and not later and record.stayed:
                yield record, index

    record, index = case.pick(last_words())
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
    index, each = case.pick(_second_sources(case))
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
