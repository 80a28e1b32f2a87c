"""The connection bench runs, and says what it measured in a form that a script can read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.connect import main
from tests.service_process import REPOSITORY


def test_it_runs_beside_both_peers_and_prints_json(tmp_path: Path) -> None:
    argv = ["--connections", "10", "110", "--handshakes", "50", "--rounds", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.connect", *argv, "--state-dir", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    names = [cell["server"] for cell in report["cells"]]
    assert names == ["chatservice", "websockets", "python-socketio"]
    for cell in report["cells"]:
        assert cell["median"] == cell["rounds"][0]
        assert cell["median"]["handshakes_per_second"] > 0
        assert cell["median"]["handshakes_per_cpu_second"] > 0
        # a connection takes memory, and not a megabyte
        assert 0 < cell["median"]["uss_kib_per_connection"] < 1024
    assert [r["peer"] for r in report["ratios"]] == ["websockets", "python-socketio"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "argv", [["--connections", "20", "10"], ["--connections", "5", "10"], ["--rounds", "0"]]
)
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
