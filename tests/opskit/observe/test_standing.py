"""How an environment is watched, as `status` tells it: without holding it up, and without a lie."""

from __future__ import annotations

import io
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from opskit.commands.host.survey_monitoring import unit
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.observe.places import home_of, note_of
from opskit.observe.standing import Looking, Standing, is_watched, look, read
from opskit.observe.views import standing_rows
from opskit.terminal import Terminal
from opskit.transport import LocalExecutor
from opskit.ui import Ui
from tests.opskit.observe.test_reach import prod
from tests.service_process import free_ports

DEADLINE = 30.0


def here(directory: Path, **monitoring: int) -> Environment:
    """An environment on this machine."""
    one = {"target": "local", "root": "r", "secrets": {"jwt_secret": "generate"},
           "monitoring": monitoring}  # fmt: skip
    file = directory / "environments.yaml"
    file.write_text(json.dumps({"environments": {"dev": one}}), encoding="utf-8")
    return load_environments(file).get("dev")


@contextmanager
def silent() -> Iterator[int]:
    """Take connections at a port, and never say anything."""
    taken: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def take() -> None:
            while True:
                try:
                    taken.append(server.accept()[0])
                except OSError:
                    return

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for one in taken:
                one.close()


def shown(standing: Standing) -> list[str]:
    """Give what a person reads."""
    ui = Ui(Terminal(io.StringIO()), "opskit")
    return [f"{name}: {text}" for name, text in standing_rows(ui, standing)]


# --- nobody is held up ------------------------------------------------------------------------


def test_an_environment_that_nobody_watches_costs_no_look(tmp_path: Path) -> None:
    """No thread, no command: there is nothing to ask. What was stopped is not looked for either."""
    environment = here(tmp_path)
    before = threading.active_count()
    looking = Looking(environment)
    assert threading.active_count() == before
    assert looking.end() is None
    (home_of(environment) / "run").mkdir(parents=True)
    assert not is_watched(environment)
    note_of(home_of(environment), "prometheus").write_text("{}", encoding="utf-8")
    assert is_watched(environment)


def test_a_monitoring_host_that_falls_silent_holds_nobody_up(tmp_path: Path) -> None:
    """It takes the connection and says nothing: opskit waits as long as it said, and no longer."""
    with silent() as port:
        environment = prod(
            tmp_path, hosts=["chat1"], host=f"127.0.0.1:{port}", admin_host="0.0.0.0"
        )
        began = time.monotonic()
        standing = Looking(environment, seconds=0.5).end()
        assert time.monotonic() - began < DEADLINE / 3
    assert standing is not None
    assert standing.trouble == f"127.0.0.1:{port} did not answer within 0.5 s"
    assert shown(standing) == [f"alerts: 127.0.0.1:{port} did not answer within 0.5 s"]
    fields = standing.to_json()
    assert (fields["alerts"], fields["programs"]) == (None, [])


def test_a_monitoring_host_out_of_reach_is_told_with_what_to_do(tmp_path: Path) -> None:
    [port] = free_ports(1)
    environment = prod(tmp_path, hosts=["chat1"], host=f"127.0.0.1:{port}", admin_host="0.0.0.0")
    standing = Looking(environment, seconds=DEADLINE).end()
    assert standing is not None
    assert "nothing answers at" in standing.trouble
    assert standing.silence == standing.trouble


def test_an_alertmanager_that_hangs_is_given_up_and_named(tmp_path: Path) -> None:
    """It runs and takes connections; where it should answer is said."""
    with silent() as port:
        [closed] = free_ports(1)
        environment = here(tmp_path, alertmanager_port=port, prometheus_port=closed)
        note = note_of(home_of(environment), "alertmanager")
        note.parent.mkdir(parents=True)
        argv = [sys.executable, "-c", "import time; time.sleep(600)"]
        with subprocess.Popen(argv) as process:
            note.write_text(json.dumps({"pid": process.pid, "argv": argv}), encoding="utf-8")
            try:
                standing = Looking(environment, seconds=DEADLINE).end()
            finally:
                process.kill()
    assert standing is not None
    states = {one.name: one.state for one in standing.programs}
    assert states == {"alertmanager": "active", "exporter": "inactive", "prometheus": "inactive"}
    [age] = [one.seconds for one in standing.programs if one.runs]
    assert age is not None
    assert 0 <= age < DEADLINE
    assert standing.silence == (
        f"Alertmanager does not answer at http://127.0.0.1:{port}; "
        f"Prometheus does not answer at http://127.0.0.1:{closed}"
    )
    assert standing.alerts is None
    assert standing.next == "opskit monitor dev"
    # The process is gone, and nobody ended it with a command.
    dead = look(environment, LocalExecutor())
    assert "alertmanager has died" in dead.trouble


# --- what is said -----------------------------------------------------------------------------

ALERT = {
    "labels": {"alertname": "ChatDown", "severity": "critical", "environment": "prod"},
    "annotations": {"summary": "s"},
    "startsAt": "2026-01-31T12:00:00.123456789Z",
    "status": {"silencedBy": [], "inhibitedBy": []},
}
WATCHDOG = ALERT | {
    "labels": {"alertname": "Watchdog", "severity": "none", "environment": "prod"},
}


