"""What a release is built from: the files that git knows or would, and the commit they are at."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from opskit.source import commit, source_files


def git(directory: Path, *words: str) -> str:
    identity = ("-c", "user.name=T", "-c", "user.email=t@example.net")
    done = subprocess.run(
        ["git", "-C", str(directory), *identity, *words],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give a committed tree with a package and something beside it."""
    tree = tmp_path / "tree"
    for path in ("package/__init__.py", "package/sub/x.sql", "other/y.py"):
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_text(path)
    (tree / ".gitignore").write_text("*.log\n__pycache__/\n")
    git(tmp_path, "init", "-q", str(tree))
    git(tree, "add", ".")
    git(tree, "commit", "-qm", "first")
    return tree


def test_tracked_and_new_files_count_and_ignored_and_deleted_ones_do_not(tree: Path) -> None:
    (tree / "package/new ☃.py").write_text("x")
    (tree / "package/a.log").write_text("x")
    (tree / "package/__pycache__").mkdir()
    (tree / "package/__pycache__/x.pyc").write_text("x")
    (tree / "package/sub/x.sql").unlink()
    assert list(source_files(tree, "package")) == ["package/__init__.py", "package/new ☃.py"]


def test_caches_do_not_count_even_when_git_tracks_them(tree: Path) -> None:
    (tree / "package/x.pyc").write_text("x")
    git(tree, "add", "-f", ".")
    assert "package/x.pyc" not in list(source_files(tree, "package"))


def test_outside_a_checkout_all_but_caches_count(tmp_path: Path) -> None:
    for path in ("package/a.py", "package/a.log", "package/__pycache__/a.pyc", "package/b/c.sql"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("x")
    assert list(source_files(tmp_path, "package")) == [
        "package/a.log",
        "package/a.py",
        "package/b/c.sql",
    ]


def test_a_clean_checkout_is_its_commit(tree: Path) -> None:
    found = commit(tree, "package")
    assert (found.id, found.dirty) == (git(tree, "rev-parse", "HEAD"), False)
    assert len(found.id) == 40


@pytest.mark.parametrize(
    ("change", "dirty"),
    [
        (lambda tree: (tree / "package/__init__.py").write_text("changed"), True),
        (lambda tree: (tree / "package/sub/x.sql").unlink(), True),
        (lambda tree: (tree / "package/new.py").write_text("x"), True),
        (lambda tree: git(tree, "mv", "package/__init__.py", "package/other.py"), True),
        (lambda tree: (tree / "package/a.log").write_text("ignored"), False),
        (lambda tree: (tree / "other/y.py").write_text("not in the package"), False),
    ],
)
def test_it_is_dirty_when_what_is_built_differs(tree: Path, change: object, dirty: bool) -> None:
    assert callable(change)
    change(tree)
    assert commit(tree, "package").dirty is dirty


def test_without_a_commit_or_a_checkout_there_is_none(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    git(tmp_path, "init", "-q", str(tmp_path / "empty"))
    # A tree that lies inside somebody else's checkout is none itself.
    for place in (tmp_path / "plain", tmp_path / "empty", tree / "package"):
        found = commit(place, "package")
        assert (found.id, found.dirty) == ("none", True), place


def test_without_git_there_is_no_commit_and_every_file_counts(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit(tree, "package").id == "none"
    assert list(source_files(tree, "package")) == ["package/__init__.py", "package/sub/x.sql"]


def test_it_asks_the_trees_own_repository_even_inside_a_git_hook(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "init", "-q", str(tmp_path / "other"))
    head = git(tree, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "other/.git"))
    assert commit(tree, "package").id == head
