"""Bytecode that is kept from one release to the next is that of its source, or is made anew."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from opskit.bytecode import compile_tree

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def tree(place: Path, **sources: str) -> Path:
    """Write modules into a package."""
    package = place / "package"
    package.mkdir(parents=True)
    for name, source in sources.items():
        (package / f"{name}.py").write_text(source)
    return place


def compiled(place: Path) -> dict[str, bytes]:
    """Give all bytecode of a tree, by module."""
    files = (place / "package/__pycache__").iterdir()
    return {file.name.partition(".")[0]: file.read_bytes() for file in files}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Which modules were given to the compiler, each time."""
    seen: list[set[str]] = []
    real = subprocess.run

    def run(*arguments: Any, input: bytes, **options: Any) -> Any:
        seen.append({Path(path.decode()).stem for path in input.split(b"\0")})
        return real(*arguments, input=input, **options)

    monkeypatch.setattr(subprocess, "run", run)
    return seen


def test_only_what_changed_is_compiled(tmp_path: Path, given: list[set[str]]) -> None:
    """The bytes are those that compiling gives, wherever the tree lies."""
    kept = tmp_path / "kept"
    assert compile_tree(tree(tmp_path / "1", a="A = 1\n", b="B = 1\n"), python=PYTHON, kept=kept)
    assert compile_tree(tree(tmp_path / "2", a="A = 2\n", b="B = 1\n"), python=PYTHON, kept=kept)
    assert compile_tree(tree(tmp_path / "3", a="A = 2\n", b="B = 1\n"), python=PYTHON)
    assert given == [{"a", "b"}, {"a"}, {"a", "b"}]
    assert compiled(tmp_path / "2") == compiled(tmp_path / "3")


def test_nothing_is_compiled_where_nothing_changed(tmp_path: Path, given: list[set[str]]) -> None:
    """Then there is no process at all."""
    for name in ("1", "2"):
        compile_tree(tree(tmp_path / name, a="A = 1\n"), python=PYTHON, kept=tmp_path / "kept")
    assert given == [{"a"}]


def test_damaged_bytecode_is_made_anew(tmp_path: Path, given: list[set[str]]) -> None:
    """As a power cut leaves it."""
    kept = tmp_path / "kept"
    compile_tree(tree(tmp_path / "1", a="A = 1\n"), python=PYTHON, kept=kept)
    [file] = kept.iterdir()
    file.write_bytes(file.read_bytes()[:-1])
    compile_tree(tree(tmp_path / "2", a="A = 1\n"), python=PYTHON, kept=kept)
    assert given == [{"a"}, {"a"}]
    assert compiled(tmp_path / "2") == compiled(tmp_path / "1")


def test_modules_of_one_content_do_not_share_their_names(tmp_path: Path) -> None:
    """Tracebacks name the file that a line is in."""
    compile_tree(
        tree(tmp_path / "1", a="A = 1\n", b="A = 1\n"), python=PYTHON, kept=tmp_path / "kept"
    )
    compile_tree(
        tree(tmp_path / "2", a="A = 1\n", b="A = 1\n"), python=PYTHON, kept=tmp_path / "kept"
    )
    found = compiled(tmp_path / "2")
    assert b"package/a.py" in found["a"]
    assert b"package/b.py" in found["b"]


def test_a_directory_that_cannot_be_written_costs_only_time(tmp_path: Path) -> None:
    """A read-only cache is no reason not to deploy."""
    (tmp_path / "kept").touch()
    place = tree(tmp_path / "1", a="A = 1\n")
    assert compile_tree(place, python=PYTHON, kept=tmp_path / "kept" / "below")
    assert set(compiled(place)) == {"a"}
