"""A host that says nothing more in the middle of a deploy: opskit does not wait for ever.

It names the host and the step, puts all others back, and leaves nothing that is in the way of the
next deploy once the host is back. How long a silence is borne is shortened for these tests, unless
HOSTS_ROUNDS asks for the long form; what a command may take is not, so that a deadline between the
two tells whether silence was noticed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace

import pytest

from opskit import ssh_watch
from opskit.commands import Command
from opskit.deploy.plan import Kind
from opskit.deployments import Outcome
from opskit.failure import PersonNeeded
from opskit.fleet import connect
from opskit.patience import Patience
from opskit.transport import Executor, Result
from tests.hosts.machine import Host
from tests.hosts.proven import current, deploy, leftovers, let_the_leases_end
from tests.hosts.site import HostSite
from tests.hosts.watcher import UNNOTICED, watched

pytestmark = pytest.mark.slow
DEADLINE = 50.0
"""Seconds from the silence to the end of the deploy: to notice takes 5, to try once more 4; as
people have it, 20 and 10. The shortest command that is waited for here may take 60."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> Patience:
    if os.environ.get("HOSTS_ROUNDS"):
        return Patience()
    monkeypatch.setattr(ssh_watch, "INTERVAL", 0.5)
    monkeypatch.setattr(Patience, "silence", 5.0)
    return Patience(connect=4.0)


class Silencing(Executor):
    """Runs commands on hosts; has one fall silent as soon as it has done the first of a name."""

    def __init__(self, executor: Executor, host: str, name: str, fall: Callable[[], object]):
        self._executor, self._host, self._name, self._fall = executor, host, name, fall
        self.host = executor.host

    def run(self, command: Command) -> Result:
        result = self._executor.run(command)
        if (self.host, command.name) == (self._host, self._name):
            self._name = ""
            self._fall()
        return result

    def stream(self, command: Command) -> Generator[str]:
        return self._executor.stream(command)


class Silence:
    """A host that falls silent when it is told to, and stays so until this ends."""

    def __init__(self, how: AbstractContextManager[None]) -> None:
        self._how, self._stack = how, ExitStack()
        self.since = 0.0

    def fall(self) -> None:
        self._stack.enter_context(self._how)
        self.since = time.monotonic()

    def __enter__(self) -> Silence:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def failed_deploy(
    site: HostSite, host: Host, silence: Silence, patience: Patience, after: str = ""
) -> str:
    """Deploy to hosts of which one falls silent, after a command if need be; gives what it says."""
    before, fleet = site.serving[0], connect(replace(site.environment, patience=patience))
    if after:
        fleet = fleet.through(lambda one: Silencing(one, host.address, after, silence.fall))
    with pytest.raises(PersonNeeded) as caught:
        site.run(site.prepare(fleet))
    assert silence.since, "the host never fell silent"
    seconds = time.monotonic() - silence.since
    said = f"{caught.value}\nrun: {caught.value.hint}"
    print(f"{said}\nafter {seconds:.1f} s of silence")
    assert seconds < DEADLINE
    assert said.startswith(f"{host.address}: ")
    assert said.endswith(f"\nrun: opskit rollback {before} --env prod")
    return said


def assert_works_again(site: HostSite) -> None:
    """See that nobody holds on to the lock, and that the next deploy succeeds unaided."""
    for thread in threading.enumerate():
        if thread.name == "lease":
            thread.join(DEADLINE)
            assert not thread.is_alive(), "a lock is renewed for ever"
    let_the_leases_end(site)
    act = deploy(site)
    assert site.serving == [act.name] * len(site.hosts)
    assert current(site) == [f"releases/{act.name}"] * len(site.hosts)
    assert leftovers(site) == []


def pids(site: HostSite) -> list[object]:
    """Give the process that serves on each host."""
    return [version["pid"] for version in site.versions()]


def services(host: Host) -> set[str]:
    """Give the processes there that serve, or are about to."""
    return set(host.text("pgrep", "--full", "run.py serve", check=False).split())


def test_a_host_that_falls_silent_while_it_switches(three: HostSite, patience: Patience) -> None:
    """The one before it is put back, the one after it was never touched; nobody there notices."""
    first, second, third = three.hosts
    before, [old, *_], left_alone = three.serving, current(three), pids(three)[2]

    there = services(second)

    def cut_off() -> None:
        end = time.monotonic() + 60
        while services(second) <= there and time.monotonic() < end:
            time.sleep(0.01)
        silence.fall()

    with watched(three) as watcher, Silence(second.silent()) as silence:
        cutting = threading.Thread(target=cut_off)
        cutting.start()
        said = failed_deploy(three, second, silence, patience)
        cutting.join()
        assert three.outcome("switch")[-1][0] == first.address, "undone last"
        assert (second.address, Kind.FAILED) in three.outcome("switch")
        back = f"put back on {first.address}, {third.address}, where {before[0]} serves; "
        assert f"{back}not on {second.address}\n" in said
        assert [three.serving[0], three.serving[2]] == [before[0]] * 2
        assert [current(three)[0], current(three)[2]] == [old] * 2
        assert pids(three)[2] == left_alone
        for node in three.connect().nodes[::2]:
            last = node.record().deployments[-1]
            assert last.result is Outcome.BROKEN
            assert last.reason.startswith(f"switch: {second.address}: ")
        watcher.await_more()
    assert watcher.noticed() == UNNOTICED
    assert_works_again(three)


def test_a_host_that_freezes_before_any_switch(three: HostSite, patience: Patience) -> None:
    """Its kernel still takes connections. Everything serves on as it was, untouched."""
    third = three.hosts[2]
    served = pids(three)
    with Silence(third.frozen()) as silence:
        said = failed_deploy(three, third, silence, patience, after="unpack")
        assert (third.address, Kind.FAILED) in three.outcome("install")
        assert f"takes the connection, and says nothing in {patience.connect:g} s" in said
    assert pids(three) == served
    assert_works_again(three)


def test_the_only_host_falls_silent_before_its_switch(served: HostSite, patience: Patience) -> None:
    """What was begun there is tidied up by the next deploy; nobody had to be disturbed."""
    [host] = served.hosts
    process = pids(served)
    with Silence(host.silent()) as silence:
        said = failed_deploy(served, host, silence, patience, after="unpack")
        assert ("", Kind.FAILED) in served.outcome("install")
        assert "does not answer" in said
    assert pids(served) == process
    assert leftovers(served) != [], "there was nothing to tidy up"
    assert_works_again(served)
