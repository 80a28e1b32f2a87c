"""What must be true of a host over SSH, beside what every deploy looks at: `opskit check`.

`inspect` looks at one host, `inspect_address` at what clients are told. Each check is a small
pure function from what was seen to a verdict, with its cause and what to do.
"""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from opskit.commands import inspection
from opskit.deploy.preflight import Verdict
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.problems import ConfigError
from opskit.provision import rendering
from opskit.provision.change import Change
from opskit.provision.run import Node, planned
from opskit.secrets import resolve
from opskit.transport import Executor

OLDEST_LIBC = (2, 28)
"""What the wheels of a layer are built for (manylinux_2_28, PEP 600)."""
OLDEST_SYSTEMD = 247
"""The first that knows ProtectProc=, which the unit uses."""
LEAST_MEMORY = 128 * 1024 * 1024
"""Bytes that two processes of the service need beside their members, during a hand-over."""
PER_MEMBER = 2 * 8 * 1024
"""Bytes for each member, in both of them."""
RENEWAL_DAYS = 7
"""Days before its end at which a certificate should long have been renewed (Caddy: 30)."""
_POSTGRES_PORT = 5432


@dataclass(frozen=True)
class HostFacts:
    """What one look at a host saw.

    Attributes:
        system: the name of the distribution.
        machine: the kind of processor, as `x86_64`.
        libc: the version of glibc; () where it has none.
        systemd: its version; 0 where it has none.
        python: the version of the wanted interpreter; empty where it is missing.
        memory, available: bytes, all of it and what is free for new processes.
        skew: seconds by which its clock is ahead of ours, as far as that can be told.
        ports: who listens on each port; empty when nobody does.
        stores: what came of connecting to each server: `ok`, or why not.
        disks: bytes free at each path.
    """

    system: str
    machine: str
    libc: tuple[int, ...]
    systemd: int
    python: str
    memory: int
    available: int
    skew: float
    ports: Mapping[int, str]
    stores: Mapping[str, str]
    disks: Mapping[str, int] = field(default_factory=dict)


def parse_facts(text: str, *, before: float, after: float) -> HostFacts:
    """Read what `commands/inspection.inspect` prints.

    Args:
        text: that.
        before: Unix time here when the look began.
        after: when it ended; the host's clock was read in between.
    """
    fields = dict(line.partition("\t")[::2] for line in text.splitlines())
    clock = float(fields.get("clock") or before)
    return HostFacts(
        system=fields.get("system", ""),
        machine=fields.get("machine", ""),
        libc=tuple(map(int, re.findall(r"\d+", fields.get("libc", "")))),
        systemd=int(fields.get("systemd") or 0),
        python=fields.get("python", ""),
        memory=int(fields.get("MemTotal") or 0) * 1024,
        available=int(fields.get("MemAvailable") or 0) * 1024,
        skew=min(0.0, clock - before) + max(0.0, clock - after),
        ports={
            int(name.removeprefix("port:")): who
            for name, who in fields.items()
            if name.startswith("port:")
        },
        stores={
            name.removeprefix("reach:"): said
            for name, said in fields.items()
            if name.startswith("reach:")
        },
        disks={
            name.removeprefix("disk:"): int(free or 0)
            for name, free in fields.items()
            if name.startswith("disk:")
        },
    )


# --- checks of a host -------------------------------------------------------------------------


def system(environment: Environment, facts: HostFacts) -> Verdict:
    """The layer's packages run there: the right processor, and a glibc that is new enough."""
    libc = ".".join(map(str, facts.libc))
    if facts.libc < OLDEST_LIBC:
        detail = f"{facts.system} has " + (f"glibc {libc}" if libc else "no glibc")
        return Verdict("system", False, detail, "install Debian 12 or newer there")
    if not environment_runs_on(environment, facts.machine):
        where = environment.where("platform")
        hint = f"set `platform` at {where} to {facts.machine}-manylinux_2_28"
        detail = f"the processor is {facts.machine}, releases are for {environment.platform}"
        return Verdict("system", False, detail, hint)
    return Verdict("system", True, f"{facts.system}, {facts.machine}, glibc {libc}")


def environment_runs_on(environment: Environment, machine: str) -> bool:
    """Say whether the environment's releases run on such a processor."""
    return environment.platform is None or environment.platform.startswith(f"{machine}-")


def supervisor(environment: Environment, facts: HostFacts) -> Verdict:
    """Its systemd knows everything that the unit asks for."""
    if facts.systemd >= OLDEST_SYSTEMD:
        return Verdict("systemd", True, f"systemd {facts.systemd}")
    detail = f"systemd {facts.systemd}" if facts.systemd else "there is no systemd"
    return Verdict("systemd", False, detail, "install Debian 12 or newer there")


