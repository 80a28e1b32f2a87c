"""How a command goes over SSH: as one line for the login shell, that says its pid and can be ended.

sshd does not end a command whose channel is closed. So each runs in a session of its own under
`timeout` of coreutils, which ends it when opskit cannot, and whose pid it says on stderr before
anything else.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from opskit.commands import Command, quote

_LEADER = "opskit-leader"
_RUN = f'echo "{_LEADER} $PPID" >&2; "$@"; exit $?'
END = b"end"
"""What is sent after all that a command reads."""
_FEED = f"""
echo "{_LEADER} $PPID" >&2
(head -c "$0" && {{ [ "$(head -c {len(END)})" = {END.decode()} ] || kill -s KILL 0; }}) | "$@"
exit $?
"""
# A connection that is lost while something is sent looks, there, like its end. The command would
# take half a file for a whole one; so it sees an end only when all has come, and is killed before.
# Not `exec`: a command that a signal ended would end `timeout` by that signal, which setsid
# cannot tell; the shell says 128 and its number.
_GRACE = 10.0
"""Seconds after its timeout that a command is ended by the host itself, if opskit did not."""
_LONGEST_STREAM = 7 * 86_400.0
"""Seconds after which a stream that nobody reads any more has ended, whatever happens."""


def line(command: Command, *, sudo: bool, stream: bool = False) -> str:
    """Give the line that runs a command.

    Args:
        command: which; what it reads is sent on stdin with `END` after it, never in the line.
        sudo: run it as root through `sudo -n`, which asks nothing.
        stream: it runs for as long as somebody reads it, whatever its timeout.
    """
    seconds = _LONGEST_STREAM if stream else command.timeout + _GRACE
    run = (_FEED, str(len(command.stdin))) if command.stdin else (_RUN, "opskit")
    bounded = ("timeout", "-s", "KILL", str(math.ceil(seconds)), "sh", "-c", *run)
    as_root = ("sudo", "-n", "--") if sudo else ()
    return "exec " + quote((*as_root, "setsid", "-w", *bounded, *command.argv))


def kill(leader: int, *, sudo: bool) -> str:
    """Give the line that ends a command with everything that it started."""
    argv = ("kill", "-s", "KILL", "--", f"-{leader}")
    return "exec " + quote((*(("sudo", "-n", "--") if sudo else ()), *argv))


@dataclass(frozen=True)
class Said:
    """What a command wrote on stderr, and the pid of its session's leader if it was started."""

    leader: int | None
    stderr: str


def said(stderr: bytes) -> Said:
    """Take the leader's pid out of what was written on stderr."""
    text = stderr.decode("utf-8", "replace")
    if match := re.search(rf"^{_LEADER} (\d+)\n", text, re.MULTILINE):
        return Said(int(match[1]), text[: match.start()] + text[match.end() :])
    return Said(None, text)
