"""Programs that run on a host, sent to its Python on stdin: nothing of opskit is installed there.

They need the standard library of Python 3.11 or newer (`try_database` the packages of a release,
too), are given everything as arguments, but for a secret, and print JSON. They import nothing of
opskit, and are not imported by it.
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
    secret: bytes = b"",
) -> Command:
    """Give the command that runs the program `<name>.py` of this package.

    What is `secret` the program reads on stdin; its own text is an argument then.
    """
    source = resources.files(__package__).joinpath(f"{name}.py").read_bytes()
    text = ("-c", source.decode()) if secret else ("-",)
    return Command(
        (python, "-I", *text, *arguments),
        description,
        name.replace("_", "-"),
        changes=changes,
        stdin=secret or source,
        secret=bool(secret),
        timeout=timeout,
    )
