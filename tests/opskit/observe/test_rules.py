"""Every alert, with promtool: it fires when it must, and not when it must not."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.monitoring_file import Alerts
from opskit.observe import rules
from opskit.observe.rendering import render_monitoring
from tests.opskit.observe.rule_cases import CASES, Case


def id_of(case: Case) -> str:
    return f"{case.alert}: {case.what}"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rules")


def environment(place: Path, thresholds: Mapping[str, Any]) -> Environment:
    main = {
        "target": "local",
        "root": "r",
        "secrets": {"jwt_secret": "generate"},
        "monitoring": {"alerts": dict(thresholds)},
    }
    file = place / "environments.yaml"
    file.write_text(json.dumps({"environments": {"main": main}}), encoding="utf-8")
    return load_environments(file).get("main")


@cache
def rendered(place: Path, thresholds: str) -> tuple[str, str]:
    """Render the rules with some thresholds changed, given as JSON."""
    files = render_monitoring(environment(place, json.loads(thresholds)))
    return files["prometheus/rules/recording.yml"], files["prometheus/rules/alerts.yml"]


def promtool(place: Path, cases: Sequence[Case], thresholds: Mapping[str, Any]) -> str:
    """Run cases of one interval; gives what promtool has to complain of."""
    recording, alerts = rendered(place, json.dumps(thresholds))
    (place / "recording.yml").write_text(recording, encoding="utf-8")
    listed = rules.alerts(alerts)
    for rule in listed:
        del rule["annotations"]  # they name thresholds, and would have to be repeated here
    tree = {"groups": [{"name": "alerts", "rules": listed}]}
    (place / "alerts.yml").write_text(json.dumps(tree), encoding="utf-8")
    told = {(rule["alert"], rule["labels"].get("signal", "")): rule for rule in listed}
    [interval] = {f"{case.interval}m" for case in cases}
    tests: dict[tuple[str, str], dict[str, Any]] = {}
    for case in cases:
        series = [{"series": name, "values": value} for name, value in case.series.items()]
        one = tests.setdefault(
            (case.what, json.dumps(series)),
            {
                "name": case.what,
                "interval": interval,
                "input_series": series,
                "alert_rule_test": [],
            },
        )
        firing = [expected(case, labels, told) for labels in case.firing]
        one["alert_rule_test"].append(
            {"eval_time": case.at, "alertname": case.alert, "exp_alerts": firing}
        )
    file = place / "test.yml"
    whole = {
        "rule_files": ["recording.yml", "alerts.yml"],
        "evaluation_interval": interval,
        "group_eval_order": ["chat-recorded", "alerts"],
    }
    file.write_text(json.dumps({**whole, "tests": [*tests.values()]}), encoding="utf-8")
    done = subprocess.run(
        ["promtool", "test", "rules", str(file)], capture_output=True, text=True, check=False
    )
    assert ("FAILED" in done.stdout + done.stderr) == (done.returncode != 0), done.stderr
    return done.stdout + done.stderr if done.returncode else ""


def complained_of(case: Case, said: str) -> bool:
    what, alert = re.escape(case.what), re.escape(case.alert)
    return re.search(rf"name: {what},\s+alertname: {alert},", said) is not None


def expected(
    case: Case, labels: Mapping[str, str], told: Mapping[tuple[str, str], Mapping[str, Any]]
) -> dict[str, Any]:
    rule = told[case.alert, labels.get("signal", "")]
    return {"exp_labels": {**rule["labels"], **labels}}


def test_no_case_is_wrong(complaints: str) -> None:
    assert complaints == ""


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not(
    place: Path,
) -> None:
    names = {rule["alert"] for rule in rules.alerts(rendered(place, "{}")[1])}
    assert {case.alert for case in CASES if case.firing} == names
    assert {case.alert for case in CASES if not case.firing} == names - {"Watchdog"}


def test_every_threshold_decides_in_a_case() -> None:
    """No number in environments.yaml is there for nothing."""
    assert {name for case in CASES for name in case.mutation} == set(Alerts.model_fields)


@pytest.fixture(scope="module")
def complaints(place: Path) -> str:
    """What promtool complains of in all cases, run together."""
    return "".join(
        promtool(place, [case for case in CASES if case.interval == interval], {})
        for interval in sorted({case.interval for case in CASES})
    )


@pytest.mark.parametrize("case", CASES, ids=id_of)
def test_it_fires_exactly_when_it_must(complaints: str, case: Case) -> None:
    assert not complained_of(case, complaints), complaints


@pytest.mark.parametrize("case", [one for one in CASES if one.mutation], ids=id_of)
def test_with_another_threshold_it_does_not(place: Path, case: Case) -> None:
    """So the case is about the threshold; each changed threshold alone makes the case fail."""
    for name, value in case.mutation.items():
        assert complained_of(case, promtool(place, [case], {name: value})), name


# --- completeness -----------------------------------------------------------------------------


def test_the_annotations_are_filled_in(place: Path) -> None:
    """Prometheus' own templates within them are valid, and say what they mean to."""
    alerts = rules.alerts(rendered(place, '{"error_ratio": 0.07}')[1])
    told = {rule["alert"]: rule for rule in alerts}
    assert told["ChatErrorRatio"]["annotations"]["description"].endswith("tolerated are 7 %.")
    assert told["ChatDown"]["annotations"]["runbook_url"] == "docs/runbooks/ChatDown.md"
