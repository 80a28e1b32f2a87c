"""The numbers that describe a run are those of the run."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.summary import errors_in, longest_outage, summary
from tests.chaos.world import World


def test_a_run_is_counted() -> None:
    world = World(1)
    ann, bob = world.add("ann", 0, raw=True), world.add("bob", 0, raw=False)
    for device in (ann, bob):
        world.connect(device)
    world.send(ann)
    world.send(bob)
    world.send(ann, "ack lost")
    world.wait(2.0)
    world.connect(ann)
    world.drop(bob)
    world.send(bob)
    world.connect(bob)
    world.finish()
    assert summary(world.records, Counter({"kill -9": 2})) == (
        "4 sends by 2 users, 4 acknowledged, 1 sent again by raw devices, "
        "1 by clients on a later connection, 2 reconnects, "
        "longest outage of a member 2.01 s, 2 x kill -9"
    )
    assert longest_outage(world.records) == pytest.approx(2.0, abs=0.1)
    assert errors_in(world.records) == Counter()
