"""The benches of many nodes run, and say what they measured in a form that a script can read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import growth, nodes
from tests.postgres_server import PostgresServer
from tests.service_process import REPOSITORY


def report_of(module: str, tmp_path: Path, *argv: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", module, *argv, "--json", "--state-dir", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []
    return json.loads(done.stdout)


@pytest.fixture
def reachable(postgres_server: PostgresServer, postgres_root: Path) -> Path:
    """A directory that PostgreSQL's own user can reach; skips where it is not installed."""
    directory = postgres_root / "bench"
    directory.mkdir(exist_ok=True)
    return directory


def test_nodes_share_rooms_and_every_message_is_delivered_once(reachable: Path) -> None:
    argv = ["--shape", "2x4", "--nodes", "1", "2", "--seconds", "0.3", "--rounds", "1"]
    report = report_of("bench.nodes", reachable, *argv)
    assert [(cell["server"], cell["load"]) for cell in report["cells"]] == [
        (servers, load)
        for servers in ("SQLite, 1 node", "PostgreSQL, 1 node", "PostgreSQL, 2 nodes")
        for load in ("saturated", "half load")
    ]
    for cell in report["cells"]:
        figures = cell["median"]
        assert figures["deliveries_per_second"] > 0
        # The figures of a cell are rounded to five digits.
        assert figures["messages_per_second"] * 4 == pytest.approx(
            figures["deliveries_per_second"], rel=1e-3
        )
        assert figures["p50_ms"] <= figures["p99_ms"]


def test_growth_measures_each_number_of_workspaces(reachable: Path) -> None:
    argv = ["--existing", "3", "20", "--active", "10", "--seconds", "0.2", "--rounds", "1"]
    report = report_of("bench.growth", reachable, *argv)
    assert [(cell["existing"], cell["active"]) for cell in report["cells"]] == [(3, 3), (20, 10)]
    for cell in report["cells"]:
        full, start = cell["saturated"]["median"], cell["start_up"]["median"]
        assert full["sends_per_second"] > 0
        assert 0 < full["p50_ms"] <= full["p99_ms"]
        assert start["start_seconds"] > 0
        assert start["mib"] > 1
    assert report["targets"] == []


@pytest.mark.parametrize(("got", "met"), [(9_999.9, False), (10_000.0, True)])
def test_the_target_of_sends_is_met_or_missed_at_its_limit(got: float, met: bool) -> None:
    def cell(active: int) -> dict[str, Any]:
        figures = {"median": {"sends_per_second": got}}
        return {"existing": 100_000, "active": active, "saturated": figures}

    [verdict] = growth.verdicts([cell(10), cell(1000)])
    assert verdict["met"] is met


@pytest.mark.parametrize(
    ("main", "argv"),
    [
        (nodes.main, ["--nodes", "0"]),
        (nodes.main, ["--shape", "7"]),
        (growth.main, ["--existing", "0"]),
        (growth.main, ["--seconds", "0"]),
    ],
)
def test_wrong_usage_exits_with_2(main: Any, argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
