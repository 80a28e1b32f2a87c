"""`opskit check`: whether a deploy could work, without one. Changes nothing."""

from __future__ import annotations

from dataclasses import replace

from opskit.database import address_of, try_from_here, try_from_host
from opskit.deploy.preflight import Verdict, verdicts
from opskit.environment import Environment
from opskit.facts import Facts
from opskit.failure import Failure
from opskit.fleet import Fleet
from opskit.host_checks import inspect, inspect_address
from opskit.layout import release_name
from opskit.node_status import look_at_surplus, too_many
from opskit.problems import ConfigError
from opskit.secret_checks import check_value
from opskit.secrets import Secret, Source, resolve
from opskit.target import Target


def examine(fleet: Fleet) -> list[Verdict]:
    """Give every verdict on an environment and its nodes; a node out of reach is one, too."""
    several = len(fleet.nodes) > 1
    found = []
    address = address_of(fleet.environment)
    looked = fleet.each(lambda node: _examine(node, address))
    for node, verdicts_there in zip(fleet.nodes, looked, strict=True):
        found += [replace(one, node=node.name if several else "") for one in verdicts_there]
    if fleet.environment.monitoring.host:
        from opskit.observe.host_checks import inspect_monitoring  # here: it loads an HTTP client

        found += inspect_monitoring(fleet.environment)
    if fleet.environment.target == "ssh":
        found += inspect_address(fleet.environment)
    elif address is not None:
        found.append(try_from_here(fleet.environment, address))
    return found + _secrets(fleet.environment)


def _examine(node: Target, address: Secret | None) -> list[Verdict]:
    found: list[Verdict] = []
    if node.environment.target == "ssh":
        found = inspect(node.executor, node.environment)
        # Nothing more can be seen of a host out of reach, or without the Python that looks.
        if any(not one.ok and one.name in ("reachable", "interpreter") for one in found):
            return found
        found = [one for one in found if one.name != "interpreter"]  # `python` says it again
    try:
        facts = node.survey()
    except Failure as failure:
        return [*found, Verdict("reach", False, str(failure), failure.hint)]
    found += [*verdicts(node.environment, facts), *_surplus(node, facts)]
    found.append(_store(node, facts))
    unreached = any(not one.ok and one.name == "store server" for one in found)
    if address is not None and node.environment.target == "ssh" and not unreached:
        found.append(try_from_host(node, facts, address))
    return found


def _surplus(node: Target, facts: Facts) -> list[Verdict]:
    """Tell of nodes that run though there shall be fewer: a deploy works, and ends them."""
    what, then = too_many(node.environment, look_at_surplus(node.environment, facts))
    return [Verdict("nodes", True, f"{what}: {then}")] if what else []


def _secrets(environment: Environment) -> list[Verdict]:
    """See that each secret can be had; one that a deploy would generate is fine."""
    found = []
    for name, ref in environment.secrets.items():
        if ref.source is Source.GENERATE:
            found.append(Verdict(name, True, "made once, kept on this machine"))
            continue
        try:
            check_value(name, ref, resolve(ref, environment.base_dir))
        except ConfigError as error:
            problem = error.problems[0]
            found.append(Verdict(name, False, problem.why, f"look at {problem.where}"))
        else:
            found.append(Verdict(name, True, f"{ref} can be read"))
    return found


def _store(target: Target, facts: Facts) -> Verdict:
    """Ask the current release whether its own settings and its own database are fine."""
    if facts.current is None or facts.current not in facts.releases:
        return Verdict("store", True, "nothing is deployed yet")
    name = release_name(facts.current)
    try:
        target.ask(facts.current, "check")
    except Failure as failure:
        hint = f"opskit tail {target.environment.name} --level warning"
        return Verdict("store", False, str(failure), hint)
    return Verdict("store", True, f"{name} can read its settings, secrets and database")
