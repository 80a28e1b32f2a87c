"""What watches an environment, rendered: complete or not at all, and without a secret."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from typer.main import get_command

from opskit.cli import app
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.failure import Failure, Misuse
from opskit.observe import rendering, rules
from opskit.observe.local import resolve_secrets, site_of
from opskit.observe.pace import Pace
from opskit.observe.rendering import RUNBOOKS, render_monitoring, scrape_addresses
from opskit.observe.systemd import daemon_units, probe_units, sweep_units
from opskit.problems import ConfigError

EVERYBODY = {
    "webhook": {"url": "https://example.com/a?b=\"c", "token": "env:WEBHOOK"},
    "email": {
        "to": "ops@example.com", "sender": "chat@example.com", "smarthost": "smtp.example.com:587",
        "user": "chat", "password": "env:SMTP", "severity": "critical",
    },
    "slack": {"channel": "#alerts", "url": "env:SLACK"},
    "deadman": {"url": "https://deadman.example.com/x", "token": "env:DEADMAN"},
}  # fmt: skip


def environment(directory: Path, name: str = "dev", **monitoring: Any) -> Environment:
    one = {
        "target": "local",
        "root": "r",
        "secrets": {"jwt_secret": "generate"},
        "monitoring": monitoring,
    }
    file = directory / "environments.yaml"
    file.write_text(json.dumps({"environments": {name: one}}), encoding="utf-8")
    return load_environments(file).get(name)


def receivers(files: dict[str, str]) -> dict[str, Any]:
    told = yaml.safe_load(files["alertmanager/alertmanager.yml"])["receivers"]
    return {one["name"]: {k: v for k, v in one.items() if k != "name"} for one in told}


# --- valid ------------------------------------------------------------------------------------


@pytest.mark.parametrize("told", [{}, EVERYBODY], ids=["nobody", "everybody"])
@pytest.mark.parametrize("speed", [1.0, 60.0])
def test_what_is_rendered_is_valid(tmp_path: Path, told: Any, speed: float) -> None:
    files = render_monitoring(environment(tmp_path, receivers=told), pace=Pace(speed))
    for name, text in files.items():
        path = tmp_path / "out" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    for argv in (
        ["promtool", "check", "config", "out/prometheus/prometheus.yml"],
        ["amtool", "check-config", "out/alertmanager/alertmanager.yml"],
    ):
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_same_environment_gives_the_same_files(tmp_path: Path) -> None:
    one = environment(tmp_path, receivers=EVERYBODY)
    assert render_monitoring(one) == render_monitoring(one)


# --- who is told ------------------------------------------------------------------------------


def test_each_receiver_is_told_of_what_it_asked_for(tmp_path: Path) -> None:
    found = receivers(render_monitoring(environment(tmp_path, receivers=EVERYBODY)))
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "critical": {"webhook_configs", "email_configs", "slack_configs"},
        "warning": {"webhook_configs", "slack_configs"},
        "deadman": {"webhook_configs"},
    }
    assert found["critical"]["webhook_configs"][0]["url"] == 'https://example.com/a?b="c'
    assert receivers(render_monitoring(environment(tmp_path))) == {
        "critical": {}, "warning": {}, "deadman": {},
    }  # fmt: skip


def test_a_secret_is_the_name_of_a_file_and_never_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = environment(tmp_path, receivers=EVERYBODY)
    for name in ("WEBHOOK", "SMTP", "SLACK", "DEADMAN"):
        monkeypatch.setenv(name, f"hunter2-{name}")
    values = resolve_secrets(one)
    assert {name: bytes(value) for name, value in values.items()} == {
        "webhook_token": b"hunter2-WEBHOOK", "email_password": b"hunter2-SMTP",
        "slack_url": b"hunter2-SLACK", "deadman_token": b"hunter2-DEADMAN",
    }  # fmt: skip
    text = "".join(render_monitoring(one, root=Path("/srv/m")).values())
    assert "hunter2" not in text
    assert set(re.findall(r"/srv/m/secrets/(\w+)", text)) == set(values)


def test_a_secret_that_is_missing_is_named_with_its_line(tmp_path: Path) -> None:
    one = environment(tmp_path, receivers={"slack": {"channel": "#a", "url": "env:NOT_THERE"}})
    with pytest.raises(
        ConfigError, match=r"monitoring.receivers.slack.url: .*NOT_THERE is not set"
    ):
        resolve_secrets(one)


def test_what_was_written_in_place_of_a_reference_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        environment(tmp_path, receivers={"slack": {"channel": "#a", "url": "https://hunter2"}})
    assert "environments.dev.monitoring.receivers.slack.url: is not a reference" in str(
        caught.value
    )
    assert "hunter2" not in str(caught.value)


def test_a_message_says_what_it_is_and_what_to_do(tmp_path: Path) -> None:
    """The texts of mails and of Slack, filled in by Alertmanager's own tool."""
    place = tmp_path / "chat.tmpl"
    place.write_text(render_monitoring(environment(tmp_path))["alertmanager/chat.tmpl"])
    alerts = [
        {
            "status": "firing",
            "labels": {"alertname": name, "severity": "critical"},
            "annotations": {
                "summary": f"prod: {name} happens", "description": f"{name} is bad.",
                "runbook_url": f"https://r/{name}.md", "dashboard_url": "https://g/d/1",
            },
        }
        for name in ("ChatDown", "ChatLatency")
    ]  # fmt: skip

    def said(part: str, status: str, shown: list[Any]) -> str:
        labels = {"environment": "prod"}
        data = tmp_path / "data.json"
        data.write_text(json.dumps({"status": status, "commonLabels": labels, "alerts": shown}))
        argv = ["amtool", "template", "render", f"--template.glob={place}"]
        argv += [f'--template.text={{{{ template "chat.{part}" . }}}}', f"--template.data={data}"]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    assert said("title", "firing", alerts[:1]) == "prod: ChatDown happens"
    assert said("title", "firing", alerts) == "prod: ChatDown happens (and 1 more)"
    assert said("title", "resolved", alerts[:1]) == "resolved: prod: ChatDown happens"
    assert said("text", "firing", alerts[:1]) == (
        "ChatDown (critical): ChatDown is bad.\n"
        "What to do: https://r/ChatDown.md\n"
        "Look: https://g/d/1"
    )


