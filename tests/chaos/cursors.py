"""Read cursors stand where their user put them, and every count of unread is recomputed."""

from __future__ import annotations

from collections.abc import Iterator

from chatservice.protocol import History, Message, ReadCursor, Welcome
from tests.chaos.findings import Fault, Finding
from tests.chaos.history import Opening, Reading, Received, Record, Vantage
from tests.chaos.ledger import Ledger, Stored


def check_cursors(ledger: Ledger) -> Iterator[Finding]:
    """Check what devices were told of cursors, and what became of them in each source."""
    asked: dict[str, int] = {}
    told: dict[str, int] = {}
    must: dict[str, int] = {}
    for record in ledger.records:
        user = record.user
        readings = [event.seq for event in record.events if isinstance(event, Reading)]
        asked[user] = max([asked.get(user, 0), *readings])
        if record.vantage is Vantage.CLIENT and record.stayed is not None:
            # The client says it again on each connection, until it is told that it is so.
            must[user] = max([must.get(user, 0), *readings])
        for at in _positions(record):
            told[user] = max(told.get(user, 0), at)
        yield from _told(record, ledger)
    for source in ledger.sources:
        yield from _final(source, ledger, asked, told, must)


def _positions(record: Record) -> Iterator[int]:
    for event in record.received():
        if isinstance(event.frame, Welcome):
            yield event.frame.read
        elif isinstance(event.frame, ReadCursor):
            yield event.frame.seq


def _told(record: Record, ledger: Ledger) -> Iterator[Finding]:
    """Follow what one device was told: a count covers all that it had been given by then.

    A device that begins from a number was given everything up to it, on another record.
    """
    last = 0
    read = 0
    for event in record.events:
        if isinstance(event, Opening):
            last = max(last, event.after or 0)
        if not isinstance(event, Received):
            continue
        frame = event.frame
        match frame:
            case Message(seq=seq):
                last = max(last, seq)
                continue
            case Welcome(resumed=False, seq=seq):
                last = seq
            case History() | Welcome() | ReadCursor():
                pass
            case _:
                continue
        if isinstance(frame, History):
            continue
        seq, covered = (frame.read, frame.seq) if isinstance(frame, Welcome) else (frame.seq, last)
        if seq < read:
            why = f"the cursor went back from {read} to {seq}"
            yield Finding(Fault.CURSOR, record.device, why)
        read = seq
        expected = ledger.unread(record.user, seq, covered)
        if ledger.floor == 0 and frame.unread != expected:
            why = f"{frame.unread} unread between {seq} and {covered}; there were {expected}"
            yield Finding(Fault.UNREAD, record.device, why)


def _final(
    source: Stored,
    ledger: Ledger,
    asked: dict[str, int],
    told: dict[str, int],
    must: dict[str, int],
) -> Iterator[Finding]:
    where = f"{source.workspace} ({source.source})"
    for user, read in source.cursors.items():
        if user not in ledger.users:
            yield Finding(Fault.FOREIGN, where, f"{user} is a member, who was never here")
            continue
        if read < max(told.get(user, 0), must.get(user, 0)):
            why = f"{user}'s stands at {read}; {told.get(user, 0)} was confirmed"
            if must.get(user, 0) > told.get(user, 0):
                why = f"{user}'s stands at {read}; {must[user]} was said on a live connection"
            yield Finding(Fault.CURSOR, where, why)
        elif read > asked[user]:
            why = f"{user}'s stands at {read}, and was never put past {asked[user]}"
            yield Finding(Fault.CURSOR, where, why)
    for user in sorted(told.keys() - source.cursors.keys()) if source.everybody else ():
        yield Finding(Fault.CURSOR, where, f"{user} was here, and is no member")
    for user, unread in source.unread.items():
        expected = ledger.unread(user, source.cursors[user], ledger.seq)
        if unread != expected:
            why = f"{unread} for {user} after {source.cursors[user]}; there are {expected}"
            yield Finding(Fault.UNREAD, where, why)
