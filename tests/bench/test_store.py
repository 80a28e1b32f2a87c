"""The store bench runs, and says what it measured in a form that a script can read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.store import main
from tests.service_process import REPOSITORY


def test_it_measures_every_cell_and_prints_json(tmp_path: Path) -> None:
    argv = ["--seconds", "0.02", "--rounds", "2", "--json", "--state-dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.store", *argv],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(cell["workspaces"], cell["batch"]) for cell in report["cells"]] == [
        (workspaces, batch) for workspaces in (1, 1000) for batch in (1, 10, 100, 1000)
    ]
    for cell in report["cells"]:
        figures = cell["median"]
        assert len(cell["rounds"]) == 2
        assert 0 < figures["p50_ms"] <= figures["p99_ms"]
        per_commit = figures["messages_per_second"] / figures["commits_per_second"]
        assert per_commit == pytest.approx(cell["batch"], rel=0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv", [["--seconds", "0"], ["--rounds", "0"], ["--state-dir", "/nowhere"]]
)
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
