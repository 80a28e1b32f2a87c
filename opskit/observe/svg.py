"""Charts as SVG: what dashboards show, drawn without a browser's help. Pure.

Colours are classes and CSS variables of the page, so that the same drawing is right on white and
on black. Values are read by resting the pointer on a chart: each moment is a strip with a title.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from itertools import pairwise
from typing import Final

from opskit.observe.prometheus import Series
from opskit.observe.units import nice_top, shown, time_ticks

COLOURS: Final = 10
"""Colours of series, `--c0` to `--c9`; they begin again after that."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 58.0, 8.0, 10.0, 20.0
_STRIPS: Final = 60


@dataclass(frozen=True)
class Frame:
    """What all charts of a page have in common.

    Attributes:
        start, end: the time that is shown, Unix time.
        step: seconds between two points.
        deployments: when something was deployed, to be marked.
    """

    start: float
    end: float
    step: float
    deployments: Sequence[float] = ()


def colour(index: int) -> str:
    """Give the colour of a chart's series, from 0."""
    return f"var(--c{index % COLOURS})"


@dataclass(frozen=True)
class Line:
    """One series of a chart: its name for people, and its points."""

    name: str
    series: Series


class _Plot:
    """The rectangle of a chart, and how times and values fall into it."""

    def __init__(self, frame: Frame, width: float, height: float, top: float) -> None:
        self.frame, self.top = frame, top
        self.left, self.right = _LEFT, width - _RIGHT
        self.upper, self.lower = _TOP, height - _BOTTOM

    def x(self, at: float) -> float:
        share = (at - self.frame.start) / (self.frame.end - self.frame.start)
        return self.left + min(1.0, max(0.0, share)) * (self.right - self.left)

    def y(self, value: float) -> float:
        share = min(1.0, max(0.0, value / self.top))
        return self.lower - share * (self.lower - self.upper)


def lines(
    frame: Frame,
    found: Sequence[Line],
    *,
    unit: str,
    width: float,
    height: float,
    stacked: bool = False,
    bars: bool = False,
) -> str:
    """Draw series over time: lines, or areas that lie on one another."""
    layers = _stack(found, frame) if stacked else [(one, None) for one in found]
    highest = max(
        (value for one, base in layers for value in _tops(one, base)),
        default=0.0,
    )
    plot = _Plot(frame, width, height, nice_top(highest * 1.02, unit))
    parts = [*_axes(plot, unit)]
    for index, (one, base) in reversed(list(enumerate(layers))):
        parts += _series(plot, index, one, base, filled=stacked, bars=bars)
    parts += _deployments(plot)
    parts += _strips(plot, found, unit)
    return _svg(parts, width, height)


def _tops(one: Line, base: Mapping[float, float] | None) -> Iterable[float]:
    for at, value in one.series.points:
        yield value + (base.get(at, 0.0) if base else 0.0)


def _stack(found: Sequence[Line], frame: Frame) -> list[tuple[Line, Mapping[float, float] | None]]:
    """Give each series with the height that it lies on at each time."""
    height: dict[float, float] = {}
    layers: list[tuple[Line, Mapping[float, float] | None]] = []
    for one in found:
        layers.append((one, dict(height)))
        for at, value in one.series.points:
            height[at] = height.get(at, 0.0) + value
    return layers


def _series(
    plot: _Plot,
    index: int,
    one: Line,
    base: Mapping[float, float] | None,
    *,
    filled: bool,
    bars: bool,
) -> Iterable[str]:
    paint = colour(index)
    beneath = base or {}
    if bars:
        wide = max(1.0, plot.x(plot.frame.start + plot.frame.step) - plot.left - 0.6)
        for at, value in one.series.points:
            if value > 0:
                low, high = plot.y(beneath.get(at, 0.0)), plot.y(beneath.get(at, 0.0) + value)
                yield (
                    f'<rect x="{plot.x(at) - wide / 2:.1f}" y="{high:.1f}" width="{wide:.1f}" '
                    f'height="{max(0.0, low - high):.1f}" fill="{paint}" class="bar"/>'
                )
        return
    for run in _runs(one.series.points, plot.frame.step):
        upper = [(plot.x(at), plot.y(value + beneath.get(at, 0.0))) for at, value in run]
        if len(upper) == 1:
            yield f'<circle cx="{upper[0][0]:.1f}" cy="{upper[0][1]:.1f}" r="1.6" fill="{paint}"/>'
            continue
        lower = [(plot.x(at), plot.y(beneath.get(at, 0.0))) for at, _ in reversed(run)]
        area = " ".join(f"{x:.1f},{y:.1f}" for x, y in [*upper, *lower])
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in upper)
        kind = "area" if filled else "wash"
        yield f'<polygon points="{area}" fill="{paint}" class="{kind}"/>'
        yield f'<polyline points="{line}" stroke="{paint}" class="line"/>'


