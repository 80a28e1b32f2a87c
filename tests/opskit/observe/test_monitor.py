"""`opskit monitor` and what looks at it, with the real commands on a deployed environment."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from opskit.failure import Failure
from opskit.observe.local import site_of, watch
from opskit.observe.page import filler
from opskit.observe.panels import Panels
from opskit.observe.prometheus import Prometheus
from opskit.observe.rendering import render_monitoring
from opskit.observe.silence import end_silence, silence
from opskit.observe.site import MonitoringSite
from opskit.tokens import issue
from tests.opskit.observe.screenshot import Screenshot, browser
from tests.opskit.observe.tls import Authority, TlsProxy
from tests.opskit.observe.traffic import Loop, Traffic, looping
from tests.opskit.observe.world import PublicSite
from tests.service_process import free_ports

pytestmark = pytest.mark.slow
DEADLINE = 60.0


@dataclass
class Watched:
    """One environment, `dev`, deployed and watched with the commands that a person would use."""

    site: PublicSite
    certificate: Path

    def opskit(self, *words: str, status: int = 0) -> str:
        """Run opskit; gives what it printed."""
        argv = [sys.executable, "-m", "opskit", "--environments", str(self.site.file), *words]
        done = subprocess.run(
            argv,
            env={**os.environ, "SSL_CERT_FILE": str(self.certificate)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout

    def json(self, *words: str, status: int = 0) -> Any:
        return json.loads(self.opskit(*words, "--json", status=status))

    def json_of_alerts(self) -> Any:
        """What `opskit alerts` says, whatever its exit status."""
        argv = [sys.executable, "-m", "opskit", "--environments", str(self.site.file)]
        done = subprocess.run(
            [*argv, "alerts", "dev", "--json"], capture_output=True, text=True, check=False
        )
        return json.loads(done.stdout)

    @property
    def monitoring(self) -> MonitoringSite:
        return site_of(self.site.environment)


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    with looping() as one:
        yield one


@pytest.fixture(scope="module")
def watched(
    tmp_path_factory: pytest.TempPathFactory, layers: Path, pristine: Path, loop: Loop
) -> Iterator[Watched]:
    """Deploy, watch, and have members talk."""
    directory = tmp_path_factory.mktemp("watched")
    site = PublicSite(directory / "s", layers, pristine=pristine)
    certificate = Authority(directory).certificate("valid", timedelta(days=60))
    site.url = loop.run(TlsProxy(site.port).start(certificate))
    ports = free_ports(3)
    names = ("prometheus_port", "alertmanager_port", "exporter_port")
    site.monitoring = {
        "scrape_interval": 1,
        "probe_interval": 600,
        "alerts": {"smoke_stale": 86400, "disk_free": 1},
        **dict(zip(names, ports, strict=True)),
    }
    site.configure()
    one = Watched(site, certificate)
    with contextlib.ExitStack() as stack:
        stack.callback(site.close)
        site.deploy()
        stack.callback(lambda: one.monitoring.stop())
        one.opskit("monitor", "dev")
        Traffic(loop, Talker(site)).start()
        yield one


class Talker:
    """Makes members of the deployed environment."""

    def __init__(self, site: PublicSite) -> None:
        self.url = f"http://127.0.0.1:{site.port}"
        self._environment = site.environment

    def token(self, user: str, *workspaces: str) -> str:
        environment = self._environment
        return issue(environment, workspaces=list(workspaces), user=user, name="", ttl="1h").token


def until(holds: Any, what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, f"not {what} after {DEADLINE:g} s"
        time.sleep(0.2)


# --- what runs --------------------------------------------------------------------------------


def test_all_of_it_runs_as_it_should_and_a_second_time_changes_nothing(watched: Watched) -> None:
    daemons = watched.monitoring.daemons()
    assert set(daemons) == {"prometheus", "alertmanager", "exporter"}
    pids = {name: daemon.pid for name, daemon in daemons.items()}
    assert all(daemon.current for daemon in daemons.values())
    first = watched.monitoring.root / "releases/v1"
    assert first.is_dir(), "it was deployed before it was watched, and can be rolled back to, whole"
    again = watched.json("monitor", "dev")
    assert (again["started"], again["restarted"], again["reloaded"]) == ([], [], [])
    assert not again["switched"]
    assert {name: daemon.pid for name, daemon in daemons.items()} == pids


def test_the_exporter_probes_by_itself(watched: Watched) -> None:
    """The first probe comes at once; nobody has to ask for it."""
    until(
        lambda: "opskit_probe_success 1" in _metrics(watched),
        "probed",
    )
    text = _metrics(watched)
    assert "opskit_deploy_timestamp_seconds" in text
    assert 'opskit_deploy_info{release="v1", action="deploy"} 1' in text
    said = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


def _metrics(watched: Watched) -> str:
    return httpx.get(f"{watched.monitoring.exporter_url}/metrics", trust_env=False).text


def test_one_that_was_killed_is_started_again(watched: Watched) -> None:
    daemon = watched.monitoring.daemons()["alertmanager"]
    pid = daemon.pid
    assert pid is not None
    os.kill(pid, 9)
    until(lambda: daemon.pid is None, "gone")
    seen = watched.json("status", "dev")["monitoring"]
    assert {one["name"]: one["state"] for one in seen["programs"]} == {
        "alertmanager": "failed", "exporter": "active", "prometheus": "active",
    }  # fmt: skip
    assert (
        seen["silence"] == f"Alertmanager does not answer at {watched.monitoring.alertmanager_url}"
    )
    assert (seen["alerts"], seen["next"]) == (None, "opskit monitor dev")
    assert "alertmanager failed" in watched.opskit("status", "dev")
    assert watched.json("monitor", "dev")["started"] == ["alertmanager"]


def test_one_that_hangs_is_no_peace(watched: Watched) -> None:
    """Alertmanager answers, with what it knows of before; Prometheus runs, and tells it nothing."""
    daemon, url = watched.monitoring.daemons()["prometheus"], watched.monitoring.prometheus_url
    assert daemon.pid is not None
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        seen = watched.json("status", "dev")["monitoring"]
        shown = watched.opskit("status", "dev")
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    assert {one["state"] for one in seen["programs"]} == {"active"}
    assert seen["silence"] == f"Prometheus does not answer at {url}"
    assert seen["alerts"] is not None
    assert seen["silence"] in shown
    assert "no alert fires" not in shown


# --- a configuration that is wrong is never live ----------------------------------------------


def test_a_configuration_that_the_tools_refuse_changes_nothing(watched: Watched) -> None:
    site = watched.monitoring
    live, before = os.readlink(site.current), _configuration(site)
    files = render_monitoring(watched.site.environment)
    rules = "groups: [{name: x, rules: [{alert: A, expr: 'rate('}]}]"
    broken = files | {"prometheus/rules/alerts.yml": rules}
    with pytest.raises(Failure, match="promtool refuses the configuration; nothing was changed"):
        site.apply(broken, {})
    unknown = files["alertmanager/alertmanager.yml"].replace("receiver: warning", "receiver: who")
    with pytest.raises(Failure, match="amtool refuses the configuration") as caught:
        site.apply(files | {"alertmanager/alertmanager.yml": unknown}, {})
    assert 'undefined receiver "who"' in "\n".join(caught.value.lines)
    assert os.readlink(site.current) == live
    assert _configuration(site) == before
    assert not list((site.root / "configs").glob(".incoming-*"))


def test_a_configuration_that_a_program_refuses_is_taken_back(watched: Watched) -> None:
    """What the tools do not see: a template of Alertmanager that is not one."""
    site = watched.monitoring
    live, before = os.readlink(site.current), _configuration(site)

    class Unseen(MonitoringSite):
        def validate(self, directory: Path) -> None:
            """As if the tools had no objection."""

    unseen = Unseen(site.root, site.monitoring, site.probe, site.record)
    files = render_monitoring(watched.site.environment)
    broken = files | {"prometheus/prometheus.yml": "global: {scrape_interval: never}"}
    with pytest.raises(Failure, match="prometheus refuses the configuration"):
        unseen.apply(broken, {})
    assert os.readlink(site.current) == live
    assert _configuration(site) == before
    assert all(daemon.current for daemon in site.daemons().values())


def test_a_changed_threshold_is_live_after_a_reload(watched: Watched) -> None:
    site = watched.monitoring
    pid = site.daemons()["prometheus"].pid
    watched.site.monitoring["alerts"]["error_ratio"] = 0.07
    watched.site.configure()
    changes = watch(watched.site.environment, site)
    assert set(changes.reloaded) == {"prometheus", "alertmanager"}
    assert site.daemons()["prometheus"].pid == pid
    assert "ratio_rate5m > 0.07" in _rule(watched, "ChatErrorRatio")


def _configuration(site: MonitoringSite) -> str:
    answer = httpx.get(f"{site.prometheus_url}/api/v1/status/config", trust_env=False)
    return str(answer.json()["data"]["yaml"])


# --- looking ----------------------------------------------------------------------------------


def test_alerts_says_that_nothing_fires_and_what_does(watched: Watched) -> None:
    until(lambda: watched.json_of_alerts().get("ok"), "the watchdog fires, and it alone")
    seen = watched.json("alerts", "dev")
    assert (seen["ok"], seen["watchdog"]) == (True, True)
    assert "nothing fires" in watched.opskit("alerts", "dev")
    status = watched.json("status", "dev")["monitoring"]
    assert status["alerts"]["watchdog"] is True
    assert (status["host"], status["trouble"]) == (None, "")
    assert all(0 < one["seconds"] < 3600 for one in status["programs"])
    until(lambda: shows(watched, r"alerts +no alert fires"), "told that no alert fires")
    live, whose = live_of(watched), "v1" if status["releases"] else "no release"
    assert shows(watched, rf"rules +{live}, of {whose}")
    watched.site.monitoring["alerts"]["certificate_days"] = 365
    watched.site.configure()
    watched.opskit("monitor", "dev")
    until(lambda: watched.json_of_alerts().get("ok") is False, "the alert fires")
    said = watched.opskit("alerts", "dev", status=1)
    assert "ChatCertificateExpiring" in said
    assert "do:   docs/runbooks/ChatCertificateExpiring.md" in said
    # Its exit status is 0, for it serves well.
    assert shows(watched, r"alerts +.*critical ChatCertificateExpiring for [\d.]+ .*")
    del watched.site.monitoring["alerts"]["certificate_days"]
    watched.site.configure()
    watched.opskit("monitor", "dev")
    until(lambda: watched.json_of_alerts().get("ok"), "resolved")


def shows(watched: Watched, line: str) -> bool:
    """Say whether `opskit status` has such a line."""
    return re.search(rf"^  {line}$", watched.opskit("status", "dev"), re.M) is not None


def test_top_ranks_the_workspaces(watched: Watched) -> None:
    until(lambda: watched.json("top", "dev")["workspaces"], "something was said")
    [first, *_] = watched.json("top", "dev", "--by", "bytes")["workspaces"]
    assert first["workspace"] == "talk"
    assert first["connections"] == 3
    assert first["messages"] > 0
    assert re.search(r"talk +\d+", watched.opskit("top", "dev"))
    assert "expected one of messages, bytes, connections" in watched.opskit(
        "top", "dev", "--by", "users", "--json", status=2
    )


def test_probe_exports_what_it_found(watched: Watched, tmp_path: Path) -> None:
    found = watched.json("probe", "dev", "--out", str(tmp_path))
    assert found["ok"]
    text = (tmp_path / "probe.prom").read_text()
    assert "\nopskit_probe_success 1.0\n" in text
    assert 'opskit_probe_check_success{check="answers"} 1' in text
    [expiry] = re.findall(r"^opskit_probe_certificate_expiry_timestamp_seconds (.+)$", text, re.M)
    assert float(expiry) == pytest.approx(time.time() + 60 * 86400, abs=3600)


def test_a_silence_is_of_connections_alone_and_ends_by_itself(watched: Watched) -> None:
    url = watched.monitoring.alertmanager_url
    name = silence(url, 120.0, environment="dev", who="me", why="a deployment")
    [one] = [s for s in httpx.get(f"{url}/api/v2/silences").json() if s["id"] == name]
    assert {(m["name"], m["value"]) for m in one["matchers"]} == {
        ("environment", "dev"), ("category", "connections"),
    }  # fmt: skip
    assert one["status"]["state"] == "active"
    lasts = _time(one["endsAt"]) - _time(one["startsAt"])
    assert lasts == pytest.approx(120.0, abs=1)
    end_silence(url, name)
    [one] = [s for s in httpx.get(f"{url}/api/v2/silences").json() if s["id"] == name]
    assert one["status"]["state"] == "expired"
    with pytest.raises(Failure, match="does not take a silence"):
        silence("http://127.0.0.1:9", 60.0, environment="dev", who="me", why="")


def _time(text: str) -> float:
    return datetime.fromisoformat(re.sub(r"\.(\d{1,6})\d*", r".\1", text)).timestamp()


# --- dashboards -------------------------------------------------------------------------------


def test_every_panel_has_something_to_show_under_load(watched: Watched) -> None:
    """Every query of every panel, asked as Grafana would: none is empty, none is an error."""
    wait_until_all_panels_show(watched)


def wait_until_all_panels_show(watched: Watched) -> None:
    prometheus = Prometheus(watched.monitoring.prometheus_url)
    fill = filler("dev", 1, 1)
    waiting = [
        (panel["title"], target)
        for board in Panels.load().dashboards()
        for panel in board["panels"]
        for target in panel.get("targets") or ()
    ]
    until_all = time.monotonic() + DEADLINE
    while waiting:
        now = time.time()
        found = [
            prometheus.range(fill(target["expr"]), now - 10, now, 1.0) for _, target in waiting
        ]
        for (title, target), series in zip(waiting, found, strict=True):
            for label in re.findall(r"\{\{(\w+)\}\}", target.get("legendFormat", "")):
                assert all(one.labels.get(label) for one in series), f"{title}: no {label}"
        waiting = [one for one, series in zip(waiting, found, strict=True) if not series]
        assert time.monotonic() < until_all, [(title, t["expr"]) for title, t in waiting]
        time.sleep(0.3)


class Page(HTMLParser):
    """What a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.anchors: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and not (value or "").startswith("#"):
                self.fetched.append(value or "")
            if name == "id":
                self.anchors.append(value or "")


