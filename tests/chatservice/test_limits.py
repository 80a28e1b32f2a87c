"""Limits let through exactly what they say, and remember nobody who has left."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatservice.config import LimitSettings
from chatservice.limits import ConnectionCounts, Refusal, TokenBucket

# --- frames -------------------------------------------------------------------------------


def test_a_new_bucket_lets_a_burst_through_and_no_more() -> None:
    bucket = TokenBucket(rate=10.0, burst=5)
    assert [bucket.take(1000.0) for _ in range(7)] == [True] * 5 + [False] * 2


def test_after_a_burst_the_rate_is_let_through() -> None:
    bucket = TokenBucket(rate=10.0, burst=5)
    for _ in range(6):
        bucket.take(0.0)
    assert [bucket.take(0.05), bucket.take(0.1), bucket.take(0.15), bucket.take(0.2)] == [
        False, True, False, True,
    ]  # fmt: skip


def test_a_pause_fills_the_bucket_to_the_burst_and_no_further() -> None:
    bucket = TokenBucket(rate=10.0, burst=5)
    for _ in range(5):
        bucket.take(0.0)
    assert [bucket.take(3600.0) for _ in range(6)] == [True] * 5 + [False]


def test_exactly_the_rate_is_never_refused() -> None:
    """Ten thousand floating-point intervals do not add up to a refusal."""
    bucket = TokenBucket(rate=30.0, burst=1)
    assert all(bucket.take(1e6 + step / 30.0) for step in range(10_000))


def test_refusals_in_a_row_are_counted_until_the_next_success() -> None:
    bucket = TokenBucket(rate=1.0, burst=1)
    assert bucket.refused == 0
    for _ in range(4):
        bucket.take(0.0)
    assert bucket.refused == 3
    assert bucket.take(1.0)
    assert bucket.refused == 0


def test_a_refused_frame_costs_nothing() -> None:
    bucket = TokenBucket(rate=1.0, burst=1)
    assert bucket.take(0.0)
    assert not any(bucket.take(0.5) for _ in range(1000))
    assert bucket.take(1.0)


def test_each_bucket_is_small() -> None:
    with pytest.raises(AttributeError):
        TokenBucket(1.0, 1).other = 1  # type: ignore[attr-defined]


@given(
    rate=st.floats(0.1, 1000),
    burst=st.integers(1, 100),
    waits=st.lists(st.floats(0, 2), min_size=1, max_size=200),
)
def test_no_stretch_of_time_gets_more_than_burst_and_rate(
    rate: float, burst: int, waits: list[float]
) -> None:
    bucket = TokenBucket(rate, burst)
    now, taken = 0.0, []
    for wait in waits:
        now += wait
        if bucket.take(now):
            taken.append(now)
    for first in range(len(taken)):
        for last in range(first, len(taken)):
            allowed = burst + rate * (taken[last] - taken[first] + 1e-5)
            assert last - first + 1 <= allowed + 1e-6


# --- connections --------------------------------------------------------------------------


def counts(total: int = 100, user: int = 100, workspace: int = 100) -> ConnectionCounts:
    return ConnectionCounts(
        LimitSettings(
            connections=total, connections_per_user=user, connections_per_workspace=workspace
        )
    )


def test_a_user_is_limited_over_all_workspaces() -> None:
    limited = counts(user=2)
    assert limited.admit("ada", "w1") is None
    assert limited.admit("ada", "w2") is None
    assert limited.admit("ada", "w3") == Refusal(429, "too many connections of this user", 10)
    assert limited.admit("bob", "w1") is None
    limited.release("ada", "w1")
    assert limited.admit("ada", "w3") is None


def test_a_workspace_is_limited_over_all_users() -> None:
    limited = counts(workspace=2)
    assert limited.admit("ada", "w1") is None
    assert limited.admit("bob", "w1") is None
    assert limited.admit("cy", "w1") == Refusal(429, "too many connections in this workspace", 10)
    assert limited.admit("cy", "w2") is None


def test_the_process_is_limited_before_all_else() -> None:
    limited = counts(total=1, user=1, workspace=1)
    assert limited.admit("ada", "w1") is None
    assert limited.admit("ada", "w1") == Refusal(503, "the service is full", 5)
    limited.release("ada", "w1")
    assert limited.admit("bob", "w1") is None


def test_who_is_refused_is_not_counted() -> None:
    limited = counts(user=1)
    limited.admit("ada", "w1")
    limited.admit("ada", "w2")
    assert (limited.total, limited.of_user("ada"), limited.in_workspace("w2")) == (1, 1, 0)


def test_what_was_not_admitted_cannot_be_released() -> None:
    limited = counts()
    limited.admit("ada", "w1")
    for user, workspace in (("bob", "w1"), ("ada", "w2")):
        with pytest.raises(ValueError, match="not admitted"):
            limited.release(user, workspace)
    assert (limited.total, limited.of_user("ada"), limited.in_workspace("w1")) == (1, 1, 1)


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from("abc"), st.sampled_from("xyz")), max_size=80)
)
def test_counts_are_those_of_a_plain_list(steps: list[tuple[bool, str, str]]) -> None:
    """Whatever comes and goes, the counts are right, and the empty ones are forgotten."""
    limited = counts(total=6, user=3, workspace=4)
    present: list[tuple[str, str]] = []
    for enter, user, workspace in steps:
        users = Counter(user for user, _ in present)
        workspaces = Counter(workspace for _, workspace in present)
        if enter:
            fits = len(present) < 6 and users[user] < 3 and workspaces[workspace] < 4
            assert (limited.admit(user, workspace) is None) == fits
            if fits:
                present.append((user, workspace))
        elif (user, workspace) in present:
            limited.release(user, workspace)
            present.remove((user, workspace))
        assert limited.total == len(present)
        assert limited._users == Counter(user for user, _ in present)
        assert limited._workspaces == Counter(workspace for _, workspace in present)
