"""The chat service as a process of a release: start, await, end, ask, and read its log."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from opskit.commands import Command, script
from opskit.commands.host import program
from opskit.layout import Layout, release_name

_START = """
umask 077
log=$3
touch "$log" || exit
before=$(wc -c < "$log")
cd /
setsid nohup "$1" -I "$2/run.py" serve --settings "$2/config/settings.toml" $4 \\
  < /dev/null >> "$log" 2>&1 &
echo "$! $before"
"""

_LOG_SINCE = """
[ -e "$1" ] || exit 0
tail -c "+$2" "$1" | tail -n "$3"
"""


_LOG_UNTIL = """
[ -e "$1" ] || exit 0
if [ -n "$3" ]; then
  head -c "$2" "$1" | tail -n "$3"
else
  head -c "$2" "$1"
fi
"""


def start(layout: Layout, number: int, *, python: str, take_over: bool = True) -> Command:
    """Start a release; prints its pid, and how long the log was before.

    With `take_over` it relieves whoever serves, and ends at once when its store cannot be opened;
    without, it starts cold, and serves as well as it can.

    It runs in a session of its own, so that neither the death of opskit nor the end of the
    login ends it.
    """
    return Command(
        script(
            _START,
            python,
            str(layout.release(number)),
            str(layout.log),
            "--take-over" if take_over else "",
        ),
        f"start {release_name(number)}" + (", to take over" if take_over else " cold"),
        "start",
    )


def run(layout: Layout, number: int, *words: str, python: str, changes: bool) -> Command:
    """Run one command of a release, `run.py WORDS --settings ...`, to its end."""
    settings = ("--settings", str(layout.settings(number)))
    argv = (python, "-I", str(layout.entry(number)), words[0], *settings, *words[1:])
    said = " ".join(words)
    name = release_name(number)
    return Command(argv, f"run `{said}` of {name}", words[0], changes=changes, timeout=120.0)


def wait(layout: Layout, number: int, pid: int, *, python: str, seconds: float) -> Command:
    """Wait until a release serves and is ready, or its process has ended. A pid of 0: any."""
    name = release_name(number)
    return program(
        "await_release",
        python,
        (str(layout.release(number)), str(pid), f"{seconds:g}"),
        f"wait until {name} serves (at most {seconds:g} s)",
        changes=False,
        timeout=seconds + 15.0,
    )


def end(root: PurePosixPath, pids: Sequence[int], *, python: str, seconds: float) -> Command:
    """End processes of this root by pid: orderly, and by force after `seconds`."""
    return program(
        "end",
        python,
        (str(root), f"{seconds:g}", *map(str, pids)),
        "end " + (", ".join(f"pid {pid}" for pid in pids) or "nothing"),
        timeout=seconds + 15.0,
    )


def survey(
    root: PurePosixPath,
    *,
    python: str,
    address: tuple[str, int],
    admin: tuple[str, int],
    unit: str = "",
) -> Command:
    """Look at everything that is there.

    Args:
        root: the environment's.
        python: the interpreter there.
        address: host and port at which the service answers there.
        admin: those at which it gives its metrics.
        unit: the systemd unit that shall be, on hosts.
    """
    places = [str(part) for part in (*address, *admin)]
    return program(
        "survey",
        python,
        (str(root), *places, *filter(None, [unit])),
        "look at what is there",
        changes=False,
    )


def log_size(log: PurePosixPath) -> Command:
    """Print how many bytes a log has; nothing where there is none."""
    argv = script('[ -e "$1" ] || exit 0\nwc -c < "$1"', str(log))
    return Command(argv, "measure the log", "log-size", changes=False)


def log_since(log: PurePosixPath, offset: int, lines: int) -> Command:
    """Read the last `lines` lines of what was logged after the first `offset` bytes."""
    argv = script(_LOG_SINCE, str(log), str(offset + 1), str(lines))
    return Command(argv, "read the log", "log", changes=False)


def log_until(log: PurePosixPath, size: int, lines: int | None) -> Command:
    """Read the last lines (None: all) of the first `size` bytes of a log."""
    last = "" if lines is None else str(lines)
    argv = script(_LOG_UNTIL, str(log), str(size), last)
    return Command(argv, f"read {log}", "log", changes=False)


def follow(log: PurePosixPath, *, after: int) -> Command:
    """Read what is logged after the first `after` bytes, over rotation and truncation."""
    argv = ("tail", "-c", f"+{after + 1}", "--follow=name", "--retry", "--sleep-interval=0.1")
    return Command((*argv, "--", str(log)), f"follow {log}", "follow", changes=False)


def append_line(path: PurePosixPath, key: str, line: str, *, python: str) -> Command:
    """Append a line to a file in one write, unless a line that holds `key` is there."""
    return program("append_line", python, (str(path), key, line), f"append to {path}")