def seen(*alerts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """What a monitoring host says on which all is well."""
    running = {"state": "active", "seconds": 7200.0}
    rules = {"status": "success", "data": {"alerts": []}}
    return {
        "programs": dict.fromkeys(("alertmanager", "exporter", "prometheus", "probe"), running),
        "configuration": "3fa12b7c9d01",
        "releases": ["v2", "v3"],
        "answers": {
            "alertmanager": {"status": 200, "body": json.dumps(alerts)},
            "prometheus": {"status": 200, "body": json.dumps(rules)},
        },
    } | changes


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return prod(tmp_path, hosts=["chat1"], host="monitor", admin_host="0.0.0.0")


def test_all_is_well(environment: Environment) -> None:
    standing = read(environment, seen(WATCHDOG))
    assert (standing.trouble, standing.next) == ("", "")
    assert shown(standing) == [
        "watched by: alertmanager for 2 h 0 min, exporter for 2 h 0 min, "
        "prometheus for 2 h 0 min, probe for 2 h 0 min, on monitor",
        "rules: 3fa12b7c9d01, of v2, v3",
        "alerts: no alert fires",
    ]
    fields = standing.to_json()
    assert fields["host"] == "monitor"
    assert fields["programs"][0] == {"name": "alertmanager", "state": "active", "seconds": 7200.0}
    assert fields["alerts"] == {"ok": True, "watchdog": True, "alerts": []}


def test_what_fires_is_named_in_one_line_and_another_environment_is_not(
    environment: Environment,
) -> None:
    other = ALERT | {"labels": ALERT["labels"] | {"environment": "staging"}}  # type: ignore[operator]
    silenced = ALERT | {
        "labels": {"alertname": "Quiet", "severity": "warning", "environment": "prod"},
        "status": {"silencedBy": ["x"], "inhibitedBy": []},
    }
    standing = read(environment, seen(WATCHDOG, other, silenced, ALERT))
    [line] = [line for line in shown(standing) if line.startswith("alerts")]
    assert line.startswith("alerts: critical ChatDown for ")
    assert "," not in line
    assert standing.alerts is not None
    assert [one.since for one in standing.alerts.alerts if one.state == "firing"] == [
        "2026-01-31T12:00:00.123456+00:00"
    ]


def test_silence_of_the_watchdog_is_not_taken_for_peace(environment: Environment) -> None:
    [line] = [line for line in shown(read(environment, seen())) if line.startswith("alerts")]
    assert line == "alerts: the watchdog does not fire, so that no other alert would be told"
    young = seen()
    young["programs"] |= {"prometheus": {"state": "active", "seconds": 5.0}}
    assert shown(read(environment, young))[-1] == (
        "alerts: the watchdog does not fire, which takes half a minute after a start"
    )


def test_what_answers_otherwise_than_it_should_is_said_with_its_address(
    environment: Environment,
) -> None:
    """A proxy, or another program that has the port."""
    said = seen()
    said["answers"]["alertmanager"] = {"status": 503, "body": "<h1>busy</h1>"}
    standing = read(environment, said)
    assert standing.silence == (
        "Alertmanager answers with HTTP 503 at http://127.0.0.1:9093 of monitor"
    )
    said["answers"]["alertmanager"] = {"status": 200, "body": "<h1>welcome</h1>"}
    assert read(environment, said).silence == (
        "Alertmanager answers with something else than JSON at http://127.0.0.1:9093 of monitor"
    )
    said["answers"]["alertmanager"] = {"status": 0, "body": "Connection refused"}
    where = "Alertmanager does not answer at http://127.0.0.1:9093 of monitor"
    assert shown(read(environment, said))[-1] == f"alerts: {where}; next: opskit monitor prod"


def test_peace_is_not_told_by_alertmanager_alone(environment: Environment) -> None:
    """A Prometheus that hangs, or replays its log, tells it of nothing new."""
    said = seen(WATCHDOG)
    said["answers"]["prometheus"] = {"status": 0, "body": "timed out"}
    where = "Prometheus does not answer at http://127.0.0.1:9090 of monitor"
    standing = read(environment, said)
    assert standing.silence == standing.trouble == where
    assert shown(standing)[-1] == f"alerts: {where}; next: opskit monitor prod"
    said["answers"] |= seen(WATCHDOG, ALERT)["answers"] | {
        "prometheus": {"status": 503, "body": "Service Unavailable"}
    }
    assert shown(read(environment, said))[-1].startswith(
        "alerts: Prometheus answers with HTTP 503 at http://127.0.0.1:9090 of monitor; "
        "critical ChatDown for "
    )


def test_what_does_not_run_is_named_with_what_to_do(environment: Environment) -> None:
    """What has no unit needs provisioning; what was stopped or died is started again."""
    stopped = seen(WATCHDOG)
    stopped["programs"] |= {"probe": {"state": "inactive", "seconds": 60.0}}
    standing = read(environment, stopped)
    assert standing.trouble == "the probe's timer is inactive"
    assert standing.next == "opskit monitor prod"
    assert "probe inactive for 1 min" in shown(standing)[0]
    bare = seen(configuration=None, releases=[])
    bare["programs"] = {"prometheus": {"state": "not there", "seconds": None}}
    standing = read(environment, bare)
    assert (standing.trouble, standing.next) == (
        "prometheus is not there", "opskit provision prod",
    )  # fmt: skip
    assert shown(standing)[1] == "rules: none yet"


def test_what_systemd_says_of_a_unit_is_read() -> None:
    """Times are of the monotonic clock, in microseconds (org.freedesktop.systemd1(5))."""
    began = time.clock_gettime(time.CLOCK_MONOTONIC) - 100
    fields = {
        "LoadState": "loaded",
        "ActiveState": "active",
        "ActiveEnterTimestampMonotonic": f"{began * 1e6:.0f}",
        "InactiveEnterTimestampMonotonic": "0",
    }
    found = unit(fields)
    assert found["state"] == "active"
    assert found["seconds"] == pytest.approx(100, abs=10)
    assert unit(fields | {"ActiveState": "inactive"}) == {"state": "inactive", "seconds": None}
    gone = {"LoadState": "not-found", "ActiveState": "inactive"}
    assert unit(gone) == {"state": "not there", "seconds": None}
    assert unit({}) == {"state": "unknown", "seconds": None}