def _runs(
    points: Sequence[tuple[float, float]], step: float
) -> Iterable[list[tuple[float, float]]]:
    """Split where points are missing: a gap is shown as one."""
    run = [points[0]]
    for before, after in pairwise(points):
        if after[0] - before[0] > 1.5 * step:
            yield run
            run = []
        run.append(after)
    yield run


def states(
    frame: Frame,
    found: Sequence[Line],
    *,
    values: Mapping[str, tuple[str, str]],
    width: float,
) -> tuple[str, float]:
    """Draw a band for each series, coloured by its value; gives the drawing and its height."""
    left = min(190.0, 16.0 + 6.4 * max((len(one.name) for one in found), default=0))
    row, gap = 15.0, 5.0
    height = _TOP + len(found) * (row + gap) + _BOTTOM
    plot = _Plot(frame, width, height, 1.0)
    plot.left = left
    parts = [*_times(plot)]
    for index, one in enumerate(found):
        y = _TOP + index * (row + gap)
        name = one.name if len(one.name) <= 27 else one.name[:26] + "…"
        parts.append(
            f'<text x="{left - 8:.0f}" y="{y + row - 4:.1f}" class="tick" text-anchor="end">'
            f"{escape(name)}</text>"
        )
        parts.append(
            f'<rect x="{left:.1f}" y="{y:.1f}" width="{plot.right - left:.1f}" height="{row}" '
            'class="track" rx="2"/>'
        )
        for since, until, value in _bands(one.series.points, frame):
            said, colour = values.get(f"{value:g}", (f"{value:g}", "blue"))
            x, wide = plot.x(since), max(1.5, plot.x(until) - plot.x(since))
            parts.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{row}" rx="2" '
                f'fill="var(--{colour})" class="band"><title>{escape(one.name)}: {escape(said)}\n'
                f"{_moment(since)} to {_moment(until)}</title></rect>"
            )
    parts += _deployments(plot)
    return _svg(parts, width, height), height


def _bands(
    points: Sequence[tuple[float, float]], frame: Frame
) -> Iterable[tuple[float, float, float]]:
    """Give from when to when a series had each value."""
    since, value = points[0]
    last = since
    for at, now in points[1:]:
        if now != value or at - last > 1.5 * frame.step:
            yield since, min(last + frame.step, at), value
            since, value = at, now
        last = at
    yield since, min(frame.end, last + frame.step), value