def interpreter(environment: Environment, facts: HostFacts) -> Verdict:
    """The interpreter that the layer is built for is there."""
    if facts.python:
        return Verdict("interpreter", True, f"Python {facts.python}")
    path = rendering.python_of(environment)
    hint = f"opskit provision {environment.name} installs it, where apt has it; or change `python` "
    return Verdict(
        "interpreter", False, f"there is no {path}", hint + f"at {environment.where('python')}"
    )


def memory(environment: Environment, facts: HostFacts) -> Verdict:
    """Two processes fit into memory, as they do during a hand-over."""
    members = environment.settings.limits.connections
    full = LEAST_MEMORY + members * PER_MEMBER
    detail = f"{size(facts.available)} of {size(facts.memory)} available"
    if facts.available < LEAST_MEMORY:
        hint = f"end what uses it, or add some: {size(LEAST_MEMORY)} are needed to start, "
        hint += f"{size(full)} for {members} connections"
        return Verdict("memory", False, f"only {detail}", hint)
    if facts.memory < full:
        detail += f"; {members} connections could take {size(full)}"
    return Verdict("memory", True, detail)


def clock(environment: Environment, facts: HostFacts) -> Verdict:
    """The clock agrees with this machine's, or tokens would not be valid there, or too long."""
    most = environment.settings.auth.leeway
    if abs(facts.skew) <= max(most, 1.0):
        return Verdict("clock", True, f"differs by {abs(facts.skew):.1f} s at most")
    way = "ahead of" if facts.skew > 0 else "behind"
    return Verdict(
        "clock",
        False,
        f"{abs(facts.skew):.0f} s {way} this machine's; tokens allow {most:g} s",
        "let both keep time: timedatectl set-ntp true",
    )


def proxy_ports(environment: Environment, facts: HostFacts) -> Verdict:
    """The proxy's ports are free, or the proxy's."""
    for port in proxy_ports_of(environment):
        who = facts.ports.get(port, "")
        if who and "caddy" not in who:
            name, _, pid = who.replace('"', "").partition(",pid=")
            said = f"{name} (pid {pid})" if pid else "another program"
            hint = f"stop and disable it there (systemctl disable --now {name}), or give the "
            hint += f"environment a `url` with another port, at {environment.where('url')}"
            return Verdict("proxy port", False, f"port {port} is in use by {said}", hint)
    listed = ", ".join(map(str, proxy_ports_of(environment)))
    return Verdict("proxy port", True, f"{listed} free, or Caddy's")


def stores(environment: Environment, facts: HostFacts) -> Verdict:
    """The host reaches the server of the store."""
    if environment.settings.store.kind == "sqlite":
        return Verdict("store server", True, "none: SQLite is a file")
    bad = {name: said for name, said in facts.stores.items() if said != "ok"}
    if facts.stores and len(bad) == len(facts.stores):
        detail = "; ".join(f"{name}: {said}" for name, said in bad.items())
        hint = "see that PostgreSQL runs, listens on that address and lets this host in (its "
        hint += "firewall, listen_addresses, pg_hba.conf)"
        return Verdict("store server", False, f"cannot be reached: {detail}", hint)
    reached = ", ".join(name for name in facts.stores if name not in bad)
    return Verdict("store server", True, f"{reached} answers" if reached else "not looked for")


Check = Callable[[Environment, HostFacts], Verdict]
CHECKS: tuple[Check, ...] = (
    system,
    supervisor,
    interpreter,
    memory,
    clock,
    proxy_ports,
    stores,
)


# --- looking ----------------------------------------------------------------------------------


def inspect(executor: Executor, environment: Environment) -> list[Verdict]:
    """Look at a host over SSH and give every verdict; one out of reach is a verdict, too."""
    from opskit.ssh_connection import Address  # here: it takes long to load

    command = inspection.inspect(
        rendering.python_of(environment), proxy_ports_of(environment), stores_of(environment)
    )
    before = time.time()
    try:
        said = executor.check(command)
    except Failure as failure:
        return [Verdict("reachable", False, str(failure), failure.hint)]
    facts = parse_facts(said, before=before, after=time.time())
    found = [Verdict("reachable", True, "its key is known, and commands run as root")]
    found += [check(environment, facts) for check in CHECKS]
    [outcome] = planned([Node(Address.parse(executor.host).host, executor, environment)])
    return [*found, provisioned(environment, outcome.changes, outcome.failure)]


