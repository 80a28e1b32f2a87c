"""A directory appears whole or not at all, and what a killed maker left is removed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from opskit.staging import staged

MAKER = """
import sys
from pathlib import Path
from opskit.staging import staged
with staged(Path(sys.argv[1])) as directory:
    (directory / "half").write_text("x")
    print(directory, flush=True)
    sys.stdin.read()
"""


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_it_appears_at_the_end_and_nothing_else_is_left(tmp_path: Path) -> None:
    place = tmp_path / "deep/place"
    with staged(place) as directory:
        (directory / "file").write_text("x")
        assert not place.exists()
    assert (place / "file").read_text() == "x"
    assert names(place.parent) == ["place"]


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fill(directory: Path) -> None:
        (directory / "file").write_text("x")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), staged(tmp_path / "place") as directory:
        fill(directory)
    assert names(tmp_path) == []


def test_everybody_may_read_it_whatever_the_umask(tmp_path: Path) -> None:
    place = tmp_path / "place"
    old = os.umask(0o077)
    try:
        with staged(place) as directory:
            (directory / "sub").mkdir()
            (directory / "sub/file").write_text("x")
            (directory / "program").write_text("x")
            (directory / "program").chmod(0o700)
    finally:
        os.umask(old)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in place.rglob("*")}
    assert modes == {"sub": "0o755", "file": "0o644", "program": "0o755"}
    assert place.stat().st_mode & 0o777 == 0o755


def test_what_is_there_is_kept_unless_it_shall_be_replaced(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "old").write_text("x")
    with pytest.raises(FileExistsError), staged(place) as directory:
        (directory / "new").write_text("x")
    assert names(place) == ["old"]
    with staged(place, replace=True) as directory:
        (directory / "new").write_text("x")
    assert names(place) == ["new"]
    assert names(tmp_path) == ["place"]


def test_many_makers_at_once_do_not_hinder_each_other(tmp_path: Path) -> None:
    def make(number: int, *, replace: bool) -> bool:
        try:
            with staged(tmp_path / "place", replace=replace) as directory:
                (directory / "number").write_text(str(number))
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        once = list(pool.map(lambda number: make(number, replace=False), range(64)))
        assert once.count(True) == 1
        assert (tmp_path / "place/number").read_text() == str(once.index(True))
        assert all(pool.map(lambda number: make(number, replace=True), range(64)))
    assert names(tmp_path) == ["place"]
    assert names(tmp_path / "place") == ["number"]


def test_a_killed_maker_leaves_nothing_after_the_next_and_a_living_one_is_left_alone(
    tmp_path: Path,
) -> None:
    def maker(name: str) -> tuple[subprocess.Popen[str], Path]:
        process = subprocess.Popen(
            [sys.executable, "-c", MAKER, str(tmp_path / name)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        return process, Path(process.stdout.readline().strip())

    (killed, left), (living, making) = maker("killed"), maker("living")
    try:
        killed.send_signal(signal.SIGKILL)
        killed.wait(30)
        assert left.is_dir()
        with staged(tmp_path / "next"):
            pass
        assert not left.exists()
        assert (making / "half").is_file()
        living.communicate("")
        assert names(tmp_path) == ["living", "next"]
    finally:
        for process in (killed, living):
            process.kill()
            process.communicate()
