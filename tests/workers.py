"""How the tests are divided between worker processes (`pytest -n 2`).

A file goes to one worker whole, as its tests share servers. So does a folder of tests on real
hosts, as they share hosts, and making those ready takes long. These folders begin first, and then
the files with slow tests, so that no worker is left with a long one at the end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pytest
from xdist.scheduler import LoadScopeScheduling

HOSTS: Final = "tests/hosts"


class WholeFiles(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types for it
    """Gives workers one file after the other; a folder within `HOSTS` goes to one of them."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return file.rpartition("/")[0] if file.startswith(f"{HOSTS}/") else file


def longest_first(items: list[pytest.Item]) -> None:
    """Put files in the order in which workers take them; tests stay in order within a file."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def rank(path: Path) -> int:
        if HOSTS in path.as_posix():
            return 0
        return 1 if path in slow else 2

    items.sort(key=lambda item: rank(item.path))