# --- what is watched --------------------------------------------------------------------------


def test_each_node_of_this_machine_is_watched(tmp_path: Path) -> None:
    file = tmp_path / "environments.yaml"
    one = {
        "target": "local", "root": "r", "nodes": 3,
        "secrets": {"jwt_secret": "generate", "database_url": "env:X"},
        "chat": {"store": {"kind": "postgres"}},
    }  # fmt: skip
    file.write_text(json.dumps({"environments": {"dev": one}}), encoding="utf-8")
    found = scrape_addresses(load_environments(file).get("dev"))
    assert found == ["127.0.0.1:8766", "127.0.0.1:8776", "127.0.0.1:8786"]


def test_each_host_is_watched_where_its_admin_port_can_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "environments.yaml"
    one = {
        "target": "ssh", "hosts": ["a.example.net", "b.example.net"], "url": "https://c.example.net",
        "secrets": {"jwt_secret": "env:X", "database_url": "env:Y"},
        "chat": {"store": {"kind": "postgres"}, "service": {"admin_host": "0.0.0.0"}},
    }  # fmt: skip
    file.write_text(json.dumps({"environments": {"prod": one}}), encoding="utf-8")
    prod = load_environments(file).get("prod")
    assert scrape_addresses(prod) == ["a.example.net:8766", "b.example.net:8766"]
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    site = site_of(prod)
    assert site.root == tmp_path / "state/opskit/prod/monitoring"
    assert site.probe[-2:] == ("probe", "prod")
    one["chat"]["service"]["admin_host"] = "127.0.0.1"  # type: ignore[index]
    file.write_text(json.dumps({"environments": {"prod": one}}), encoding="utf-8")
    with pytest.raises(Misuse, match=r"chat.service.admin_host is on loopback of each host"):
        site_of(load_environments(file).get("prod"))


# --- complete ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("severity: critical", "severity: loud", "ChatDown: has no severity"),
        ("category: availability", "category: x", "ChatDown: has no category"),
        ("summary:", "title:", "ChatDown: has no summary"),
        ("description:", "detail:", "ChatDown: has no description"),
        ("runbook_url:", "runbook:", "ChatDown: has no runbook_url"),
        ("dashboard_url:", "dashboard:", "ChatDown: has no dashboard_url"),
        ("alert: ChatDown", "alert: ChatLost", "ChatLost: has no runbook; write docs/runbooks/"),
        ("alert: ChatDown", "alert: chat down", "chat down: an alert is named in CamelCase"),
        ("alert: ChatErrorRatio", "alert: ChatBudgetBurn", "ChatBudgetBurn: is there twice"),
    ],
)
def test_an_alert_that_lacks_something_is_not_rendered(
    tmp_path: Path, old: str, new: str, complaint: str
) -> None:
    text = render_monitoring(environment(tmp_path))["prometheus/rules/alerts.yml"]
    rules.check(text, runbooks=RUNBOOKS)
    assert old in text
    with pytest.raises(Failure, match=re.escape(complaint)):
        rules.check(text.replace(old, new, 1), runbooks=RUNBOOKS)


