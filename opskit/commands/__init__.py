"""Every command that opskit runs on a host, as data: pure functions that return a `Command`.

Promises: nothing here does I/O or knows where a command runs, so that the plan, the tests and
a host see the same value; a secret is never part of an argv, only of `stdin` with `secret` set.

What a host needs is what Debian 12 installs anyway (sh, coreutils, flock and setsid of
util-linux, tar) and the Python that runs the service. Programs longer than a few lines are
files of their own, in `host/`.

Imports nothing of opskit but `layout`.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field

ORDINARY = 30.0
"""Seconds that a command may take which does not say otherwise."""
_LONGEST = 100
"""Characters of an argument that the plan shows."""


@dataclass(frozen=True)
class Command:
    """One command for a host.

    Attributes:
        argv: the program and its arguments; never a shell line, never a secret.
        description: what it does, for the plan and for errors; starts with a verb, lower case.
        name: short, stable; answers of a recording executor are looked up by it.
        changes: whether anything on the host is different afterwards.
        stdin: what it reads.
        secret: `stdin` is a secret: it is never shown, and neither is the command's output.
        timeout: seconds after which it is killed; a slow host may be given more.
        quick: it is given no more: later it would be of no use.
        inner: the command that this one wraps, and that a person wants to see.
    """

    argv: tuple[str, ...]
    description: str
    name: str
    changes: bool = True
    stdin: bytes = field(default=b"", repr=False)
    secret: bool = False
    timeout: float = ORDINARY
    quick: bool = False
    inner: Command | None = None


def quote(argv: Sequence[str]) -> str:
    """Give the line that a POSIX shell splits into exactly `argv`. The only quoting there is."""
    return shlex.join(argv)


def script(text: str, *arguments: str) -> tuple[str, ...]:
    """Give the argv that runs a small shell script; its arguments are `$1`, `$2` ... in it."""
    return ("sh", "-c", text.strip("\n"), "opskit", *arguments)


def shown(command: Command) -> str:
    """Give a command as the plan shows it: one line, programs by their name, no long argument."""
    if command.inner is not None:
        return shown(command.inner)
    argv = list(command.argv)
    program = ""
    if argv[:2] == ["sh", "-c"] and argv[3:4] == ["opskit"]:
        program, argv = f"<{command.name}.sh>", argv[4:]
    elif argv[1:3] == ["-I", "-"]:
        program, argv = f"<{command.name}.py>", argv[3:]
    line = " ".join(filter(None, (program, quote([_short(one) for one in argv]))))
    return f"{line} < (secret)" if command.secret else line


def _short(argument: str) -> str:
    return argument if len(argument) <= _LONGEST else argument[: _LONGEST - 1] + "…"