def provisioned(
    environment: Environment, changes: Sequence[Change], failure: Failure | None
) -> Verdict:
    """Provisioning the host would change nothing."""
    if failure is not None:
        return Verdict("provisioned", False, str(failure), failure.hint)
    if not changes:
        return Verdict("provisioned", True, "as `opskit provision` leaves it")
    first = changes[0].text
    more = f", and {len(changes) - 1} more" if len(changes) > 1 else ""
    return Verdict(
        "provisioned", False, f"to do: {first}{more}", f"opskit provision {environment.name}"
    )


def inspect_address(environment: Environment) -> list[Verdict]:
    """Look at the address that clients use: where its name leads, and its certificate."""
    from opskit.observe.probe import certificate_expiry
    from opskit.ssh_connection import Address

    url = urlsplit(environment.base_url)
    name = url.hostname or ""
    hosts = [Address.parse(host).host for host in environment.hosts]
    found = [domain(environment, name, _resolve(name), {one: _resolve(one) for one in hosts})]
    if url.scheme == "https" and found[0].ok:
        expiry = certificate_expiry(environment.base_url)
        found.append(certificate(environment, expiry, now=time.time()))
    return found


def domain(
    environment: Environment,
    name: str,
    leads_to: frozenset[str],
    hosts: Mapping[str, frozenset[str]],
) -> Verdict:
    """The name that clients use leads somewhere, at best to a host."""
    if not leads_to:
        hint = f"add an A or AAAA record for it, or change {environment.where('url')}"
        return Verdict("domain", False, f"{name} has no address", hint)
    shown = ", ".join(sorted(leads_to))
    if _is_address(name):
        return Verdict("domain", True, f"{name} is an address")
    reached = sorted(host for host, there in hosts.items() if there & leads_to)
    if reached:
        return Verdict("domain", True, f"{name} leads to {', '.join(reached)} ({shown})")
    note = "none of the hosts: right only if a load balancer is there"
    return Verdict("domain", True, f"{name} leads to {shown}, {note}")


def certificate(environment: Environment, expiry: float | None, *, now: float) -> Verdict:
    """The certificate that clients are shown is valid for a while."""
    name = environment.base_url
    look = "journalctl -u caddy, on the hosts, says why"
    if expiry is None:
        return Verdict("certificate", False, f"{name} shows none", f"opskit provision "
                       f"{environment.name}, if that was not done yet; else {look}")  # fmt: skip
    days = (expiry - now) / 86_400
    if days <= 0:
        return Verdict("certificate", False, f"expired {-days:.1f} days ago", look)
    if days < RENEWAL_DAYS and not rendering.is_internal(environment):
        detail = f"expires in {days:.1f} days, and was not renewed"
        return Verdict("certificate", False, detail, look)
    left = f"{days:.0f} days" if days >= 2 else f"{days * 24:.0f} hours"
    whose = ", Caddy's own authority" if rendering.is_internal(environment) else ""
    return Verdict("certificate", True, f"valid for {left}{whose}")


# --- what is looked at ------------------------------------------------------------------------


def proxy_ports_of(environment: Environment) -> list[int]:
    """Give the ports that the proxy listens on: the address's, and 80 to lead to it."""
    url = urlsplit(environment.base_url)
    if url.scheme == "http":
        return [url.port or 80]
    return list(dict.fromkeys((80, url.port or 443)))


def stores_of(environment: Environment) -> list[str]:
    """Give `host:port` of each server of the store; none where the address cannot be had."""
    ref = environment.secrets.get("database_url")
    if environment.settings.store.kind == "sqlite" or ref is None:
        return []
    try:
        address = bytes(resolve(ref, environment.base_dir)).decode("utf-8", "replace")
    except ConfigError:
        return []  # the check of the secrets says why
    return servers(address)


def servers(address: str) -> list[str]:
    """Give `host:port` of each server that an address of PostgreSQL names (libpq, 34.1.1.2)."""
    places = urlsplit(address).netloc.rpartition("@")[2]
    found = []
    for place in filter(None, places.split(",")):
        host, port = place, ""
        if not place.endswith("]"):
            before, colon, after = place.rpartition(":")
            if colon:
                host, port = before, after
        found.append(f"{host.strip('[]')}:{port or _POSTGRES_PORT}")
    return found


def _resolve(name: str) -> frozenset[str]:
    try:
        return frozenset(str(info[4][0]) for info in socket.getaddrinfo(name, None))
    except OSError:
        return frozenset()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def size(number: int) -> str:
    """Write a number of bytes for people, as `1.5 GB` or `300 MB`."""
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.0f} MB"
