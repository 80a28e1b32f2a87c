"""Bytecode beside a tree's sources, so that a release starts without compiling anything.

It is marked as not to be checked against its source (PEP 552, unchecked hash): a release never
changes once it is built, its files' times mean nothing after an upload, and its user may not
write there. Paths inside it are those at import, whatever directory it was compiled in.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import sys
import time
from importlib.util import MAGIC_NUMBER
from pathlib import Path
from typing import Final

_COMPILE: Final = """
import compileall, py_compile, sys
unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
for path in sys.stdin.read().split(chr(0)):
    compileall.compile_file(path, quiet=2, force=True, stripdir=sys.argv[1],
                            invalidation_mode=unchecked)
"""
_KEPT_SECONDS: Final = 30 * 86_400.0
"""How long after its last use kept bytecode is forgotten."""


def compile_tree(directory: Path, *, python: str, kept: Path | None = None) -> bool:
    """Compile every source in a tree; False when it is for another Python than this one.

    In a process of its own: the bytes that Python writes depend on what else it has loaded. A
    source that does not compile is left without bytecode, and fails where it is imported.

    Args:
        directory: the tree.
        python: the version that shall run it, as `3.11`.
        kept: where bytecode is kept for the next time, by the source that it is of: most of a
            release is as it was in the one before.
    """
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        return False
    keeper = _Keeper(kept) if kept is not None else None
    sources = [path for path in sorted(directory.rglob("*.py")) if path.is_file()]
    new = [path for path in sources if keeper is None or not keeper.restore(path, directory)]
    if new:
        subprocess.run(
            [sys.executable, "-I", "-S", "-c", _COMPILE, str(directory)],
            input="\0".join(map(str, new)).encode(),
            check=True,
            stdout=subprocess.DEVNULL,
        )
    if keeper is not None:
        keeper.keep(new, directory)
    return True


class _Keeper:
    """Bytecode in one directory, each under a digest of its source and of its name in the tree.

    A file begins with the digest of the rest, so that one that was torn is not used.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def restore(self, source: Path, tree: Path) -> bool:
        """Put the bytecode of a source beside it; False where none is kept."""
        place = self._place(source, tree)
        try:
            kept = place.read_bytes()
            digest, code = kept[:32], kept[32:]
            if hashlib.sha256(code).digest() != digest:
                return False
            os.utime(place)
        except OSError:
            return False
        beside = _beside(source)
        beside.parent.mkdir(exist_ok=True)
        beside.write_bytes(code)
        return True

    def keep(self, sources: list[Path], tree: Path) -> None:
        """Keep what was compiled; a directory that cannot be written costs only time."""
        with contextlib.suppress(OSError):
            self._directory.mkdir(parents=True, exist_ok=True)
            for source in sources:
                if (beside := _beside(source)).is_file():
                    code = beside.read_bytes()
                    place = self._place(source, tree)
                    new = place.with_name(f".{place.name}.{os.getpid()}")
                    new.write_bytes(hashlib.sha256(code).digest() + code)
                    new.replace(place)
            if sources:
                self._forget(time.time() - _KEPT_SECONDS)

    def _forget(self, before: float) -> None:
        for place in self._directory.iterdir():
            if place.stat().st_mtime < before:
                place.unlink(missing_ok=True)

    def _place(self, source: Path, tree: Path) -> Path:
        name = source.relative_to(tree).as_posix().encode()
        parts = (MAGIC_NUMBER, name, source.read_bytes())
        lengths = b"".join(len(part).to_bytes(8, "big") for part in parts)
        return self._directory / hashlib.sha256(lengths + b"".join(parts)).hexdigest()


def _beside(source: Path) -> Path:
    return source.parent / "__pycache__" / f"{source.stem}.{sys.implementation.cache_tag}.pyc"
