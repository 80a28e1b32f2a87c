"""The record: what counts as good, which number comes next, where a rollback goes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opskit import deployments
from opskit.deployments import (
    Action,
    Deployment,
    Outcome,
    Record,
    SmokeResult,
    parse_record,
)
from opskit.layout import Layout
from opskit.transport import LocalExecutor

ONE = Deployment(
    id="a1",
    action=Action.DEPLOY,
    release=1,
    before=None,
    content="c1",
    commit="0123456789abcdef",
    dirty=False,
    who="ann@desk",
    started="2026-01-31T12:00:00Z",
    duration_s=3.14159,
    result=Outcome.GOOD,
    smoke=SmokeResult(38, 0, 2.5),
    secrets={"jwt_secret": "0123456789ab"},
    tool="0.1.0",
)


def record(*acts: tuple[str, int, str]) -> Record:
    """Make a record of (action, release, result)."""
    return Record(
        tuple(
            replace(
                ONE, id=f"a{index}", action=Action(action), release=release, result=Outcome(end)
            )
            for index, (action, release, end) in enumerate(acts)
        )
    )


def test_a_deployment_is_recorded_under_stable_keys() -> None:
    """What --json shows is what is recorded, and reads back as the same."""
    assert ONE.to_json() == {
        "id": "a1",
        "action": "deploy",
        "release": "v1",
        "from": None,
        "content": "c1",
        "commit": "0123456789abcdef",
        "dirty": False,
        "who": "ann@desk",
        "started": "2026-01-31T12:00:00Z",
        "duration_s": 3.142,
        "result": "good",
        "reason": "",
        "smoke": {"passed": 38, "failed": 0, "seconds": 2.5},
        "secrets": {"jwt_secret": "0123456789ab"},
        "tool": "0.1.0",
        "connections": None,
    }
    assert Deployment.from_json(ONE.to_json()) == replace(ONE, duration_s=3.142)


def test_torn_lines_spoil_no_other() -> None:
    """A line that a crash cut short, and one that is no record, are skipped and counted."""
    line = json.dumps(ONE.to_json())
    text = f"{line[:40]}\n{line}\n\nnull\n[1]\n{line}"
    found = parse_record(text)
    assert len(found.deployments) == 2
    assert found.torn == (1, 4, 5)


@given(st.text())
def test_any_text_reads_as_a_record(text: str) -> None:
    """Whatever is in the file, reading it never fails."""
    found = parse_record(text)
    assert len(found.deployments) + len(found.torn) <= text.count("\n") + 1


@pytest.mark.parametrize(
    ("acts", "good"),
    [
        ([("deploy", 1, "good")], {1}),
        ([("deploy", 1, "good"), ("deploy", 2, "undone")], {1}),
        ([("deploy", 1, "failed"), ("deploy", 2, "interrupted")], set()),
        ([("deploy", 1, "undone"), ("rollback", 1, "good")], {1}),
        ([("deploy", 1, "good"), ("rollback", 1, "undone")], set()),
        ([("deploy", 1, "good"), ("rollback", 1, "interrupted")], {1}),
        ([("deploy", 1, "broken")], set()),
    ],
)
def test_what_counts_as_good(acts: list[tuple[str, int, str]], good: set[int]) -> None:
    """The last verdict counts; an interruption says nothing against a proven release."""
    assert record(*acts).good == good
    assert record(*acts).failed == {release for _, release, _ in acts} - good


def test_the_next_number_is_above_all_that_were() -> None:
    """Installed or only recorded, failed or good: no number is used again."""
    found = record(("deploy", 1, "good"), ("deploy", 7, "failed"))
    assert found.next_number([1, 2]) == 8
    assert found.next_number([1, 9]) == 10
    assert Record().next_number([]) == 1


def test_a_rollback_goes_to_the_newest_good_release_below() -> None:
    """Not to a failed one, not to one that is gone, not upward."""
    found = record(
        ("deploy", 1, "good"),
        ("deploy", 2, "good"),
        ("deploy", 3, "undone"),
        ("deploy", 4, "good"),
        ("deploy", 5, "good"),
    )
    assert found.rollback_target(5, [1, 2, 3, 4, 5]) == 4
    assert found.rollback_target(4, [1, 2, 3, 4, 5]) == 2
    assert found.rollback_target(4, [1, 3, 4, 5]) == 1
    assert found.rollback_target(1, [1, 2, 3, 4, 5]) is None


def test_a_rollback_goes_to_what_served_before_and_not_to_what_was_rolled_back_from() -> None:
    """v3 was bad, so v2 came back, and v4 was deployed in its place: back from v4 means v2."""
    acts = [
        (Action.DEPLOY, 1, None),
        (Action.DEPLOY, 2, 1),
        (Action.DEPLOY, 3, 2),
        (Action.ROLLBACK, 2, 3),
        (Action.DEPLOY, 4, 2),
    ]
    found = Record(
        tuple(
            replace(ONE, id=f"a{index}", action=action, release=release, before=before)
            for index, (action, release, before) in enumerate(acts)
        )
    )
    assert found.rollback_target(4, [1, 2, 3, 4]) == 2
    assert found.rollback_target(2, [1, 2, 3, 4]) == 1
    assert found.rollback_target(4, [1, 3, 4]) == 3, "where v2 is gone, the newest below"


def test_a_stop_is_no_verdict() -> None:
    """A release that was stopped stays as good as it was."""
    stopped = replace(ONE, id="a2", action=Action.STOP, release=None, before=1)
    found = Record((ONE, stopped))
    assert found.good == {1}
    assert found.last_good(1) == ONE
    assert found.last == stopped


def test_appending_is_whole_and_happens_once(tmp_path: Path) -> None:
    """After a torn line a new one begins; the same id again adds nothing."""
    layout = Layout(PurePosixPath(tmp_path))
    file = tmp_path / "deployments.jsonl"
    file.write_text('{"id": "torn')
    local = LocalExecutor()
    python = sys.executable
    for one in (ONE, replace(ONE, id="a2"), ONE):
        deployments.append(local, layout, one, python=python)
    lines = file.read_text().splitlines()
    assert lines[0] == '{"id": "torn'
    assert [json.loads(line)["id"] for line in lines[1:]] == ["a1", "a2"]
    found = deployments.read(local, layout)
    assert [one.id for one in found.deployments] == ["a1", "a2"]
    assert found.torn == (1,)
