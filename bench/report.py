"""Medians, ratios and tables: how the benches say what they measured."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Round = Mapping[str, float]
"""What one server did in one round, by the name of the figure."""


def median_of(rounds: Sequence[Round]) -> dict[str, float]:
    """Give the median of each figure over the rounds that have it; nan where none has."""
    return {key: _median(r[key] for r in rounds) for key in rounds[0]}


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def ratio(ours: Sequence[Round], theirs: Sequence[Round], key: str) -> float:
    """Give the median of the ratios of the rounds.

    Both were measured in each round, one after the other, so what the machine did meanwhile hits
    both and mostly cancels; a ratio of medians would not have that.
    """
    return statistics.median(a[key] / b[key] for a, b in zip(ours, theirs, strict=True))


def rounded(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Round for JSON, which has no nan: five significant digits are more than is known."""
    return {
        key: None if math.isnan(value) else float(f"{value:.5g}") for key, value in figures.items()
    }


def of_rounds(rounds: Sequence[Round]) -> dict[str, Any]:
    """Give what a script gets of one cell: each round, and the median."""
    return {"rounds": [rounded(each) for each in rounds], "median": rounded(median_of(rounds))}


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay out rows under a header: the first column to the left, the others to the right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def describe(machine: Mapping[str, Any], cores: object) -> str:
    """Say in two lines where the figures come from."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    return (
        f"{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, "
        f"Python {machine['python']}, {packages}\n"
        f"{cores}; database on {machine['filesystem']}, fsync {machine['fsync_ms']:g} ms; "
        f"load average {machine['load_average']:.1f} at the start"
    )


def progress(text: str) -> None:
    """Tell the person who waits, without getting into what a script reads."""
    print(text, file=sys.stderr, flush=True)
