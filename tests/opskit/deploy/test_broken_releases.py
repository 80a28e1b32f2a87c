"""Releases that are broken in one way each: none is left serving, and the one before is back."""

from __future__ import annotations

import json
import os
import re
import signal
import time

import pytest

from opskit.deploy.act import Timing
from opskit.deploy.plan import Kind
from opskit.deployments import Outcome
from opskit.facts import Process
from opskit.failure import Failure
from tests.opskit.site import TIMING, Site, watched

IN_SERVE = "    import uvloop\n"
AFTER_TAKE_OVER = "        gc.freeze()\n"
SHORT = Timing(start=3.0, end=2.0)


def assert_undone(site: Site, outcome: Outcome = Outcome.UNDONE) -> None:
    """See that v1 serves and is current, that the new one is recorded, and no trace is left."""
    assert (site.serving, site.current) == ("v1", "releases/v1"), site.log_tail()
    last = site.record.deployments[-1]
    assert (last.result, last.before) == (outcome, 1)
    assert site.record.good == {1}
    assert site.releases[-1] == f"v{last.release}"
    assert [one.release for one in wait_alone(site)] == [1]
    assert site.leftovers() == []


def wait_alone(site: Site) -> list[Process]:
    """Wait until the process that was relieved has ended, and give those that remain."""
    deadline = time.monotonic() + 20
    while len(processes := site.facts.processes) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    return list(processes)


def test_a_release_that_crashes_at_start(v1: Site) -> None:
    """It is seen at once, its last words are shown, and v1 has never stopped."""
    v1.edit("__main__.py", IN_SERVE, "    raise RuntimeError('cannot start, on purpose')\n")
    new, pid, started = v1.upcoming, v1.pid, time.monotonic()
    with watched(v1) as unanswered, pytest.raises(Failure) as caught:
        v1.deploy()
    assert unanswered() == []
    why = f"{new} ended while it was starting: RuntimeError: cannot start, on purpose"
    assert (str(caught.value), caught.value.status) == (why, 1)
    assert caught.value.hint == "v1 serves as before; put that right, then: opskit deploy dev"
    assert caught.value.lines[-1] == "RuntimeError: cannot start, on purpose"
    assert v1.pid == pid
    assert time.monotonic() - started < TIMING.start, "it was waited for though it had ended"
    assert_undone(v1)
    assert v1.record.deployments[-1].reason == f"switch: {why}"


def test_a_release_that_never_serves(v1: Site) -> None:
    """It is ended after the time that a start may take; v1 has never stopped."""
    v1.edit("__main__.py", IN_SERVE, "    import time\n\n    time.sleep(3600)\n")
    pid = v1.pid
    with watched(v1) as unanswered, pytest.raises(Failure, match=r"v\d+ did not serve within 3 s"):
        v1.deploy(timing=SHORT)
    assert unanswered() == []
    assert v1.pid == pid
    assert_undone(v1)


def test_a_release_that_is_never_ready(v1: Site) -> None:
    """It has taken over, and says why it is not ready; v1 takes over again."""
    v1.edit("admission.py", "        ready = not reason\n", "        ready = False\n")
    with watched(v1) as unanswered, pytest.raises(Failure, match="serves but is not ready"):
        v1.deploy(timing=SHORT)
    assert unanswered() == []
    assert_undone(v1)


def test_a_release_that_hangs_once_it_has_taken_over(v1: Site) -> None:
    """v1 is gone and v2 answers nothing, not even to the one that relieves it: it is killed."""
    v1.edit("process.py", AFTER_TAKE_OVER, AFTER_TAKE_OVER + "        time.sleep(3600)\n")
    with pytest.raises(Failure, match=r"v\d+ did not serve within 3 s"):
        v1.deploy(timing=SHORT)
    assert_undone(v1)


def test_a_release_that_crashes_once_it_has_taken_over(v1: Site) -> None:
    """v1 is gone and v2 too; v1 is started again."""
    v1.edit("process.py", AFTER_TAKE_OVER, AFTER_TAKE_OVER + "        os._exit(7)\n")
    with pytest.raises(Failure, match=r"v\d+ ended while it was starting"):
        v1.deploy()
    assert_undone(v1)


def test_a_release_that_fails_its_smoke_test(v1: Site) -> None:
    """It serves and is ready, but does not do what it should: v1 serves again."""
    v1.edit("admission.py", 'text_response(b"ok\\n")', 'text_response(b"ill", status=500)')
    with watched(v1, "/version") as unanswered, pytest.raises(Failure) as caught:
        v1.deploy(smoke=True)
    assert unanswered() == []
    # On a busy machine a check of the time that something takes may fail beside it.
    said, _, failed = str(caught.value).partition(" smoke checks: ")
    assert " failed " in said
    assert "health" in failed.split(", ")
    assert_undone(v1)
    smoke = v1.record.deployments[-1].smoke
    assert smoke is not None
    assert smoke.failed == len(failed.split(", "))
    assert v1.outcome("smoke")[-3:] == [Kind.FAILED, Kind.UNDOING, Kind.UNDONE]


def test_a_release_that_lies_about_itself(v1: Site) -> None:
    """It serves, but says that it is another commit than the one that was built."""
    v1.edit("admission.py", '"commit": self._build.commit', '"commit": "0123456789"')
    with pytest.raises(Failure, match="says it is commit 0123456789"):
        v1.deploy()
    assert_undone(v1)


