"""The fan-out bench runs, and says what it measured in a form that a script can read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.fanout import Cells, main, ratios, verdicts
from bench.report import median_of, ratio
from tests.service_process import REPOSITORY


def test_it_runs_beside_both_peers_and_prints_json(tmp_path: Path) -> None:
    argv = ["--shape", "2x3", "1x4", "--seconds", "0.3", "--rounds", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.fanout", *argv, "--state-dir", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [(c["shape"], c["server"], c["load"]) for c in report["cells"]] == [
        (shape, server, load)
        for shape in ("2x3", "1x4")
        for server in ("chatservice", "websockets", "python-socketio")
        for load in ("saturated", "half load")
    ]
    for cell in report["cells"]:
        assert cell["median"] == cell["rounds"][0]
        assert cell["median"]["deliveries_per_second"] > 0
        assert cell["median"]["deliveries_per_cpu_second"] > 0
        assert cell["median"]["p50_ms"] <= cell["median"]["p99_ms"]
    assert {(r["shape"], r["load"], r["peer"]) for r in report["ratios"]} == {
        (shape, load, peer)
        for shape in ("2x3", "1x4")
        for load in ("saturated", "half load")
        for peer in ("websockets", "python-socketio")
    }
    assert report["machine"]["cores"] >= 1
    assert list(tmp_path.iterdir()) == []


def cells(ours: list[float], theirs: list[float]) -> Cells:
    figures = ("deliveries_per_second", "deliveries_per_cpu_second", "p99_ms")
    return {
        ("1x1000", "saturated", "chatservice"): [dict.fromkeys(figures, v) for v in ours],
        ("1x1000", "saturated", "websockets"): [dict.fromkeys(figures, v) for v in theirs],
        ("1x1000", "half load", "chatservice"): [dict.fromkeys(figures, v) for v in ours],
    }


def test_a_ratio_is_taken_round_by_round() -> None:
    measured = cells([10.0, 100.0, 60.0], [2.0, 10.0, 20.0])
    (compared,) = ratios(measured)
    assert compared["deliveries_per_cpu_second"] == 5.0  # of 5, 10 and 3; medians would give 6


@pytest.mark.parametrize(("ours", "met"), [(19.9, [False, True]), (20.0, [True, False])])
def test_targets_are_met_or_missed_at_their_limit(ours: float, met: list[bool]) -> None:
    assert [verdict["met"] for verdict in verdicts(cells([ours], [4.0]))] == met


def test_a_figure_that_one_round_lacks_is_the_median_of_the_others() -> None:
    nan = float("nan")
    assert median_of([{"p99_ms": nan}, {"p99_ms": 3.0}]) == {"p99_ms": 3.0}
    assert ratio([{"x": 6.0}], [{"x": 3.0}], "x") == 2.0


@pytest.mark.parametrize(
    "argv", [["--shape", "1000"], ["--shape", "0x5"], ["--rounds", "0"], ["--seconds", "0"]]
)
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
