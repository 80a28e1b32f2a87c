"""Several nodes on this machine, over one PostgreSQL: deployed, rolled and put back together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from opskit import operations
from opskit.deploy.plan import Kind
from opskit.deployments import Action, Outcome
from opskit.failure import Failure
from opskit.node_status import NodeStatus
from opskit.preflight import examine
from opskit.status import look
from opskit.target import Target
from tests.opskit.conftest import SiteFactory
from tests.opskit.deploy import dying
from tests.opskit.site import Site, get, let_the_lease_end, watched_port
from tests.postgres_server import PostgresServer


@pytest.fixture
def site(site_factory: SiteFactory, postgres_server: PostgresServer) -> Site:
    """Two nodes; nothing is deployed yet."""
    site = site_factory(
        nodes=2,
        settings={"store": {"kind": "postgres"}},
        secrets={"jwt_secret": "generate", "database_url": "file:dsn"},
    )
    dsn = site.directory / "dsn"
    dsn.write_text(postgres_server.database())
    dsn.chmod(0o600)
    return site


def versions(site: Site) -> list[dict[str, object]]:
    """Give what each node that answers says of itself."""
    answers = [get(node.address[1], "/version") for node in site.fleet.nodes]
    return [json.loads(answer[1]) for answer in answers if answer]


def serving(site: Site) -> list[object]:
    return [version["release"] for version in versions(site)]


def outcomes(node: Target) -> list[tuple[int | None, Outcome]]:
    return [(one.release, one.result) for one in node.record().deployments]


def test_nodes_are_rolled_one_after_the_other(site: Site) -> None:
    """Deploy, deploy, roll back: no node goes unanswered, and the users are spread over both."""
    first = site.deploy(smoke=True)
    assert first.report is not None
    assert first.report.ok, first.report.table()
    assert serving(site) == ["v1", "v1"]
    site.change("two")
    with ExitStack() as stack:
        ports = [node.address[1] for node in site.fleet.nodes]
        unanswered = [stack.enter_context(watched_port(port)) for port in ports]
        site.deploy()
        assert serving(site) == ["v2", "v2"]
        switched = [(one.kind, one.node) for one in site.events if one.step == "switch"]
        assert switched == [
            (Kind.STARTED, "node 1"),
            (Kind.DONE, "node 1"),
            (Kind.STARTED, "node 2"),
            (Kind.DONE, "node 2"),
        ]
        assert site.rollback().number == 1
        assert serving(site) == ["v1", "v1"]
        assert [seen() for seen in unanswered] == [[], []]
    for node in site.fleet.nodes:
        assert outcomes(node) == [(1, Outcome.GOOD), (2, Outcome.GOOD), (1, Outcome.GOOD)]
    status = look(site.fleet)
    assert (status.ok, status.trouble) == (True, ("", ""))


def test_what_fails_on_the_second_node_is_undone_on_both(site: Site) -> None:
    """The first had switched already; it serves the old release again, and so says the record."""
    site.deploy()
    before = versions(site)
    site.change("two")
    second = site.fleet.nodes[1]
    in_its_way = second.root / "releases" / "v2"
    # What is switched to on the second node does not start: its code is damaged after the check.
    operation = site.prepare()
    plain = operation.act.parts[1].target.supervisor

    class Damaging(type(plain)):  # type: ignore[misc]
        def start(self, executor, number, **options):  # type: ignore[no-untyped-def]
            if number == 2:
                file = f"{in_its_way}/run.py"
                with open(file, "w", encoding="utf-8") as stream:
                    stream.write("raise SystemExit('chatservice: damaged')\n")
            return super().start(executor, number, **options)

    part = operation.act.parts[1]
    object.__setattr__(part.target, "supervisor", Damaging(part.target.layout, part.target.python))
    with pytest.raises(Failure, match=r"node 2: v2 ended while it was starting") as caught:
        site._run(operation, False)
    assert caught.value.status == 1
    assert any("damaged" in line for line in caught.value.lines)
    assert serving(site) == ["v1", "v1"]
    assert versions(site)[1] == before[1], "the second node was not touched"
    for node in site.fleet.nodes:
        assert outcomes(node) == [(1, Outcome.GOOD), (2, Outcome.UNDONE)]
    assert site.deploy().number == 3
    assert serving(site) == ["v3", "v3"]


@pytest.mark.parametrize("last", ["start", "append-line"])
def test_an_opskit_killed_in_the_middle_of_a_roll_is_mended_after(site: Site, last: str) -> None:
    """Before it starts the first node anew, and before it records: the next deploy repairs."""
    site.deploy()
    site.change("two")
    argv = [sys.executable, dying.__file__, str(site.file), str(site.layers), "deploy", last]
    died = subprocess.run(argv, env=site.environ, capture_output=True, text=True, check=False)
    assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    assert len(serving(site)) == 2
    for node in site.fleet.nodes:
        let_the_lease_end(Path(node.root))
    site.deploy()
    assert serving(site) == ["v3", "v3"]
    for node in site.fleet.nodes:
        assert outcomes(node)[-1] == (3, Outcome.GOOD)
        assert not os.path.exists(node.layout.in_progress)


def test_a_node_recorded_before_opskit_died_completes_the_others(site: Site) -> None:
    """Once one node has recorded it, it counts: the others are completed and not undone."""
    site.deploy()
    site.change("two")
    operation = site.prepare()
    second = operation.act.parts[1]

    def die(step: str) -> None:
        raise KeyboardInterrupt

    steps = [step for step in operation.steps if step.name not in ("prune", "unlock")]
    record = next(step for step in steps if step.name == "record")
    plain = record.apply

    def first_only(part):  # type: ignore[no-untyped-def]
        return plain(part) if part is not second else ""

    record.apply = first_only  # type: ignore[method-assign]
    object.__setattr__(operation, "steps", steps)
    site._run(operation, False)
    for part in operation.act.parts:
        assert part.lease is not None
        part.lease.release()
    assert [len(outcomes(node)) for node in site.fleet.nodes] == [2, 1]
    assert site.deploy().unchanged
    assert serving(site) == ["v2", "v2"]
    for node in site.fleet.nodes:
        assert outcomes(node) == [(1, Outcome.GOOD), (2, Outcome.GOOD)]
        assert not os.path.exists(node.layout.in_progress)


@pytest.mark.parametrize("changed", [True, False])
def test_nodes_are_added_and_taken_away(site: Site, changed: bool) -> None:
    """A node more gets the release that serves; one too many is ended, new release or not."""
    site.nodes = 1
    site.configure()
    site.deploy()
    [first] = versions(site)
    site.nodes = 2
    site.configure()
    act = site.deploy()
    assert (act.number, act.unchanged) == (1, False)
    assert serving(site) == ["v1", "v1"]
    assert versions(site)[0] == first, "the first node was not touched"
    assert act.parts[0].unchanged
    gone = site.fleet.nodes[1]
    site.nodes = 1
    site.configure()
    if changed:
        site.change("two")
    site.deploy()
    assert serving(site) == ["v2" if changed else "v1"]
    assert get(gone.address[1], "/healthz") is None
    assert not os.path.exists(gone.root)


def test_a_node_too_many_is_told_of_and_stopped_with_the_others(site: Site) -> None:
    """Status and check say which one runs, where, and what to do; stop ends it, and records it."""
    site.deploy()
    gone = site.fleet.nodes[1]
    site.nodes = 1
    site.configure()
    status = look(site.fleet)
    [node] = status.surplus
    assert isinstance(node, NodeStatus)
    assert node.facts.serving is not None
    pid, where = node.facts.serving.pid, site.environment.where("nodes")
    what = (
        f"node 2 (v1, pid {pid}, 127.0.0.1:{gone.address[1]}) still runs, though `nodes` is 1 at "
        f"{where}"
    )
    then = "opskit deploy dev sends their members to the others and ends it; opskit stop dev ends "
    assert status.trouble == (what, then + "all")
    assert status.ok, "what shall serve does"
    shown = site.opskit("status", "dev")
    assert shown.returncode == 0, shown.stderr
    assert f"node 2: v1, pid {pid}, 127.0.0.1:{gone.address[1]}, 0 connections" in shown.stdout
    [verdict] = [one for one in examine(site.fleet) if one.name == "nodes"]
    assert (verdict.ok, verdict.detail) == (True, f"{what}: {then}all")
    site.stop()
    assert get(gone.address[1], "/healthz") is None
    assert site.serving is None
    assert not os.path.exists(f"/proc/{pid}/exe")
    for one in (site.target, gone):
        assert [act.action for act in one.record().deployments] == [Action.DEPLOY, Action.STOP]
    assert look(site.fleet).surplus == ()
    assert site.stop().unchanged, "nothing is left to stop"


def test_a_node_too_many_that_cannot_be_looked_at_is_told_of_all_the_same(site: Site) -> None:
    """The first node saw that it runs; status and check say why no more is known, and go on."""
    site.deploy()
    gone = site.fleet.nodes[1]
    site.nodes = 1
    site.configure()
    settings = Path(gone.layout.settings(1))
    settings.unlink()
    settings.mkdir()
    status = look(site.fleet)
    what, then = status.trouble
    assert what.startswith("node 2 (cannot be looked at: ")
    assert "Is a directory) still runs, though `nodes` is 1 at " in what
    assert status.ok, "what shall serve does"
    shown = site.opskit("status", "dev")
    assert shown.returncode == 0, shown.stderr
    assert "too many" in shown.stdout
    [verdict] = [one for one in examine(site.fleet) if one.name == "nodes"]
    assert (verdict.ok, verdict.detail) == (True, f"{what}: {then}")
    site.deploy()
    assert get(gone.address[1], "/healthz") is None
    assert look(site.fleet).trouble == ("", "")


def test_a_port_that_a_node_too_many_has_is_had_without_stopping_the_others(site: Site) -> None:
    """As the refusal says: a deploy at the port of before ends that node; then the port is free."""
    site.deploy()
    before, wanted = site.port, site.fleet.nodes[1].address[1]
    site.nodes, site.port = 1, wanted
    site.configure()
    with pytest.raises(Failure, match=f":{wanted} is in use by node 2 ") as caught:
        site.deploy()
    assert "then: opskit deploy dev (sends the members of node 2 to the others" in caught.value.hint
    site.port = before
    site.configure()
    with watched_port(before) as unanswered:
        site.deploy()
        assert unanswered() == []
    site.port = wanted
    site.configure()
    site.deploy()
    assert get(wanted, "/healthz") == (200, "ok\n")


def test_a_node_too_many_is_stopped_though_the_first_does_not_run(site: Site) -> None:
    """It alone is ended; draining the first leaves it alone."""
    site.deploy()
    gone = site.fleet.nodes[1]
    site.nodes = 1
    site.configure()
    operations.stop(site.fleet, observe=site.events.append, drain=True).run()
    assert get(gone.address[1], "/healthz") == (200, "ok\n")
    assert site.serving is None
    done = site.opskit("stop", "dev")
    assert done.returncode == 0, done.stderr
    assert "stopped; the data stays" in done.stdout
    assert get(gone.address[1], "/healthz") is None


def test_a_release_that_a_later_node_lacks_is_no_way_back_for_both(site: Site) -> None:
    """Of all that can be done the shortest is said: one node, and then the rollback."""
    site.nodes = 1
    site.configure()
    site.deploy()
    site.nodes = 2
    site.configure()
    site.change("two")
    site.deploy()
    with pytest.raises(Failure, match="there is no release v1 on node 2") as caught:
        site.rollback()
    where = site.environment.where("nodes")
    assert caught.value.hint == f"write `nodes: 1` at {where}, then: opskit rollback v1 --env dev"
    assert serving(site) == ["v2", "v2"]


def test_the_way_back_counts_the_first_nodes_that_have_the_release(site: Site) -> None:
    """With a third that has it, too: two nodes would be one that lacks it, and refused again."""
    site.nodes = 3
    site.configure()
    site.deploy()
    site.change("two")
    site.deploy()
    shutil.rmtree(site.fleet.nodes[1].layout.release(1))
    with pytest.raises(Failure, match="there is no release v1 on node 2") as caught:
        site.rollback(1)
    where = site.environment.where("nodes")
    assert caught.value.hint == f"write `nodes: 1` at {where}, then: opskit rollback v1 --env dev"
    site.nodes = 1
    site.configure()
    site.rollback(1)
    assert serving(site) == ["v1"]


def test_whoever_locks_the_first_node_gets_all(site: Site) -> None:
    """Of four deploys that begin together one gets both nodes, and the others name its holder."""
    site.deploy()
    site.change("two")
    argv = [sys.executable, "-m", "opskit", "--environments", str(site.file), "deploy", "dev"]
    running = [
        subprocess.Popen(
            [*argv, "--json"],
            env=site.environ,
            cwd=site.directory,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    reports = [json.loads(process.communicate(timeout=120)[0]) for process in running]
    errors = sorted(str(report.get("error", "")) for report in reports)
    failed = [
        (check["name"], check["detail"])
        for report in reports
        for check in (report.get("smoke") or {}).get("results", [])
        if check["verdict"] == "failed"
    ]
    assert [process.returncode for process in running].count(0) == 1, (errors, failed)
    assert errors[0] == ""
    assert all("holds the lock since" in error for error in errors[1:]), errors
    assert serving(site) == ["v2", "v2"]
