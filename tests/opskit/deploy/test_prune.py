"""What is kept and what goes, as cases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit.deploy.prune import Doomed, doomed
from opskit.deployments import Outcome
from opskit.facts import Facts, Manifest, Process
from tests.opskit.facts_of import EMPTY
from tests.opskit.test_deployments import record

MANIFEST = Manifest("c", "none", True, "", "layer-a", 1, 1)


def host(
    *installed: int, current: int, processes: tuple[int, ...] = (), layers: str = "layer-a"
) -> Facts:
    return replace(
        EMPTY,
        releases=dict.fromkeys(installed, MANIFEST),
        current=current,
        processes=tuple(Process(100 + number, number, 0.0) for number in processes),
        layers=tuple(layers.split()),
    )


GOOD = [("deploy", number, "good") for number in range(1, 9)]


def test_the_last_good_ones_are_kept() -> None:
    """Of eight good ones, with five to keep, the oldest three go."""
    facts = host(*range(1, 9), current=8)
    assert doomed(facts, record(*GOOD), keep=5, now=8) == Doomed((1, 2, 3), ())


def test_what_serves_and_what_a_rollback_needs_is_kept() -> None:
    """After rolling back far, the current release and the one before it stay, however old."""
    facts = host(*range(1, 9), current=3)
    assert doomed(facts, record(*GOOD), keep=2, now=3).releases == (1, 4, 5, 6)


def test_a_process_that_still_runs_keeps_its_release() -> None:
    """One that is being relieved reads its files to the end."""
    facts = host(*range(1, 9), current=8, processes=(1, 8))
    assert doomed(facts, record(*GOOD), keep=5, now=8).releases == (2, 3)


def test_failed_ones_do_not_count_and_few_are_kept() -> None:
    """Three failed ones are kept to be looked at, unless they are older than every good one."""
    acts = [
        ("deploy", 1, "undone"),
        ("deploy", 2, "good"),
        ("deploy", 3, "failed"),
        ("deploy", 4, "undone"),
        ("deploy", 5, "interrupted"),
        ("deploy", 6, "undone"),
        ("deploy", 7, "good"),
    ]
    facts = host(*range(1, 8), current=7)
    assert doomed(facts, record(*acts), keep=5, now=7).releases == (1, 3)


def test_a_release_that_nobody_recorded_is_not_a_failure() -> None:
    """When the record was lost, releases are kept as if they had been good."""
    facts = host(1, 2, 3, current=3)
    assert doomed(facts, record(), keep=5, now=3) == Doomed((), ())


def test_layers_go_with_the_last_release_that_names_them() -> None:
    """An unused layer goes; while a release's manifest cannot be read, none does."""
    facts = host(1, 2, current=2, layers="layer-a layer-b")
    assert doomed(facts, record(*GOOD[:2]), keep=5, now=2) == Doomed((), ("layer-b",))
    damaged = replace(facts, releases={1: None, 2: MANIFEST})
    assert doomed(damaged, record(*GOOD[:2]), keep=5, now=2) == Doomed((), ())


@given(
    ends=st.lists(st.sampled_from([one.value for one in Outcome]), min_size=1, max_size=12),
    keep=st.integers(1, 6),
    now=st.integers(1, 12),
)
def test_whatever_happened_what_is_needed_stays(ends: list[str], keep: int, now: int) -> None:
    """Never the current one, never the one to roll back to, never more good ones than asked."""
    numbers = range(1, len(ends) + 1)
    now = min(now, len(ends))
    acts = record(*[("deploy", number, end) for number, end in zip(numbers, ends, strict=True)])
    gone = set(doomed(host(*numbers, current=now), acts, keep=keep, now=now).releases)
    assert now not in gone
    assert acts.rollback_target(now, numbers) not in gone
    newest = sorted(acts.good, reverse=True)[:keep]
    assert gone.isdisjoint(newest)
    assert len(set(numbers) - gone) <= keep + 2 + 3


@pytest.mark.parametrize("keep", [1, 5])
def test_pruning_twice_removes_nothing_more(keep: int) -> None:
    """What is left after pruning is what would be kept."""
    facts, acts = host(*range(1, 9), current=8), record(*GOOD)
    gone = doomed(facts, acts, keep=keep, now=8).releases
    left = replace(facts, releases={n: MANIFEST for n in range(1, 9) if n not in gone})
    assert doomed(left, acts, keep=keep, now=8).releases == ()
