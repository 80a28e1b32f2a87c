"""What is said of a host, from what was recorded on one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from opskit.deploy.preflight import Verdict
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.host_checks import (
    HostFacts,
    certificate,
    clock,
    domain,
    interpreter,
    memory,
    parse_facts,
    provisioned,
    proxy_ports,
    proxy_ports_of,
    servers,
    stores,
    supervisor,
    system,
)
from opskit.provision.change import Change

RECORDED = (
    "clock\t1795390922.767693980\nuser\t0\nsystem\tDebian GNU/Linux 12 (bookworm)\n"
    "machine\tx86_64\nlibc\tglibc 2.36\nsystemd\t252\npython\t3.11.2\nMemTotal\t24684096\n"
    'MemAvailable\t23265676\nport:80\t"caddy",pid=437\nport:443\t"caddy",pid=437\nport:8765\t\n'
    "reach:10.213.0.15:5432\tok\nreach:10.213.0.15:1\tConnection refused\n"
    "reach:nowhere.invalid:5432\tName or service not known\n"
)
NOW = 1795390922.767693980
FINE = parse_facts(RECORDED, before=NOW - 0.01, after=NOW + 0.01)
YAML = """\
environments:
  shop:
    target: ssh
    hosts: [one.example.net]
    url: {url}
    secrets:
      jwt_secret: env:NONE
      database_url: env:NONE
    chat:
      store: {{kind: postgres}}
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    return environment(tmp_path, monkeypatch)


def environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str = "https://chat.example.net"
) -> Environment:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "environments.yaml").write_text(YAML.format(url=url))
    return load_environments(Path("environments.yaml")).get("shop")


def test_a_look_is_read_whole() -> None:
    expected = HostFacts(
        system="Debian GNU/Linux 12 (bookworm)",
        machine="x86_64",
        libc=(2, 36),
        systemd=252,
        python="3.11.2",
        memory=24684096 * 1024,
        available=23265676 * 1024,
        skew=0.0,
        ports={80: '"caddy",pid=437', 443: '"caddy",pid=437', 8765: ""},
        stores={
            "10.213.0.15:5432": "ok",
            "10.213.0.15:1": "Connection refused",
            "nowhere.invalid:5432": "Name or service not known",
        },
    )
    assert expected == FINE


def test_a_host_that_says_nothing_is_read_too() -> None:
    nothing = parse_facts("", before=NOW, after=NOW)
    assert nothing == HostFacts("", "", (), 0, "", 0, 0, 0.0, {}, {})


def test_every_check_is_fine_with_a_fine_host(shop: Environment) -> None:
    checks = (system, supervisor, interpreter, memory, clock, proxy_ports, stores)
    assert [
        (one.name, one.ok, one.detail, one.hint) for one in (c(shop, FINE) for c in checks)
    ] == [
        ("system", True, "Debian GNU/Linux 12 (bookworm), x86_64, glibc 2.36", ""),
        ("systemd", True, "systemd 252", ""),
        ("interpreter", True, "Python 3.11.2", ""),
        ("memory", True, "23.8 GB of 25.3 GB available", ""),
        ("clock", True, "differs by 0.0 s at most", ""),
        ("proxy port", True, "80, 443 free, or Caddy's", ""),
        ("store server", True, "10.213.0.15:5432 answers", ""),
    ]


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (replace(FINE, libc=(2, 27)), Verdict("system", False, "Debian GNU/Linux 12 (bookworm) has "
         "glibc 2.27", "install Debian 12 or newer there")),
        (replace(FINE, libc=(), system="Alpine"), Verdict("system", False, "Alpine has no glibc",
         "install Debian 12 or newer there")),
        (replace(FINE, machine="aarch64"), Verdict("system", False, "the processor is aarch64, "
         "releases are for x86_64-manylinux_2_28",
         "set `platform` at environments.yaml:2 to aarch64-manylinux_2_28")),
    ],
)  # fmt: skip
def test_a_system_that_releases_do_not_run_on(
    shop: Environment, facts: HostFacts, expected: Verdict
) -> None:
    assert system(shop, facts) == expected


@pytest.mark.parametrize(("found", "said"), [(246, "systemd 246"), (0, "there is no systemd")])
def test_a_systemd_that_is_too_old(shop: Environment, found: int, said: str) -> None:
    verdict = supervisor(shop, replace(FINE, systemd=found))
    assert (verdict.ok, verdict.detail) == (False, said)


def test_an_interpreter_that_is_missing(shop: Environment) -> None:
    assert interpreter(shop, replace(FINE, python="")) == Verdict(
        "interpreter",
        False,
        "there is no /usr/bin/python3.11",
        "opskit provision shop installs it, where apt has it; or change `python` at "
        "environments.yaml:2",
    )


def test_memory_that_does_not_hold_two_processes(shop: Environment) -> None:
    verdict = memory(shop, replace(FINE, memory=512 * 2**20, available=127 * 2**20))
    assert (verdict.ok, verdict.detail) == (False, "only 133 MB of 537 MB available")
    assert "134 MB are needed to start, 462 MB for 20000 connections" in verdict.hint
    tight = memory(shop, replace(FINE, memory=256 * 2**20, available=200 * 2**20))
    assert (tight.ok, tight.detail) == (
        True,
        "210 MB of 268 MB available; 20000 connections could take 462 MB",
    )


