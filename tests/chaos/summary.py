"""What a run was like, in numbers; nothing here is judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from chatservice.protocol import Error, Welcome
from tests.chaos.history import Opening, Received, Record, Returned, Sending, Vantage


def longest_outage(records: Iterable[Record]) -> float:
    """Give the longest time, in seconds, that a device waited for its welcome on coming back.

    It runs from the last frame before to the welcome; for a device that could not connect at
    first, from its first attempt.
    """
    longest = 0.0
    for record in records:
        if record.vantage is Vantage.EVENTS:
            continue
        since = next((event.at for event in record.events if isinstance(event, Opening)), None)
        for event in record.received():
            if since is not None and isinstance(event.frame, Welcome):
                longest = max(longest, event.at - since)
            since = event.at
    return longest


def errors_in(records: Iterable[Record]) -> Counter[str]:
    """Count the error frames that came, by code."""
    return Counter(
        str(event.frame.code)
        for record in records
        if record.vantage is not Vantage.EVENTS
        for event in record.received()
        if isinstance(event.frame, Error)
    )


def summary(records: Sequence[Record], happened: Counter[str]) -> str:
    """Describe a run in one line; `happened` is what else there was to count."""
    wire = [record for record in records if record.vantage is not Vantage.EVENTS]
    sends = [
        (record.user, event.id)
        for record in wire
        for event in record.events
        if isinstance(event, Sending)
    ]
    acknowledged = {(record.user, ack.id) for record in wire for _, ack in record.acks}
    welcomes = [
        sum(isinstance(event.frame, Welcome) for event in record.received()) for record in wire
    ]
    parts = [
        f"{len(set(sends))} sends by {len({record.user for record in wire})} users",
        f"{len(acknowledged)} acknowledged",
        f"{len(sends) - len(set(sends))} sent again by raw devices",
        f"{_carried_over(wire)} by clients on a later connection",
        f"{sum(max(0, count - 1) for count in welcomes)} reconnects",
        f"longest outage of a member {longest_outage(wire):.2f} s",
        *(f"{count} x {what}" for what, count in happened.items()),
    ]
    return ", ".join(parts)


def _carried_over(records: Iterable[Record]) -> int:
    """Count the sends of clients that were answered on a later connection than they began on."""
    count = 0
    for record in records:
        if record.vantage is not Vantage.CLIENT:
            continue
        begun: dict[str, int] = {}
        connection = 0
        for event in record.events:
            match event:
                case Sending(id=id):
                    begun[id] = connection
                case Received(frame=Welcome()):
                    connection += 1
                case Returned(ack=ack):
                    count += begun[ack.id] != connection
                case _:
                    pass
    return count
