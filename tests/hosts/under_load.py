"""What is done to real hosts while members talk through their proxies, and the judgement of that.

The members are those of tests/chaos: every one is recorded, and judged against what the store
holds. They connect over WSS to the hosts' Caddy, spread over all hosts. opskit runs as a person
would run it: a process of its own, that reaches the hosts over SSH.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from time import monotonic, sleep
from typing import Final

import pytest

from chatservice.auth import sign
from opskit.provision.run import internal_ca
from tests.chaos.checker import Rules, Stored, Verdict, check
from tests.chaos.continuity import Continuity, continuity
from tests.chaos.history import Record
from tests.chaos.load import Load, Token
from tests.chaos.plan import Plan, person_name
from tests.chaos.sources import read_api, read_as_client, read_database, read_postgres
from tests.chaos.summary import errors_in, summary
from tests.hosts.machine import Host
from tests.hosts.site import HostSite
from tests.hosts.strangers import WORKSPACE, Strangers

TOKEN_SECONDS: Final = 3600.0
ARRIVALS: Final = 60.0
"""Devices a second; a TLS handshake costs both ends some 5 ms, and they share this machine."""
UNIT: Final = "chat-prod.service"
BACK_SECONDS: Final = 60.0
ENTERING_SECONDS: Final = 120.0
SETTLE_SECONDS: Final = 60.0
OPSKIT_SECONDS: Final = 300.0
BROKEN: Final = (
    "routes.py",
    'response.headers["Access-Control-Allow-Methods"] = "GET"',
    'response.headers["Access-Control-Allow-Methods"] = "PUT"',
)
"""A fault that the smoke test finds, and no member of the load: browsers' CORS preflight."""


class Deed(StrEnum):
    """What is done to a host."""

    DEPLOY = "deploy"
    FAILING = "failing deploy"
    ROLLBACK = "rollback"
    KILL = "kill -9"


@dataclass(frozen=True)
class Done:
    """One act: what it was, how opskit ended, what it said, and how long it took in seconds."""

    deed: Deed
    status: int
    said: str
    seconds: float


@dataclass(frozen=True)
class Crash:
    """What became of a process that was killed.

    Attributes:
        where: the host.
        how: how the next one says that it started.
        kept, lost: the sockets of members that stayed open, and that did not.
        back: seconds until the next one served.
    """

    where: str
    how: str
    kept: int
    lost: int
    back: float


@dataclass(frozen=True)
class Judgement:
    """What came of it all.

    Attributes:
        done: every act.
        ways: how each act that counted replaced the process, and how many connections moved.
        verdict: of the checker.
        noticed: what members noticed.
        strangers: what the clients that are not ours saw.
        unsettled: what was still not as it should be at the end.
        errors: error frames, by code.
        overview: the run in one line.
        crashes: what became of each process that was killed.
    """

    done: Sequence[Done]
    ways: Sequence[tuple[str, int]]
    verdict: Verdict
    noticed: Continuity
    strangers: Strangers
    unsettled: str
    errors: Counter[str]
    overview: str
    crashes: Sequence[Crash] = ()

    @property
    def kept(self) -> float:
        """The share of sockets that stayed open over all crashes."""
        whole = sum(one.kept + one.lost for one in self.crashes)
        return sum(one.kept for one in self.crashes) / whole if whole else 1.0

    def __str__(self) -> str:
        """Everything for a person."""
        moved = [count for _, count in self.ways]
        acts = ", ".join(f"{one.deed} {one.seconds:.1f} s" for one in self.done)
        lines = [
            self.overview,
            f"acts: {acts}",
            f"ways: {dict(Counter(way for way, _ in self.ways))}, connections moved "
            f"{min(moved, default=0)} to {max(moved, default=0)}",
            str(self.noticed),
            f"clients that are not ours: {'stayed' if self.strangers.stayed else 'did not stay'} "
            f"connected, {self.strangers.sent} messages {self.strangers.ended or ''}",
            f"verdict: {self.verdict}",
        ]
        if self.crashes:
            back = sorted(one.back for one in self.crashes)
            lines.append(
                f"crashes: {len(back)} of {len({one.where for one in self.crashes})} hosts' "
                f"services, sockets that stayed open {self.kept:.1%}, back after "
                f"{back[len(back) // 2]:.2f} s (median), {back[-1]:.2f} s (most)"
            )
        return "\n".join([*lines, *([f"unsettled: {self.unsettled}"] if self.unsettled else [])])


