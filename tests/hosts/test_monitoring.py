"""An environment with a host that watches it: made ready, brought along, and heard of a fault."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from opskit import operations
from opskit.failure import Failure
from opskit.observe import remote
from opskit.observe.pace import Pace
from opskit.observe.rendering import render_monitoring
from opskit.observe.systemd import USER
from tests.hosts.conftest import NewHosts
from tests.hosts.machine import Host
from tests.hosts.proven import deploy, quick_smoke
from tests.hosts.site import TIMING, HostSite
from tests.opskit.observe.receiver import Receiver, receiving

SPEED: Final = 30.0
"""How many times as fast the rules' clock goes: two seconds for a minute."""
TOKEN: Final = "a-token-that-nobody-may-see"
ROOT: Final = "/opt/chat-monitoring/prod"
DEADLINE: Final = 60.0
TIMER: Final = "opskit-probe-prod.timer"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, layers: Path) -> None:
    """Render the same templates for a faster clock, and build no layer twice."""

    def render(environment: Any, *, root: Any) -> dict[str, str]:
        return render_monitoring(environment, root=root, pace=Pace(SPEED))

    monkeypatch.setattr(remote, "render_monitoring", render)
    monkeypatch.setenv("XDG_CACHE_HOME", str(layers.parent.parent))


@pytest.fixture
def receiver(new_hosts: NewHosts, lab: Any) -> Iterator[Receiver]:
    """A webhook on this machine, at the address that the hosts reach it at."""
    with receiving(lab.network.gateway) as receiver:
        yield receiver


def watched(
    new_hosts: NewHosts, provisioned: Path, tmp_path: Path, layers: Path, receiver: Receiver
) -> tuple[HostSite, Host]:
    """Give an environment on one host, and the fresh host that shall watch it."""
    [chat] = new_hosts(layers=(provisioned,))
    [watcher] = new_hosts()
    site = HostSite(tmp_path / "site", [chat], layers)
    watcher.trust()
    token = site.directory / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    site.monitoring = {
        "host": watcher.address,
        "scrape_interval": 1,
        "alerts": {"smoke_stale": 86_400},
        "receivers": {"webhook": {"url": f"{receiver.url}/alerts", "token": "file:token"}},
    }
    site.configure(service={"admin_host": "0.0.0.0"})
    return site, watcher


