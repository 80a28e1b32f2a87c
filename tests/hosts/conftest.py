"""Real hosts for tests: booted when first asked for, gone afterwards.

`host` is one that all tests share and leave as they found it; `new_hosts` boots fresh ones for
one test. Where hosts cannot be booted these tests say so and do not run; in CI that is a failure.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from opskit.provision.run import nodes_of, provision
from tests.hosts.database import GUARDED
from tests.hosts.image import DOWNLOADED, CannotBuild
from tests.hosts.lab import Lab, why_not
from tests.hosts.machine import Host
from tests.hosts.proven import deploy, leftovers, let_the_leases_end
from tests.hosts.site import HostSite
from tests.postgres_server import PostgresServer

NewHosts = Callable[..., list[Host]]
HostSites = Callable[..., HostSite]


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """A network, a key, and hosts on demand."""
    if reason := why_not():
        _cannot(reason)
    lab = Lab()
    try:
        lab.up()
    except CannotBuild as error:
        _cannot(f"there is no image of a host: {error}")
    yield lab
    lab.down()


def _cannot(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(f"no test hosts: {reason}")
    pytest.skip(f"NOT TESTED on real hosts: {reason}")


@pytest.fixture(scope="session")
def host(lab: Lab) -> Host:
    """A host that all tests share: what one changes there, it puts back."""
    return lab.boot()[0]


@pytest.fixture(scope="session")
def with_packages(lab: Lab) -> Path:
    """A layer for `new_hosts` that holds every package which provisioning installs.

    What takes long, apt, is done once; provisioning such a host takes a second.
    """
    [host] = lab.boot()
    host.run("apt-get", "-qq", "update", timeout=300)
    install = ("apt-get", "-qq", "install", "--yes", "--no-install-recommends", *DOWNLOADED)
    host.run("env", "DEBIAN_FRONTEND=noninteractive", *install, timeout=600)
    return lab.freeze(host)


@pytest.fixture
def new_hosts(lab: Lab) -> Iterator[NewHosts]:
    """Boot fresh hosts for one test: `new_hosts(3)`, `new_hosts(layers=[...])`.

    pytest shows the end of each one's journal when the test fails.
    """
    booted: list[Host] = []

    def boot(count: int = 1, *, layers: tuple[Path, ...] = (), disk: int = 0) -> list[Host]:
        made = lab.boot(count, layers=layers, disk=disk)
        booted.extend(made)
        return made

    yield boot
    for one in booted:
        if one in lab.hosts:
            print(f"--- journal of {one.name}\n{_last_words(one)}")
            lab.end(one)


@pytest.fixture(scope="session")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where built layers are kept, for all tests."""
    return tmp_path_factory.mktemp("cache") / "opskit" / "layers"


@pytest.fixture(scope="session")
def provisioned(lab: Lab, tmp_path_factory: pytest.TempPathFactory, layers: Path) -> Path:
    """What lies on the disk of a host that was made ready for `prod`, to boot more from."""
    [host] = lab.boot()
    site = HostSite(tmp_path_factory.mktemp("provisioned"), [host], layers)
    outcomes = provision(nodes_of(site.environment))
    assert [one.failure for one in outcomes] == [None]
    return lab.freeze(host)


@pytest.fixture
def host_site(
    new_hosts: NewHosts, provisioned: Path, tmp_path: Path, layers: Path, request: Any
) -> HostSites:
    """Make an environment `prod` on hosts of its own: `host_site()`, `host_site(3)`.

    With more than one host its store is a PostgreSQL on this machine. `disk`: as `Lab.boot` has it.
    """

    def make(count: int = 1, *, disk: int = 0, **options: Any) -> HostSite:
        hosts = new_hosts(count, layers=(provisioned,), disk=disk)
        return _made_ready(HostSite(tmp_path / "site", hosts, layers, **options), request)

    return make


@pytest.fixture(scope="session")
def _served(
    lab: Lab, provisioned: Path, tmp_path_factory: pytest.TempPathFactory, layers: Path
) -> HostSite:
    [host] = lab.boot(layers=(provisioned,))
    site = _made_ready(HostSite(tmp_path_factory.mktemp("served"), [host], layers), None)
    deploy(site)
    return site


@pytest.fixture
def served(_served: HostSite) -> HostSite:
    """Give `prod` on one host where some release serves; tests share it, and leave it serving."""
    return _as_others_left_it(_served)


@pytest.fixture(scope="session")
def _three(
    lab: Lab,
    provisioned: Path,
    tmp_path_factory: pytest.TempPathFactory,
    layers: Path,
    request: Any,
) -> HostSite:
    hosts = lab.boot(3, layers=(provisioned,))
    site = _made_ready(HostSite(tmp_path_factory.mktemp("three"), hosts, layers), request)
    deploy(site)
    return site


@pytest.fixture
def three(_three: HostSite) -> HostSite:
    """Give `prod` on three hosts and one PostgreSQL, served; tests share it likewise."""
    return _as_others_left_it(_three)


def _as_others_left_it(site: HostSite) -> HostSite:
    """Begin with the source as it was, but for what makes the next release another one."""
    site.restore()
    let_the_leases_end(site)
    site.change(f"for another test, after {site.serving}")
    assert site.serving == [site.serving[0]] * len(site.hosts)
    assert leftovers(site) == []
    return site


def _made_ready(site: HostSite, request: Any) -> HostSite:
    """Give a site its store, and provision it: the proxy answers to its own address."""
    if len(site.hosts) > 1:
        server: PostgresServer = request.getfixturevalue("lab_postgres")
        dsn = server.database().replace("127.0.0.1", site.hosts[0].network.gateway)
        site.secret("database_url", dsn)
        site.configure(store={"kind": "postgres"})
    outcomes = provision(nodes_of(site.environment))
    assert [one.failure for one in outcomes] == [None] * len(site.hosts)
    return site


@pytest.fixture(scope="session")
def lab_postgres(lab: Lab, postgres_server: PostgresServer, postgres_root: Path) -> Iterator[Any]:
    """A server that the hosts reach, on this machine's address in their network."""
    root = postgres_root / "lab"
    server = PostgresServer(root, listen_addresses=f"127.0.0.1,{lab.network.gateway}")
    server.create()
    rules = server.data / "pg_hba.conf"
    network = f"{lab.network.gateway}/24"
    guarded = f"host all {GUARDED} {network} scram-sha-256\n"
    rules.write_text(f"{guarded}{rules.read_text()}host all all {network} trust\n")
    server.start()
    yield server
    server.stop()


def _last_words(host: Host) -> str:
    try:
        return host.journal(lines=60)
    except RuntimeError:
        return "(it is down)"
