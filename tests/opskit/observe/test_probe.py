"""A probe's result as metrics: also when there is nothing good to say."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from checks.smoke import CheckResult, Report
from opskit.deployments import Action, Deployment, Outcome, Record, parse_record
from opskit.failure import Failure
from opskit.observe.exporter import _Server, exposition
from opskit.observe.probe import (
    Probe,
    certificate_expiry,
    deployment_metrics,
    export,
    probe_metrics,
)

CHECKS = (
    CheckResult("answers", "It answers", "passed", 0.1, ""),
    CheckResult("delivery", "It delivers", "failed", 0.1, "no"),
    CheckResult("cors", "Pages", "skipped", 0.0, "no origins"),
)
FOUND = Probe(1000.5, 2.5, Report("http://x", "w", 3, CHECKS, 2.5), "", 5000.0)
DEPLOYED = Deployment(
    id="1", action=Action.DEPLOY, release=2, before=1, content="", commit="", dirty=False,
    who="me", started="2026-11-22T10:00:00+00:00", duration_s=4.0, result=Outcome.GOOD,
)  # fmt: skip


def values(text: str) -> dict[str, float]:
    return {
        line.rpartition(" ")[0]: float(line.rpartition(" ")[2])
        for line in text.splitlines()
        if not line.startswith("#")
    }


def test_each_check_that_was_made_is_told(tmp_path: Path) -> None:
    text = probe_metrics(FOUND)
    assert values(text) == {
        "opskit_probe_success": 0,
        "opskit_probe_timestamp_seconds": 1000.5,
        "opskit_probe_duration_seconds": 2.5,
        "opskit_probe_certificate_expiry_timestamp_seconds": 5000.0,
        'opskit_probe_check_success{check="answers"}': 1,
        'opskit_probe_check_success{check="delivery"}': 0,
    }
    lint(text)


def test_a_probe_that_could_not_run_is_a_failure_without_checks() -> None:
    text = probe_metrics(Probe(1000.0, 0.1, None, "nothing serves", None))
    assert values(text) == {
        "opskit_probe_success": 0,
        "opskit_probe_timestamp_seconds": 1000.0,
        "opskit_probe_duration_seconds": 0.1,
    }


def test_the_last_act_that_made_a_release_serve_is_told() -> None:
    record = Record((
        DEPLOYED,
        replace(DEPLOYED, id="2", action=Action.ROLLBACK, release=1, duration_s=1.0,
                started="2026-11-22T11:00:00+00:00"),
        replace(DEPLOYED, id="3", release=3, result=Outcome.UNDONE),
        replace(DEPLOYED, id="4", action=Action.STOP, release=None),
    ))  # fmt: skip
    text = deployment_metrics(record)
    assert values(text) == {
        "opskit_deploy_timestamp_seconds": 1_795_345_201.0,
        'opskit_deploy_info{release="v1", action="rollback"}': 1,
    }
    lint(text)
    assert deployment_metrics(parse_record("")) == ""


def lint(text: str) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_is_exported_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b"
    export("one\n", place)
    path = export("two\n", place)
    assert path.read_text() == "two\n"
    assert [one.name for one in place.iterdir()] == ["probe.prom"]
    assert path.stat().st_mode & 0o777 == 0o644
    (tmp_path / "file").write_text("")
    with pytest.raises(Failure, match=r"file/probe.prom: cannot be written"):
        export("x", tmp_path / "file")


def test_a_certificate_that_cannot_be_read_has_no_end() -> None:
    assert certificate_expiry("http://127.0.0.1:1") is None
    assert certificate_expiry("https://127.0.0.1:1") is None


# --- the exporter -----------------------------------------------------------------------------


@contextmanager
def exporting(directory: Path, record: Path | None) -> Iterator[str]:
    server: ThreadingHTTPServer
    with _Server(0, directory, record) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_the_exporter_tells_what_is_there_and_nothing_half_written(tmp_path: Path) -> None:
    record = tmp_path / "deployments.jsonl"
    with exporting(tmp_path, record) as url:
        assert httpx.get(f"{url}/metrics").text == ""
        export(probe_metrics(FOUND), tmp_path)
        (tmp_path / ".probe.prom.x").write_text("half")
        (tmp_path / "notes.txt").write_text("none of it")
        record.write_text(json.dumps(DEPLOYED.to_json()) + "\n{torn", encoding="utf-8")
        answer = httpx.get(f"{url}/metrics")
        assert answer.text == probe_metrics(FOUND) + deployment_metrics(Record((DEPLOYED,)))
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert httpx.get(f"{url}/other").status_code == 404
    assert exposition(tmp_path / "nothing", None) == ""