def until(holds: Any, what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, f"not {what} after {DEADLINE:g} s"
        time.sleep(0.2)


def live(host: Host) -> str:
    """Give which configuration the host runs from."""
    return host.text("readlink", f"{ROOT}/current").strip()


def asked(host: Host, query: str) -> list[dict[str, Any]]:
    """Ask the Prometheus of the host."""
    url = "http://127.0.0.1:9090/api/v1/query"
    said = json.loads(host.text("curl", "-sG", url, "--data-urlencode", f"query={query}"))
    found: list[dict[str, Any]] = said["data"]["result"]
    return found


def alerts(site: HostSite) -> dict[str, Any]:
    """Give what a person is told of what fires."""
    found: dict[str, Any] = json.loads(site.opskit("alerts", "prod", "--json").stdout)
    return found


def names(site: HostSite) -> list[str]:
    """Give what fires."""
    return [one["name"] for one in alerts(site)["alerts"] if one["state"] == "firing"]


def silences(host: Host) -> list[str]:
    """Give what is silent there, and why."""
    said = json.loads(host.text("curl", "-s", "http://127.0.0.1:9093/api/v2/silences"))
    return [one["comment"] for one in said]


def checks_of(found: list[dict[str, Any]], host: Host) -> list[dict[str, Any]]:
    """Give what `check` says of a monitoring host."""
    return [one for one in found if one["node"] == f"{host.address} (monitoring)"]


@pytest.mark.usefixtures("quick")
def test_a_host_watches_another_and_tells_of_its_death(
    new_hosts: NewHosts, provisioned: Path, tmp_path: Path, layers: Path, receiver: Receiver
) -> None:
    """From a fresh Debian to a webhook that hears of ChatDown, and that it is over.

    Beside: its rules go with a release and come back with a rollback, broken ones are never live,
    and all of it is asked for over SSH.
    """
    site, watcher = watched(new_hosts, provisioned, tmp_path, layers, receiver)
    [chat] = site.hosts

    done = site.opskit("provision", "prod", deadline=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"✓ {watcher.address} is ready" in done.stdout
    assert f"let {watcher.address} alone reach it" in done.stdout
    again = json.loads(site.opskit("provision", "prod", "--json").stdout)
    assert [(one["host"], one["changes"]) for one in again["hosts"]] == [
        (chat.address, []), (watcher.address, []),
    ]  # fmt: skip

    act = deploy(site)
    assert act.warnings == []
    first = live(watcher)
    assert watcher.text("readlink", f"{ROOT}/releases/v1").strip() == f"../{first}"
    until(lambda: asked(watcher, "up{job='chat'} == 1"), "watched")
    until(lambda: asked(watcher, "opskit_deploy_info{release='v1'}"), "told of the deployment")
    until(lambda: asked(watcher, "opskit_probe_success == 1"), "probed by its own smoke test")
    assert "prod.timer" in watcher.text("systemctl", "list-timers", "--no-pager")
    chat.run("systemctl", "start", "opskit-sweep-prod.service")
    checked = json.loads(site.opskit("check", "prod", "--json").stdout)["checks"]
    table = [one for one in checks_of(checked, watcher) if not one["ok"]]
    assert (len(checks_of(checked, watcher)), table) == (13, [])
    status = json.loads(site.opskit("status", "prod", "--json").stdout)["monitoring"]
    assert {one["name"]: one["state"] for one in status["programs"]} == {
        "alertmanager": "active", "exporter": "active", "prometheus": "active", "probe": "active",
    }  # fmt: skip
    assert all(0 < one["seconds"] < 600 for one in status["programs"])
    assert (status["host"], status["releases"]) == (watcher.address, ["v1"])
    assert f"configs/{status['configuration']}" == first
    secret = watcher.text("stat", "-c", "%a %U %G", f"{ROOT}/secrets/webhook_token").strip()
    assert secret == f"640 root {USER}"
    assert watcher.text("systemctl", "is-active", "prometheus.service", check=False) == (
        "inactive\n"
    )

    # One that is not valid is refused there, and what was live is live.
    with remote.remote_site(site.environment) as there:
        valid = render_monitoring(site.environment, root=there.root)
        broken = {"prometheus/rules/alerts.yml": "groups: [{name: a, rules: [{record: a}]}]\n"}
        with pytest.raises(Failure, match="promtool refuses the configuration") as refused:
            there.apply(valid | broken, {})
        assert "alerts.yml" in "\n".join(refused.value.lines)
        # amtool is content with this one, and Alertmanager is not.
        told = "alertmanager/alertmanager.yml"
        missing = valid[told].replace(
            "http_config:", "http_config:\n          tls_config: {ca_file: /missing}"
        )
        with pytest.raises(Failure, match="alertmanager refuses the configuration") as refused:
            there.apply(valid | {told: missing}, {})
    assert "/missing" in "\n".join(refused.value.lines)
    assert live(watcher) == first
    metrics = watcher.text("curl", "-s", "http://127.0.0.1:9093/metrics")
    assert "\nalertmanager_config_last_reload_successful 1\n" in metrics

    # The chat service dies, and cannot come back.
    until(lambda: alerts(site)["watchdog"], "watched over")
    assert names(site) == []
    chat.run("mv", "/opt/chat/releases/v1/run.py", "/opt/chat/releases/v1/run.away")
    died = time.monotonic()
    chat.run("systemctl", "kill", "--signal=KILL", "chat-prod.service")
    heard = receiver.wait("ChatDown", "prod", "firing", since=died)
    assert heard.authorization == f"Bearer {TOKEN}"
    assert heard.annotations["runbook_url"] == "docs/runbooks/ChatDown.md"
    assert "ChatDown" in names(site)
    said = site.opskit("status", "prod")
    assert (said.returncode, "critical ChatDown for " in said.stdout) == (1, True), said.stdout
    assert site.opskit("alerts", "prod").returncode == 1
    mended = time.monotonic()
    chat.run("mv", "/opt/chat/releases/v1/run.away", "/opt/chat/releases/v1/run.py")
    chat.run("systemctl", "start", "chat-prod.service")
    receiver.wait("ChatDown", "prod", "resolved", since=mended)

    page = tmp_path / "page.html"
    drawn = site.opskit("dashboard", "prod", "--out", str(page), "--since", "5m")
    assert drawn.returncode == 0, drawn.stdout + drawn.stderr
    assert "<svg" in page.read_text()

    # Thresholds of the next release go with it, and those of this one come back with it.
    site.monitoring["alerts"]["error_ratio"] = 0.4321
    site.change("two")
    site.configure()
    act = deploy(site)
    assert act.warnings == []
    second = live(watcher)
    assert second != first
    until(lambda: asked(watcher, "opskit_deploy_info{release='v2'}"), "told of the deployment")
    assert silences(watcher) == ["deploy v2"]
    rules = watcher.text("curl", "-s", "http://127.0.0.1:9090/api/v1/rules")
    assert "0.4321" in rules
    operation = operations.rollback(site.connect(), None, observe=lambda event: None, timing=TIMING)
    operation.act.smoke = quick_smoke
    rolled = site.run(operation)
    assert rolled.warnings == []
    assert live(watcher) == first
    assert "0.4321" not in watcher.text("curl", "-s", "http://127.0.0.1:9090/api/v1/rules")

    # To a release that nothing is known of: what is live stays, and that is said.
    watcher.run("rm", f"{ROOT}/releases/v2")
    operation = operations.rollback(site.connect(), 2, observe=lambda event: None, timing=TIMING)
    operation.act.smoke = quick_smoke
    [warning] = site.run(operation).warnings
    assert f"belonged to v2: {first.removeprefix('configs/')} (of v1) stays live" in warning
    assert live(watcher) == first

    # Nobody is to watch any more: the probe ends, too, and comes back with the rest.
    stopped = json.loads(site.opskit("monitor", "prod", "--stop", "--json").stdout)["stopped"]
    assert set(stopped) == {"probe", "prometheus", "alertmanager", "exporter"}
    assert watcher.text("systemctl", "is-active", TIMER, check=False) == "inactive\n"
    status = json.loads(site.opskit("status", "prod", "--json").stdout)["monitoring"]
    assert {one["state"] for one in status["programs"]} == {"inactive"}
    assert f"http://127.0.0.1:9093 of {watcher.address}" in status["silence"]
    again = json.loads(site.opskit("provision", "prod", "--json").stdout)
    assert [one["changes"] for one in again["hosts"]] == [[], []]
    assert site.opskit("monitor", "prod").returncode == 0
    assert watcher.text("systemctl", "is-active", TIMER) == "active\n"
