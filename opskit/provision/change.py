"""What has to be changed on a host, as data."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from opskit.commands import Command


@dataclass(frozen=True)
class Change:
    """One change.

    Attributes:
        step: the part of provisioning that it belongs to.
        text: what it does, for people; starts with a verb, lower case.
        commands: what is run for it, in order.
        diff: how a file changes; empty when none does.
    """

    step: str
    text: str
    commands: tuple[Command, ...]
    diff: str = ""


def file_diff(path: str, before: str | None, after: str) -> str:
    """Give the unified diff of one file."""
    return "".join(
        difflib.unified_diff(
            (before or "").splitlines(keepends=True),
            after.splitlines(keepends=True),
            "/dev/null" if before is None else path,
            path,
        )
    )
