"""Whoever is named in environments.yaml is told: a real Alertmanager, and real receivers."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from opskit.environments import load_environments
from opskit.observe.daemons import Daemon
from opskit.observe.local import resolve_secrets
from opskit.observe.pace import Pace
from opskit.observe.rendering import render_monitoring
from opskit.observe.site import Answering
from opskit.problems import ConfigError
from tests.opskit.observe.mailbox import receiving_mail
from tests.opskit.observe.receiver import receiving
from tests.opskit.observe.tls import Authority
from tests.service_process import free_ports

DEADLINE = 45.0
MAIL = {"to": "ops@example.com", "sender": "chat@example.com"}


class Channel(ThreadingHTTPServer):
    """What Slack's incoming webhook takes; keeps it."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Post)
        self.posts: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/services/hunter2"


class _Post(BaseHTTPRequestHandler):
    server: Channel

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posts.append((self.path, json.loads(body)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def channel() -> Iterator[Channel]:
    with Channel() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@contextmanager
def alertmanager(directory: Path, receivers: Any, authority: Path | None = None) -> Iterator[str]:
    """Run it as rendered, twenty times as fast; gives its address."""
    one = {
        "target": "local",
        "root": "r",
        "secrets": {"jwt_secret": "generate"},
        "monitoring": {"receivers": receivers},
    }
    file = directory / "environments.yaml"
    file.write_text(json.dumps({"environments": {"dev": one}}), encoding="utf-8")
    environment = load_environments(file).get("dev")
    for name, text in render_monitoring(environment, root=directory, pace=Pace(20.0)).items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text, encoding="utf-8")
    (directory / "secrets").mkdir()
    for name, value in resolve_secrets(environment).items():
        (directory / "secrets" / name).write_bytes(bytes(value))
    [port] = free_ports(1)
    program = shutil.which("prometheus-alertmanager") or shutil.which("alertmanager")
    assert program is not None
    daemon = Daemon(
        name="alertmanager",
        argv=(
            program,
            f"--config.file={directory / 'alertmanager/alertmanager.yml'}",
            f"--storage.path={directory / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--cluster.listen-address=",
        ),
        note=directory / "run/alertmanager.json",
        log=directory / "alertmanager.log",
        ready=Answering(f"http://127.0.0.1:{port}/-/ready"),
        environ={"SSL_CERT_FILE": str(authority)} if authority else None,
    )
    daemon.start(DEADLINE)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        daemon.stop()
        print(daemon.log.read_text())


def fire(url: str, severity: str, *, resolved: bool = False) -> None:
    """Say that an alert fires, as Prometheus does."""
    now = datetime.now(UTC)
    alert = {
        "labels": {"alertname": "ChatDown", "environment": "dev", "severity": severity},
        "annotations": {
            "summary": "dev: the chat service is down",
            "description": "Nobody can connect.",
            "runbook_url": "https://runbooks.example.com/ChatDown.md",
            "dashboard_url": "https://grafana.example.com/d/overview",
        },
        "startsAt": (now - timedelta(seconds=5)).isoformat(),
        "endsAt": (now if resolved else now + timedelta(minutes=10)).isoformat(),
    }
    httpx.post(f"{url}/api/v2/alerts", json=[alert], timeout=10).raise_for_status()


def test_a_webhook_a_mailbox_and_a_channel_are_told_and_told_when_it_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = Authority(tmp_path).certificate("mail", timedelta(days=60))
    with ExitStack() as stack:
        hook = stack.enter_context(receiving())
        mailbox = stack.enter_context(receiving_mail(certificate, "chat:hunter2-mail"))
        slack = stack.enter_context(channel())
        for name, value in (
            ("HOOK", "hunter2-hook"),
            ("MAIL", "hunter2-mail"),
            ("SLACK", slack.url),
        ):
            monkeypatch.setenv(name, value)
        receivers = {
            "webhook": {"url": f"{hook.url}/alerts", "token": "env:HOOK"},
            "email": {**MAIL, "smarthost": mailbox.address, "user": "chat", "password": "env:MAIL"},
            "slack": {"channel": "#alerts", "url": "env:SLACK"},
        }
        url = stack.enter_context(alertmanager(tmp_path, receivers, certificate))
        fire(url, "critical")
        told = hook.wait("ChatDown", "dev", "firing")
        [mail] = mailbox.wait(1)
        until(lambda: len(slack.posts) == 1)
        fire(url, "critical", resolved=True)
        hook.wait("ChatDown", "dev", "resolved")
        [_, over] = mailbox.wait(2)
        until(lambda: len(slack.posts) == 2)

    assert (told.path, told.authorization) == ("/alerts", "Bearer hunter2-hook")
    assert (mail["To"], mail["From"]) == ("ops@example.com", "chat@example.com")
    assert mail["Subject"] == "dev: the chat service is down"
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "ChatDown (critical): Nobody can connect." in text
    assert "What to do: https://runbooks.example.com/ChatDown.md" in text
    assert over["Subject"] == "resolved: dev: the chat service is down"
    assert mailbox.encrypted == [True, True]
    [(path, post), (_, last)] = slack.posts
    assert (path, post["channel"]) == ("/services/hunter2", "#alerts")
    [shown] = post["attachments"]
    assert shown["title"] == "dev: the chat service is down"
    assert "ChatDown (critical): Nobody can connect." in shown["text"]
    assert last["attachments"][0]["title"] == "resolved: dev: the chat service is down"


def test_a_warning_is_not_sent_to_who_asked_for_what_is_critical(tmp_path: Path) -> None:
    with receiving() as hook, receiving_mail() as mailbox:
        mail = {**MAIL, "smarthost": mailbox.address, "tls": False, "severity": "critical"}
        receivers = {"webhook": {"url": hook.url}, "email": mail}
        with alertmanager(tmp_path, receivers) as url:
            fire(url, "warning")
            hook.wait("ChatDown", "dev", "firing")
            fire(url, "critical")
            [mail_of_it] = mailbox.wait(1)
    assert "(critical)" in mail_of_it.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert mailbox.encrypted == [False]


def test_a_mailbox_without_tls_is_told_only_where_that_was_said(tmp_path: Path) -> None:
    with receiving() as hook, receiving_mail() as mailbox:
        mail = {**MAIL, "smarthost": mailbox.address}
        receivers = {"webhook": {"url": hook.url}, "email": mail}
        with alertmanager(tmp_path, receivers) as url:
            fire(url, "critical")
            hook.wait("ChatDown", "dev", "firing")
            log = tmp_path / "alertmanager.log"
            until(lambda: "require_tls" in log.read_text())
    assert mailbox.mail == []


def test_a_password_is_not_sent_in_clear(tmp_path: Path) -> None:
    mail = {**MAIL, "smarthost": "a:25", "tls": False, "user": "chat", "password": "env:MAIL"}
    with (
        pytest.raises(ConfigError, match="email: a password is not sent without TLS"),
        alertmanager(tmp_path, {"email": mail}),
    ):
        pass


def until(happened: Any) -> None:
    end = time.monotonic() + DEADLINE
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.02)
