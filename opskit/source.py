"""What a release is built from: the files of a source tree, and which commit they are."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

NO_COMMIT: Final = "none"
_CACHES: Final = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache"})


@dataclass(frozen=True)
class Commit:
    """A commit, in full, and whether what is built differs from it."""

    id: str
    dirty: bool


def git(source: Path, *words: str) -> str | None:
    """Run git on a source tree; None where that fails, or where git is not installed."""
    # What git is told by its environment, as in a hook, is about another command's repository.
    environ = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "-C", str(source), *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env={**environ, "GIT_OPTIONAL_LOCKS": "0"},
            check=False,
        )
    except OSError:
        return None
    return None if done.returncode else os.fsdecode(done.stdout)


def is_checkout(source: Path) -> bool:
    """Whether a source tree is the top of a git work tree, and not just somewhere below one."""
    top = git(source, "rev-parse", "--show-toplevel")
    return top is not None and Path(top.rstrip("\n")).resolve() == source.resolve()


def commit(source: Path, *paths: str) -> Commit:
    """Say which commit a source tree is at, and whether the paths differ from it."""
    if not is_checkout(source) or not (head := git(source, "rev-parse", "--verify", "HEAD")):
        return Commit(NO_COMMIT, dirty=True)
    status = git(source, "status", "--porcelain", "--untracked-files=all", "--", *paths)
    return Commit(head.strip(), dirty=status != "")


def source_files(source: Path, package: str) -> Iterator[str]:
    """Give the files of a package, sorted, by path relative to the source tree.

    In a checkout those that git tracks, or would: ignored files are left out. Elsewhere all but
    caches.
    """
    listed = None
    if is_checkout(source):
        wanted = ("--cached", "--others", "--exclude-standard")
        listed = git(source, "ls-files", "-z", *wanted, "--", package)
    if listed is not None:
        found = {path for path in listed.split("\0") if path}
    else:
        found = {path.relative_to(source).as_posix() for path in (source / package).rglob("*")}
    for path in sorted(found):
        parts = path.split("/")
        if (source / path).is_file() and not _CACHES & set(parts) and not path.endswith(".pyc"):
            yield path
