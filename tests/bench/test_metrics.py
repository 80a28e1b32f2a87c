"""The bench of what metrics cost runs, and what it compares with really counts nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.metrics import PROGRAMS, UNCOUNTED, main
from tests.chatservice.wire import Wire, metrics
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY


def test_it_measures_both_and_prints_json(tmp_path: Path) -> None:
    argv = ["--shape", "2x2", "--seconds", "0.2", "--rounds", "1", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "bench.metrics", *argv, "--state-dir", str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    found = {(cell["shape"], cell["server"]): cell["median"] for cell in report["cells"]}
    assert set(found) == {("2x2", "counted"), ("2x2", "uncounted")}
    for figures in found.values():
        assert figures["deliveries_per_second"] > 0
        assert figures["scrape_ms"] > 0
    [target] = report["targets"]
    assert target["got"] > 0
    assert list(tmp_path.iterdir()) == []


def test_the_other_one_delivers_and_does_not_count(service_factory: ServiceFactory) -> None:
    service = service_factory(program=PROGRAMS[UNCOUNTED])
    with Wire.join(service, user="ann") as ann:
        ann.send("send", id="1", text="x")
        ann.until("ack")
        found = metrics(service)
    assert found["chat_messages_total"] == found["chat_connections"] == 0
    assert found["chat_delivery_duration_seconds_count"] == 0


@pytest.mark.parametrize("argv", [["--seconds", "0"], ["--rounds", "0"], ["--shape", "x"]])
def test_wrong_usage_exits_with_2(argv: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2
