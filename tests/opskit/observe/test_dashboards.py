"""The committed dashboards: current, and without the faults that Grafana would not tell of."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from opskit.failure import Failure
from opskit.observe.dashboards.__main__ import dashboards
from opskit.observe.panels import DASHBOARDS, Panels
from opskit.observe.rendering import render_monitoring
from tests.opskit.observe.test_rules import environment

UID = "chat-prometheus"
UNITS = {"none", "short", "s", "percentunit", "bytes", "reqps", "cps", "ops"}
KNOWN_VARIABLES = {"environment", "__rate_interval"}

BOARDS = list(Panels.load().dashboards())
PANELS = [(board, panel) for board in BOARDS for panel in board["panels"]]
CHARTS = [(board, panel) for board, panel in PANELS if panel["type"] != "row"]


def named(value: Any) -> str:
    return value.get("uid") or value["title"] if isinstance(value, dict) else str(value)


def test_they_are_what_their_source_builds() -> None:
    """After a change: python -m opskit.observe.dashboards"""
    committed = {path.name: path.read_text(encoding="utf-8") for path in DASHBOARDS.iterdir()}
    assert committed == dashboards()


def test_there_is_one_for_each_purpose() -> None:
    assert {board["uid"] for board in BOARDS} == {
        "chat-overview", "chat-connections", "chat-rooms", "chat-saturation", "chat-deployments",
    }  # fmt: skip
    assert len({board["title"] for board in BOARDS}) == len(BOARDS)


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_numbers_and_titles_are_unique(board: dict[str, Any]) -> None:
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    assert all(isinstance(number, int) and number > 0 for number in numbers)
    titles = [panel["title"] for panel in board["panels"] if panel["type"] != "row"]
    assert len(set(titles)) == len(titles)


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_panels_lie_beside_one_another_in_the_grid(board: dict[str, Any]) -> None:
    places = [(panel["title"], panel["gridPos"]) for panel in board["panels"]]
    for title, at in places:
        assert 0 <= at["x"] < at["x"] + at["w"] <= 24, title
        assert at["h"] > 0, title
    for (one, a), (other, b) in combinations(places, 2):
        apart = (
            a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
            or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"]
        )  # fmt: skip
        assert apart, f"{one} lies on {other}"


@pytest.mark.parametrize(("board", "panel"), CHARTS, ids=named)
def test_a_panel_says_what_it_shows(board: dict[str, Any], panel: dict[str, Any]) -> None:
    assert re.fullmatch(r"[A-Z0-9].*\.", panel["description"], re.DOTALL)
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["type"] in {"stat", "timeseries", "state-timeline", "heatmap"}
    targets = panel["targets"]
    assert len({target["refId"] for target in targets}) == len(targets) > 0
    for target in targets:
        assert target["expr"]
        if panel["type"] != "stat":
            assert target["legendFormat"], "a series without a name"


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_everything_is_asked_of_the_one_datasource(board: dict[str, Any]) -> None:
    asked = [panel["datasource"] for panel in board["panels"] if panel["type"] != "row"]
    asked += [target["datasource"] for p in board["panels"] for target in p.get("targets") or ()]
    asked += [one["datasource"] for one in board["annotations"]["list"]]
    asked += [one["datasource"] for one in board["templating"]["list"]]
    assert {(one["type"], one["uid"]) for one in asked} == {("prometheus", UID)}


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_no_variable_is_unresolved(board: dict[str, Any]) -> None:
    assert [one["name"] for one in board["templating"]["list"]] == ["environment"]
    for panel in board["panels"]:
        for target in panel.get("targets") or ():
            used = set(re.findall(r"\$\{?(\w+)", target["expr"]))
            assert used <= KNOWN_VARIABLES, panel["title"]
            assert "environment" in used, f"{panel['title']} shows all environments at once"


@pytest.mark.parametrize("board", BOARDS, ids=named)
def test_deployments_are_marked(board: dict[str, Any]) -> None:
    [mark] = board["annotations"]["list"]
    assert mark["useValueForTime"]
    assert "opskit_deploy_timestamp_seconds" in mark["expr"]


def test_grafana_finds_the_datasource_and_the_dashboards(tmp_path: Path) -> None:
    files = render_monitoring(environment(tmp_path, {}), root="/srv/m")  # type: ignore[arg-type]
    [datasource] = yaml.safe_load(files["grafana/provisioning/datasources/chat.yml"])["datasources"]
    assert datasource["uid"] == UID
    assert datasource["url"] == "http://127.0.0.1:9090"
    [provider] = yaml.safe_load(files["grafana/provisioning/dashboards/chat.yml"])["providers"]
    assert provider["options"]["path"] == "/srv/m/current/grafana/dashboards"
    assert {name for name in files if name.startswith("grafana/dashboards/")} == {
        f"grafana/dashboards/{board['uid']}.json" for board in BOARDS
    }


def test_an_alert_cannot_link_to_a_panel_that_is_not_there() -> None:
    panels = Panels.load()
    number = panels.number("chat-overview", "Requests that failed", wanted_by="A")
    [panel] = [p for b, p in CHARTS if b["uid"] == "chat-overview" and p["id"] == number]
    assert panel["title"] == "Requests that failed"
    with pytest.raises(Failure, match=r"alert A: .* panel 'Nothing' .* there are: Proc"):
        panels.number("chat-overview", "Nothing", wanted_by="A")
    with pytest.raises(Failure, match="there is no such dashboard"):
        panels.number("chat-nothing", "Nothing", wanted_by="A")


def test_the_json_is_stable() -> None:
    """A change shows as a change of the lines that it is about."""
    for text in dashboards().values():
        assert (
            json.dumps(json.loads(text), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
            == text
        )
