"""The chat service as a unit of systemd: hand over or start, stop, and read its journal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from opskit.commands import Command, script

LATE = 124
"""Exit status of timeout(1): what it ran did not end in time."""

_SERVE = """
unit=$1 how=$2 seconds=$3
shift 3
journalctl _SYSTEMD_UNIT="$unit" --lines=0 --show-cursor --quiet |
  sed -n 's/^-- cursor: /cursor=/p'
if [ "$how" = reload ] && systemctl is-active --quiet "$unit"; then
  timeout "$seconds" "$@" > /dev/null
else
  how=start
  systemctl reset-failed "$unit" 2> /dev/null
  timeout "$seconds" systemctl restart "$unit"
fi
status=$?
echo "how=$how"
systemctl show --property=MainPID "$unit" | sed 's/MainPID/pid/'
exit $status
"""

_STOP_IF = """
unit=$1
shift
main=$(systemctl show --property=MainPID --value "$unit")
state=$(systemctl show --property=ActiveState --value "$unit")
for pid in "$@"; do
  if [ "$pid" = "$main" ]; then
    systemctl stop "$unit" && echo "$pid"
    exit
  fi
done
[ "$state" = activating ] && systemctl stop "$unit"
exit 0
"""

_CURSOR = """
journalctl _SYSTEMD_UNIT="$1" --lines=0 --show-cursor --quiet | sed -n 's/^-- cursor: //p'
"""

_JOURNAL = """
if [ -n "$2" ]; then
  exec journalctl _SYSTEMD_UNIT="$1" --after-cursor="$2" --lines="$3" --output=cat --quiet
fi
exec journalctl _SYSTEMD_UNIT="$1" --lines="$3" --output=cat --quiet
"""


def serve(unit: str, reload: Command | None, *, seconds: float) -> Command:
    """Let the unit run what `current` points at: by `reload`, which hands over, or by a start.

    Prints `cursor=`, where the journal ended before, `how=reload` or `how=start`, and `pid=`.
    Ends with status `LATE` when it does not serve in time; it may do so later.

    Args:
        unit: its name.
        reload: has the running process hand over; None to start the unit whatever runs.
        seconds: how long that may take.
    """
    words = ("reload" if reload else "start", f"{seconds:g}", *(reload.argv if reload else ()))
    what = f"have {unit} hand over, or start it" if reload else f"start {unit} anew"
    argv = script(_SERVE, unit, *words)
    return Command(argv, what, "serve-unit", timeout=seconds + 30.0)


def stop_if(unit: str, pids: Sequence[int], *, seconds: float) -> Command:
    """Stop the unit if one of these is its main process; prints that pid."""
    said = ", ".join(map(str, pids))
    argv = script(_STOP_IF, unit, *map(str, pids))
    return Command(argv, f"stop {unit} (pid {said})", "stop-unit", timeout=seconds + 60.0)


def cursor(unit: str) -> Command:
    """Print the cursor of the journal's last entry of a unit."""
    return Command(script(_CURSOR, unit), "find the journal's end", "log-mark", changes=False)


def journal(unit: str, after: str, lines: int) -> Command:
    """Read the last `lines` entries after a cursor; of all, where that is empty."""
    argv = script(_JOURNAL, unit, after, str(lines))
    return Command(argv, "read the journal", "log", changes=False)


def follow(unit: str, *, after: str, lines: int | None, since: float, keep: bool) -> Command:
    """Read a unit's journal as JSON lines, and keep reading.

    Args:
        unit: whose.
        after: the cursor of the last entry that was seen; empty for none.
        lines: how many of the last entries first; None for all.
        since: Unix time in seconds; 0 for any.
        keep: whether to wait for more.
    """
    options = [f"_SYSTEMD_UNIT={unit}", "--output=json", "--output-fields=MESSAGE", "--quiet"]
    if after:
        options.append(f"--after-cursor={after}")
    elif since:
        options.append(f"--since=@{since:.0f}")
    if not after:
        options.append(f"--lines={'all' if lines is None else lines}")
    elif keep:
        options.append("--lines=all")
    if keep:
        options.append("--follow")
    return Command(("journalctl", *options), "follow the journal", "follow", changes=False)


def as_user(command: Command, user: str) -> Command:
    """Run a command as another user, in its own group, with nothing of root's environment."""
    drop = ("setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--reset-env")
    argv = (*drop, *command.argv)
    return replace(command, argv=argv)
