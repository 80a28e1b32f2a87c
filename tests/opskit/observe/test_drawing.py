"""What the page draws: values as people read them, and charts that say what the numbers say."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence

import pytest

from opskit.observe.prometheus import Series
from opskit.observe.svg import Frame, Line, heat, lines, states
from opskit.observe.units import nice_top, shown, time_ticks

FRAME = Frame(start=1000.0, end=1100.0, step=10.0)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0, "s", "0 s"), (0.00042, "s", "420 µs"), (0.0123, "s", "12.3 ms"), (1.5, "s", "1.5 s"),
        (119, "s", "119 s"), (150, "s", "2.5 min"), (9000, "s", "2.5 h"), (864_000, "s", "10 d"),
        (-30, "s", "-30 s"), (0.05, "percentunit", "5 %"), (0.00123, "percentunit", "0.12 %"),
        (1, "percentunit", "100 %"), (1536, "bytes", "1.5 KiB"), (512, "bytes", "512 B"),
        (3 * 2**30, "bytes", "3 GiB"), (2**50, "bytes", "1024 TiB"), (0, "short", "0"),
        (12.345, "short", "12.3"), (9999, "short", "9999"), (12_345, "short", "12.3 k"),
        (5_000_000, "none", "5 M"), (57.44, "reqps", "57.4/s"), (float("nan"), "s", "–"),
        (float("inf"), "short", "–"), (-0.0, "short", "0"),
    ],
)  # fmt: skip
def test_a_value_is_written_with_its_unit(value: float, unit: str, text: str) -> None:
    assert shown(value, unit) == text


def test_decimals_are_kept_to() -> None:
    assert shown(119.6, "short", 0) == "120"
    assert shown(0.04567, "percentunit", 2) == "4.57 %"


@pytest.mark.parametrize(
    ("value", "unit", "top"),
    [
        (0, "short", 1.0), (0, "percentunit", 0.01), (3, "short", 5.0), (7.3, "short", 10.0),
        (0.21, "s", 0.25), (75, "s", 120.0), (90_000, "s", 172_800.0), (1000, "bytes", 1024.0),
        (5_000_000, "bytes", 8 * 2**20), (101, "reqps", 200.0),
    ],
)  # fmt: skip
def test_an_axis_ends_at_a_round_number(value: float, unit: str, top: float) -> None:
    assert nice_top(value, unit) == top


def test_times_are_round_and_inside() -> None:
    ticks = time_ticks(1_700_000_123.0, 1_700_003_723.0, 8)
    assert 4 <= len(ticks) <= 8
    assert all(1_700_000_123 <= at <= 1_700_003_723 and at % 600 == 0 for at, _ in ticks)
    assert all(re.fullmatch(r"\d\d:\d\d", said) for _, said in ticks)


# --- charts -----------------------------------------------------------------------------------


def series(values: Sequence[float | None], **labels: str) -> Series:
    points = [(1000.0 + 10 * i, value) for i, value in enumerate(values) if value is not None]
    return Series(labels, tuple(points))


def parsed(svg: str) -> ElementTree.Element:
    """Read a drawing: it must be well-formed, whatever names of series hold."""
    return ElementTree.fromstring(svg)


def with_class(svg: str, kind: str) -> list[ElementTree.Element]:
    return [one for one in parsed(svg).iter() if one.get("class") == kind]


def heights(line: ElementTree.Element) -> list[float]:
    return [float(point.split(",")[1]) for point in line.attrib["points"].split()]


def test_a_line_is_as_high_as_its_values() -> None:
    svg = lines(FRAME, [Line("a", series([0, 5, 10]))], unit="short", width=500, height=130)
    [line] = with_class(svg, "line")
    low, middle, high = heights(line)
    assert low - middle == pytest.approx(middle - high, abs=0.2)
    assert low > high  # y grows downwards


def test_a_gap_is_shown_as_one() -> None:
    svg = lines(
        FRAME, [Line("a", series([1, 2, None, None, 3, 4]))], unit="short", width=500, height=130
    )
    assert len(with_class(svg, "line")) == 2


def test_a_single_point_can_be_seen() -> None:
    svg = lines(FRAME, [Line("a", series([None, 2]))], unit="short", width=500, height=130)
    assert [one.tag for one in parsed(svg).iter() if one.tag == "circle"] == ["circle"]


def test_stacked_areas_lie_on_one_another() -> None:
    found = [Line("a", series([2, 2])), Line("b", series([3, 3]))]
    svg = lines(FRAME, found, unit="short", width=500, height=130, stacked=True)
    tops = sorted(heights(line)[0] for line in with_class(svg, "line"))
    alone = lines(FRAME, [Line("c", series([5, 5]))], unit="short", width=500, height=130)
    [line] = with_class(alone, "line")
    # 5 of 10 in both: the upper edge of the upper one is where 5 is.
    assert tops[0] == pytest.approx(heights(line)[0], abs=0.2)


def test_names_cannot_break_the_drawing() -> None:
    name = "<script>&\"'"
    found = [Line(name, series([1, 2]))]
    for svg in (
        lines(FRAME, found, unit="short", width=500, height=130),
        lines(FRAME, found, unit="short", width=500, height=130, bars=True),
        states(FRAME, found, values={"1": (name, "red")}, width=500)[0],
    ):
        assert not [one for one in parsed(svg).iter() if one.tag == "script"]


def test_a_state_is_a_band_for_as_long_as_it_lasts() -> None:
    found = [Line("a", series([1, 1, 0, 0, 1, None, None, 1]))]
    svg, height = states(
        FRAME, found, values={"0": ("down", "red"), "1": ("up", "green")}, width=500
    )
    bands = with_class(svg, "band")
    assert [band.get("fill") for band in bands] == [
        "var(--green)", "var(--red)", "var(--green)", "var(--green)",
    ]  # fmt: skip
    assert "down" in (bands[1].findtext("title") or "")
    assert height == pytest.approx(50.0)


def test_heat_is_of_single_buckets_and_not_cumulative() -> None:
    """Ten a second at most 0.1 s, all others up to 1 s: two rows, the lower one darker."""
    found = [
        series([9, 9], le="0.1"), series([10, 10], le="1"), series([10, 10], le="+Inf"),
    ]  # fmt: skip
    svg = heat(FRAME, found, unit="s", width=500, height=130)
    cells = [one for one in parsed(svg).iter() if one.get("fill") == "var(--heat)"]
    rows = {float(one.attrib["y"]): float(one.attrib["fill-opacity"]) for one in cells}
    assert len(rows) == 2
    lower, upper = max(rows), min(rows)
    assert rows[lower] == 1.0
    assert rows[upper] < 0.5
    assert "100 ms to 1 s: 1/s" in svg


def test_deployments_are_marked_on_every_chart() -> None:
    frame = Frame(1000.0, 1100.0, 10.0, (1050.0,))
    one = [Line("a", series([1, 1]))]
    for svg in (
        lines(frame, one, unit="short", width=500, height=130),
        states(frame, one, values={}, width=500)[0],
        heat(frame, [series([1, 1], le="1")], unit="s", width=500, height=130),
    ):
        assert len(with_class(svg, "deployment")) == 1
