"""Programs that run on a host, sent to its Python on stdin: nothing of opskit is installed there.

They need the standard library of Python 3.11 or newer, are given everything as arguments, and
print JSON. They import nothing of opskit, and are not imported by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources

from opskit.commands import Command


def program(
    name: str,
    python: str,
    arguments: Sequence[str],
    description: str,
    *,
    changes: bool = True,
    timeout: float = 30.0,
) -> Command:
    """Give the command that runs the program `<name>.py` of this package."""
    source = resources.files(__package__).joinpath(f"{name}.py").read_bytes()
    return Command(
        (python, "-I", "-", *arguments),
        description,
        name.replace("_", "-"),
        changes=changes,
        stdin=source,
        timeout=timeout,
    )
