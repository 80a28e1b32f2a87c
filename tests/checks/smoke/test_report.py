"""The three forms of a report: for people, for scripts, for CI servers."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree

import pytest

from checks.smoke import CheckResult, Report
from checks.smoke.report import duration

PASSED = CheckResult(
    "delivery", "A message reaches everybody", "passed", 0.0123, "2 deliveries", {"max_ms": 9.5}
)
QUIET = CheckResult("health", "The service is healthy", "passed", 0.001, "/healthz is 200")
FAILED = CheckResult(
    "typing", "Typing shows", "failed", 1.25, 'user-2 expected <typing> & got "\x00\ud800"'
)
SKIPPED = CheckResult(
    "history", "History stays", "skipped", 0.0, "it needs `connect`, which failed"
)


def report(*results: CheckResult, warnings: tuple[str, ...] = ()) -> Report:
    return Report("http://h:1", "smoke-ab", 3, results, 1.5, warnings)


def test_it_is_ok_when_something_passed_and_nothing_failed() -> None:
    """Skipped checks do not matter, but a run that proved nothing is not ok."""
    assert report(PASSED, SKIPPED).ok
    assert not report(PASSED, FAILED).ok
    assert not report(SKIPPED).ok
    assert not report().ok


def test_it_counts_each_verdict() -> None:
    counted = report(PASSED, QUIET, FAILED, SKIPPED)

    assert (counted.passed, counted.failed, counted.skipped) == (2, 1, 1)
    assert counted.failures == (FAILED,)


def test_json_has_stable_keys() -> None:
    """Scripts rely on every one of these."""
    assert json.loads(report(PASSED, FAILED, warnings=("left behind",)).to_json()) == {
        "ok": False,
        "url": "http://h:1",
        "workspace": "smoke-ab",
        "users": 3,
        "passed": 1,
        "failed": 1,
        "skipped": 0,
        "seconds": 1.5,
        "warnings": ["left behind"],
        "results": [
            {
                "name": "delivery",
                "title": "A message reaches everybody",
                "verdict": "passed",
                "seconds": 0.0123,
                "detail": "2 deliveries",
                "measured": {"max_ms": 9.5},
            },
            {
                "name": "typing",
                "title": "Typing shows",
                "verdict": "failed",
                "seconds": 1.25,
                "detail": FAILED.detail,
                "measured": {},
            },
        ],
    }


def test_junit_has_one_case_for_each_check() -> None:
    """Counts, names, times and what went wrong, where CI servers look for them."""
    text = report(PASSED, FAILED, SKIPPED, warnings=("left behind",)).to_junit()

    assert text.startswith('<?xml version="1.0" encoding="UTF-8"?>\n<testsuites ')
    root = ElementTree.fromstring(text.encode())
    assert root.tag == "testsuites"
    (suite,) = root
    for element in (root, suite):
        counts = {key: element.attrib[key] for key in ("tests", "failures", "errors", "skipped")}
        assert counts == {"tests": "3", "failures": "1", "errors": "0", "skipped": "1"}
        assert (element.attrib["name"], element.attrib["time"]) == ("smoke", "1.500")
    cases = suite.findall("testcase")
    assert [(case.get("classname"), case.get("name"), case.get("time")) for case in cases] == [
        ("smoke", "delivery", "0.012"),
        ("smoke", "typing", "1.250"),
        ("smoke", "history", "0.000"),
    ]
    passed, failed, skipped = cases
    assert [child.tag for child in passed] == ["system-out"]
    (failure,) = failed
    shown = 'user-2 expected <typing> & got "\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"'
    assert (failure.tag, failure.text) == ("failure", shown)
    assert failure.get("message") == f"Typing shows: {shown}"
    (reason,) = skipped
    assert (reason.tag, reason.get("message")) == ("skipped", "it needs `connect`, which failed")
    properties = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert properties == {"url": "http://h:1", "workspace": "smoke-ab", "users": "3"}
    assert suite.findtext("system-err") == "left behind"


def test_the_table_is_what_a_person_reads() -> None:
    """Marks and times in columns; why it failed or was skipped below; a summary at the end."""
    failed = CheckResult("typing", "Typing shows", "failed", 1.25, "expected it\nbut no")

    assert report(PASSED, QUIET, failed, SKIPPED, warnings=("left behind",)).table() == (
        "✓ A message reaches everybody    12 ms\n"
        "    2 deliveries\n"
        "✓ The service is healthy          1 ms\n"
        "✗ Typing shows                  1.25 s\n"
        "    typing: expected it\n"
        "    but no\n"
        "- History stays                skipped: it needs `connect`, which failed\n"
        "! left behind\n"
        "FAILED: 2 passed, 1 failed, 1 skipped in 1.50 s "
        "(3 users, http://h:1, workspace smoke-ab)"
    )


def test_the_table_is_coloured_only_when_asked() -> None:
    plain, coloured = report(PASSED).table(), report(PASSED).table(colour=True)

    assert "\x1b" not in plain
    assert coloured.startswith("\x1b[32m✓\x1b[0m A message")
    assert "\x1b[32mpassed\x1b[0m: 1 passed" in coloured


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0 ms"), (0.0004, "0 ms"), (0.9994, "999 ms"), (0.9996, "1.00 s"), (61.0, "61.00 s")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert duration(seconds) == text
