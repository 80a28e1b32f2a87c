"""What `opskit check` finds on real hosts, well and broken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from opskit.deploy.preflight import Verdict
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.host_checks import inspect, inspect_address
from opskit.provision.run import Node, provision
from opskit.ssh import SshExecutor, login_of
from opskit.ssh_connection import Address
from tests.hosts.lab import Lab
from tests.hosts.machine import Host

YAML = """\
environments:
  shop:
    target: ssh
    hosts: [{user}@{host.address}]
    identity_file: {host.key}
    known_hosts: {host.known_hosts}
    url: https://{host.address}
    secrets:
      jwt_secret: env:NONE
      database_url: file:database_url
    chat:
      store: {{kind: postgres}}
"""


def environment_of(host: Host, directory: Path, *, user: str = "ops") -> Environment:
    path = directory / "environments.yaml"
    path.write_text(YAML.format(host=host, user=user))
    database = directory / "database_url"
    database.write_text(f"postgresql://chat:secret@{host.address}:22/chat\n")
    database.chmod(0o600)
    return load_environments(path).get("shop")


def executor_of(environment: Environment) -> SshExecutor:
    return SshExecutor(Address.parse(environment.hosts[0]), login_of(environment))


@dataclass(frozen=True)
class Place:
    """A host that was made ready, and how it is reached."""

    host: Host
    environment: Environment
    executor: SshExecutor

    def look(self) -> dict[str, Verdict]:
        """Give the verdicts by name."""
        return {one.name: one for one in inspect(self.executor, self.environment)}


@pytest.fixture(scope="module")
def place(
    lab: Lab, with_packages: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    [host] = lab.boot(layers=(with_packages,))
    environment = environment_of(host, tmp_path_factory.mktemp("site"))
    executor = executor_of(environment)
    [outcome] = provision([Node(host.address, executor, environment)])
    assert outcome.failure is None
    yield Place(host, environment, executor)
    executor.close()
    lab.end(host)


def test_a_host_that_is_ready_passes_every_check(place: Place) -> None:
    found = place.look()
    assert {name: one.detail for name, one in found.items() if not one.ok} == {}
    assert list(found) == [
        "reachable", "system", "systemd", "interpreter", "memory", "clock", "proxy port",
        "store server", "provisioned",
    ]  # fmt: skip
    assert found["store server"].detail == f"{place.host.address}:22 answers"
    [domain, certificate] = inspect_address(place.environment)
    assert (domain.ok, certificate.ok) == (True, True)
    assert certificate.detail.endswith("Caddy's own authority")


def test_a_port_that_another_program_has_is_named_with_it(place: Place) -> None:
    host = place.host
    host.run("systemctl", "stop", "caddy")
    host.run("systemd-run", "--unit=squatter", "python3", "-m", "http.server", "443")
    try:
        host.run("sh", "-c", "until ss -Hltn 'sport = :443' | grep -q .; do sleep 0.05; done")
        pid = host.text("systemctl", "show", "--property=MainPID", "--value", "squatter").strip()
        verdict = place.look()["proxy port"]
        assert (verdict.ok, verdict.detail) == (
            False,
            f"port 443 is in use by python3 (pid {pid})",
        )
    finally:
        host.run("systemctl", "stop", "squatter")
        host.run("systemctl", "start", "caddy")


def test_a_store_that_is_down_is_named(place: Place) -> None:
    database = place.environment.base_dir / "database_url"
    before = database.read_text()
    database.write_text(before.replace(":22/", ":1/"))
    try:
        verdict = place.look()["store server"]
        said = f"cannot be reached: {place.host.address}:1: Connection refused"
        assert (verdict.ok, verdict.detail) == (False, said)
    finally:
        database.write_text(before)


def test_what_was_changed_on_the_host_is_seen(place: Place) -> None:
    place.host.run("chmod", "755", "/opt/chat/state")
    try:
        verdict = place.look()["provisioned"]
        assert (verdict.ok, verdict.detail, verdict.hint) == (
            False,
            "to do: make /opt/chat/state (chat:chat 700)",
            "opskit provision shop",
        )
    finally:
        place.host.run("chmod", "700", "/opt/chat/state")


def test_a_host_without_sudo_is_one_verdict_with_a_remedy(place: Place, tmp_path: Path) -> None:
    environment = environment_of(place.host, tmp_path, user="nosudo")
    with closing(executor_of(environment)) as executor:
        [verdict] = inspect(executor, environment)
    assert not verdict.ok
    assert "user nosudo may not run commands as root" in verdict.detail
    assert "/etc/sudoers.d/nosudo" in verdict.hint


def test_a_host_that_is_away_is_one_verdict(place: Place) -> None:
    with closing(SshExecutor(Address(place.host.address, port=2222))) as executor:
        [verdict] = inspect(executor, place.environment)
    assert (verdict.name, verdict.ok) == ("reachable", False)
    assert "nothing answers at" in verdict.detail
