"""Judges a run: what every device did and saw, against what the store holds in the end.

    verdict = check(records, stored, Rules(grace=1.0))
    assert verdict.clean, verdict

It proves, for each workspace:

- what was acknowledged is stored, exactly once, under the acknowledged number, as it was sent;
  what is stored was sent; what was sent and never answered is stored at most once, and what was
  refused for good not at all (`durability`);
- the numbers are 1, 2, 3 ... and respect real time: what is sent after an acknowledgement is
  numbered after it (`durability`);
- every device saw the one order, whole, without repeats, from where it began to the end, over any
  number of connections, and nothing of another workspace (`delivery`);
- cursors and unread counts are what a recount gives (`cursors`);
- presence is what the connections were, give or take the grace period (`presence`);
- the history's identity never changed, and all ways to read it agree.

Pure functions over records: nothing here connects, waits or knows how the run was made, so that
one process, several nodes and other hosts are judged alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from chatservice.protocol import Message
from tests.chaos.cursors import check_cursors
from tests.chaos.delivery import check_delivery
from tests.chaos.durability import check_durability
from tests.chaos.findings import Fault, Finding, Verdict
from tests.chaos.history import Record, Sending
from tests.chaos.ledger import Key, Ledger, Rules, Stored
from tests.chaos.presence import check_presence, spans

__all__ = ["Fault", "Finding", "Rules", "Stored", "Verdict", "check"]


def check(records: Iterable[Record], stored: Iterable[Stored], rules: Rules) -> Verdict:
    """Judge a run.

    Args:
        records: every device's history, whole.
        stored: what each workspace holds at the end, from one source or several; where there
            are several, the first is taken for the truth and the others must agree with it.
        rules: what the service was set up to do.

    Raises:
        ValueError: a workspace that has records is in no source.
    """
    records = list(records)
    sources: dict[str, list[Stored]] = {}
    for source in stored:
        sources.setdefault(source.workspace, []).append(source)
    homeless = sorted({record.workspace for record in records} - sources.keys())
    if homeless:
        raise ValueError(f"nothing says what is stored of {', '.join(homeless)}")
    elsewhere = _origins(records)
    findings: list[Finding] = []
    for workspace in sorted(sources):
        ledger = Ledger(workspace, records, sources[workspace])
        for record in ledger.records:  # first: what was seen tells what is no longer kept
            findings += check_delivery(record, ledger, elsewhere, rules)
        findings += check_durability(ledger, elsewhere, rules)
        findings += check_cursors(ledger)
        findings += check_presence(ledger, rules)
    return Verdict(tuple(findings), _looked_at(records, sources))


def _origins(records: Sequence[Record]) -> dict[Key, str]:
    return {
        Key(record.user, event.id): record.workspace
        for record in records
        for event in record.events
        if isinstance(event, Sending)
    }


def _looked_at(records: Sequence[Record], sources: dict[str, list[Stored]]) -> Counter[str]:
    return Counter(
        {
            "devices": len(records),
            "connections": sum(len(spans(record)) for record in records),
            "acknowledgements": sum(1 for record in records for _ in record.acks),
            "messages seen": sum(
                isinstance(event.frame, Message)
                for record in records
                for event in record.received()
            ),
            "messages stored": sum(len(each[0].messages) for each in sources.values()),
            "sources": sum(len(each) for each in sources.values()),
        }
    )
