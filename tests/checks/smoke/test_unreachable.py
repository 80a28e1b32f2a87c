"""A service that is not there, that hangs, or that goes away: the smoke test fails, and ends."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator

import pytest

from checks.smoke import CheckResult, run_smoke
from checks.smoke.runner import GROUPS
from checks.smoke.target import through_proxy
from tests.checks.smoke.target import SETTINGS, target_of
from tests.conftest import ServiceFactory
from tests.ports import free_ports
from tests.service_process import ServiceProcess

OTHERS = {check.name for group in GROUPS for check in group.checks} - {"answers"}


@pytest.fixture
def stopped(service_factory: ServiceFactory) -> ServiceProcess:
    """A service that was never started."""
    return service_factory(SETTINGS, start=False)


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """A server that accepts connections and never says anything."""
    accepted: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: accepted.append(writer), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.close()
    for writer in accepted:
        writer.close()


@pytest.fixture
async def other_protocol() -> AsyncIterator[str]:
    """A server that speaks something else than HTTP."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    yield f"http://{host}:{port}"
    server.close()


async def _only_answers_fails(stopped: ServiceProcess, url: str, reason: str) -> None:
    target = target_of(stopped, base_url=url, cleanup=None)
    begun = time.monotonic()

    report = await run_smoke(target, patience=1.0)

    assert time.monotonic() - begun < 20
    first, *others = report.results
    assert (first.name, first.verdict) == ("answers", "failed")
    assert reason in first.detail
    assert {other.name for other in others} == OTHERS
    assert {other.verdict for other in others} == {"skipped"}
    skipped = {other.detail for other in others}
    assert skipped == {"it needs `answers`, which failed"}
    assert not report.ok


async def test_a_service_that_is_not_there_fails_one_check(stopped: ServiceProcess) -> None:
    """Connection refused: one clear failure, and everything else is skipped for it."""
    await _only_answers_fails(stopped, stopped.url, "was not answered: All connection attempts")


async def test_a_service_that_never_answers_fails_one_check(
    stopped: ServiceProcess, silent: str
) -> None:
    """It accepts and is silent: the failure says how long was waited."""
    await _only_answers_fails(stopped, silent, "was not answered in 1 s")


async def test_another_protocol_fails_one_check(
    stopped: ServiceProcess, other_protocol: str
) -> None:
    """Something else listens there."""
    await _only_answers_fails(stopped, other_protocol, "was not answered: ")


async def test_a_name_that_does_not_resolve_fails_one_check(stopped: ServiceProcess) -> None:
    """A typo in the address."""
    (port,) = free_ports(1)
    url = f"http://no-such-host.invalid:{port}"
    await _only_answers_fails(stopped, url, f"GET {url}/healthz was not answered")


async def test_a_service_that_hangs_half_way_fails_and_ends(
    service_factory: ServiceFactory,
) -> None:
    """Stopped in the middle of the conversation: what waited fails, and the run ends."""
    service = service_factory(SETTINGS)

    def freeze(result: CheckResult) -> None:
        if result.name == "connect":
            os.kill(service.pid, signal.SIGSTOP)

    begun = time.monotonic()
    try:
        report = await run_smoke(target_of(service, cleanup=None), on_result=freeze, patience=1.0)
    finally:
        os.kill(service.pid, signal.SIGCONT)

    assert time.monotonic() - begun < 30
    results = {result.name: result for result in report.results}
    assert results["connect"].verdict == "passed"
    assert results["delivery"].verdict == "failed"
    assert "did not arrive; it got nothing at all" in results["delivery"].detail
    assert results["offline"].verdict == "failed"
    assert results["unread"].verdict == "skipped"
    assert results["unread"].detail == "it needs `delivery`, which failed"
    assert not report.ok


async def test_the_deadline_ends_what_is_more_patient(service_factory: ServiceFactory) -> None:
    """Whatever still waits when the time is over has failed, and says for what it waited."""
    service = service_factory(SETTINGS)

    def freeze(result: CheckResult) -> None:
        if result.name == "connect":
            os.kill(service.pid, signal.SIGSTOP)

    target = target_of(service, cleanup=None)
    begun = time.monotonic()
    try:
        report = await run_smoke(target, on_result=freeze, patience=300.0, deadline=1.5)
    finally:
        os.kill(service.pid, signal.SIGCONT)

    assert time.monotonic() - begun < 30
    results = {result.name: result for result in report.results}
    assert results["delivery"].verdict == "failed"
    assert "not done when the time for all checks, 2.5 s, was over" in results["delivery"].detail
    assert "waiting: user-" in results["delivery"].detail


async def test_a_service_that_dies_half_way_fails_and_ends(service_factory: ServiceFactory) -> None:
    """Killed in the middle of the conversation: nobody waits for a closed connection."""
    service = service_factory(SETTINGS)

    def kill(result: CheckResult) -> None:
        if result.name == "connect":
            service.kill()

    report = await run_smoke(target_of(service, cleanup=None), on_result=kill, patience=20.0)

    assert report.seconds < 20
    results = {result.name: result for result in report.results}
    assert results["delivery"].verdict == "failed"
    assert "the connection was lost" in results["delivery"].detail
    assert not report.ok


def test_the_port_of_a_stopped_service_refuses(stopped: ServiceProcess) -> None:
    """What the first test relies on: nobody listens there."""
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", stopped.port)) != 0


@pytest.mark.parametrize(
    ("environ", "url", "said"),
    [
        ({}, "https://chat.example.net", ""),
        (
            {"HTTPS_PROXY": "http://u:secret@127.0.0.1:1"},
            "https://chat.example.net:8443",
            " through the proxy of HTTPS_PROXY (with NO_PROXY=chat.example.net none is asked)",
        ),
        (
            {"all_proxy": "http://127.0.0.1:1"},
            "http://192.0.2.7",
            " through the proxy of ALL_PROXY (with NO_PROXY=192.0.2.7 none is asked)",
        ),
        ({"HTTPS_PROXY": "http://127.0.0.1:1"}, "http://chat.example.net", ""),
        ({"HTTP_PROXY": "http://127.0.0.1:1"}, "http://127.0.0.1:8765", ""),
        (
            {"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": "example.net"},
            "https://chat.example.net",
            "",
        ),
    ],
)
def test_that_a_proxy_stands_between_is_said_and_never_its_password(
    environ: dict[str, str], url: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forgotten HTTPS_PROXY looked like a service that was down."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert through_proxy(url) == said
