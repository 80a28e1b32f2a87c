"""Deploys to real hosts: how long each kind takes, and how often opskit waits for a host.

    python -m bench.deploy [--hosts 1 3] [--rounds N] [--json]

As root: hosts are booted with systemd-nspawn (`tests/hosts/`), provisioned, and deployed to over
SSH, with the smoke test through their proxy. One host has the SQLite store, several a PostgreSQL
on this machine. Hosts, database and opskit share this machine's cores, which in production they
do not; the network between them is almost nothing, which in production it is not: there, add the
round trips times the network's.

In each round: code is changed and deployed, the same is deployed again, and rolled back; then once
more as a person does it, `opskit deploy` and `opskit rollback`, with the start of opskit and all.
The figure is the median of the rounds. The first deployment, which brings the layer, is not in it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.machine import facts
from bench.report import describe, progress, table
from opskit import operations
from opskit.deploy.act import Act
from opskit.deploy.plan import Event, Kind, Observer
from opskit.failure import Failure
from opskit.fleet import Fleet
from opskit.provision.run import nodes_of, provision
from opskit.ssh import SshExecutor
from tests.hosts.image import CannotBuild
from tests.hosts.lab import Lab, why_not
from tests.hosts.machine import Host
from tests.hosts.site import TIMING, HostSite
from tests.postgres_server import PostgresServer, postgres_programs

DEPLOY_BUDGET: Final = 5.0
"""Seconds for a deploy of changed code to one host, smoke test and start of opskit included."""
SERVES_BUDGET: Final = 2.0
"""Seconds until the old release serves again on one host, in a rollback."""
SHARED: Final = "hosts, database and opskit share all cores, and nothing is pinned"
WATCHED: Final = ("/etc", "/usr/local")
"""Where, beside the environment's root, a deploy could leave something."""

Cell = dict[str, Any]


class BenchError(Exception):
    """The hosts cannot be had, or did not do what is to be timed."""


@dataclass
class Timed:
    """One act: seconds in all, until the last host served, and in each step; round trips."""

    seconds: float
    serves: float
    trips: int
    steps: dict[str, float]


@dataclass
class Rounds:
    """What was measured with one number of hosts.

    Attributes:
        hosts: how many.
        acts: what each round measured, by the kind of act.
        commands: how long opskit took as a command, in seconds.
        written: what a deploy that changes nothing wrote all the same.
    """

    hosts: int
    acts: dict[str, list[Timed]] = field(default_factory=dict)
    commands: dict[str, list[float]] = field(default_factory=dict)
    written: list[str] = field(default_factory=list)

    def cell(self) -> Cell:
        """Give the medians."""
        return {
            "hosts": self.hosts,
            "rounds": len(self.acts["deploy"]),
            "acts": {
                kind: {
                    "seconds": _median(one.seconds for one in timed),
                    "worst_seconds": round(max(one.seconds for one in timed), 3),
                    "serves_seconds": _median(one.serves for one in timed),
                    "round_trips": max(one.trips for one in timed),
                    "steps": {
                        step: _median(one.steps[step] for one in timed if step in one.steps)
                        for step in timed[-1].steps
                    },
                }
                for kind, timed in self.acts.items()
            },
            "commands": {
                name: {"seconds": _median(taken), "worst_seconds": round(max(taken), 3)}
                for name, taken in self.commands.items()
            },
            "written_without_change": self.written,
        }


def _median(values: Iterator[float] | Sequence[float]) -> float:
    return round(statistics.median(values), 3)


def measure(site: HostSite, rounds: int) -> Rounds:
    """Deploy a first release, then measure so many rounds."""
    found = Rounds(len(site.hosts))
    _act(site, "deploy")
    for number in range(1, rounds + 1):
        progress(f"{found.hosts} host{'s' * (found.hosts > 1)}: round {number} of {rounds}")
        site.change(f"round {number}")
        _note(found, "deploy", _act(site, "deploy"))
        before = _everything(site)
        _note(found, "no change", _act(site, "deploy"))
        found.written += changed_files(before, _everything(site))
        _note(found, "rollback", _act(site, "rollback"))
        site.change(f"round {number} as a command")
        for words in (("deploy", "prod"), ("rollback",)):
            started = time.perf_counter()
            done = site.opskit(*words)
            taken = time.perf_counter() - started
            if done.returncode:
                raise BenchError(f"opskit {' '.join(words)}: {done.stdout}{done.stderr}")
            found.commands.setdefault(words[0], []).append(taken)
    return found