@pytest.mark.parametrize(
    ("host", "skew", "ok", "detail"),
    [
        (NOW + 5.0, 4.5, True, "differs by 4.5 s at most"),
        (NOW + 90.5, 90.0, False, "90 s ahead of this machine's; tokens allow 5 s"),
        (NOW - 90.5, -90.0, False, "90 s behind this machine's; tokens allow 5 s"),
    ],
)
def test_a_clock_is_off_by_what_the_time_of_asking_does_not_explain(
    shop: Environment, host: float, skew: float, ok: bool, detail: str
) -> None:
    facts = parse_facts(f"clock\t{host:.3f}\n", before=NOW - 0.5, after=NOW + 0.5)
    assert facts.skew == pytest.approx(skew, abs=0.01)
    verdict = clock(shop, facts)
    assert (verdict.ok, verdict.detail) == (ok, detail)
    assert verdict.hint == ("" if ok else "let both keep time: timedatectl set-ntp true")


@pytest.mark.parametrize(
    ("who", "said", "unit"),
    [('"nginx",pid=77', "nginx (pid 77)", "nginx"), ("unknown", "another program", "unknown")],
)
def test_a_port_that_another_program_has(shop: Environment, who: str, said: str, unit: str) -> None:
    verdict = proxy_ports(shop, replace(FINE, ports={80: "", 443: who}))
    assert (verdict.ok, verdict.detail) == (False, f"port 443 is in use by {said}")
    assert f"systemctl disable --now {unit}" in verdict.hint
    assert "environments.yaml:5" in verdict.hint


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("https://chat.example.net", [80, 443]),
        ("https://chat.example.net:8443", [80, 8443]),
        ("http://chat.example.net:8080", [8080]),
        ("http://chat.example.net", [80]),
    ],
)
def test_the_proxys_ports_follow_from_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, ports: list[int]
) -> None:
    assert proxy_ports_of(environment(tmp_path, monkeypatch, url)) == ports


def test_a_store_that_no_server_of_answers(shop: Environment) -> None:
    bad = {"db1:5432": "Connection refused", "db2:5432": "no answer within 5 s"}
    verdict = stores(shop, replace(FINE, stores=bad))
    assert (verdict.ok, verdict.detail) == (
        False,
        "cannot be reached: db1:5432: Connection refused; db2:5432: no answer within 5 s",
    )
    assert stores(shop, replace(FINE, stores={**bad, "db3:5432": "ok"})).detail == (
        "db3:5432 answers"
    )


@pytest.mark.parametrize(
    ("address", "found"),
    [
        ("postgresql://chat:secret@db.example.net/chat", ["db.example.net:5432"]),
        ("postgresql://chat@db:6543/chat?sslmode=require", ["db:6543"]),
        ("postgres://u:p%40@db1:1,db2/x", ["db1:1", "db2:5432"]),
        ("postgresql://chat@[fd00::2]:5433/chat", ["fd00::2:5433"]),
        ("postgresql://chat@[fd00::2]/chat", ["fd00::2:5432"]),
        ("postgresql:///chat?host=/run/postgresql", []),
    ],
)
def test_the_servers_of_an_address_are_found_without_its_password(
    address: str, found: list[str]
) -> None:
    assert servers(address) == found


def test_a_domain_that_leads_to_a_host_to_another_place_and_nowhere(shop: Environment) -> None:
    hosts = {"one": frozenset({"192.0.2.1"}), "two": frozenset({"192.0.2.2"})}
    name = "chat.example.net"
    assert domain(shop, name, frozenset({"192.0.2.2"}), hosts) == Verdict(
        "domain", True, "chat.example.net leads to two (192.0.2.2)"
    )
    elsewhere = domain(shop, name, frozenset({"192.0.2.9"}), hosts)
    assert elsewhere.ok
    assert elsewhere.detail.endswith("none of the hosts: right only if a load balancer is there")
    nowhere = domain(shop, name, frozenset(), hosts)
    assert (nowhere.ok, nowhere.detail) == (False, "chat.example.net has no address")
    assert "environments.yaml:5" in nowhere.hint


@pytest.mark.parametrize(
    ("url", "days", "ok", "detail"),
    [
        ("https://chat.example.net", 60.0, True, "valid for 60 days"),
        ("https://chat.example.net", 6.5, False, "expires in 6.5 days, and was not renewed"),
        ("https://chat.example.net", -2.0, False, "expired 2.0 days ago"),
        ("https://192.0.2.1", 0.5, True, "valid for 12 hours, Caddy's own authority"),
        ("https://chat.internal", -1.0, False, "expired 1.0 days ago"),
    ],
)
def test_a_certificate_is_renewed_long_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, days: float, ok: bool, detail: str
) -> None:
    shop = environment(tmp_path, monkeypatch, url)
    verdict = certificate(shop, NOW + days * 86_400, now=NOW)
    assert (verdict.ok, verdict.detail) == (ok, detail)
    assert bool(verdict.hint) is not ok


def test_an_address_without_a_certificate(shop: Environment) -> None:
    verdict = certificate(shop, None, now=NOW)
    assert (verdict.ok, verdict.detail) == (False, "https://chat.example.net shows none")


def test_a_host_with_something_left_to_provision(shop: Environment) -> None:
    changes = [Change("packages", "install caddy", ()), Change("user", "make the user chat", ())]
    assert provisioned(shop, changes, None) == Verdict(
        "provisioned", False, "to do: install caddy, and 1 more", "opskit provision shop"
    )