def test_the_page_shows_every_panel_and_fetches_nothing(watched: Watched, tmp_path: Path) -> None:
    wait_until_all_panels_show(watched)
    file = tmp_path / "page.html"
    said = watched.opskit("dashboard", "dev", "--since", "30s", "--out", str(file))
    assert said.strip() == str(file)
    text = file.read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    panels = [p for board in Panels.load().dashboards() for p in board["panels"]]
    shown = [panel for panel in panels if panel["type"] != "row"]
    assert page.tags.count("article") == len(shown)
    assert page.tags.count("svg") == len([p for p in shown if p["type"] != "stat"])
    assert "nothing to show" not in text
    assert "script" not in page.tags
    assert page.fetched == []
    assert len(set(page.anchors)) == len(page.anchors)
    assert not re.search(r"NaN|None", text)


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_browser_shows_the_page(watched: Watched, tmp_path: Path, dark: bool) -> None:
    """In the colours of the screen, nothing wider than the window, and with lines in its charts."""
    if browser() is None:
        pytest.skip("no browser is installed")
    wait_until_all_panels_show(watched)
    file = tmp_path / "page.html"
    watched.opskit("dashboard", "dev", "--since", "30s", "--out", str(file))
    shot = Screenshot(file, width=1200, height=1500, dark=dark)
    page, card = ((14, 17, 22), (22, 27, 34)) if dark else ((244, 245, 247), (255, 255, 255))
    lines = [(110, 162, 255), (240, 160, 80)] if dark else [(42, 99, 214), (217, 115, 13)]
    colours = shot.colours()
    assert {colour for colour, _ in colours.most_common(2)} == {page, card}
    for line in lines:
        assert colours[line] > 20, colours.most_common(12)
    edge = {shot.at(shot.width - 1, y) for y in range(200, shot.height, 7)}
    assert edge == {page}


