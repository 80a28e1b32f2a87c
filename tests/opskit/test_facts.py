"""What the survey prints, read; and the survey itself on this machine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from opskit.facts import parse_current, parse_lease, parse_survey, reason
from opskit.failure import Failure
from tests.opskit.site import Site

MANIFEST = {
    "release": "v2",
    "content": "c2",
    "commit": "abc",
    "dirty": False,
    "built_at": "2026-01-31T12:00:00+00:00",
    "python": "3.11",
    "platform": "linux-x86_64",
    "layer": "a81a27956c",
    "schema": {"version": 2, "readable_from": 1},
}
SEEN: dict[str, Any] = {
    "python": "3.11.2",
    "machine": "x86_64",
    "user": 0,
    "tools": {"flock": True},
    "writable": True,
    "free_bytes": 1,
    "free_files": 2,
    "current": "releases/v2",
    "releases": {"v1": None, "v2": MANIFEST},
    "incoming": ["releases/.incoming-v3"],
    "layers": ["a81a27956c"],
    "in_progress": None,
    "lock": 'BOOT 250000 token\n{"who": "ann@desk", "since": "s", "what": "w", "owner": "o"}\n',
    "uptime": "2490.00",
    "boot": "BOOT",
    "unit": True,
    "proxy": None,
    "control": None,
    "record": None,
    "nodes": {"2": [{"pid": 7, "release": "v1", "started": 1.0}]},
    "processes": [
        {"pid": 10, "release": "v1", "started": 1.0},
        {"pid": 20, "release": "v2", "started": 2.0},
    ],
    "answers": [
        {
            "host": "127.0.0.1",
            "port": 8765,
            "version": {
                "status": 200,
                "body": '{"release": "v2", "commit": "abc", "pid": 20}',
            },
            "ready": {"status": 503, "body": '{"ready": false, "reason": "the disk is full"}'},
            "metrics": 200,
        }
    ],
    "listeners": {"8765": {"pid": 20, "command": "python run.py"}},
    "bindable": {"8765": "Address already in use", "8766": None},
}


def survey(**changes: Any) -> str:
    return json.dumps(SEEN | changes)


def test_a_survey_is_read() -> None:
    """Everything has its place."""
    facts = parse_survey(survey())
    assert facts.current == 2
    assert facts.releases[1] is None
    manifest = facts.releases[2]
    assert manifest is not None
    assert (manifest.content, manifest.schema_version, manifest.layer) == ("c2", 2, "a81a27956c")
    assert facts.lease is not None
    assert (facts.lease.holder.who, facts.lease.left) == ("ann@desk", 10.0)
    serving = facts.serving
    assert serving is not None
    assert (serving.release, serving.pid, serving.port) == (2, 20, 8765)
    assert serving.unready == "the disk is full"
    assert facts.listener(8765) is not None
    assert facts.listener(8766) is None
    assert facts.bindable == {8765: "Address already in use", 8766: ""}


@pytest.mark.parametrize(
    ("status", "body", "full"),
    [
        (503, '{"ready": false, "reason": "no space", "kind": "full"}', True),
        (503, '{"ready": false, "reason": "held", "kind": "locked"}', False),
        (503, '{"ready": false, "reason": "as older releases say it"}', False),
        (503, "[]", False),
        (502, "bad gateway", False),
        (200, '{"ready": true}', False),
    ],
)
def test_a_store_without_room_is_told_from_other_troubles(
    status: int, body: str, full: bool
) -> None:
    [one] = SEEN["answers"]
    serving = parse_survey(
        survey(answers=[one | {"ready": {"status": status, "body": body}}])
    ).serving
    assert serving is not None
    assert serving.full is full


def answer(release: str, pid: int) -> dict[str, Any]:
    body = json.dumps({"release": release, "pid": pid})
    version = {"status": 200, "body": body}
    return {**SEEN["answers"][0], "version": version, "ready": {"status": 200, "body": ""}}


@pytest.mark.parametrize(
    ("answers", "serving"),
    [
        ([], None),
        ([answer("v2", 20)], 2),
        ([answer("v1", 10), answer("v2", 20)], 2),
        ([answer("v7", 999)], None),
        ([SEEN["answers"][0] | {"version": {"status": 200, "body": "<html>"}}], None),
        ([SEEN["answers"][0] | {"version": {"status": 200, "body": "[]"}}], None),
    ],
)
def test_who_serves_is_a_process_of_this_environment(
    answers: list[dict[str, Any]], serving: int | None
) -> None:
    """The newest one, if two answer; never a stranger, though it says that it is a release."""
    facts = parse_survey(survey(answers=answers))
    assert (facts.serving.release if facts.serving else None) == serving


def test_a_lease_of_before_the_last_boot_has_ended() -> None:
    """The hundredths of a second of another boot mean nothing."""
    found = parse_lease("OTHER 999999 token\n{}\n", boot="BOOT", uptime=1.0)
    assert found is not None
    assert found.left == 0
    assert parse_lease("", boot="BOOT", uptime=1.0) is None


@pytest.mark.parametrize(
    ("target", "current"),
    [("releases/v12", 12), ("", None), ("releases/v0", None), ("/etc", None), ("v3", None)],
)
def test_what_current_points_at(target: str, current: int | None) -> None:
    """A release of ours, or nothing."""
    assert parse_current(target) == current


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"current": 1}'])
def test_what_is_no_survey_is_a_plain_error(text: str) -> None:
    """Such as the words of a Python that is too old."""
    with pytest.raises(Failure, match="this host: the survey's answer cannot be read"):
        parse_survey(text, host="this host")


def test_a_reason_is_found_in_json_and_in_text() -> None:
    """The service answers JSON; what stands in front of it may not."""
    assert reason('{"ready": false, "reason": "draining"}') == "draining"
    assert reason("<h1>502</h1>\n") == "<h1>502</h1>"
    assert reason("{}") == ""


def test_a_survey_of_nothing(site: Site) -> None:
    """Where nothing was deployed yet, that is what is seen, and nothing is made."""
    facts = site.facts
    assert (facts.current, facts.releases, facts.processes, facts.serving) == (None, {}, (), None)
    assert facts.writable
    assert all(facts.tools.values())
    assert facts.free_bytes > 0
    assert not site.root.exists()
