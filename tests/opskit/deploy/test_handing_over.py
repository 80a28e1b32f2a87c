"""Old releases that do not hand over as they should: a new one can be deployed all the same."""

from __future__ import annotations

import os
import signal

from opskit.deploy.plan import Kind
from opskit.deploy.serving import refusal
from tests.opskit.site import Site


def notes(site: Site) -> str:
    return " ".join(event.text for event in site.events if event.kind is Kind.NOTE)


def test_a_release_that_refuses_is_stopped_and_followed(site: Site) -> None:
    """Where the conversation is another one, the old release is stopped and the new starts cold."""
    site.edit("handover_format.py", "= (LISTENERS_ONLY, CONNECTIONS)", "= (98, 99)")
    site.deploy()
    site.restore()
    act = site.deploy()
    assert (act.name, site.serving, site.current) == ("v2", "v2", "releases/v2")
    assert "is not known here, only 98, 99" in notes(site)
    assert [one.release for one in site.facts.processes] == [2]
    assert site.leftovers() == []


def test_a_dead_release_is_followed(site: Site) -> None:
    """Nobody answers on the control socket that a killed process left: the new one starts cold."""
    site.deploy()
    os.kill(site.pid, signal.SIGKILL)
    site.change("v2")
    assert site.deploy().name == "v2"
    assert site.serving == "v2"


def test_what_counts_as_a_refusal() -> None:
    """Only the last words of a process that could not take over; not those of one that crashed."""
    said = "chatservice: the running process refused: busy"
    assert refusal(["something", said]) == "the running process refused: busy"
    assert refusal([said, "RuntimeError: boom"]) == ""
    assert refusal(["chatservice: settings.toml: limits.text: is required"]) == ""
    assert refusal([]) == ""