# --- deployments ------------------------------------------------------------------------------


def test_the_rules_go_with_the_release_and_a_rollback_brings_the_old_ones_back(
    watched: Watched,
) -> None:
    """Watched from v1 on; v2 has other thresholds; v1 is rolled back to with its own."""
    site = watched.site
    watched.site.monitoring["alerts"]["error_ratio"] = 0.05
    site.configure()
    site.deploy()  # the same release, watched as it is configured now
    assert "ratio_rate5m > 0.05" in _rule(watched, "ChatErrorRatio")
    site.change("two")
    watched.site.monitoring["alerts"]["error_ratio"] = 0.2
    site.configure()
    act = site.deploy()
    assert (act.name, act.warnings) == ("v2", [])
    assert "ratio_rate5m > 0.2" in _rule(watched, "ChatErrorRatio")
    act = site.rollback(1)
    assert (act.name, act.warnings) == ("v1", [])
    assert "ratio_rate5m > 0.05" in _rule(watched, "ChatErrorRatio")
    status = watched.json("status", "dev")["monitoring"]
    assert (status["configuration"], status["releases"]) == (live_of(watched), ["v1"])
    silenced = httpx.get(f"{watched.monitoring.alertmanager_url}/api/v2/silences").json()
    assert {m["value"] for one in silenced for m in one["matchers"]} == {"dev", "connections"}