@pytest.mark.parametrize(
    ("pattern", "complaint"),
    [
        (r"## Symptom\n", "ChatDown.md says nothing under `## Symptom`"),
        (
            r"(?<=## How to look\n)(?:(?!^##).*\n)*",
            "ChatDown.md says nothing under `## How to look`",
        ),
        (r"## How to mend", "ChatDown.md says nothing under `## How to mend`"),
        (r"opskit", "ChatDown.md names no opskit command"),
    ],
)
def test_a_runbook_that_lacks_something_stops_the_generation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, complaint: str
) -> None:
    """Seen from the outside: nothing at all is rendered."""
    runbooks = tmp_path / "runbooks"
    shutil.copytree(RUNBOOKS, runbooks)
    monkeypatch.setattr(rendering, "RUNBOOKS", runbooks)
    one = environment(tmp_path)
    render_monitoring(one)
    page = runbooks / "ChatDown.md"
    page.write_text(re.sub(pattern, "", page.read_text(), flags=re.MULTILINE), encoding="utf-8")
    with pytest.raises(Failure, match=re.escape(complaint)):
        render_monitoring(one)


def test_every_runbook_is_of_an_alert_and_names_commands_that_there_are(tmp_path: Path) -> None:
    text = render_monitoring(environment(tmp_path))["prometheus/rules/alerts.yml"]
    assert {path.stem for path in RUNBOOKS.glob("*.md")} == {
        rule["alert"] for rule in rules.alerts(text)
    }
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for path in RUNBOOKS.glob("*.md"):
        page = path.read_text(encoding="utf-8")
        for line in re.findall(r"\bopskit ([a-z]+[^\n`]*)", page):
            word, *rest = line.split("   ")[0].split()
            if word not in commands:
                assert word in ("that",), f"{path.name}: opskit {word}"
                continue
            known = {option for one in commands[word].params for option in one.opts}
            used = {part for part in rest if part.startswith("--")}
            assert used <= known | {"--no-follow"}, f"{path.name}: opskit {line}"
        for link in re.findall(r"\]\((\w+\.md)\)", page):
            assert (RUNBOOKS / link).is_file(), f"{path.name} links to {link}"
        # What it says of a threshold is its name and its default.
        for name in re.findall(r"monitoring\.alerts\.(\w+)", page):
            assert name in type(environment(tmp_path).monitoring.alerts).model_fields, path.name


# --- a monitoring host ------------------------------------------------------------------------


def test_the_units_of_a_monitoring_host_are_ones_that_systemd_takes(tmp_path: Path) -> None:
    """The very arguments that `opskit monitor` uses; the probe's timer goes as configured."""
    one = environment(tmp_path, "prod", probe_interval=120, prometheus_port=9190)
    root = PurePosixPath("/srv/monitoring")
    files = daemon_units(one, root) | probe_units(one, root) | sweep_units(one)
    assert set(files) == {
        "opskit-alertmanager-prod.service", "opskit-exporter-prod.service",
        "opskit-prometheus-prod.service", "opskit-probe-prod.service", "opskit-probe-prod.timer",
        "opskit-sweep-prod.service", "opskit-sweep-prod.timer",
    }  # fmt: skip
    timer, probe = files["opskit-probe-prod.timer"], files["opskit-probe-prod.service"]
    assert "\nOnUnitInactiveSec=120s\n" in timer
    assert "-I -B /srv/monitoring/current/probe/run.py\n" in probe
    prometheus = files["opskit-prometheus-prod.service"]
    assert "--web.listen-address=127.0.0.1:9190" in prometheus
    assert "--config.file=/srv/monitoring/current/prometheus/prometheus.yml" in prometheus
    exporter = files["opskit-exporter-prod.service"]
    started = exporter.partition("ExecStart=")[2].split()
    assert started[:5:2] == ["/usr/bin/python3", "-I", "/srv/monitoring/exporter.py"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed")
    for name, text in files.items():
        # It looks for every program; those of the host are not here.
        plain = re.sub(r"(?<==)/opt/opskit/\S+|(?<==)/usr/bin/prometheus\S*", "/bin/true", text)
        (tmp_path / name).write_text(plain.replace("User=opskit-monitor\n", ""), encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *(str(tmp_path / name) for name in files)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert complaints == []
