"""`opskit tail`: the log of an environment, as it grows."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime

from opskit.commands import service
from opskit.durations import parse_duration
from opskit.failure import Failure, Misuse
from opskit.tail import LEVELS, Filter, parse, shown
from opskit.tail import since as moment_of
from opskit.target import Target
from opskit.ui import Ui


def show(
    target: Target,
    *,
    form: str | None,
    search: str,
    level: str,
    workspace: str,
    since: str,
    lines: int,
    follow: bool,
    ui: Ui,
) -> None:
    """Show the last lines of a log and, with `follow`, those that are added, until Ctrl-C.

    `lines` counts what passes the filter; with `since`, all of these are shown.

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
    place = target.layout.log
    size = target.executor.check(service.log_size(place)).strip()
    if not size and not follow:
        raise Failure(
            f"{target.executor.host}: there is no log yet at {place}",
            hint=f"opskit deploy {target.environment.name}",
        )
    whole = bool(since or search or level or workspace)
    command = service.follow(place, lines=None if whole else lines, keep=follow)
    with suppress(KeyboardInterrupt), closing(target.executor.stream(command)) as stream:
        if whole and not since:
            for line in _last(stream, int(size or 0), wanted, lines):
                _write(ui, line, wanted, as_json)
        for line in stream:
            _write(ui, line, wanted, as_json)


def _last(stream: Iterator[str], size: int, wanted: Filter, lines: int) -> Iterable[str]:
    """Take the first `size` bytes of a stream, and give the last lines of it that are wanted."""
    kept: deque[str] = deque(maxlen=lines)
    seen = 0
    while seen < size and (line := next(stream, None)) is not None:
        seen += len(line.encode("utf-8", "surrogateescape")) + 1
        if wanted.keeps(line, parse(line)):
            kept.append(line)
    return kept


def _write(ui: Ui, line: str, wanted: Filter, as_json: bool) -> None:
    for text in shown([line], wanted, as_json=as_json, paint=ui.terminal.paint):
        ui.say(text)