def heat(frame: Frame, found: Sequence[Series], *, unit: str, width: float, height: float) -> str:
    """Draw how a histogram's observations are spread: `found` has one series for each `le`."""
    limits = sorted(
        (float(one.labels.get("le", "inf").replace("+Inf", "inf")), dict(one.points))
        for one in found
    )
    times = sorted({at for _, points in limits for at in points})
    each = max(1, -(-len(times) // 90))
    columns = [times[index : index + each] for index in range(0, len(times), each)]
    cells: list[tuple[int, int, float]] = []
    for x, column in enumerate(columns):
        below = 0.0
        for y, (_, points) in enumerate(limits):
            total = sum(points.get(at, 0.0) for at in column) / len(column)
            cells.append((x, y, max(0.0, total - below)))
            below = max(below, total)
    used = [y for _, y, value in cells if value > 0]
    first, last = (min(used), max(used)) if used else (0, 0)
    first, last = max(0, first - 1), min(len(limits) - 1, last + 1)
    most = max((value for _, _, value in cells), default=0.0) or 1.0
    plot = _Plot(frame, width, height, 1.0)
    tall = (plot.lower - plot.upper) / (last - first + 1)
    parts = [*_times(plot)]
    for y in range(first, last + 1):
        label = "more" if limits[y][0] == float("inf") else shown(limits[y][0], unit)
        at = plot.lower - (y - first + 1) * tall
        if (last - first) < 9 or (y - first) % 2 == 0:
            parts.append(
                f'<text x="{plot.left - 6:.0f}" y="{at + 3.5:.1f}" class="tick" '
                f'text-anchor="end">{label}</text>'
            )
    for x, y, value in cells:
        if value <= 0 or not first <= y <= last:
            continue
        left = plot.x(columns[x][0] - frame.step / 2)
        right = plot.x(columns[x][-1] + frame.step / 2)
        strength = 0.12 + 0.88 * (value / most) ** 0.5
        low = "0" if y == 0 else shown(limits[y - 1][0], unit)
        high = "more" if limits[y][0] == float("inf") else shown(limits[y][0], unit)
        parts.append(
            f'<rect x="{left:.1f}" y="{plot.lower - (y - first + 1) * tall:.1f}" '
            f'width="{max(0.8, right - left - 0.4):.1f}" height="{tall - 0.6:.1f}" '
            f'fill="var(--heat)" fill-opacity="{strength:.2f}"><title>{_moment(columns[x][0])}\n'
            f"{low} to {high}: {shown(value, 'ops')}</title></rect>"
        )
    parts += _deployments(plot)
    return _svg(parts, width, height)


# --- what charts have in common ---------------------------------------------------------------


def _axes(plot: _Plot, unit: str) -> Iterable[str]:
    for part in range(5):
        value = plot.top * part / 4
        y = plot.y(value)
        kind = "axis" if part == 0 else "grid"
        yield f'<line x1="{plot.left}" x2="{plot.right}" y1="{y:.1f}" y2="{y:.1f}" class="{kind}"/>'
        yield (
            f'<text x="{plot.left - 6:.0f}" y="{y + 3.5:.1f}" class="tick" text-anchor="end">'
            f"{shown(value, unit)}</text>"
        )
    yield from _times(plot)


def _times(plot: _Plot) -> Iterable[str]:
    most = max(2, int((plot.right - plot.left) / 78))
    for at, said in time_ticks(plot.frame.start, plot.frame.end, most):
        x = plot.x(at)
        if plot.left + 12 <= x <= plot.right - 12:
            yield (
                f'<text x="{x:.1f}" y="{plot.lower + 15:.1f}" class="tick" '
                f'text-anchor="middle">{said}</text>'
            )


def _deployments(plot: _Plot) -> Iterable[str]:
    for at in plot.frame.deployments:
        x = plot.x(at)
        yield (
            f'<g class="deployment"><line x1="{x:.1f}" x2="{x:.1f}" y1="{plot.upper - 4:.1f}" '
            f'y2="{plot.lower:.1f}"/><path d="M{x - 4:.1f} {plot.upper - 8:.1f}h8l-4 6z"/>'
            f"<title>deployed {_moment(at)}</title></g>"
        )


def _strips(plot: _Plot, found: Sequence[Line], unit: str) -> Iterable[str]:
    """Give strips that show the values of their moment while the pointer rests on them."""
    times = sorted({at for one in found for at, _ in one.series.points})
    if not times:
        return
    each = max(1, -(-len(times) // _STRIPS))
    tables = [(one.name, dict(one.series.points)) for one in found]
    for at in times[::each]:
        values = sorted(
            ((points[at], name) for name, points in tables if at in points), reverse=True
        )
        said = "\n".join(f"{name}: {shown(value, unit)}" for value, name in values[:12])
        wide = (plot.right - plot.left) * plot.frame.step * each
        wide /= plot.frame.end - plot.frame.start
        x = plot.x(at)
        yield (
            f'<g class="strip"><rect x="{x - wide / 2:.1f}" y="{plot.upper}" width="{wide:.1f}" '
            f'height="{plot.lower - plot.upper:.1f}"/><line x1="{x:.1f}" x2="{x:.1f}" '
            f'y1="{plot.upper}" y2="{plot.lower}"/>'
            f"<title>{_moment(at)}\n{escape(said)}</title></g>"
        )


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%d %b %H:%M:%S")


def _svg(parts: Iterable[str], width: float, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" class="chart">'
        + "".join(parts)
        + "</svg>"
    )