def _note(found: Rounds, kind: str, timed: Timed) -> None:
    found.acts.setdefault(kind, []).append(timed)


def _act(site: HostSite, action: str) -> Timed:
    """Carry out one act over connections of its own, and time it.

    Raises:
        BenchError: it failed.
    """
    steps: dict[str, float] = {}
    serves = 0.0
    started = time.perf_counter()

    def observe(event: Event) -> None:
        nonlocal serves
        if event.kind is Kind.DONE:
            steps[event.step] = max(steps.get(event.step, 0.0), event.seconds)
        if event.step == "switch" and event.kind in (Kind.DONE, Kind.SKIPPED):
            serves = time.perf_counter() - started

    fleet = site.connect()
    try:
        operation = _prepare(site, fleet, action, observe)
        operation.run()
        taken = time.perf_counter() - started
        _proven(operation.act)
        return Timed(taken, serves, _trips(fleet), steps)
    except Failure as failure:
        lines = "\n".join([str(failure), *failure.lines])
        raise BenchError(f"a {action} failed: {lines}") from failure
    finally:
        for node in fleet.nodes:
            if isinstance(node.executor, SshExecutor):
                node.executor.close()


def _prepare(site: HostSite, fleet: Fleet, action: str, observe: Observer) -> operations.Operation:
    if action == "rollback":
        return operations.rollback(fleet, None, observe=observe, timing=TIMING)
    return operations.deploy(fleet, observe=observe, layers=site.layers, timing=TIMING)


def _proven(act: Act) -> None:
    if act.report is None or not act.report.ok:
        raise BenchError(f"{act.name} was not proven by its smoke test")


def _trips(fleet: Fleet) -> int:
    """Count the round trips to all hosts together."""
    return sum(
        node.executor.round_trips for node in fleet.nodes if isinstance(node.executor, SshExecutor)
    )


# --- what a deploy leaves ------------------------------------------------------------------------


def _everything(site: HostSite) -> dict[tuple[str, str], str]:
    """Give the state of every file on the hosts that a deploy could write, by host and path.

    Not the store, to which the smoke test talks, and not the lock, which comes and goes (and with
    it the time of the directory that it is in).
    """
    layout = site.connect().lead.layout
    root = str(layout.root)
    apart = [str(layout.state), str(layout.run), f"{root}/lock"]
    argv = ["find", root, *WATCHED, "-xdev"]
    for path in apart:
        argv += ["-path", path, "-prune", "-o"]
    argv += ["-printf", r"%p\t%y %m %U %s %T@ %C@ %i %l\n"]
    found = {}
    for host in site.hosts:
        for line in host.text(*argv).splitlines():
            path, _, state = line.partition("\t")
            if path != root:
                found[host.address, path] = state
    return found


def changed_files(
    before: dict[tuple[str, str], str], after: dict[tuple[str, str], str]
) -> list[str]:
    """Name every path that is new, gone or changed."""
    return sorted(
        f"{host}:{path}"
        for host, path in before.keys() | after.keys()
        if before.get((host, path)) != after.get((host, path))
    )


# --- the hosts -----------------------------------------------------------------------------------


@contextmanager
def sites(numbers: Sequence[int], directory: Path) -> Iterator[Iterator[HostSite]]:
    """Give an environment on each number of hosts, one after the other, each with its own hosts.

    Raises:
        BenchError: this machine cannot boot hosts.
    """
    if reason := why_not():
        raise BenchError(reason)
    layers = directory / "cache" / "opskit" / "layers"
    with ExitStack() as stack:
        lab = Lab()
        stack.callback(lab.down)
        try:
            lab.up()
        except CannotBuild as error:
            raise BenchError(f"there is no image of a host: {error}") from None
        progress("booting and provisioning a host")
        [host] = lab.boot()
        _provision(HostSite(directory / "provisioned", [host], layers))
        ready = lab.freeze(host)
        yield (_site(stack, lab, ready, number, directory, layers) for number in numbers)


def _site(
    stack: ExitStack, lab: Lab, ready: Path, number: int, directory: Path, layers: Path
) -> HostSite:
    hosts: list[Host] = lab.boot(number, layers=(ready,))
    site = HostSite(directory / f"on-{number}", hosts, layers)
    if number > 1:
        dsn = _postgres(stack, lab, directory)
        site.secret("database_url", dsn.replace("127.0.0.1", lab.network.gateway))
        site.configure(store={"kind": "postgres"})
    _provision(site)  # the proxy answers to its own address
    return site


