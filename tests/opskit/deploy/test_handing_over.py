"""Old releases that do not hand over as they should: a new one can be deployed all the same."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from opskit import operations
from opskit.deploy.plan import Kind
from opskit.deploy.serving import _in_its_way, refusal
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


@pytest.mark.parametrize("key", ["host", "admin_host"])
def test_an_address_can_change_at_the_same_port(site: Site, key: str) -> None:
    """As for a monitoring host that comes later: no release could listen beside the one before."""
    site.deploy()
    ports = {"port": site.port, "admin_port": site.admin_port}
    site.configure(service={**ports, key: "0.0.0.0"})
    act = site.deploy()
    assert (act.name, site.serving, site.current) == ("v2", "v2", "releases/v2")
    port = site.port if key == "host" else site.admin_port
    assert f"(it has port {port} at another address than 0.0.0.0): stopping it" in notes(site)
    assert [one.release for one in site.facts.processes] == [2]
    assert site.leftovers() == []


def test_a_port_of_somebody_elses_stops_nobody(site: Site) -> None:
    """Only the release that is to be relieved is stopped for its port."""
    site.deploy()
    said = "cannot listen on 0.0.0.0:{}: Address already in use"
    ours = in_its_way(site, said.format(site.admin_port))
    assert ours == f"it has port {site.admin_port} at another address than 0.0.0.0"
    assert in_its_way(site, "cannot listen on 0.0.0.0:80: Permission denied") == ""
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        site.configure(service={"port": site.port, "admin_port": port})
        assert in_its_way(site, said.format(port)) == ""


def in_its_way(site: Site, words: str) -> str:
    act = operations.stop(site.fleet, observe=lambda event: None).act
    return _in_its_way(act.lead, words)


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
