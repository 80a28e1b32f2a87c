"""Breakages of what is stored and acknowledged."""

from __future__ import annotations

from dataclasses import replace

import msgspec

from chatservice.protocol import (
    Ack,
    Message,
)
from tests.chaos.breakage import (
    Case,
    NotHere,
    add,
    at,
    finds,
    latest,
    put,
    second_sources,
)
from tests.chaos.checker import Fault, Stored
from tests.chaos.history import (
    Received,
    Record,
    Returned,
    Sending,
    Vantage,
)


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
    message, records = latest(case)
    again = msgspec.structs.replace(message, seq=message.seq + 1)
    _store_one_more(case, again, records)


@finds(Fault.INVENTED)
def stored_and_sent_by_nobody(case: Case) -> None:
    message, records = latest(case)
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
    index, each = case.pick(pair for pair in second_sources(case) if pair[1].messages)
    changed = msgspec.structs.replace(each.messages[0], text="other")
    case.stored[index] = replace(each, messages=[changed, *each.messages[1:]])


@finds(Fault.DISAGREEMENT)
def two_sources_differ_on_the_epoch(case: Case) -> None:
    index, each = case.pick(second_sources(case))
    case.stored[index] = replace(each, epoch="other")


@finds(Fault.DISAGREEMENT)
def one_source_has_less(case: Case) -> None:
    index, each = case.pick(pair for pair in second_sources(case) if pair[1].messages)
    case.stored[index] = replace(each, messages=each.messages[:-1])


@finds(Fault.HOLE, also={Fault.TAIL, Fault.UNREAD})
def the_newest_number_has_no_message(case: Case) -> None:
    case.in_store(lambda each: replace(each, seq=each.seq + 1))


@finds(Fault.DISAGREEMENT)
def one_source_knows_a_newer_number(case: Case) -> None:
    index, each = case.pick(second_sources(case))
    case.stored[index] = replace(each, seq=each.seq + 1, unread={})


@finds(Fault.DISAGREEMENT, also={Fault.CURSOR})
def two_sources_differ_on_a_cursor(case: Case) -> None:
    index, each = case.pick(second_sources(case))
    cursors = {user: seq + 1 for user, seq in each.cursors.items()}
    case.stored[index] = replace(each, cursors=cursors, unread={})
