"""`opskit tail`: the logs of all nodes as one, as they grow."""

from __future__ import annotations

import heapq
import queue
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from opskit.durations import parse_duration
from opskit.failure import Failure, Misuse
from opskit.fleet import Fleet
from opskit.tail import LEVELS, Filter, moment, parse, shown
from opskit.tail import since as moment_of
from opskit.target import Target
from opskit.ui import Ui

RETRY_SECONDS: Final = 1.0
"""How long after a connection was lost it is tried again."""
SEARCHED: Final = 100_000
"""How many of the last lines of a node are searched for those that a filter keeps."""


@dataclass(frozen=True)
class Line:
    """A line of a node's log; what cannot be read there comes as `trouble`."""

    node: str
    text: str
    trouble: bool = False


def show(
    fleet: Fleet,
    *,
    form: str | None,
    search: str,
    level: str,
    workspace: str,
    since: str,
    lines: int,
    follow: bool,
    ui: Ui,
    aside: Ui,
) -> None:
    """Show the last lines of a log and, with `follow`, those that are added, until Ctrl-C.

    `lines` counts what passes the filter; with `since`, all of these are shown. What is wrong
    with a node meanwhile is said `aside`.

    Raises:
        Misuse: an option has a value that it cannot have.
    """
    if form not in (None, "pretty", "json"):
        raise Misuse(f"--format {form}: expected pretty or json")
    if level and level not in LEVELS:
        raise Misuse(f"--level {level}: expected one of {', '.join(LEVELS)}")
    try:
        start = moment_of(since, datetime.now().astimezone(), parse_duration) if since else 0.0
    except ValueError as error:
        raise Misuse(f"--since: {error}") from None
    wanted = Filter(search=search, level=level, workspace=workspace, since=start)
    as_json = form == "json" or (form is None and not ui.terminal.tty)
    several = len(fleet.nodes) > 1

    def write(line: Line) -> None:
        if line.trouble:
            aside.warnings([f"{line.node}: {line.text}"])
            return
        node = line.node if several else ""
        for text in shown([line.text], wanted, as_json=as_json, paint=ui.terminal.paint, node=node):
            ui.say(text)

    with suppress(KeyboardInterrupt):
        looked = fleet.each(lambda node: _past_or_why(node, wanted, None if since else lines))
        unread = [one for one in looked if isinstance(one, Failure)]
        if len(unread) == len(looked):
            raise unread[0]
        past = [([], "") if isinstance(one, Failure) else one for one in looked]
        if not follow and not any(mark for _, mark in past):
            raise Failure(
                f"{fleet.lead.name}: there is no log yet",
                hint=f"opskit deploy {fleet.environment.name}",
            )
        found = [lines_there for lines_there, _ in past]
        for line in merged(found, None if since else lines):
            write(line)
        if follow:
            marks = [mark for _, mark in past]
            for line in _following(fleet.nodes, marks):
                write(line)
        elif unread:
            raise unread[0]


def _past_or_why(
    node: Target, wanted: Filter, lines: int | None
) -> tuple[list[Line], str] | Failure:
    """Give what `_past` does, or why a node's log cannot be read: the others' can all the same."""
    try:
        return _past(node, wanted, lines)
    except Failure as failure:
        return failure


def _past(node: Target, wanted: Filter, lines: int | None) -> tuple[list[Line], str]:
    """Give the last lines of a node that are wanted, and where its log ends."""
    plain = not (wanted.search or wanted.level or wanted.workspace or wanted.since)
    most = lines if plain else (None if wanted.since else SEARCHED)
    if lines == 0:
        return [], node.supervisor.log_mark(node.executor)
    there, mark = node.supervisor.history(node.executor, lines=most, since=wanted.since)
    kept: deque[Line] = deque(maxlen=lines)
    kept.extend(Line(node.name, text) for text in there if wanted.keeps(text, parse(text)))
    return list(kept), mark


def merged(found: Sequence[Sequence[Line]], lines: int | None) -> list[Line]:
    """Put the lines of all nodes in the order of their times; the last `lines` of them.

    A line that says no time stays after the one before it of the same node.
    """

    def timed(one: Sequence[Line]) -> Iterator[tuple[float, Line]]:
        at = 0.0
        for line in one:
            record = parse(line.text)
            if record is not None and (said := moment(record)) != float("inf"):
                at = max(at, said)
            yield at, line

    whole = [line for _, line in heapq.merge(*map(timed, found), key=lambda pair: pair[0])]
    return whole if lines is None else whole[max(0, len(whole) - lines) :]


def _following(nodes: Sequence[Target], marks: Sequence[str]) -> Iterator[Line]:
    """Give the lines of all nodes as they come; a lost connection is taken up where it ended."""
    arriving: queue.SimpleQueue[Line] = queue.SimpleQueue()

    def read(node: Target, mark: str) -> None:
        pause = threading.Event()
        lost = ""
        while True:
            try:
                for text, position in node.supervisor.follow(node.executor, mark):
                    if lost:
                        arriving.put(Line(node.name, "the log is read again, without a gap", True))
                        lost = ""
                    mark = position
                    arriving.put(Line(node.name, text))
                why = "the log ended"
            except Failure as failure:
                why = str(failure).removeprefix(f"{node.name}: ")
            if why != lost:
                arriving.put(Line(node.name, f"{why}; trying again", True))
                lost = why
            pause.wait(RETRY_SECONDS)

    for node, mark in zip(nodes, marks, strict=True):
        threading.Thread(target=read, args=(node, mark), daemon=True).start()
    while True:
        yield arriving.get()