def live_of(watched: Watched) -> str:
    return Path(os.readlink(watched.monitoring.current)).name


def test_a_rollback_that_the_rules_cannot_follow_says_which_stay_and_what_to_do(
    watched: Watched,
) -> None:
    """To a release of which no configuration is known; that of v1 is live, and stays."""
    known = watched.monitoring.root / "releases/v2"
    known.unlink()
    live = live_of(watched)
    act = watched.site.rollback(2)
    assert (act.name, live_of(watched)) == ("v2", live)
    [warning] = act.warnings
    assert warning.startswith(
        "no configuration of the monitoring is known that belonged to v2: "
        f"{live} (of v1) stays live, with its rules and thresholds; "
    )
    assert "opskit monitor dev" in warning
    assert not known.exists(), "it is no more v2's than before"
    assert watched.json("status", "dev")["monitoring"]["releases"] == ["v1"]


def test_a_deployment_is_not_stopped_by_a_monitoring_that_cannot_follow(watched: Watched) -> None:
    site = watched.site
    site.change("three")
    site.monitoring["receivers"] = {"slack": {"channel": "#a", "url": "env:NOT_SET"}}
    site.configure()
    act = site.deploy()
    del site.monitoring["receivers"]
    site.configure()
    assert site.serving == act.name
    [warning] = act.warnings
    assert "the monitoring stays as it was" in warning
    assert "NOT_SET is not set" in warning


