"""Everything that can go wrong with a deploy to real hosts: the old release serves all the time.

Each ends with exit status 1 and everything put back, or with 3 and the command to run; the
message names host, step, cause and what to do next, and the record says what happened.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from opskit.deploy.act import Timing
from opskit.deployments import Outcome
from opskit.failure import Failure
from tests.hosts.database import GUARDED, guard
from tests.hosts.failing import failed_deploy, last, meddled
from tests.hosts.proven import current, deploy, leftovers
from tests.hosts.site import HostSite
from tests.hosts.watcher import UNNOTICED, Watcher, watched
from tests.postgres_server import PostgresServer

pytestmark = pytest.mark.slow
IN_SERVE = "    import uvloop\n"
GIVEN = '"messages": history.messages'


@contextmanager
def unnoticed(site: HostSite) -> Iterator[Watcher]:
    """See that whatever happens, no user notices, and that the release before serves on."""
    before, pointed = site.serving, current(site)
    with watched(site) as watcher:
        yield watcher
        watcher.await_more()
    assert watcher.noticed() == UNNOTICED
    assert (site.serving, current(site), leftovers(site)) == (before, pointed, [])


def test_a_release_that_crashes_at_start(served: HostSite) -> None:
    """Its last words are shown."""
    served.edit("__main__.py", IN_SERVE, "    raise RuntimeError('cannot start, on purpose')\n")
    with unnoticed(served):
        said = failed_deploy(served)
    [host] = served.hosts
    why = r"v\d+ ended while it was starting: RuntimeError: cannot start, on purpose"
    assert re.search(rf"✗ {host.address}: {why}\n", said)
    assert re.search(r"next: v\d+ serves as before; put that right, then: .* deploy prod\n", said)
    assert "has been serving all the time" in said
    assert last(served).result is Outcome.UNDONE
    assert re.fullmatch(rf"switch: {host.address}: {why}", last(served).reason)


def test_a_release_that_hangs_at_start(served: HostSite) -> None:
    """It is waited for as long as a start may take, and ended."""
    served.edit("__main__.py", IN_SERVE, "    import time\n\n    time.sleep(3600)\n")
    with unnoticed(served), pytest.raises(Failure) as caught:
        deploy(served, timing=Timing(start=4.0, end=2.0))
    why = r"v\d+ did not serve within 4 s: v\d+ \(pid \d+\) still serves"
    why += "; if it is only slow, set `command_timeout` above 4 in environments.yaml"
    assert re.fullmatch(rf"{served.hosts[0].address}: {why}", str(caught.value))
    assert last(served).result is Outcome.UNDONE


def test_a_release_that_answers_health_and_fails_its_smoke_test(served: HostSite) -> None:
    """It has taken over, is found out, and hands back."""
    served.edit("http_api.py", GIVEN, f"{GIVEN}[:-1]")
    with unnoticed(served):
        said = failed_deploy(served)
    assert last(served).result is Outcome.UNDONE
    assert "✗ The GET API gives the same messages" in said
    assert re.search(r"next: to let it serve all the same: .* --no-smoke\n", said)
    smoke = last(served).smoke
    assert smoke is not None
    assert smoke.failed >= 1


def test_an_upload_that_was_corrupted(served: HostSite) -> None:
    """One byte that differs on the host is found before anything is switched."""
    [host] = served.hosts

    def corrupt() -> None:
        [code] = host.root.glob("opt/chat/releases/.incoming-*/code/chatservice/room.py")
        whole = code.read_bytes()
        code.write_bytes(whole[:-2] + bytes([whole[-2] ^ 1]) + whole[-1:])

    with unnoticed(served):
        failure = meddled(served, "unpack", corrupt)
    assert failure.status == 1
    pattern = rf"{host.address}: \S+ is damaged: code/chatservice/room.py: FAILED"
    assert re.match(pattern, str(failure))
    assert last(served).result is Outcome.FAILED


def test_a_disk_that_is_full(served: HostSite) -> None:
    """Nothing half-written is left, the release before serves; with room again it works."""
    [host] = served.hosts
    releases = "/opt/chat/releases"
    host.run("sh", "-ec", f"""
        kib=$(du -sk {releases} | cut -f1)
        mkdir /run/small
        mount -t tmpfs -o size=$((kib * 2))k small /run/small
        cp -a {releases}/. /run/small
        head -c 1G /dev/zero > /run/small/.filler || true
        truncate -s -300K /run/small/.filler
        mv /run/small/.filler /run/small/v0
        mount --bind /run/small {releases}
    """)  # fmt: skip
    try:
        with unnoticed(served):
            said = failed_deploy(served)
        assert "No space left on device" in said
        assert last(served).result is Outcome.FAILED
    finally:
        host.run("umount", releases, "/run/small")
        host.run("rmdir", "/run/small")
    act = deploy(served)
    assert served.serving == [act.name]


def test_a_secret_that_cannot_be_one(served: HostSite) -> None:
    """A wrong secret is found here, before anything is asked of a host: exit status 2."""
    good = (served.directory / "jwt_secret").read_text()
    served.secret("jwt_secret", "too short")
    try:
        said = failed_deploy(served, status=2)
    finally:
        served.secret("jwt_secret", good)
    assert re.search(r"environments.yaml:\d+: .*jwt_secret.*has 9 bytes", said)
    assert "too short" not in said


def test_a_wrong_password_of_the_database(three: HostSite, lab_postgres: PostgresServer) -> None:
    """The release cannot open its store: nothing is switched, and the secret is brought back."""
    file = three.directory / "database_url"
    good = file.read_text()
    guard(lab_postgres, "right")
    three.secret("database_url", good.replace("//chat@", f"//{GUARDED}:wr0ng-password@"))
    places = [host.root / "opt/chat/secrets/database_url" for host in three.hosts]
    try:
        with unnoticed(three):
            said = failed_deploy(three)
        assert [place.read_text().strip() for place in places] == [good] * 3
        assert re.search(r"password authentication failed for user .guarded", said)
        assert "wr0ng" not in said
        assert last(three).result is Outcome.FAILED
    finally:
        three.secret("database_url", good)


def test_a_host_that_vanishes_in_the_middle_of_its_switch(three: HostSite) -> None:
    """The others are put back and serve; a person is told what to run once the host is back."""
    second = three.hosts[1]
    before, [old, *_] = three.serving, current(three)
    link = second.root / "opt/chat/current"

    def pull_the_plug() -> None:
        end = time.monotonic() + 60
        while str(link.readlink()) == old and time.monotonic() < end:
            time.sleep(0.01)
        second.kill()

    plug = threading.Thread(target=pull_the_plug)
    plug.start()
    with watched(three) as watcher:
        said = failed_deploy(three, status=3)
        plug.join()
        watcher.await_more()
    assert watcher.noticed() == UNNOTICED
    name = before[0]
    assert f"{second.address}: " in said
    command = f"rollback {name} --env prod"
    assert re.search(rf"run: .* {command}\n", said)
    first, third = (host.address for host in three.hosts[::2])
    assert f"put back on {first}, {third}, where {name} serves; not on {second.address}\n" in said
    assert three.serving == [name, None, name]
    second.power_cycle()
    act = deploy(three)
    assert three.serving == [act.name] * 3
    assert leftovers(three) == []