def _postgres(stack: ExitStack, lab: Lab, directory: Path) -> str:
    """Start a PostgreSQL that the hosts reach, and give the address of a database in it."""
    if postgres_programs() is None:
        raise BenchError("several hosts need PostgreSQL: apt-get install postgresql")
    gateway = lab.network.gateway
    server = PostgresServer(directory / "postgres", listen_addresses=f"127.0.0.1,{gateway}")
    server.create()
    with (server.data / "pg_hba.conf").open("a") as file:
        file.write(f"host all all {gateway}/24 trust\n")
    server.start()
    stack.callback(server.stop)
    return server.database()


def _provision(site: HostSite) -> None:
    for outcome in provision(nodes_of(site.environment)):
        if outcome.failure is not None:
            raise BenchError(f"{outcome.host} was not provisioned: {outcome.failure}")


# --- saying it -----------------------------------------------------------------------------------


def as_text(cells: Sequence[Cell], machine: dict[str, Any]) -> str:
    """Write everything for a person."""
    rows = []
    for cell in cells:
        for kind, act in cell["acts"].items():
            rows.append(
                (
                    f"{cell['hosts']} host{'s' * (cell['hosts'] > 1)}, {kind}",
                    f"{act['seconds']:.2f} s",
                    f"{act['worst_seconds']:.2f} s",
                    f"{act['serves_seconds']:.2f} s",
                    str(act["round_trips"]),
                )
            )
        for name, command in cell["commands"].items():
            rows.append(
                (
                    f"{cell['hosts']} host{'s' * (cell['hosts'] > 1)}, `opskit {name}`",
                    f"{command['seconds']:.2f} s",
                    f"{command['worst_seconds']:.2f} s",
                    "",
                    "",
                )
            )
    header = ("", "median", "worst", "serves after", "SSH round trips")
    parts = [describe(machine, SHARED), table(header, rows)]
    for cell in cells:
        parts.append(_steps(cell))
    parts.append(verdict(cells))
    return "\n\n".join(parts)


def _steps(cell: Cell) -> str:
    kinds = list(cell["acts"])
    names = list(dict.fromkeys(step for kind in kinds for step in cell["acts"][kind]["steps"]))
    rows = [
        (name, *(_seconds(cell["acts"][kind]["steps"].get(name)) for kind in kinds))
        for name in names
    ]
    return table((f"steps on {cell['hosts']}", *kinds), rows)


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f} s"


def verdict(cells: Sequence[Cell]) -> str:
    """Say whether the promises were kept."""
    lines = []
    for cell in cells:
        if cell["hosts"] == 1:
            took, serves = cell["commands"]["deploy"], cell["acts"]["rollback"]["serves_seconds"]
            for what, value, budget in (
                ("a deploy of changed code to one host", took["seconds"], DEPLOY_BUDGET),
                ("a rollback until the old release serves", serves, SERVES_BUDGET),
            ):
                met = "met" if value < budget else "MISSED"
                lines.append(f"{met:6}  {what}: {value:.2f} s, budget {budget:g} s")
        left = cell["written_without_change"]
        met = "MISSED" if left else "met"
        said = ", ".join(left[:5]) if left else "nothing"
        lines.append(f"{met:6}  a deploy that changes nothing wrote on {cell['hosts']}: {said}")
    return "\n".join(lines)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench.deploy", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--hosts", type=int, nargs="+", default=[1, 3], metavar="N", help="at a time (1 3)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="of each (5)")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the bench; give its exit status."""
    arguments = parse(argv)
    machine = facts(Path("/var/tmp"))
    started = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="opskit-bench-") as name:
            directory = Path(name)
            directory.chmod(0o755)  # PostgreSQL runs as another user
            with sites(arguments.hosts, directory) as all_sites:
                cells = [measure(site, arguments.rounds).cell() for site in all_sites]
    except BenchError as error:
        print(f"bench.deploy: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        report = {
            "bench": "deploy",
            "machine": machine,
            "cells": cells,
            "seconds": round(time.monotonic() - started, 1),
        }
        print(json.dumps(report, indent=2))
    else:
        print(as_text(cells, machine))
    return 0


if __name__ == "__main__":
    sys.exit(main())
