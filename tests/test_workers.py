"""Workers get whole files, and one of them everything on real hosts."""

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


def test_hosts_go_to_one_worker_and_slow_files_come_before_the_rest(tmp_path: Path) -> None:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(REPOSITORY)!r})\n"
        "from tests.conftest import pytest_collection_modifyitems, pytest_xdist_make_scheduler\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow: takes long\n")
    argv = ["-n", "2", "--no-loadscope-reorder", "-v", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--import-mode=importlib", *argv],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    ran = re.findall(r"^\[(gw\d)\] .* PASSED (tests/\S+)::\S+", done.stdout, re.MULTILINE)
    assert len(ran) == 6, done.stdout
    workers = {file: worker for worker, file in ran}
    assert workers["tests/hosts/test_one.py"] == workers["tests/hosts/test_two.py"]
    assert workers["tests/first/test_slow.py"] != workers["tests/hosts/test_one.py"]
    files = [file for worker, file in ran if worker == workers["tests/first/test_slow.py"]]
    assert files[0] == "tests/first/test_slow.py"


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
