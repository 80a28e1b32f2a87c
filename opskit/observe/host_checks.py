"""What must be true of a monitoring host for it to watch: `opskit check` has a table of it.

As `opskit.host_checks` for the hosts of the service: a few looks, then small pure functions from
what was seen to a verdict, with its cause and what to do.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlsplit

from opskit import host_checks
from opskit.commands import inspection
from opskit.deploy.preflight import Verdict
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.host_checks import HostFacts, size
from opskit.host_names import name_of
from opskit.observe import provisioning
from opskit.observe.local import resolve_secrets
from opskit.observe.places import DAEMONS, executor_of, root_of, unit_of
from opskit.observe.probing import key_of, probes, warning
from opskit.observe.rendering import scrape_addresses
from opskit.problems import ConfigError
from opskit.provision.rendering import python_of
from opskit.provision.seen import Seen, parse_look
from opskit.transport import Executor

LEAST_MEMORY: Final = 256_000_000
"""Bytes that Prometheus, Alertmanager, the exporter and a probe take together, of a few hosts."""
LEAST_DISK: Final = 512_000_000
"""Bytes below which Prometheus has no room for its write-ahead log and one compaction."""
BYTES_A_DAY: Final = 3_000_000
"""What a process of the service leaves in Prometheus, at its shipped scrape interval of 15 s."""
_REFUSED: Final = "Connection refused"


@dataclass(frozen=True)
class Look:
    """What was seen on a monitoring host: the machine itself, and what provisioning looks at."""

    environment: Environment
    facts: HostFacts
    seen: Seen


def inspect_monitoring(environment: Environment) -> list[Verdict]:
    """Look at the monitoring host and give every verdict; none where there is no such host."""
    if not environment.monitoring.host:
        return []
    name = name_of(environment.monitoring.host)
    with closing(executor_of(environment)) as executor:
        found = inspect(executor, environment)
    # A host that is watched may watch, too: its own table tells of the service.
    return [replace(one, node=f"{name} (monitoring)") for one in found]


def inspect(executor: Executor, environment: Environment) -> list[Verdict]:
    """Look at a monitoring host; one out of reach is a verdict, too."""
    command = inspection.inspect(
        python_of(environment),
        [environment.monitoring.port_of(name) for name in DAEMONS],
        [*scrape_addresses(environment), *_address(environment)],
        [root_of(environment)],
    )
    before = time.time()
    try:
        said = executor.check(command)
        facts = host_checks.parse_facts(said, before=before, after=time.time())
        seen = parse_look(executor.check(provisioning.look(environment)))
    except Failure as failure:
        return [Verdict("reachable", False, str(failure), failure.hint)]
    look = Look(environment, facts, seen)
    return [
        Verdict("reachable", True, "its key is known, and commands run as root"),
        *(check(look) for check in CHECKS if check is not address or probes(environment)),
        _provisioned(look, executor.host),
    ]


# --- checks -----------------------------------------------------------------------------------


def system(look: Look) -> Verdict:
    """The probe's packages run there: the right processor, and a glibc that is new enough."""
    return host_checks.system(look.environment, look.facts)


def supervisor(look: Look) -> Verdict:
    """Its systemd knows everything that the units ask for."""
    return host_checks.supervisor(look.environment, look.facts)


def clock(look: Look) -> Verdict:
    """The clock agrees with this machine's: tokens are made there, and times compared."""
    return host_checks.clock(look.environment, look.facts)


def memory(look: Look) -> Verdict:
    """What watches fits into memory, or is there already."""
    facts = look.facts
    detail = f"{size(facts.available)} of {size(facts.memory)} available"
    running = any(_runs(look, name) for name in DAEMONS)
    if facts.available < LEAST_MEMORY and not running:
        hint = f"end what uses it, or add some: {size(LEAST_MEMORY)} are needed"
        return Verdict("memory", False, f"only {detail}", hint)
    return Verdict("memory", True, detail)


def disk(look: Look) -> Verdict:
    """There is room for what Prometheus keeps."""
    environment, place = look.environment, str(root_of(look.environment))
    days, many = environment.monitoring.retention_days, len(scrape_addresses(environment))
    whole = BYTES_A_DAY * days * many * 15 // environment.monitoring.scrape_interval
    free = look.facts.disks.get(place, 0)
    takes = f"{days} days of metrics take about {size(whole)}"
    if free < LEAST_DISK:
        hint = f"make room there, at least {size(LEAST_DISK)}; {takes}: "
        hint += f"monitoring.retention_days, at {environment.where('monitoring')}, says how many"
        return Verdict("disk", False, f"only {size(free)} free at {place}", hint)
    return Verdict("disk", True, f"{size(free)} free; {takes}")