def _rule(watched: Watched, name: str) -> str:
    answer = httpx.get(f"{watched.monitoring.prometheus_url}/api/v1/rules", trust_env=False)
    groups = answer.json()["data"]["groups"]
    [query] = {rule["query"] for group in groups for rule in group["rules"] if rule["name"] == name}
    return str(query)


# --- the end ----------------------------------------------------------------------------------


def test_stopped_nobody_watches_and_that_is_said(watched: Watched) -> None:
    stopped = watched.json("monitor", "dev", "--stop")["stopped"]
    assert set(stopped) == {"prometheus", "alertmanager", "exporter", "probe"}
    said = watched.json("alerts", "dev", status=1)
    assert "nobody watches: Alertmanager does not answer" in said["error"]
    assert said["next"] == "opskit monitor dev"
    assert watched.json("monitor", "dev", "--stop")["stopped"] == []
    assert watched.json("status", "dev")["monitoring"] is None, "nobody wants it to be watched"
    # What answers on a port that somebody else has would not be ours.
    port = watched.monitoring.monitoring.prometheus_port
    with socket.create_server(("127.0.0.1", port)):
        said = watched.json("monitor", "dev", status=1)
    assert said["error"].startswith(f"prometheus: port {port} of 127.0.0.1 cannot be had")
    assert "monitoring.prometheus_port" in said["next"]
    assert watched.json("monitor", "dev")["started"] == ["prometheus"]
