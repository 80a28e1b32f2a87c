"""Carries out what a plan says, on every host at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from opskit.commands import Command, files
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.layout import PROXY_AUTHORITY
from opskit.provision import plan
from opskit.provision.change import Change
from opskit.provision.seen import Seen, parse_look
from opskit.transport import Executor


@dataclass(frozen=True)
class Node:
    """One host.

    Attributes:
        name: its name or address, as clients could reach it.
        serves: whether the service runs there.
        watches: whether it is the environment's monitoring host.
    """

    name: str
    executor: Executor
    environment: Environment
    serves: bool = True
    watches: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one host.

    Attributes:
        host: its name for people.
        changes: what was changed, in order; with a plan, what would be.
        failure: why it is not ready; None when it is.
    """

    host: str
    changes: tuple[Change, ...]
    failure: Failure | None = None


Observer = Callable[[str, Change], None]
"""Told of each change that begins, with the host's name; from several threads."""


def planned(nodes: Sequence[Node]) -> list[Outcome]:
    """Say what would be changed on each host; changes nothing."""
    return _on_all(nodes, lambda node: tuple(_wanted(node)))


def provision(
    nodes: Sequence[Node], observe: Observer = lambda host, change: None
) -> list[Outcome]:
    """Make every host ready, and look again whether it is. A host that fails holds up no other.

    Args:
        nodes: the hosts.
        observe: told of each change that begins.
    """
    return _on_all(nodes, lambda node: _make_ready(node, observe))


def nodes_of(environment: Environment) -> list[Node]:
    """Give every host of an environment, and the one that watches it.

    Each is connected to when it is needed.
    """
    # Here: what they are built on takes long to load.
    from opskit.observe.places import named
    from opskit.ssh import reaching
    from opskit.ssh_connection import Address

    watching = named(environment)
    hosts = [*environment.hosts, *([watching] if watching else [])]
    return [
        Node(
            Address.parse(host).host,
            reaching(environment, host),
            environment,
            serves=host in environment.hosts,
            watches=host == watching,
        )
        for host in dict.fromkeys(hosts)
    ]


def internal_ca(executor: Executor) -> str:
    """Give the certificate (PEM) of a host's own authority; empty where it has none."""
    return executor.check(files.read(PROXY_AUTHORITY))


def _on_all(nodes: Sequence[Node], act: Callable[[Node], tuple[Change, ...]]) -> list[Outcome]:
    def one(node: Node) -> Outcome:
        done: list[Change] = []
        try:
            done.extend(act(node))
        except _Stopped as stopped:
            return Outcome(node.executor.host, stopped.done, stopped.failure)
        except Failure as failure:
            return Outcome(node.executor.host, (), failure)
        return Outcome(node.executor.host, tuple(done))

    with ThreadPoolExecutor(max_workers=max(1, min(len(nodes), 16))) as pool:
        return list(pool.map(one, nodes))


class _Stopped(Exception):
    """A change failed after others were made."""

    def __init__(self, done: Sequence[Change], failure: Failure) -> None:
        super().__init__(str(failure))
        self.done = tuple(done)
        self.failure = failure


def _make_ready(node: Node, observe: Observer) -> tuple[Change, ...]:
    """Change what has to be changed on one host."""
    done: list[Change] = []
    for change in _wanted(node):
        observe(node.executor.host, change)
        try:
            for command in change.commands:
                node.executor.check(command)
        except Failure as failure:
            failure.hint = failure.hint or _which_python(node, change, failure)
            raise _Stopped(done, failure) from None
        done.append(change)
    if done and (left := _wanted(node)):
        what = "; ".join(change.text for change in left)
        raise _Stopped(
            done,
            Failure(
                f"{node.executor.host}: all was done, and this is still to do: {what}",
                hint=f"run it again: opskit provision {node.environment.name}; if that says the "
                "same, something else on the host changes it back",
            ),
        )
    return tuple(done)


def _which_python(node: Node, change: Change, failure: Failure) -> str:
    """Say what to do where apt has not the Python that releases are built for."""
    wanted = f"python{node.environment.python}"
    said = "\n".join((str(failure), *failure.lines))
    if change.step != "packages" or f"Unable to locate package {wanted}" not in said:
        return ""
    where = node.environment.where("python")
    return f"write the one that its system has as `python` at {where}, or let apt have {wanted}"


def _wanted(node: Node) -> list[Change]:
    found: list[Change] = []
    if node.serves:
        seen = _look(node, plan.look(node.environment))
        found += plan.changes(node.environment, node.name, seen)
    if node.serves and node.environment.monitoring.host:
        from opskit.observe import provisioning

        seen = _look(node, provisioning.look_for_sweeping(node.environment))
        found += provisioning.sweeping(node.environment, seen)
    if node.watches:
        from opskit.observe import provisioning  # here: it loads an HTTP client and templates

        seen = _look(node, provisioning.look(node.environment))
        found += provisioning.changes(node.environment, node.name, seen)
    return found


def _look(node: Node, command: Command) -> Seen:
    return parse_look(node.executor.check(command))
