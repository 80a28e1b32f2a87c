"""The command line against a service that really runs."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import httpx
import pytest

from opskit.deployments import Outcome
from tests.opskit.conftest import SiteFactory
from tests.opskit.site import Site


def test_status_says_how_it_is(v1: Site) -> None:
    """Release, process, readiness, store, the last act; as JSON under stable keys."""
    done = v1.opskit("status", "dev")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = dict(re.findall(r"^  (\S[a-z ]{0,9}?) {2,}(.*)$", done.stdout, re.MULTILINE))
    assert rows["release"].startswith("v1, ")
    assert re.fullmatch(rf"v1 for .+, pid {v1.pid}, 127\.0\.0\.1:{v1.port}", rows["serving"])
    assert rows["health"] == "ready"
    assert rows["members"] == "0 connections, 0 rooms"
    assert "schema" in rows["store"]
    assert rows["last act"].startswith("deploy v1 by ")
    report = json.loads(v1.opskit("status", "dev", "--json").stdout)
    assert set(report) == {
        "environment",
        "target",
        "url",
        "urls",
        "root",
        "ok",
        "trouble",
        "next",
        "release",
        "commit",
        "dirty",
        "built_at",
        "serving",
        "store",
        "releases",
        "last_deployment",
        "interrupted",
        "lock",
        "configuration_differs",
        "disk_free_bytes",
        "certificate_ends",
        "nodes",
        "surplus",
        "monitoring",
    }
    assert report["ok"] is True
    assert report["monitoring"] is None, "nobody watches it"
    assert report["serving"]["release"] == "v1"
    assert report["serving"]["pid"] == v1.pid
    assert report["serving"]["ready"] is True


def test_deployments_are_listed_newest_first(v1: Site) -> None:
    """A failed one with its reason; the one that serves is marked."""
    broken = "def _migrate(*_: object) -> int:\n    return 9\n\n\ndef _unused("
    v1.edit("__main__.py", "def _migrate(", broken)
    assert v1.opskit("deploy", "dev").returncode == 1
    done = v1.opskit("deployments", "dev")
    head, failed, *_, good = done.stdout.splitlines()
    assert head.split() == [
        "release", "action", "result", "commit", "who", "when", "took", "smoke",
    ]  # fmt: skip
    assert "could not run `migrate`" in failed
    assert failed.split()[2] == "failed"
    assert good.split()[:4] == ["▸", "v1", "deploy", "good"]
    report = json.loads(v1.opskit("deployments", "dev", "--json", "--limit", "1").stdout)
    assert set(report) == {"environment", "current", "deployments", "unreadable_lines"}
    assert report["current"] == "v1"
    (newest,) = report["deployments"]
    assert newest["result"] == "failed"


def test_the_smoke_test_by_itself(v1: Site) -> None:
    """As a table, as JSON and as JUnit XML; the number of users is as asked for."""
    junit = v1.directory / "junit.xml"
    done = v1.opskit("smoke", "dev", "--users", "4", "--junit", str(junit))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(4 users, " in done.stdout
    suite = ElementTree.parse(junit).getroot()
    assert suite.get("failures") == "0"
    assert int(suite.get("tests") or 0) > 30
    report = json.loads(v1.opskit("smoke", "dev", "--json").stdout)
    assert report["environment"] == "dev"
    assert report["ok"] is True
    assert report["warnings"] == [], "the workspaces of the test were not forgotten"


def test_a_token_opens_the_door(v1: Site) -> None:
    """What `token` prints is taken by the service; the workspace is the one that was named."""
    token = v1.opskit("token", "dev", "--workspace", "team", "--user", "ada").stdout.strip()
    headers = {"Authorization": f"Bearer {token}"}
    url = f"http://127.0.0.1:{v1.port}/api/chat/workspace"
    assert httpx.get(f"{url}/team/messages", headers=headers).status_code == 200
    assert httpx.get(f"{url}/other/messages", headers=headers).status_code == 403


def test_tail_shows_the_end_and_filters(v1: Site) -> None:
    """The last lines as they were logged; by search and by level; pretty when asked for."""
    lines = (v1.root / "log/chatservice.log").read_text().splitlines()
    done = v1.opskit("tail", "dev", "--no-follow", "--lines", "3")
    assert done.stdout.splitlines() == lines[-3:]
    serving = [line for line in lines if '"msg":"serving"' in line]
    done = v1.opskit("tail", "dev", "--no-follow", "--search", '"msg":"SERVING"', "--lines", "1")
    assert done.stdout.splitlines() == serving[-1:]
    done = v1.opskit("tail", "dev", "--no-follow", "--search", "serving", "--format", "pretty")
    assert re.search(r"^\d\d:\d\d:\d\d\.\d{3} info    v1   process    serving ", done.stdout)
    assert v1.opskit("tail", "dev", "--no-follow", "--since", "0s").stdout == ""
    everything = v1.opskit("tail", "dev", "--no-follow", "--since", "2h", "--level", "info").stdout
    assert everything.splitlines()[-1] == lines[-1]


def test_tail_follows_over_rotation_and_truncation(v1: Site) -> None:
    """What is written later is shown, also after the file was moved away or emptied."""
    log = v1.root / "log/chatservice.log"
    process = subprocess.Popen(
        [sys.executable, "-m", "opskit", "tail", "dev", "--lines", "0", "--search", "sentinel"],
        cwd=v1.directory,
        env=v1.environ,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        wait_for_line(process, log, "sentinel one")
        log.rename(f"{log}.1")
        wait_for_line(process, log, "sentinel two")
        os.truncate(log, 0)
        wait_for_line(process, log, "sentinel three")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.communicate()


def wait_for_line(process: subprocess.Popen[str], log: object, text: str) -> None:
    """Write a line into the log until it is shown; what follows starts up in its own time."""
    assert process.stdout is not None
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open(str(log), "a", encoding="utf-8") as file:
            file.write(f'{{"ts":"2026-01-31T12:00:00.000Z","level":"info","msg":"{text}"}}\n')
        if select.select([process.stdout], [], [], 0.5)[0]:
            while text not in process.stdout.readline():
                assert time.monotonic() < deadline
            return
    raise AssertionError(f"{text} was never shown")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_deploy_is_undone(v1: Site, number: signal.Signals) -> None:
    """Ctrl-C, a termination and a lost terminal undo what was begun, and end with 1."""
    v1.edit("__main__.py", "    import uvloop\n", "    import time\n\n    time.sleep(3600)\n")
    pid = v1.pid
    process = subprocess.Popen(
        [sys.executable, "-m", "opskit", "deploy", "dev"],
        cwd=v1.directory,
        env=v1.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup it would be ignored, and stay so.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 60
    while len(v1.facts.processes) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    said, complained = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "✗ interrupted" in complained
    assert "v1 has been serving all the time" in said
    assert v1.pid == pid
    assert [one.pid for one in v1.facts.processes] == [pid]
    assert v1.record.deployments[-1].result is Outcome.UNDONE
    assert v1.record.deployments[-1].reason == "switch: interrupted"
    assert v1.leftovers() == []


def test_a_deploy_whose_terminal_was_closed_is_undone(v1: Site) -> None:
    """What undoing says can be written nowhere, which broke it off: an unproven release served."""
    v1.edit("__main__.py", "    import uvloop\n", "    import time\n\n    time.sleep(3600)\n")
    before = v1.pid
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(v1.directory)
        os.execve(sys.executable, [sys.executable, "-m", "opskit", "deploy", "dev"], v1.environ)
    deadline = time.monotonic() + 60
    while len(v1.facts.processes) < 2:
        assert time.monotonic() < deadline
        while select.select([terminal], [], [], 0.05)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert [one.pid for one in v1.facts.processes] == [before]
    assert v1.record.deployments[-1].result is Outcome.UNDONE
    assert v1.record.deployments[-1].reason == "switch: interrupted"
    assert v1.leftovers() == []


def test_a_deploy_goes_on_when_nobody_reads_any_more_what_it_says(site: Site) -> None:
    """`opskit deploy dev | head`, or a pager that was left: it counts, and its status says so."""
    process = subprocess.Popen(
        [sys.executable, "-m", "opskit", "deploy", "dev"],
        cwd=site.directory,
        env=site.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("Deploying dev")
    process.stdout.close()
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
    assert site.record.deployments[-1].result is Outcome.GOOD
    assert site.facts.serving is not None
    assert site.facts.serving.release == 1


def test_on_a_terminal(v1: Site) -> None:
    """Colour and a running clock on a terminal, gone from the finished text; none with NO_COLOR."""
    shown = on_terminal(v1, "deploy", "dev")
    assert "\x1b[32m✓\x1b[0m switch" not in shown, "nothing changed, so nothing was switched"
    assert "\x1b[32m✓\x1b[0m health" in shown
    assert re.search(r"\r\x1b\[2K.*⠋|⠋.*\r\x1b\[2K", shown), "no clock was seen to run"
    final = [re.sub(r".*\r\x1b\[2K", "", line) for line in shown.split("\r\n")]
    assert not any("⠋" in line for line in final)
    assert any("v1 serves already" in line for line in final)
    plain = on_terminal(v1, "status", "dev", NO_COLOR="1")
    assert "\x1b[3" not in plain
    assert "v1 for " in plain


def on_terminal(site: Site, *arguments: str, **environ: str) -> str:
    """Run opskit on a terminal of its own, and give all that appeared there."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "opskit", *arguments],
        cwd=site.directory,
        env={**site.environ, "TERM": "xterm", "LANG": "C.UTF-8", **environ},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    seen = b""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        try:
            if chunk := os.read(master, 65536):
                seen += chunk
                continue
        except OSError:
            pass  # the other side is closed: EIO, as on any terminal
        break
    os.close(master)
    assert process.wait(timeout=30) == 0, seen
    return seen.decode()


