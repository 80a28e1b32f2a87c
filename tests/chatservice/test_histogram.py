"""Our histogram says what the library's would."""

from __future__ import annotations

import random

import prometheus_client
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from chatservice.histogram import Histogram

BUCKETS = (0.005, 0.01, 0.5, 1, 2.5)
VALUES = [0.0, 0.005, 0.0050001, 1.0, 2.5, 2.6, 1e9, -1.0]


@pytest.mark.parametrize("labelled", [False, True])
def test_it_is_exposed_as_the_libraries_own(labelled: bool) -> None:
    """Bounds that are hit exactly, values beyond the last, labels that nothing was counted of."""
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    chance = random.Random(3)
    values = VALUES + [chance.expovariate(2) for _ in range(500)]
    labels = ["op"] if labelled else []
    label, children = ("op", ("a", "b")) if labelled else ("", ("",))
    own = Histogram(
        "x_seconds", "What.", buckets=BUCKETS, registry=ours, label=label, values=children
    )
    library = prometheus_client.Histogram(
        "x_seconds", "What.", labels, buckets=BUCKETS, registry=theirs
    )
    if labelled:
        library.labels("b")
        library.labels("a")
    for value in values:
        (own.children["a"] if labelled else own.child).observe(value)
        (library.labels("a") if labelled else library).observe(value)
    assert sorted(generate_latest(ours).split(b"\n")) == [
        line for line in sorted(generate_latest(theirs).split(b"\n")) if b"_created" not in line
    ]
