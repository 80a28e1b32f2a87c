"""Breakages of what devices are given."""

from __future__ import annotations

from collections.abc import Iterator

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
from tests.chaos.breakage import (
    Case,
    add,
    at,
    finds,
    is_frame,
    latest,
    put,
)
from tests.chaos.checker import Fault
from tests.chaos.history import (
    Event,
    Malformed,
    Opening,
    Received,
    Record,
    Stayed,
    Vantage,
)


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
            later = [event.frame for event in record.events[index + 1 :] if is_frame(event)]
            new = all(one[2].seq < message.seq for one in case.places(Welcome) if one[0] is record)
            if record.stayed and new and not any(isinstance(one, telling) for one in later):
                yield record, index

    record, index = case.pick(lasts())
    del record.events[index]


@finds(Fault.PHANTOM)
def a_message_comes_that_is_not_stored(case: Case) -> None:
    message, records = latest(case)
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


@finds(Fault.MISADDRESSED)
def a_device_is_resumed_from_nowhere(case: Case) -> None:
    record, index, welcome = case.pick(
        place for place in case.places(Welcome) if not place[2].resumed
    )
    put(record, index, msgspec.structs.replace(welcome, resumed=True))
    if index + 1 < len(record.events):
        del record.events[index + 1]


def _first_pages(case: Case) -> Iterator[tuple[Record, int, History]]:
    for record, index, page in case.places(History):
        before = record.events[index - 1]
        if is_frame(before) and isinstance(before.frame, Welcome) and page.messages:
            yield record, index, page


@finds(Fault.GAP)
def the_first_page_ends_too_early(case: Case) -> None:
    record, index, page = case.pick(_first_pages(case))
    put(record, index, History(page.messages[:-1], page.more))


@finds(Fault.GAP)
def the_first_page_does_not_tell_of_more(case: Case) -> None:
    record, index, page = case.pick(place for place in _first_pages(case) if place[2].more)
    put(record, index, History(page.messages, more=False))
