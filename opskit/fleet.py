"""An environment and all of its nodes: what the commands work on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from opskit.environment import Environment
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
        return Fleet(environment, tuple(_local_nodes(environment)))
    return Fleet(environment, tuple(_hosts(environment)))


def _local_nodes(environment: Environment) -> list[Target]:
    # The interpreter below opskit's virtual environment: what runs is the layer, nothing else.
    python = str(getattr(sys, "_base_executable", None) or sys.executable)
    only = environment.nodes == 1
    return [
        Target(
            environment.node(number),
            LocalExecutor("this machine" if only else f"node {number}"),
            Detached(environment.node(number).layout, python),
            python,
        )
        for number in range(1, environment.nodes + 1)
    ]


def _hosts(environment: Environment) -> list[Target]:
    from opskit.ssh import connections  # here: fabric takes long to load

    python = f"/usr/bin/python{environment.python}"
    supervisor = Systemd(environment.layout, python, environment.unit)
    return [
        Target(environment, executor, supervisor, python) for executor in connections(environment)
    ]
