"""The shell behind commands on files, run for real in a directory of the test."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path, PurePosixPath

import pytest

from opskit.commands import files
from opskit.transport import CommandFailed, LocalExecutor

LOCAL = LocalExecutor()


def posix(path: Path) -> PurePosixPath:
    return PurePosixPath(path)


def test_a_file_is_written_with_its_mode(tmp_path: Path) -> None:
    """Content and mode are as asked for, over a file that was there before, too."""
    path = tmp_path / "a file"
    for content, mode in ((b"one\n", 0o644), (bytes(range(256)), 0o600)):
        LOCAL.check(files.write(posix(path), content, mode=mode))
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == mode
    assert os.listdir(tmp_path) == ["a file"]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    """A directory in the way: the error says so, and nothing is left beside it."""
    (tmp_path / "there" / "inside").mkdir(parents=True)
    with pytest.raises(CommandFailed, match=r"could not write .*there"):
        LOCAL.check(files.write(posix(tmp_path / "there"), b"x"))
    assert os.listdir(tmp_path) == ["there"]


def test_a_missing_file_reads_as_empty(tmp_path: Path) -> None:
    """What is not there is no error; what cannot be read is."""
    assert LOCAL.get(posix(tmp_path / "missing")) == ""
    with pytest.raises(CommandFailed):
        LOCAL.get(posix(tmp_path))


def test_a_link_is_switched_and_read_back(tmp_path: Path) -> None:
    """It points at the new target, even when it pointed at a directory before."""
    for name in ("v1", "v2"):
        (tmp_path / "releases" / name).mkdir(parents=True)
        said = LOCAL.check(files.link(f"releases/{name}", posix(tmp_path / "current")))
        assert said == f"releases/{name}\n"
        assert os.readlink(tmp_path / "current") == f"releases/{name}"
    assert sorted(os.listdir(tmp_path)) == ["current", "releases"]
    assert os.listdir(tmp_path / "releases" / "v1") == []


def test_removing_what_is_missing_is_fine(tmp_path: Path) -> None:
    """Files, directories and links go; what they point at stays."""
    (tmp_path / "directory").mkdir()
    (tmp_path / "kept").touch()
    (tmp_path / "link").symlink_to("kept")
    paths = [posix(tmp_path / name) for name in ("directory", "link", "missing")]
    LOCAL.check(files.remove(*paths))
    assert os.listdir(tmp_path) == ["kept"]


def test_checksums_are_compared(tmp_path: Path) -> None:
    """A changed and a missing file are named; a name with spaces is no trouble."""
    names = ["a", "deep/b", "with space"]
    sums = {}
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
        sums[name] = hashlib.sha256(name.encode()).hexdigest()
    assert LOCAL.run(files.verify_checksums(posix(tmp_path), sums)).status == 0
    (tmp_path / "a").write_text("changed")
    (tmp_path / "deep/b").unlink()
    result = LOCAL.run(files.verify_checksums(posix(tmp_path), sums))
    assert result.status == 1
    assert "a: FAILED" in result.stdout
    assert "deep/b: FAILED open or read" in result.stdout
    assert "with space" not in result.stdout


def test_a_tree_is_renamed_when_it_is_on_disk(tmp_path: Path) -> None:
    """All may read it where that is asked for, and what is executable they may run."""
    for name in ("private", "public"):
        (tmp_path / name / "bin").mkdir(parents=True, mode=0o700)
        (tmp_path / name).chmod(0o700)
        (tmp_path / name / "bin" / "run").touch(mode=0o700)
        (tmp_path / name / "file").touch(mode=0o600)
        place = tmp_path / f"{name}-there"
        LOCAL.check(files.move(posix(tmp_path / name), posix(place), readable=name == "public"))
        modes = [
            stat.S_IMODE(path.stat().st_mode)
            for path in (place, place / "bin", place / "bin/run", place / "file")
        ]
        wanted = [0o755, 0o755, 0o755, 0o644] if name == "public" else [0o700, 0o700, 0o700, 0o600]
        assert modes == wanted
        assert not (tmp_path / name).exists()


def test_a_tree_is_not_renamed_over_another(tmp_path: Path) -> None:
    """It stays where it was, and says why."""
    for name in ("new", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    result = LOCAL.run(files.move(posix(tmp_path / "new"), posix(tmp_path / "there")))
    assert result.status == 1
    assert "not empty" in result.stderr
    assert (tmp_path / "new" / "file").exists()


def test_unpacking_begins_anew(tmp_path: Path) -> None:
    """What an upload that was broken off has left is no part of the next one."""
    source, target = tmp_path / "source", tmp_path / "target"
    for directory, name in ((source, "new"), (target, "left")):
        directory.mkdir()
        (directory / name).touch()
    LOCAL.put_tree(source, posix(target))
    assert [path.name for path in target.iterdir()] == ["new"]


def test_a_tree_is_copied_as_it_is(tmp_path: Path) -> None:
    """Contents, modes, empty directories and symbolic links arrive; links are not followed."""
    source = tmp_path / "source"
    (source / "empty").mkdir(parents=True)
    (source / "bin").mkdir()
    (source / "bin" / "run").write_bytes(b"\x00\xff")
    (source / "bin" / "run").chmod(0o755)
    (source / "layer").symlink_to("../../layers/abc")
    target = tmp_path / "deep" / "target"
    LOCAL.put_tree(source, posix(target))
    assert (target / "bin" / "run").read_bytes() == b"\x00\xff"
    assert stat.S_IMODE((target / "bin" / "run").stat().st_mode) == 0o755
    assert (target / "empty").is_dir()
    assert os.readlink(target / "layer") == "../../layers/abc"
    assert (target / "bin" / "run").stat().st_uid == os.getuid()