@dataclass
class Deeds:
    """Does things to hosts, through opskit, and keeps to what can be rolled back to.

    What is killed is the service of one host after the other.
    """

    site: HostSite
    good: list[int] = field(default_factory=lambda: [1])
    """The good releases, the one that serves last."""
    installed: int = 1
    done: list[Done] = field(default_factory=list)
    crashes: list[Crash] = field(default_factory=list)

    def do(self, deed: Deed) -> None:
        """Do one thing; what fails is on record."""
        started = monotonic()
        match deed:
            case Deed.KILL:
                ran = self._kill(self.site.hosts[len(self.crashes) % len(self.site.hosts)])
            case Deed.ROLLBACK:
                wanted = self.good[-2]
                ran = self.site.opskit("rollback", f"v{wanted}", deadline=OPSKIT_SECONDS)
                self.good += [wanted] if ran.returncode == 0 else []
            case _:
                self.installed += 1
                self.site.change(f"release {self.installed}")
                if deed is Deed.FAILING:
                    self.site.edit(*BROKEN)
                ran = self.site.opskit("deploy", "prod", deadline=OPSKIT_SECONDS)
                if deed is Deed.FAILING:
                    path, right, wrong = BROKEN
                    self.site.edit(path, wrong, right)
                elif ran.returncode == 0:
                    self.good.append(self.installed)
        said = ran.stdout + ran.stderr if isinstance(ran.stdout, str) else ""
        self.done.append(Done(deed, ran.returncode, said, monotonic() - started))

    def _kill(self, host: Host) -> subprocess.CompletedProcess[str]:
        """Kill the service, and wait until systemd has it back; keeps how many sockets stayed."""
        before = host.text("systemctl", "show", "--property=MainPID", UNIT)
        started = monotonic()
        host.text("systemctl", "kill", "--kill-who=main", "--signal=KILL", UNIT)
        while True:
            now = host.text("systemctl", "show", "--property=MainPID,ActiveState", UNIT)
            serves = "ActiveState=active" in now and before.strip() not in now.split()
            if serves or monotonic() - started > BACK_SECONDS:
                break
            sleep(0.02)
        back = monotonic() - started
        said = host.text(
            "setpriv", "--reuid=chat", "--regid=chat", "--init-groups", "--reset-env",
            "/usr/bin/python3", "-I", "/opt/chat/current/run.py", "ctl", "status",
        )  # fmt: skip
        last = json.loads(said)["last_start"]
        self.crashes.append(Crash(host.name, last["started"], last["moved"], last["dropped"], back))
        return subprocess.CompletedProcess((), 0 if serves else 1, now, "")


async def act_under_load(
    site: HostSite,
    plan: Plan,
    deeds: Sequence[Deed],
    *,
    patch: pytest.MonkeyPatch,
    calm: float = 1.0,
) -> Judgement:
    """Put a site under load, do everything, let it settle, and judge.

    Args:
        site: one provisioned host with nothing deployed, to which a first release is, and which is
            stopped at the end; or several that serve, with PostgreSQL, and go on serving.
        plan: the load.
        deeds: what is done, one after the other.
        patch: has everything in this process trust the hosts' own authorities.
        calm: seconds between two acts.
    """
    alone = len(site.hosts) == 1
    if alone:
        first = await asyncio.to_thread(site.deploy)
        assert first.report is not None
    nodes = site.connect().nodes
    authority = site.directory / "authority.pem"
    authority.write_text("".join(internal_ca(node.executor) for node in nodes))
    patch.setenv("SSL_CERT_FILE", str(authority))
    url = site.environment.base_url
    urls = [f"https://{host.address}" for host in site.hosts]
    secret = (site.directory / "jwt_secret").read_text()

    def token(user: str, workspace: str, name: str) -> str:
        return sign(secret, user=user, workspaces=[workspace], name=name, ttl=TOKEN_SECONDS)

    load = Load(urls, token, plan, arrivals=ARRIVALS)
    doer = Deeds(site)
    words = (token("program", WORKSPACE, "Program"), token("page", WORKSPACE, "Page"))
    async with Strangers(url, words) as strangers, load:
        await _everybody(load)
        for deed in deeds:
            await asyncio.sleep(calm)
            await asyncio.to_thread(doer.do, deed)
        await asyncio.sleep(calm)
        unsettled = await load.quiesce(SETTLE_SECONDS)
        await strangers.settle()
    # Only now: who asks is a member, too, and would be seen to come.
    told = await _ask_all(url, load.records, token)
    record = await asyncio.to_thread(nodes[0].record)
    settings = site.environment.settings
    grace, keep = settings.timing.presence_grace, settings.history.keep
    rooms = sorted({one.workspace for one in load.records})
    if alone:
        stopped = await asyncio.to_thread(site.opskit, "stop", "prod")
        assert stopped.returncode == 0, stopped.stderr
        file = site.hosts[0].root / str(nodes[0].layout.state).lstrip("/") / "chat.db"
        kept = await asyncio.to_thread(read_database, Path(file), rooms, keep=keep)
    else:
        kept = await read_postgres((site.directory / "database_url").read_text(), rooms, keep)
        grace += 1.5 * settings.store.lease
    rules = Rules(
        grace=grace,
        keep=keep,
        skew=max(0.5, 2 * load.skew),
        lag=0.0 if alone else settings.store.lease,
        errors=frozenset({"rate_limited"}),
    )
    verdict = await asyncio.to_thread(check, load.records, [*kept, *told], rules)
    return Judgement(
        doer.done,
        [
            (one.connections.how, one.connections.moved)
            for one in record.deployments[1:]
            if one.connections
        ],
        verdict,
        continuity(load.records),
        strangers,
        unsettled,
        errors_in(load.records),
        summary(load.records, Counter(str(one.deed) for one in doer.done)),
        doer.crashes,
    )


async def _everybody(load: Load) -> None:
    """Wait until every member of the load is connected."""
    async with asyncio.timeout(ENTERING_SECONDS):
        while not all(one.connected for one in load.present.values()):
            await asyncio.sleep(0.1)


async def _ask_all(url: str, records: Sequence[Record], token: Token) -> list[Stored]:
    """Read every workspace as clients do, through the proxy."""
    members = {record.workspace: record.user for record in records}
    told: list[Stored] = []
    for workspace, user in sorted(members.items()):
        signed = token(user, workspace, person_name(user))
        told.append(await read_as_client(url, workspace, signed))
        told.append(await asyncio.to_thread(read_api, url, workspace, signed))
    return told
