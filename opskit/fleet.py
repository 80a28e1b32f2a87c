"""An environment and all of its nodes: what the commands work on."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from opskit.environment import Environment
from opskit.facts import Facts
from opskit.failure import Misuse
from opskit.supervision import Detached, Systemd
from opskit.target import Target
from opskit.transport import Executor, LocalExecutor

Found = TypeVar("Found")


@dataclass(frozen=True)
class Fleet:
    """The nodes of one environment, in the order in which they are switched; never none."""

    environment: Environment
    nodes: tuple[Target, ...]

    @property
    def lead(self) -> Target:
        """The first node: it does what is done once for all."""
        return self.nodes[0]

    def each(self, look: Callable[[Target], Found]) -> list[Found]:
        """Ask every node at once; gives the answers in the order of the nodes.

        Raises:
            Failure: a node could not be asked.
        """
        if len(self.nodes) == 1:
            return [look(self.lead)]
        with ThreadPoolExecutor(len(self.nodes), thread_name_prefix="node") as pool:
            return list(pool.map(look, self.nodes))

    def only(self, name: str) -> Fleet:
        """Give the one node of that name, as the whole.

        Raises:
            Misuse: there is none.
        """
        for node in self.nodes:
            if name in (node.name, node.name.removeprefix("node ")):
                return Fleet(self.environment, (node,))
        names = ", ".join(node.name for node in self.nodes)
        raise Misuse(f"environment {self.environment.name} has no node {name!r}; it has: {names}")

    def through(self, wrap: Callable[[Executor], Executor]) -> Fleet:
        """Give the same nodes over other executors."""
        nodes = tuple(node.through(wrap(node.executor)) for node in self.nodes)
        return Fleet(self.environment, nodes)


def connect(environment: Environment) -> Fleet:
    """Reach an environment's nodes. The one place that knows which kinds of target there are.

    Raises:
        ConfigError: what has to be filled in before anything can be deployed there is missing.
    """
    environment.require_deployable()
    if environment.target == "local":
        wanted = _wanted(environment)
        return Fleet(environment, tuple(_local_nodes(environment, wanted, alone=len(wanted) == 1)))
    return Fleet(environment, tuple(_hosts(environment)))


def surplus(environment: Environment, seen: Facts) -> list[Target]:
    """Give the nodes of this machine that still run, though the environment has fewer now.

    Args:
        environment: as it is configured now.
        seen: what was seen on its first node.
    """
    if environment.target != "local":
        return []
    return _local_nodes(environment, seen.running_beyond(environment.nodes), alone=False)


def with_surplus(fleet: Fleet) -> Fleet:
    """Give all that runs: the nodes, and with them those that the environment no longer has.

    Raises:
        Failure: the first node could not be looked at.
    """
    environment = fleet.environment
    if environment.target != "local":
        return fleet
    more = fleet.lead.survey().running_beyond(environment.nodes)
    if not more:
        return fleet
    numbers = [*_wanted(environment), *more]
    return Fleet(environment, tuple(_local_nodes(environment, numbers, alone=False)))


def _wanted(environment: Environment) -> range:
    return range(1, environment.nodes + 1)


def _local_nodes(environment: Environment, numbers: Sequence[int], *, alone: bool) -> list[Target]:
    """Give nodes of this machine, which is the name of one that is `alone`."""
    # The interpreter below opskit's virtual environment: what runs is the layer, nothing else.
    python = str(getattr(sys, "_base_executable", None) or sys.executable)
    return [
        Target(
            environment.node(number),
            LocalExecutor("this machine" if alone else f"node {number}"),
            Detached(environment.node(number).layout, python),
            python,
        )
        for number in numbers
    ]


def _hosts(environment: Environment) -> list[Target]:
    from opskit.ssh import connections  # here: fabric takes long to load

    python = f"/usr/bin/python{environment.python}"
    supervisor = Systemd(environment.layout, python, environment.unit)
    return [
        Target(environment, executor, supervisor, python) for executor in connections(environment)
    ]
