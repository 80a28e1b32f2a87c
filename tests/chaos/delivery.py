"""Every device sees the one order, whole, once, from where it began to the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from chatservice.protocol import (
    Error,
    History,
    Message,
    Pong,
    PresenceChange,
    Typing,
    Welcome,
)
from tests.chaos.findings import Fault, Finding
from tests.chaos.history import Event, Malformed, Opening, Received, Record, Stayed, Vantage
from tests.chaos.ledger import Key, Ledger, Rules, brief


def check_delivery(
    record: Record, ledger: Ledger, elsewhere: Mapping[Key, str], rules: Rules
) -> Iterator[Finding]:
    """Follow one device through everything that it was given."""
    reader = _Reader(record, ledger, elsewhere, rules)
    for event in record.events:
        for fault, detail in reader.follow(event):
            yield Finding(fault, record.device, detail)


_Faults = Iterator[tuple[Fault, str]]


class _Reader:
    """Stands where the device stands: at the number `last`, None before the first welcome."""

    def __init__(
        self, record: Record, ledger: Ledger, elsewhere: Mapping[Key, str], rules: Rules
    ) -> None:
        self._record = record
        self._ledger = ledger
        self._elsewhere = elsewhere
        self._rules = rules
        self._last: int | None = None
        self._seen: set[int] = set()
        self._before_gap: int | None = None
        self._asked: int | None = None
        self._welcomed = False
        self._awaits_newest = False
        self._pruned = 0
        """What may be gone from history by now."""

    def follow(self, event: Event) -> _Faults:
        match event:
            case Malformed(why=why):
                yield Fault.MALFORMED, why
            case Opening(after=after):
                self._asked = after
                self._welcomed = False
            case Received(at=at, frame=frame):
                self._pruned = max(0, self._ledger.may_be_stored(at) - self._rules.keep)
                if not self._welcomed and not isinstance(frame, Welcome):
                    yield Fault.MALFORMED, f"the first frame is no welcome: {frame}"
                    self._welcomed = True
                yield from self._frame(frame)
            case Stayed(connected=connected, why=why):
                if not connected:
                    yield Fault.CLOSED, f"it is not connected: {why}"
                if self._last is None or self._last < self._ledger.seq:
                    yield Fault.TAIL, f"it saw up to {self._last} of {self._ledger.seq}"
            case _:
                pass

    def _frame(self, frame: object) -> _Faults:
        match frame:
            case Welcome():
                yield from self._welcome(frame)
            case Message():
                yield from self._number(frame.seq)
                yield from self._content(frame)
            case History():
                yield from self._page(frame)
            case Pong(seq=seq):
                yield from self._told(seq, "a pong")
            case Error() if frame.code not in self._rules.errors:
                yield Fault.ERROR, str(frame)
            case PresenceChange(user=user) | Typing(user=user):
                yield from self._known(user)
                if isinstance(frame, Typing) and user == self._record.user:
                    yield Fault.MISADDRESSED, "it was told that its own user types"
            case _:
                pass

    # --- connecting ----------------------------------------------------------------------

    def _welcome(self, welcome: Welcome) -> _Faults:
        self._welcomed = True
        place = (self._record.user, self._record.workspace)
        if (welcome.user, welcome.workspace) != place:
            yield Fault.MISADDRESSED, f"the welcome is for {welcome.user} in {welcome.workspace}"
        if welcome.epoch != self._ledger.epoch:
            yield Fault.EPOCH, f"{welcome.epoch}, but {self._ledger.epoch} is stored"
        for person in welcome.online:
            yield from self._known(person.user)
        if self._before_gap is not None and self._record.vantage is Vantage.CLIENT:
            # The client noticed, and asks for what it missed.
            self._last, self._before_gap = self._before_gap, None
            self._seen = {seq for seq in self._seen if seq <= self._last}
        yield from self._told(welcome.seq, "the welcome")
        came_from = self._last if self._last is not None else self._asked
        if welcome.resumed and came_from is None:
            yield Fault.MISADDRESSED, "it was resumed, and had nowhere to resume from"
            came_from = welcome.seq
        if not welcome.resumed:
            if came_from is not None and came_from >= self._pruned:
                yield Fault.RESET, f"it had {came_from}; the newest was {welcome.seq}"
            came_from = welcome.seq
            self._seen.clear()
        self._last = came_from
        self._awaits_newest = not welcome.resumed

    def _told(self, seq: int, by: str) -> _Faults:
        """Check a number that is said to be the newest."""
        if seq > self._ledger.seq:
            yield Fault.PHANTOM, f"{by} says {seq}; the newest stored is {self._ledger.seq}"
        if self._last is not None and seq < self._last:
            yield Fault.REWOUND, f"{by} says {seq}; {self._last} had come before"

    # --- messages ------------------------------------------------------------------------

    def _number(self, seq: int) -> _Faults:
        if seq in self._seen:
            yield Fault.REPEAT, f"{seq} came again"
        elif self._last is not None and seq <= self._last:
            yield Fault.SWAP, f"{seq} came after {self._last}"
        elif self._last is not None and seq != self._last + 1:
            yield Fault.GAP, f"{seq} came after {self._last}"
            self._before_gap = self._last
        self._seen.add(seq)
        self._last = max(seq, self._last or 0)

    def _page(self, page: History) -> _Faults:
        """Check a page of history: the one after a welcome ends with the newest number."""
        yield from self._consecutive(page.messages)
        for message in page.messages:
            yield from self._content(message)
        if not self._awaits_newest:
            return
        self._awaits_newest = False
        self._seen.update(message.seq for message in page.messages)
        newest = page.messages[-1].seq if page.messages else None
        if newest != self._last and self._last is not None and self._last > self._pruned:
            yield Fault.GAP, f"the first page ends with {newest}, the welcome said {self._last}"
        if page.messages and page.more != (page.messages[0].seq > 1) and self._ledger.floor == 0:
            yield Fault.GAP, f"`more` is {page.more} before {page.messages[0].seq}"

    def _consecutive(self, messages: Sequence[Message]) -> _Faults:
        for one, other in pairwise(messages):
            if other.seq != one.seq + 1:
                yield Fault.GAP, f"{other.seq} comes after {one.seq} in a page of history"

    def _content(self, message: Message) -> _Faults:
        ledger = self._ledger
        key = Key(message.user, message.id)
        if key not in ledger.sent:
            origin = self._elsewhere.get(key)
            if origin is not None:
                yield Fault.FOREIGN, f"{brief(message)} was sent to {origin}"
                return
        if message.seq <= ledger.floor:
            ledger.content.setdefault(message.seq, message)
        stored = ledger.content.get(message.seq)
        if stored is None:
            yield Fault.PHANTOM, f"{brief(message)} is not stored"
        elif stored != message:
            others = "stored is" if message.seq > ledger.floor else "others saw"
            yield Fault.ALTERED, f"it saw {brief(message)}; {others} {brief(stored)}"

    def _known(self, user: str) -> _Faults:
        if user not in self._ledger.users:
            yield Fault.FOREIGN, f"{user} shows up, who was never here"
