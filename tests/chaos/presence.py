"""Who is shown as online is; who is not shown is not, give or take the grace period."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from chatservice.protocol import Presence, PresenceChange, Welcome
from tests.chaos.findings import Fault, Finding
from tests.chaos.history import Left, Lost, Opening, Received, Record, Vantage
from tests.chaos.ledger import Ledger, Rules


class Span(NamedTuple):
    """One connection that was certainly up, from its welcome to the last frame that came."""

    begin: float
    end: float


def check_presence(ledger: Ledger, rules: Rules) -> Iterator[Finding]:
    """Compare what every device was shown with who was really connected."""
    wire = [record for record in ledger.records if record.vantage is not Vantage.EVENTS]
    up = _by_user(wire)
    absences = _absences(wire)
    for record in ledger.records:
        shown = _Shown(record, rules)
        for fault, detail in shown.follow(up, absences):
            yield Finding(fault, record.device, detail)
    yield from _at_the_end(ledger, wire, rules)


def spans(record: Record) -> list[Span]:
    """Give the connections of one device."""
    found: list[Span] = []
    for event in record.received():
        if isinstance(event.frame, Welcome):
            found.append(Span(event.at, event.at))
        elif found:
            found[-1] = Span(found[-1].begin, event.at)
    return found


def _by_user(records: list[Record]) -> dict[str, list[Span]]:
    users: dict[str, list[Span]] = {}
    for record in records:
        users.setdefault(record.user, []).extend(spans(record))
    return users


def _absences(records: list[Record]) -> dict[str, list[Span]]:
    """Give when each user had certainly no connection: from leaving to the next attempt."""
    presences: dict[str, list[Span]] = {}
    for record in records:
        if record.events:
            end = record.events[-1].at if isinstance(record.events[-1], Left) else float("inf")
            presences.setdefault(record.user, []).append(Span(record.events[0].at, end))
    absences: dict[str, list[Span]] = {}
    for user, stays in presences.items():
        until = float("-inf")
        for stay in sorted(stays):
            if until != float("-inf") and stay.begin > until:
                absences.setdefault(user, []).append(Span(until, stay.begin))
            until = max(until, stay.end)
        if until != float("inf"):
            absences.setdefault(user, []).append(Span(until, float("inf")))
    return absences


_Faults = Iterator[tuple[Fault, str]]


class _Shown:
    """Who one device is shown as online, as its frames come."""

    def __init__(self, record: Record, rules: Rules) -> None:
        self._record = record
        self._rules = rules
        self._online: dict[str, str] = {}
        self._connected = False
        self._haunted: set[str] = set()

    def follow(self, up: dict[str, list[Span]], absences: dict[str, list[Span]]) -> _Faults:
        for event in self._record.events:
            match event:
                case Opening() | Lost():
                    self._connected = False
                case Received(at=at, frame=frame):
                    yield from self._frame(at, frame, up)
                    yield from self._ghosts(at, absences)
                case _:
                    pass

    def _frame(self, at: float, frame: object, up: dict[str, list[Span]]) -> _Faults:
        match frame:
            case Welcome(online=online):
                self._connected = True
                self._online = {person.user: person.name for person in online}
                if self._record.user not in self._online:
                    yield Fault.ABSENT, "its own user is missing from the welcome"
                if len(self._online) != len(online):
                    yield Fault.NOISE, "somebody is online twice in the welcome"
            case PresenceChange(user=user, name=name, state=Presence.ONLINE):
                if self._online.get(user) == name:
                    yield Fault.NOISE, f"{user} came online, and was"
                self._online[user] = name
            case PresenceChange(user=user):
                if self._online.pop(user, None) is None:
                    yield Fault.NOISE, f"{user} went offline, and was"
                yield from self._too_early(at, user, up)
            case _:
                pass

    def _too_early(self, at: float, user: str, up: dict[str, list[Span]]) -> _Faults:
        skew, lag = self._rules.skew, self._rules.lag
        for span in up.get(user, ()):
            if span.begin < at - max(skew, lag) and span.end > at + skew:
                yield (
                    Fault.ABSENT,
                    f"{user} went offline {at - span.begin:.1f} s into a connection that lasted",
                )

    def _ghosts(self, at: float, absences: dict[str, list[Span]]) -> _Faults:
        """Nobody is shown who has been gone for the grace period, and a while."""
        if not self._connected:
            return
        patience = self._rules.grace + self._rules.late
        for user in self._online.keys() - self._haunted:
            for gone in absences.get(user, ()):
                if gone.begin + patience < at < gone.end:
                    self._haunted.add(user)
                    yield Fault.GHOST, f"{user} is online {at - gone.begin:.1f} s after leaving"

    @property
    def online(self) -> dict[str, str]:
        """Who is shown now, by id."""
        return self._online


def _at_the_end(ledger: Ledger, wire: list[Record], rules: Rules) -> Iterator[Finding]:
    """When all has settled, everybody is shown exactly who is there."""
    here = {record.user: record.name for record in wire if _connected(record)}
    for record in ledger.records:
        stayed = record.stayed
        if stayed is None or not stayed.connected:
            continue
        shown = _Shown(record, rules)
        for _ in shown.follow({}, {}):
            pass
        for user in sorted(shown.online.keys() - here.keys()):
            yield Finding(Fault.GHOST, record.device, f"{user} is online at the end, and is gone")
        for user in sorted(here.keys() - shown.online.keys()):
            yield Finding(Fault.ABSENT, record.device, f"{user} is missing at the end")
        for user in sorted(here.keys() & shown.online.keys()):
            if shown.online[user] != here[user]:
                why = f"{user} is called {shown.online[user]!r}, not {here[user]!r}"
                yield Finding(Fault.ALTERED, record.device, why)


def _connected(record: Record) -> bool:
    return record.stayed is not None and record.stayed.connected