def packages(look: Look) -> Verdict:
    """Prometheus, Alertmanager and what else is needed are installed."""
    wanted = provisioning.packages_of(look.environment)
    missing = [name for name in wanted if name not in look.seen.packages]
    if missing:
        hint = f"opskit provision {look.environment.name} installs them with apt"
        return Verdict("packages", False, f"not installed: {', '.join(missing)}", hint)
    versions = (f"{name} {look.seen.packages[name]}" for name in wanted)
    return Verdict("packages", True, ", ".join(versions))


def ports(look: Look) -> Verdict:
    """The ports of what watches are free, or taken by it."""
    for name in DAEMONS:
        port = look.environment.monitoring.port_of(name)
        who = look.facts.ports.get(port, "")
        if who and not _runs(look, name):
            program, _, pid = who.replace('"', "").partition(",pid=")
            said = f"{program} (pid {pid})" if pid else "another program"
            hint = "end it there if nobody needs it, or choose another monitoring."
            hint += f"{name}_port, at {look.environment.where('monitoring')}"
            return Verdict("ports", False, f"port {port} is in use by {said}", hint)
    listed = ", ".join(f"{look.environment.monitoring.port_of(name)}" for name in DAEMONS)
    return Verdict("ports", True, f"{listed} free, or of what watches")


def metrics(look: Look) -> Verdict:
    """It reaches the metrics of every host; where nothing is deployed yet nobody answers there."""
    said = {place: look.facts.stores.get(place, "") for place in scrape_addresses(look.environment)}
    bad = {place: why for place, why in said.items() if why not in ("ok", _REFUSED)}
    if bad:
        detail = "; ".join(f"{place}: {why or 'not looked for'}" for place, why in bad.items())
        hint = f"let {name_of(look.environment.monitoring.host or '')} through the firewall of "
        hint += "those hosts, to that port; it alone: no token is asked for there"
        return Verdict("metrics", False, f"cannot be reached: {detail}", hint)
    silent = [place for place, why in said.items() if why == _REFUSED]
    if silent:
        detail = f"reachable; nobody serves them yet at {', '.join(silent)}"
        return Verdict("metrics", True, detail)
    return Verdict("metrics", True, f"{', '.join(said)} answer{'s' * (len(said) == 1)}")


def address(look: Look) -> Verdict:
    """It reaches the service where clients do, or each probe fails."""
    [place] = _address(look.environment)
    why = look.facts.stores.get(place, "")
    if why in ("ok", _REFUSED):
        return Verdict("address", True, f"{place} {'answers' if why == 'ok' else 'refuses yet'}")
    hint = "the probe connects as clients do: let the name lead there, and the firewalls let it"
    return Verdict("address", False, f"{place} cannot be reached: {why or 'not looked for'}", hint)


def probe(look: Look) -> Verdict:
    """There is something that the probe can sign tokens with."""
    if said := warning(look.environment):
        what, _, then = said.partition(". ")
        return Verdict("probe", True, what, then)
    try:
        key = key_of(look.environment)
    except ConfigError as error:
        problem = error.problems[0]
        return Verdict("probe", False, f"{problem.key} {problem.why}", f"look at {problem.where}")
    seconds = look.environment.monitoring.probe_interval
    return Verdict("probe", True, f"every {seconds} s, its tokens signed with the {key.name}")


def receivers(look: Look) -> Verdict:
    """What receivers are told with can be had."""
    try:
        found = resolve_secrets(look.environment)
    except ConfigError as error:
        problem = error.problems[0]
        why = f"{problem.key} {problem.why}"
        return Verdict("receivers", False, why, f"look at {problem.where}")
    told = look.environment.monitoring.receivers
    names = [name for name in ("webhook", "email", "slack") if getattr(told, name)]
    if not names:
        hint = "name somebody under monitoring.receivers"
        return Verdict("receivers", True, "nobody is told of alerts", hint)
    secrets = f"; {', '.join(found)} can be read" if found else ""
    return Verdict("receivers", True, ", ".join(names) + secrets)


Check = Callable[[Look], Verdict]
CHECKS: Final[tuple[Check, ...]] = (
    system,
    supervisor,
    memory,
    clock,
    disk,
    packages,
    ports,
    metrics,
    address,
    probe,
    receivers,
)


def _provisioned(look: Look, host: str) -> Verdict:
    try:
        changes = provisioning.changes(look.environment, host, look.seen)
    except Failure as failure:
        return host_checks.provisioned(look.environment, [], failure)
    return host_checks.provisioned(look.environment, changes, None)


def _runs(look: Look, name: str) -> bool:
    state = look.seen.units.get(unit_of(name, look.environment))
    return state is not None and state.active


def _address(environment: Environment) -> list[str]:
    url = urlsplit(environment.base_url)
    return [f"{url.hostname}:{url.port or (443 if url.scheme == 'https' else 80)}"]
