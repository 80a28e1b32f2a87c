"""The deploy bench says whether its budgets were met, and what was written without need."""

from __future__ import annotations

from bench.deploy import Rounds, Timed, as_text, changed_files, verdict
from bench.machine import facts
from tests.service_process import REPOSITORY


def rounds(deploy: float, serves: float, written: list[str]) -> Rounds:
    """One host, three rounds around these figures."""
    found = Rounds(1, written=written)
    for more in (-0.1, 0.0, 0.9):
        found.acts.setdefault("deploy", []).append(
            Timed(deploy + more, deploy - 2, 90, {"switch": 0.5 + more})
        )
        found.acts.setdefault("rollback", []).append(
            Timed(serves + 2, serves + more, 80, {"switch": 0.4})
        )
        found.commands.setdefault("deploy", []).append(deploy + more)
        found.commands.setdefault("rollback", []).append(serves + more)
    return found


def test_the_verdict_is_about_medians() -> None:
    """One slow round is shown as the worst, and breaks no budget."""
    said = verdict([rounds(4.5, 1.5, []).cell()]).splitlines()
    assert [line.split()[0] for line in said] == ["met", "met", "met"]
    assert "4.50 s, budget 5 s" in said[0]
    cell = rounds(4.5, 1.5, []).cell()
    assert cell["acts"]["deploy"]["worst_seconds"] == 5.4
    assert cell["acts"]["deploy"]["steps"] == {"switch": 0.5}


def test_a_missed_budget_and_a_needless_write_are_said() -> None:
    """Each on a line of its own."""
    said = verdict([rounds(5.0, 2.0, ["10.0.0.1:/opt/chat/current"]).cell()]).splitlines()
    assert [line.split()[0] for line in said] == ["MISSED", "MISSED", "MISSED"]
    assert said[2].endswith("10.0.0.1:/opt/chat/current")


def test_files_that_are_new_gone_or_changed_are_found() -> None:
    """By host and path."""
    before = {("a", "/kept"): "1", ("a", "/gone"): "1", ("b", "/kept"): "1"}
    after = {("a", "/kept"): "1", ("a", "/new"): "1", ("b", "/kept"): "2"}
    assert changed_files(before, after) == ["a:/gone", "a:/new", "b:/kept"]


def test_everything_is_written_for_a_person() -> None:
    """A row for each act, and each command."""
    text = as_text([rounds(4.5, 1.5, []).cell()], facts(REPOSITORY))
    assert "1 host, deploy" in text
    assert "1 host, `opskit rollback`" in text
