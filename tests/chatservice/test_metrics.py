"""Metrics: named as Prometheus wants them, complete from the start, and right."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatservice.metrics import Metrics, directory_bytes
from tests.chatservice.conftest import running_service
from tests.chatservice.wire import Wire, eventually, metrics, request, troubles
from tests.conftest import ServiceFactory
from tests.service_process import ServiceProcess


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """What a service says that nobody has used yet."""
    with running_service(tmp_path_factory.mktemp("fresh")) as service:
        yield service.get("/metrics", admin=True)[1]


# --- names --------------------------------------------------------------------------------


def test_every_metric_has_help_and_a_name_that_tells_its_unit(fresh: str) -> None:
    names = set()
    for family in text_string_to_metric_families(fresh):
        names.add(family.name)
        assert family.documentation, family.name
        assert re.fullmatch(r"(chat|process|python)_[a-z_]+", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total"), sample.name
            else:
                assert not sample.name.endswith("_total"), sample.name
        if family.type == "histogram":
            assert family.name.endswith(("_seconds", "_messages", "_recipients"))
            assert not re.search(r"_(milli|micro)seconds|_ms$|_kilobytes|_mb$", family.name)
    assert {"chat_connections", "chat_messages", "chat_store_up", "chat_build_info"} <= names


def test_labels_are_bounded_and_name_no_person_and_no_place(fresh: str) -> None:
    labels = {
        (sample.name, *sample.labels)
        for family in text_string_to_metric_families(fresh)
        for sample in family.samples
    }
    assert {label for _, *names in labels for label in names} <= {
        "op", "result", "reason", "kind", "le", "release", "commit", "python", "generation",
        "implementation", "major", "minor", "patchlevel", "version",
    }  # fmt: skip
    series = [line for line in fresh.splitlines() if not line.startswith("#")]
    assert len(series) == len(set(series)) < 500


def test_every_combination_of_labels_is_there_from_the_start(fresh: str) -> None:
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in fresh.split("\n")
             if line.startswith("chat_")}  # fmt: skip
    for op in ("connect", "send", "read", "typing", "history", "members", "ping", "auth"):
        for result in ("ok", "client_error", "error"):
            assert found[f'chat_requests_total{{op="{op}",result="{result}"}}'] == 0
        assert found[f'chat_request_duration_seconds_count{{op="{op}"}}'] == 0
    for reason in (
        "client", "lost", "restart", "token_expired", "too_slow", "too_fast", "protocol_error",
        "forbidden", "heartbeat", "error",
    ):  # fmt: skip
        assert found[f'chat_connections_closed_total{{reason="{reason}"}}'] == 0
    for kind in ("full", "locked", "corrupt", "io", "schema", "stale", "closed", "internal"):
        assert found[f'chat_room_errors_total{{kind="{kind}"}}'] == 0
    for result in (
        "accepted", "bad_request", "unauthorized", "forbidden", "too_many", "unavailable",
        "timeout", "abandoned",
    ):  # fmt: skip
        assert found[f'chat_handshakes_total{{result="{result}"}}'] == 0
    assert found["chat_store_up"] == 1
    assert found["chat_connections"] == found["chat_rooms"] == 0
    assert found["chat_data_free_bytes"] > 0
    assert found["chat_data_bytes"] > 0


# --- the admin port -----------------------------------------------------------------------


def test_the_admin_port_answers_metrics_and_nothing_else(module_service: ServiceProcess) -> None:
    with Wire(module_service, port=module_service.admin_port) as wire:
        wire.write(request("/metrics?x=1"))
        answer = wire.answer()
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert int(answer.headers["content-length"]) == len(answer.body)
        assert wire.hung_up()
    for path in ("/", "/healthz", "/metrics/", "//["):
        assert module_service.get(path, admin=True)[0] == 404
    with Wire(module_service, port=module_service.admin_port) as wire:
        wire.write(request("/metrics", method="POST"))
        answer = wire.answer()
        assert (answer.status, answer.headers["allow"]) == (405, "GET, OPTIONS")
    for garbage in (b"nonsense\r\n\r\n", b"\x00" * 10_000, b"GET /metrics HTTP/1.1\r\n\r\n\xff"):
        with Wire(module_service, port=module_service.admin_port) as wire:
            wire.write(garbage)
            assert wire.hung_up()
    assert module_service.get("/metrics")[0] == 404  # not on the public port
    assert troubles(module_service) == []


# --- values -------------------------------------------------------------------------------


def test_what_happens_is_counted(service_factory: ServiceFactory) -> None:
    service = service_factory({"timing": {"presence_grace": 0.0}})
    with Wire.join(service, user="ann") as ann, Wire.join(service, user="bob") as bob:
        for number in range(3):
            ann.send("send", id=str(number), text="x")
            ann.until("ack")
            bob.until("message")
        ann.send("send", id="0", text="again")
        ann.until("ack")
        ann.send("send", id="4", text="")
        ann.until("error")
        bob.send("read", seq=3)
        bob.until("read")
        bob.send("typing")
        bob.send("history", before=3)
        bob.until("history")
        bob.send("ping")
        bob.until("pong")
        bob.send("auth", token="x")
        bob.until("error")
        bob.send("fly")
        bob.until("error")
        with Wire.join(service, user="eve", after=3, epoch=ann.welcome["epoch"]):
            pass
        with Wire.join(service, user="eve", after=3, epoch="another"):
            pass
        token = service.token("ann", "w")
        assert service.get("/api/chat/workspace/w/members", token=token)[0] == 200
        eventually(lambda: metrics(service)["chat_connections"] == 2)
        found = metrics(service)
    for series, value in {
        "chat_rooms": 1,
        "chat_connections_opened_total": 4,
        'chat_connections_closed_total{reason="lost"}': 2,
        'chat_handshakes_total{result="accepted"}': 4,
        'chat_resumes_total{result="fresh"}': 2,
        'chat_resumes_total{result="resumed"}': 1,
        'chat_resumes_total{result="reset"}': 1,
        "chat_messages_total": 3,
        "chat_deliveries_total": 6,
        'chat_requests_total{op="connect",result="ok"}': 4,
        'chat_requests_total{op="send",result="ok"}': 4,
        'chat_requests_total{op="send",result="client_error"}': 1,
        'chat_requests_total{op="read",result="ok"}': 1,
        'chat_requests_total{op="typing",result="ok"}': 1,
        'chat_requests_total{op="history",result="ok"}': 1,
        'chat_requests_total{op="ping",result="ok"}': 1,
        'chat_requests_total{op="auth",result="client_error"}': 1,
        'chat_requests_total{op="members",result="ok"}': 1,
        'chat_requests_total{op="invalid",result="client_error"}': 1,
        "chat_delivery_duration_seconds_count": 4,
        'chat_request_duration_seconds_count{op="send"}': 4,
        'chat_request_duration_seconds_count{op="connect"}': 4,
        'chat_storage_operations_total{op="commit",result="ok"}': 5,
        'chat_storage_operations_total{op="commit",result="error"}': 0,
        "chat_commit_batch_messages_sum": 4,
        "chat_send_queue_bytes": 0,
        "chat_slow_members_total": 0,
        'chat_room_errors_total{kind="internal"}': 0,
    }.items():
        assert found[series] == value, series
    assert "chat_event_loop_lag_seconds_count" in found  # the wheel may not have turned yet


def test_a_directory_that_vanished_costs_its_own_gauges_and_no_others(tmp_path: Path) -> None:
    """Nothing could be scraped any more, just when it was needed most."""
    state = tmp_path / "state"
    state.mkdir()
    (state / "chat.db").write_bytes(b"x" * 1000)
    numbers = Metrics(release="v1", commit="c", state_dir=state)
    assert directory_bytes(state) == 1000
    assert numbers.registry.get_sample_value("chat_data_bytes") == 1000
    (state / "chat.db").unlink()
    state.rmdir()
    exposition = numbers.exposition().decode()
    assert "\nchat_data_bytes NaN\n" in exposition
    assert "\nchat_data_free_bytes NaN\n" in exposition
    assert "\nchat_connections 0.0\n" in exposition


def test_prometheus_own_lint_has_no_objection(fresh: str) -> None:
    """Names, units and types as Prometheus wants them, by `promtool check metrics`."""
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed")
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=fresh, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