def test_odd_directory(site_factory: SiteFactory) -> None:
    """Spaces and quotation marks in a path are no trouble, and what is suggested can be run.

    The name of this test is short, as it is part of the path of a socket.
    """
    site = site_factory(name="it's a $HOME \" one")
    done = site.opskit("deploy", "dev")
    assert done.returncode == 0, done.stderr
    (suggested,) = [line for line in done.stdout.splitlines() if " token dev " in line]
    command = suggested.partition("  get a token")[0]
    shell = subprocess.run(
        ["sh", "-c", command], env=site.environ, cwd=site.directory, capture_output=True, text=True
    )
    assert shell.returncode == 0, shell.stderr
    assert shell.stdout.count(".") == 2, "it is no token"
    assert site.opskit("stop", "dev").returncode == 0
    assert site.facts.processes == ()


def test_stop_and_start(site: Site) -> None:
    """Stopped, status says so and what to run; a deploy starts the same release again."""
    site.deploy()
    done = site.opskit("stop", "dev")
    assert done.returncode == 0, done.stderr
    assert "stopped; the data stays" in done.stdout
    assert site.serving is None
    status = site.opskit("status", "dev")
    assert status.returncode == 1
    assert "stopped by " in status.stdout
    assert re.search(r"next: .*deploy dev", status.stdout)
    again = site.opskit("stop", "dev", "--json")
    report = json.loads(again.stdout)
    assert (report["ok"], report["changed"], report["action"]) == (True, False, "stop")
    assert [one.action.value for one in site.record.deployments] == ["deploy", "stop"]
    site.deploy()
    assert site.serving == "v1"
    assert site.record.good == {1}, "a stop is no verdict"


def test_a_dead_service_is_told_from_a_stopped_one(site: Site) -> None:
    """After a crash, status says that nobody stopped it."""
    site.deploy()
    os.kill(site.pid, signal.SIGKILL)
    status = site.opskit("status", "dev")
    assert status.returncode == 1
    assert "nothing serves; it was not stopped by opskit" in status.stdout
