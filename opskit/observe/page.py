"""`opskit dashboard`: the committed dashboards as one page, for a person without Grafana.

The same panels with the same queries, asked of Prometheus once and drawn as SVG: one file, no
script, nothing fetched, right on light and on dark screens, and good for sending to somebody.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup, escape

from opskit.durations import short
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.observe import svg
from opskit.observe.firing import Firing, look
from opskit.observe.panels import Panels
from opskit.observe.prometheus import Prometheus, QueryError, Series
from opskit.observe.reach import reached
from opskit.observe.units import shown
from opskit.render import TEMPLATES

POINTS: Final = 240
"""Points of a graph: as many as can be told apart on a page."""
_COLUMN: Final = 58.0
"""Width of one of a dashboard's 24 columns in a drawing, which scales to any screen."""


@dataclass(frozen=True)
class Drawn:
    """One panel, as the page shows it.

    Attributes:
        anchor: what links to it end with.
        title, description: for people.
        kind: stat, chart or row.
        columns: how wide it is, of 24.
        body: the drawing, or a number.
        colour: of a number.
        legend: colour, name, last and largest value of each series that is not always 0.
        zero: the names of those that are.
        problem: what went wrong, when it could not be drawn.
    """

    anchor: str
    title: str
    description: str
    kind: str
    columns: int
    body: str = ""
    colour: str = ""
    legend: tuple[tuple[str, str, str, str], ...] = ()
    zero: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Section:
    """One dashboard."""

    uid: str
    title: str
    description: str
    panels: tuple[Drawn, ...]


def draw(environment: Environment, *, seconds: float, out: Path | None = None) -> Path:
    """Ask Prometheus, draw, and write; gives where.

    Raises:
        Failure: nobody watches the environment, or the page cannot be written.
    """
    seen = look(environment)  # says what to run when nobody watches
    url = f"http://127.0.0.1:{environment.monitoring.prometheus_port}"
    end = time.time()
    with reached(environment) as transport:
        prometheus = Prometheus(url, transport)
        try:
            sections, frame = _sections(environment, prometheus, end, seconds)
        finally:
            prometheus.close()
    text = _page(environment, sections, frame, seen.alerts, watchdog=seen.watchdog)
    return _write(text, out or Path(tempfile.gettempdir()) / f"opskit-{environment.name}.html")


