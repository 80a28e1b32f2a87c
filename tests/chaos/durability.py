"""Acknowledged is stored, once, under that number; stored is sent; the numbers are dense."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise

from chatservice.protocol import Message
from tests.chaos.findings import Fault, Finding
from tests.chaos.ledger import SHOWN, Key, Ledger, Rules, Stored, brief


def check_durability(
    ledger: Ledger, elsewhere: Mapping[Key, str], rules: Rules
) -> Iterator[Finding]:
    """Compare what is stored with what was sent and acknowledged.

    Args:
        ledger: the workspace's books.
        elsewhere: the messages of all workspaces, and where they were sent.
        rules: how much history is kept.
    """
    numbers: dict[Key, list[Message]] = defaultdict(list)
    kept: dict[Key, list[Message]] = defaultdict(list)
    for message in ledger.content.values():
        numbers[Key(message.user, message.id)].append(message)
    for message in ledger.messages:
        kept[Key(message.user, message.id)].append(message)
        if message != ledger.content[message.seq]:
            numbers[Key(message.user, message.id)].append(message)
    yield from _dense(ledger, rules)
    for key, stored in numbers.items():
        yield from _once(ledger.workspace, key, stored, rules)
    for key, stored in kept.items():
        yield from _as_sent(ledger, key, stored, elsewhere)
    yield from _acknowledged(ledger, numbers)
    yield from _real_time(ledger)
    for other in ledger.sources[1:]:
        yield from _same(ledger.sources[0], other)


def _once(where: str, key: Key, stored: list[Message], rules: Rules) -> Iterator[Finding]:
    """Allow a message twice only where the first had fallen out of history by the second."""
    ordered = sorted(message.seq for message in stored)
    for one, other in pairwise(ordered):
        if other - one <= rules.keep:
            why = f"{key.user}'s {key.id} is stored at {one} and at {other}"
            yield Finding(Fault.DUPLICATE, where, why)


def _as_sent(
    ledger: Ledger, key: Key, stored: list[Message], elsewhere: Mapping[Key, str]
) -> Iterator[Finding]:
    where = ledger.workspace
    sent = ledger.sent.get(key)
    for message in stored:
        if sent is None:
            yield _unsent(where, message, elsewhere)
        elif (message.text, message.name) != (sent.text, sent.name):
            said = f"{sent.text[:SHOWN]!r} by {sent.name!r}"
            yield Finding(Fault.ALTERED, where, f"{brief(message)}, but it was sent as {said}")
    if sent is not None and sent.refused and sent.times == 1:
        yield Finding(Fault.REFUSED, where, f"{brief(stored[0])} was refused, and is stored")


def _dense(ledger: Ledger, rules: Rules) -> Iterator[Finding]:
    expected = ledger.floor + 1
    for message in ledger.messages:
        if message.seq != expected:
            why = f"{message.seq} is stored where {expected} was due"
            yield Finding(Fault.HOLE, ledger.workspace, why)
        expected = message.seq + 1
    if expected != ledger.seq + 1:
        why = f"the newest number is {ledger.seq}, but the last message is {expected - 1}"
        yield Finding(Fault.HOLE, ledger.workspace, why)
    if ledger.floor > max(0, ledger.seq - rules.keep):
        why = f"{ledger.seq - ledger.floor} messages are kept, up to {ledger.seq}, not {rules.keep}"
        yield Finding(Fault.HOLE, ledger.workspace, why)


def _unsent(where: str, message: Message, elsewhere: Mapping[Key, str]) -> Finding:
    origin = elsewhere.get(Key(message.user, message.id))
    if origin is not None:
        return Finding(
            Fault.FOREIGN, where, f"{brief(message)} was sent to {origin}, and is stored here"
        )
    return Finding(Fault.INVENTED, where, f"{brief(message)} was sent by nobody")


def _acknowledged(ledger: Ledger, numbers: Mapping[Key, list[Message]]) -> Iterator[Finding]:
    for key, acks in ledger.acks.items():
        stored = {(message.seq, message.ts) for message in numbers.get(key, ())}
        for _, device, ack in acks:
            if key not in ledger.sent:
                why = f"it was told that {key.id} is stored, which {key.user} never sent"
                yield Finding(Fault.MISADDRESSED, device, why)
            elif not stored and (ack.seq > ledger.floor or ack.seq in ledger.content):
                yield Finding(Fault.LOST, device, f"{ack} came, and the message is not stored")
            elif stored and (ack.seq, ack.ts) not in stored:
                if ack.seq <= ledger.floor and ack.seq not in ledger.content:
                    continue  # nobody saw what stood there, and it is no longer kept
                at = ", ".join(f"number {seq}, ts {ts}" for seq, ts in sorted(stored))
                yield Finding(Fault.MISNUMBERED, device, f"{ack}, but it is stored at {at}")


def _real_time(ledger: Ledger) -> Iterator[Finding]:
    """Who knows that a message is stored, and then sends one, must get a higher number."""
    earliest: tuple[float, int] = (float("inf"), 0)  # acknowledgement among the higher numbers
    for message in reversed(ledger.messages):
        key = Key(message.user, message.id)
        sent = ledger.sent.get(key)
        if sent is not None and sent.first > earliest[0]:
            why = (
                f"{message.seq} was sent {sent.first - earliest[0]:.3f} s after "
                f"{earliest[1]} was acknowledged"
            )
            yield Finding(Fault.REORDERED, ledger.workspace, why)
        for at, _, ack in ledger.acks.get(key, ()):
            if ack.seq == message.seq and at < earliest[0]:
                earliest = (at, message.seq)


def _same(truth: Stored, other: Stored) -> Iterator[Finding]:
    where = truth.workspace

    def differ(what: str, ours: object, theirs: object) -> Finding:
        why = f"{what}: {truth.source} says {ours}, {other.source} says {theirs}"
        return Finding(Fault.DISAGREEMENT, where, why)

    if truth.epoch != other.epoch:
        yield differ("the epoch", truth.epoch, other.epoch)
    if truth.seq != other.seq:
        yield differ("the newest number", truth.seq, other.seq)
    if len(truth.messages) != len(other.messages):
        yield differ("messages", len(truth.messages), len(other.messages))
    for ours, theirs in zip(truth.messages, other.messages, strict=False):
        if ours != theirs:
            yield differ("a message", brief(ours), brief(theirs))
            break
    for user in truth.cursors.keys() & other.cursors.keys():
        if truth.cursors[user] != other.cursors[user]:
            yield differ(f"{user}'s cursor", truth.cursors[user], other.cursors[user])
