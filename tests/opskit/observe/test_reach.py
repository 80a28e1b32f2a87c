"""Talking with what listens on a monitoring host's loopback, one command a request."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.observe.places import named, root_of
from opskit.observe.provisioning import warnings
from opskit.observe.reach import Loopback, NobodyListens, client
from opskit.observe.rendering import scrape_addresses
from opskit.observe.silence import NotWatched, silence
from opskit.problems import ConfigError
from opskit.transport import LocalExecutor
from tests.opskit.observe.receiver import receiving


def prod(directory: Path, *, hosts: list[str], host: str, admin_host: str) -> Environment:
    one = {
        "target": "ssh",
        "hosts": hosts,
        "url": "https://chat.example.net",
        "secrets": {"jwt_secret": "env:SECRET", "database_url": "env:DATABASE"},
        "monitoring": {"host": host},
        "chat": {"service": {"admin_host": admin_host}, "store": {"kind": "postgres"}},
    }
    file = directory / "environments.yaml"
    file.write_text(json.dumps({"environments": {"prod": one}}, indent=1), encoding="utf-8")
    return load_environments(file).get("prod")


def test_a_request_goes_through_a_command_and_its_answer_comes_back() -> None:
    """Method, path, body and type arrive; so do status and body."""
    notification = {"alerts": [{"status": "firing", "labels": {"alertname": "Änderung"},
                                "annotations": {"quoted": "it's \"so\"\n"}}]}  # fmt: skip
    with receiving() as receiver, client(Loopback(LocalExecutor()), 10.0) as asks:
        assert asks.post(f"{receiver.url}/a?b=c%20d", json=notification).status_code == 200
        refused = asks.get(f"{receiver.url}/a")
    [told] = receiver.told
    assert (told.path, told.name) == ("/a?b=c%20d", "Änderung")
    assert told.annotations == {"quoted": 'it\'s "so"\n'}
    assert refused.status_code == 501
    assert "Unsupported method" in refused.text


def test_nobody_listening_is_told_from_a_host_out_of_reach(tmp_path: Path) -> None:
    """The one means that nothing is watched; the other is worth a warning."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    through = Loopback(LocalExecutor())
    with client(through, 10.0) as asks, pytest.raises(NobodyListens):
        asks.get(f"{url}/")
    with pytest.raises(NotWatched):
        silence(url, 60, environment="prod", who="me", why="a test", transport=through)

    class Away(LocalExecutor):
        def check(self, command: Any) -> str:
            from opskit.failure import Failure

            raise Failure("monitor: the host does not answer")

    with client(Loopback(Away()), 10.0) as asks, pytest.raises(httpx.ConnectError) as caught:
        asks.get(f"{url}/")
    assert not isinstance(caught.value, NobodyListens)
    assert "the host does not answer" in str(caught.value)


def test_one_of_the_hosts_that_watches_is_reached_as_it_is_deployed_to(tmp_path: Path) -> None:
    """With its user and port; what Prometheus asks has neither."""
    hosts = ["ops@chat1:2222", "chat2"]
    one = prod(tmp_path, hosts=hosts, host="chat1", admin_host="0.0.0.0")
    assert named(one) == "ops@chat1:2222"
    assert scrape_addresses(one) == ["chat1:8766", "chat2:8766"]
    assert str(root_of(one)) == "/opt/chat-monitoring/prod"
    [warning] = warnings(one)
    assert "have a firewall let chat1 alone reach it" in warning


def test_a_single_host_can_watch_itself_over_loopback(tmp_path: Path) -> None:
    """Then nothing has to be open, and there is nothing to warn of."""
    one = prod(tmp_path, hosts=["chat1"], host="root@chat1", admin_host="127.0.0.1")
    assert named(one) == "chat1", "as it is deployed to, or it would be made ready twice at once"
    assert scrape_addresses(one) == ["127.0.0.1:8766"]
    assert warnings(one) == []


def test_metrics_that_the_watching_host_cannot_reach_are_refused_with_the_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything happens, and saying what to set."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as caught:
        prod(tmp_path, hosts=["chat1"], host="monitor", admin_host="127.0.0.1")
    [problem] = caught.value.problems
    assert problem.key == "environments.prod.chat.service.admin_host"
    assert problem.why == (
        "is on loopback of each host, where monitoring.host (monitor) does not reach it; "
        "set 0.0.0.0, and have a firewall let it alone reach port 8766"
    )
    assert problem.where.startswith("environments.yaml:")


def test_an_environment_on_this_machine_has_no_watching_host(tmp_path: Path) -> None:
    """It would watch the loopback of another machine."""
    one = {"target": "local", "root": "r", "secrets": {"jwt_secret": "generate"},
           "monitoring": {"host": "monitor"}}  # fmt: skip
    file = tmp_path / "environments.yaml"
    file.write_text(json.dumps({"environments": {"dev": one}}), encoding="utf-8")
    with pytest.raises(ConfigError, match="this machine watches itself"):
        load_environments(file)
