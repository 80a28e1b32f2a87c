"""What a deploy needs of a host, one check at a time."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from opskit.deploy.preflight import how_it_is, verdicts
from opskit.deployments import Action, Deployment, Outcome, Record
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.facts import Facts, Listener, Process, Serving
from opskit.failure import Failure
from tests.opskit.facts_of import EMPTY
from tests.opskit.site import Site

RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
FINE = replace(EMPTY, python=f"{RUNNING}.2")


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    file = tmp_path / "environments.yaml"
    file.write_text(
        "environments:\n  dev:\n    target: local\n    root: r\n"
        "    secrets: {jwt_secret: generate}\n    chat:\n      service:\n        port: 8765\n"
    )
    return load_environments(file).get("dev")


def bad(environment: Environment, facts: Facts) -> list[tuple[str, str, str]]:
    found = verdicts(environment, facts)
    assert len(found) == 7
    assert all(one.ok == (not one.hint) for one in found), "a hint goes with what is wrong"
    return [(one.name, one.detail, one.hint) for one in found if not one.ok]


def test_a_fine_host(environment: Environment) -> None:
    """Nothing is wrong with it."""
    assert bad(environment, FINE) == []


def test_a_foreign_process_on_the_port_is_named(environment: Environment) -> None:
    """Port, process and command are said, and where the port is configured."""
    facts = replace(FINE, listeners=(Listener(8765, 4711, "nginx: master process"),))
    ((name, detail, hint),) = bad(environment, facts)
    assert name == "port"
    assert detail == "127.0.0.1:8765 is in use by pid 4711 (nginx: master process)"
    assert hint.startswith("stop it (kill 4711), or choose another chat.service.port at ")
    assert hint.endswith("environments.yaml:8")


def test_a_process_that_cannot_be_seen_is_another_users(environment: Environment) -> None:
    """Without root the kernel does not say whose it is."""
    facts = replace(FINE, listeners=(Listener(8766, None, ""),))
    ((name, detail, _),) = bad(environment, facts)
    assert (name, detail) == (
        "admin port",
        "127.0.0.1:8766 is in use by another user's process",
    )


def test_our_own_process_is_no_obstacle(environment: Environment) -> None:
    """It hands its port over."""
    facts = replace(
        FINE,
        listeners=(Listener(8765, 12, "python run.py serve"),),
        processes=(Process(12, 3, 0.0),),
    )
    assert bad(environment, facts) == []


def test_a_node_too_many_on_the_port_is_ours_to_stop(environment: Environment) -> None:
    """No process to kill by hand: a deploy at the port of before ends it and cuts nobody."""
    facts = replace(
        FINE,
        listeners=(Listener(8765, 4711, "python run.py serve"),),
        nodes={2: (Process(4711, 3, 0.0),)},
    )
    detail = "127.0.0.1:8765 is in use by node 2 (pid 4711), one too many now"
    where = environment.where("chat", "service", "port")
    hint = (
        f"write what chat.service.port was before at {where}, then: opskit deploy dev (sends the "
        "members of node 2 to the others and ends it), and change it after that; or end all: "
        "opskit stop dev"
    )
    assert bad(environment, facts) == [("port", detail, hint)]


@pytest.mark.parametrize(
    ("change", "name", "detail"),
    [
        ({"python": "3.8.1"}, "python", "Python 3.8.1, x86_64"),
        ({"tools": {"flock": False, "tar": True}}, "tools", "not installed: flock"),
        ({"free_bytes": 10**6}, "disk", "only 1 MB free at "),
        ({"free_files": 17}, "disk", "only 17 more files are possible at "),
        ({"free_files": 0}, "disk", "only 0 more files are possible at "),
        ({"writable": False}, "root", "cannot be written by user 1000"),
        ({"bindable": {8765: "Permission denied"}}, "port", "127.0.0.1:8765: Permission denied"),
    ],
)
def test_each_fault_is_seen(
    environment: Environment, change: dict[str, object], name: str, detail: str
) -> None:
    """One thing wrong is one verdict, with what is wrong."""
    ((found, said, _),) = bad(environment, replace(FINE, **change))  # type: ignore[arg-type]
    assert found == name
    assert detail in said


V12 = replace(FINE, current=12)
STOPPED = Record(
    (Deployment("i", Action.STOP, None, 12, "", "", False, "ann", "", 0, Outcome.GOOD),)
)


@pytest.mark.parametrize(
    ("facts", "record", "said"),
    [
        (FINE, Record(), "nothing serves yet"),
        (
            replace(V12, serving=Serving(12, 1, "", "127.0.0.1", 1, "", True)),
            Record(),
            "v12 serves",
        ),
        (
            V12,
            Record(),
            "v12 is current and does not run; this deploy starts it again, or a newer release",
        ),
        (
            V12,
            STOPPED,
            "v12 is current and was stopped; this deploy starts it again, or a newer release",
        ),
        (replace(V12, processes=(Process(7, 12, 0.0),)), Record(), "v12 runs and nothing answers"),
        (
            replace(V12, processes=(Process(7, 12, 0.0), Process(8, 13, 1.0))),
            Record(),
            "v12 and v13 run and nothing answers",
        ),
    ],
)
def test_what_serves_or_did_is_said(facts: Facts, record: Record, said: str) -> None:
    """That nothing serves yet is said only where nothing was deployed."""
    assert how_it_is(facts, record) == said


def test_a_deploy_after_a_kill_says_that_a_release_is_there(site: Site) -> None:
    """The release that was killed is named; the deploy starts it again."""
    site.deploy()
    pid = site.pid
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while site.serving is not None or site.facts.processes:
        assert time.monotonic() < deadline, site.log_tail()
    site.deploy()
    [said] = [one.text for one in site.events if one.step == "preflight" and one.text]
    assert said.startswith(
        "v1 is current and does not run; this deploy starts it again, or a newer release, "
    )
    assert site.serving == "v1"
    assert site.pid != pid


def test_a_file_system_without_a_limit_of_files_is_fine(environment: Environment) -> None:
    """Btrfs has none, and says 0 of 0."""
    assert bad(environment, replace(FINE, free_files=-1)) == []


def test_a_port_in_use_stops_a_real_deploy(site: Site) -> None:
    """Before anything is written: the process on the port is this very test."""
    with socket.create_server(("127.0.0.1", site.port)):
        with pytest.raises(Failure) as caught:
            site.deploy()
        done = site.opskit("check", "dev")
    assert f"127.0.0.1:{site.port} is in use by pid {os.getpid()} (" in str(caught.value)
    assert not (site.root / "releases").exists()
    assert done.returncode == 1
    assert "✗ port" in done.stdout