def _write(text: str, path: Path) -> Path:
    """Write it whole, for nobody else: names of workspaces are none of it, but load is."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        raise Failure(f"{path}: cannot be written: {error.strerror}") from None
    return path


def _sections(
    environment: Environment, prometheus: Prometheus, end: float, seconds: float
) -> tuple[list[Section], svg.Frame]:
    interval = environment.monitoring.scrape_interval
    step = max(float(interval), seconds / POINTS)
    end -= end % step  # so that a page drawn again a moment later shows the same points
    start = end - seconds
    panels = Panels.load()
    fill = filler(environment.name, interval, step)
    boards = sorted(panels.dashboards(), key=lambda one: _ORDER.index(one["uid"]))
    asked = boards[0]["annotations"]["list"][0]["expr"]
    marks = _deployments(prometheus, fill(asked), start, end, step)
    frame = svg.Frame(start, end, step, marks)
    with ThreadPoolExecutor(4) as pool:
        sections = [
            Section(
                board["uid"],
                board["title"].removeprefix("Chat: ").capitalize(),
                board["description"],
                tuple(pool.map(partial(_drawn, prometheus, fill, frame), board["panels"])),
            )
            for board in boards
        ]
    return sections, frame


_ORDER: Final = (
    "chat-overview", "chat-connections", "chat-rooms", "chat-saturation", "chat-deployments",
)  # fmt: skip


def filler(environment: str, interval: float, step: float) -> Callable[[str], str]:
    """Give what puts values in place of a dashboard's variables, as Grafana would.

    `$__rate_interval` is at least four scrapes, so that a rate always has two of them
    (https://grafana.com/docs/grafana/latest/datasources/prometheus/template-variables/).
    """
    known = {
        "environment": environment,
        "__rate_interval": f"{max(4 * interval, step + interval):.0f}s",
    }

    def fill(query: str) -> str:
        return re.sub(r"\$\{?(\w+)\}?", lambda match: known[match[1]], query)

    return fill


def _deployments(
    prometheus: Prometheus, query: str, start: float, end: float, step: float
) -> list[float]:
    """Give when something was deployed: the values of the annotation, in milliseconds."""
    found = prometheus.range(query, start, end, step)
    times = {value / 1000 for one in found for _, value in one.points}
    return sorted(at for at in times if start <= at <= end)


# --- one panel --------------------------------------------------------------------------------


def _drawn(
    prometheus: Prometheus, fill: Callable[[str], str], frame: svg.Frame, panel: Mapping[str, Any]
) -> Drawn:
    kind, columns = panel["type"], int(panel["gridPos"]["w"])
    title, description = panel["title"], panel.get("description", "")
    anchor = f"panel-{panel['id']}"
    if kind == "row":
        return Drawn(anchor, title, "", "row", 24)
    try:
        found = [
            svg.Line(_name(target.get("legendFormat", ""), one), one)
            for target in panel["targets"]
            for one in (
                prometheus.now(fill(target["expr"]), frame.end)
                if kind == "stat"
                else prometheus.range(fill(target["expr"]), frame.start, frame.end, frame.step)
            )
        ]
    except QueryError as error:
        return Drawn(anchor, title, description, "chart", columns, problem=str(error))
    if kind == "stat":
        body, colour = _stat(panel, found)
        return Drawn(anchor, title, description, "stat", columns, body, colour)
    if not found:
        return Drawn(anchor, title, description, "chart", columns, problem="nothing to show yet")
    legend, zero = _legend(panel, found)
    body = _chart(panel, found, frame)
    return Drawn(anchor, title, description, "chart", columns, body, legend=legend, zero=zero)


def _name(form: str, one: Series) -> str:
    """Give a series its name: `{{label}}` is the value of a label."""
    named = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda match: one.labels.get(match[1], ""), form)
    return named.strip() or "value"


def _stat(panel: Mapping[str, Any], found: Sequence[svg.Line]) -> tuple[str, str]:
    """Give a number, or the word in its place, and its colour."""
    defaults = panel["fieldConfig"]["defaults"]
    if not found:
        return defaults.get("noValue", "–"), "dim"
    value = found[0].series.last
    words = _values(panel).get(f"{value:g}")
    if words is not None:
        return words
    colour = "blue"
    for step in defaults.get("thresholds", {}).get("steps", ()):
        if step["value"] is None or value >= step["value"]:
            colour = step["color"]
    if panel["options"].get("textMode") == "name":
        return ", ".join(one.name for one in found), colour
    return shown(value, defaults.get("unit", "none"), defaults.get("decimals")), colour


def _values(panel: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Give the words that stand in place of values, each with its colour."""
    return {
        value: (result["text"], result["color"])
        for mapping in panel["fieldConfig"]["defaults"].get("mappings", ())
        for value, result in mapping["options"].items()
    }


def _chart(panel: Mapping[str, Any], found: Sequence[svg.Line], frame: svg.Frame) -> str:
    width = panel["gridPos"]["w"] * _COLUMN - 30
    height = 21.0 * panel["gridPos"]["h"]
    defaults = panel["fieldConfig"]["defaults"]
    unit = defaults.get("unit", "none")
    if panel["type"] == "state-timeline":
        ordered = sorted(found, key=lambda one: one.name)
        return svg.states(frame, ordered, values=_values(panel), width=width)[0]
    if panel["type"] == "heatmap":
        series = [one.series for one in found]
        return svg.heat(frame, series, unit=_heat_unit(panel), width=width, height=height)
    custom = defaults.get("custom", {})
    return svg.lines(
        frame,
        found,
        unit=unit,
        width=width,
        height=height,
        stacked=custom.get("stacking", {}).get("mode") == "normal",
        bars=custom.get("drawStyle") == "bars",
    )


def _heat_unit(panel: Mapping[str, Any]) -> str:
    return str(panel["fieldConfig"]["defaults"].get("unit", "s"))


def _legend(
    panel: Mapping[str, Any], found: Sequence[svg.Line]
) -> tuple[tuple[tuple[str, str, str, str], ...], tuple[str, ...]]:
    """Give what each series is called and was; those that are always 0 by their names alone."""
    if panel["type"] != "timeseries":
        return (), ()
    unit = panel["fieldConfig"]["defaults"].get("unit", "none")
    rows, zero = [], []
    for index, one in enumerate(found):
        most = max(value for _, value in one.series.points)
        if most == 0 and len(found) > 1:
            zero.append(one.name)
        else:
            last = one.series.last
            rows.append((last, svg.colour(index), one.name, shown(last, unit), shown(most, unit)))
    if len(rows) > _MANY:
        rows.sort(key=lambda row: -row[0])
    return tuple(row[1:] for row in rows), tuple(zero)


_MANY: Final = 4
"""Series from which on a legend is in the order of their values, and not of their names."""


def _with_code(text: str) -> Markup:
    """Escape a text, and set what is in backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


# --- the page ---------------------------------------------------------------------------------


def _page(
    environment: Environment,
    sections: Sequence[Section],
    frame: svg.Frame,
    alerts: Sequence[Firing],
    *,
    watchdog: bool,
) -> str:
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["code"] = _with_code
    return templates.get_template("dashboard/page.html.j2").render(
        environment=environment,
        sections=sections,
        firing=[one for one in alerts if one.state == "firing"],
        watchdog=watchdog,
        drawn=datetime.fromtimestamp(frame.end).astimezone().strftime("%d %b %Y, %H:%M %Z"),
        span=short(frame.end - frame.start),
        deployments=len(frame.deployments),
        age=lambda one: short(one.age),
    )
