"""Workers get whole files, and whole folders of tests on real hosts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service_process import REPOSITORY

SLOW = "from pytest import mark\npytestmark = mark.slow\ndef test_1(): pass\n"
FILES = {
    "tests/first/test_quick.py": "def test_1(): pass\ndef test_2(): pass\n",
    "tests/first/test_slow.py": SLOW,
    "tests/hosts/test_one.py": "def test_1(): pass\ndef test_2(): pass\n",
    "tests/hosts/test_two.py": "def test_1(): pass\n",
    "tests/hosts/served/test_one.py": "def test_1(): pass\ndef test_2(): pass\n",
    "tests/hosts/served/test_two.py": "def test_1(): pass\n",
}


def test_without_workers_the_tests_run_too(tmp_path: Path) -> None:
    """`-p no:xdist`: pytest knows no such hook then, and refuses what names it."""
    (tmp_path / "test_one.py").write_text("def test_1(): pass\n")
    shutil.copy(REPOSITORY / "tests/conftest.py", tmp_path / "conftest.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout


def ran(tmp_path: Path, workers: int) -> list[tuple[str, str]]:
    """Run `FILES` on some workers; gives worker and file of each test as it ended."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from tests.conftest import pytest_collection_modifyitems, pytest_xdist_make_scheduler\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes long\n")
    argv = ["-n", str(workers), "--no-loadscope-reorder", "-v", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--import-mode=importlib", *argv],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = re.findall(r"^\[(gw\d)\] .* PASSED (tests/\S+)::\S+", done.stdout, re.MULTILINE)
    assert len(found) == 9, done.stdout
    return found


def test_a_folder_of_tests_on_hosts_goes_to_one_worker_before_all_else(tmp_path: Path) -> None:
    found = ran(tmp_path, 2)
    served = {worker for worker, file in found if file.startswith("tests/hosts/served/")}
    fresh = {worker for worker, file in found if file.startswith("tests/hosts/test_")}
    assert (len(served), len(fresh)) == (1, 1)
    assert served != fresh
    for name in ("gw0", "gw1"):
        assert "hosts" in next(file for worker, file in found if worker == name)


def test_files_with_slow_tests_come_before_the_rest(tmp_path: Path) -> None:
    files = list(dict.fromkeys(file for _, file in ran(tmp_path, 1)))
    assert files[-2:] == ["tests/first/test_slow.py", "tests/first/test_quick.py"]


def test_every_process_names_the_same_tests(request: pytest.FixtureRequest) -> None:
    """Workers compare what they collected, and run nothing where a name differs.

    A name may hold no time, no port and no order of a set: it is collected anew here, later and
    with another hash seed.
    """

    def file(nodeid: str) -> str:
        return nodeid.partition("::")[0]

    mine = sorted((item.nodeid for item in request.session.items), key=file)
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    argv = ["-m", "pytest", "--collect-only", "-q", "--no-cov", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, *argv, *sorted({*map(file, mine)})],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONHASHSEED": seed, "COLUMNS": "500"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = sorted((name for name in done.stdout.splitlines() if "::" in name), key=file)
    assert [name for name in theirs if name in set(mine)] == mine