def test_a_release_that_cannot_migrate(v1: Site) -> None:
    """What fails before the switch is recorded as failed; v1 has never been touched."""
    v1.edit(
        "__main__.py",
        "def _migrate(",
        "def _migrate(*_: object) -> int:\n    return 9\n\n\ndef _unused(",
    )
    pid = v1.pid
    with pytest.raises(Failure, match="could not run `migrate` of v"):
        v1.deploy()
    assert v1.pid == pid
    assert_undone(v1, Outcome.FAILED)


def test_a_first_release_that_is_broken_leaves_nothing_serving(site: Site) -> None:
    """Without a release before it, nothing serves and nothing is current."""
    site.edit("admission.py", "        ready = not reason\n", "        ready = False\n")
    with pytest.raises(Failure, match="serves but is not ready"):
        site.deploy(timing=SHORT)
    assert (site.serving, site.current) == (None, None)
    assert site.facts.processes == ()
    assert site.leftovers() == []
    site.edit("admission.py", "        ready = False\n", "        ready = not reason\n")
    assert site.deploy().name == "v2"
    assert site.serving == "v2"


def test_a_damaged_upload_is_not_used(v1: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that arrives changed is seen by its checksum, before anything is switched."""
    from opskit import transport

    whole = transport.archive

    def damaged(directory: object) -> bytes:
        content = whole(directory)  # type: ignore[arg-type]
        assert content.count(b"def main(argv") == 1
        return content.replace(b"def main(argv", b"def main(arg_")

    monkeypatch.setattr(transport, "archive", damaged)
    v1.change("v2")
    new, pid, releases = v1.upcoming, v1.pid, v1.releases
    with pytest.raises(Failure, match=r"is damaged: code/chatservice/__main__\.py: FAILED"):
        v1.deploy()
    assert v1.pid == pid
    assert v1.releases == releases
    assert v1.leftovers() == []
    assert v1.record.deployments[-1].result is Outcome.FAILED
    assert v1.upcoming == f"v{int(new[1:]) + 1}"


def test_a_crash_of_the_old_release_meanwhile_is_mended_by_undoing(v1: Site) -> None:
    """When the new release fails and the old one has died, the old one is started again."""
    v1.edit("__main__.py", IN_SERVE, "    raise RuntimeError('cannot start')\n")
    os.kill(v1.pid, signal.SIGKILL)
    with pytest.raises(Failure):
        v1.deploy()
    assert_undone(v1)


def test_when_nothing_can_be_put_back_a_person_is_told_what_to_run(site: Site) -> None:
    """v2 breaks what v1 needs, too: exit status 3, and the command that mends it, once it can."""
    poison = "(settings.database.parent / 'poison')"
    site.edit(
        "__main__.py",
        IN_SERVE,
        f"{IN_SERVE}\n    if {poison}.exists():\n        raise RuntimeError('poisoned')\n",
    )
    site.deploy()
    site.edit(
        "process.py",
        AFTER_TAKE_OVER,
        AFTER_TAKE_OVER
        + "        (self._settings.database.parent / 'poison').touch()\n        os._exit(7)\n",
    )
    done = site.opskit("deploy", "dev")
    assert done.returncode == 3, done.stdout + done.stderr
    assert re.search("v2 ended while .*; and undoing it failed too: v1 does not", done.stderr)
    assert "RuntimeError: poisoned" in done.stderr
    (command,) = re.findall(r"run: \S+ -m opskit --environments \S+ (.*)", done.stderr)
    assert command == "rollback v1 --env dev"
    assert site.record.deployments[-1].result is Outcome.BROKEN
    status = site.opskit("status", "dev")
    assert status.returncode == 1
    assert "was interrupted in the step" in status.stdout
    (site.root / "state/poison").unlink()
    done = site.opskit(*command.split())
    assert done.returncode == 0, done.stdout + done.stderr
    assert (site.serving, site.current, site.leftovers()) == ("v1", "releases/v1", [])
    assert site.record.good == {1}


def test_the_command_line_says_what_failed_and_why(v1: Site) -> None:
    """Exit status 1, the reason, the failing release's last log lines, and no traceback of ours."""
    v1.edit("__main__.py", IN_SERVE, "    raise RuntimeError('cannot start, on purpose')\n")
    new = v1.upcoming
    done = v1.opskit("deploy", "dev")
    assert done.returncode == 1
    why = "RuntimeError: cannot start, on purpose"
    assert f"  | {why}\n" in done.stderr
    assert f"✗ {new} ended while it was starting: {why}\n" in done.stderr
    assert re.search(r"next: v1 serves as before; put that right, then: .* deploy dev", done.stderr)
    assert "v1 has been serving all the time" in done.stdout
    assert "opskit/" not in done.stderr, "a traceback of opskit itself"


def test_json_says_it_too(v1: Site) -> None:
    """With --json the same is on standard output, under stable keys."""
    v1.edit("__main__.py", IN_SERVE, "    raise RuntimeError('cannot start, on purpose')\n")
    new = v1.upcoming
    done = v1.opskit("deploy", "dev", "--json")
    assert done.returncode == 1
    report = json.loads(done.stdout)
    assert report["ok"] is False
    assert (report["status"], report["release"], report["from"]) == (1, new, "v1")
    why = "RuntimeError: cannot start, on purpose"
    assert report["error"] == f"{new} ended while it was starting: {why}"
    assert report["log"][-1] == "RuntimeError: cannot start, on purpose"
    assert [one["outcome"] for one in report["steps"] if one["step"] == "switch"] == [
        "failed",
        "undone",
    ]
    assert report["changed"] is False
