"""Bytecode beside a tree's sources, so that a release starts without compiling anything.

It is marked as not to be checked against its source (PEP 552, unchecked hash): a release never
changes once it is built, its files' times mean nothing after an upload, and its user may not
write there. Paths inside it are those at import, whatever directory it was compiled in.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

_COMPILE: Final = """
import compileall, py_compile, sys
unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
for directory in sys.argv[1:]:
    compileall.compile_dir(directory, quiet=2, force=True, stripdir=directory, maxlevels=50,
                           invalidation_mode=unchecked)
"""


def compile_tree(*directories: Path, python: str) -> bool:
    """Compile every source in some trees; False when it is for another Python than this one.

    In a process of its own: the bytes that Python writes depend on what else it has loaded. A
    source that does not compile is left without bytecode, and fails where it is imported.

    Args:
        directories: the trees.
        python: the version that shall run them, as `3.11`.
    """
    if python != f"{sys.version_info.major}.{sys.version_info.minor}":
        return False
    argv = [sys.executable, "-I", "-S", "-c", _COMPILE, *map(str, directories)]
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return True
