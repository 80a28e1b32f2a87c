"""`python -m checks.smoke`, as a person or a script runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from checks.smoke.__main__ import main
from tests.checks.smoke.target import ORIGINS, SETTINGS
from tests.checks.smoke.traces import workspaces_of
from tests.conftest import ServiceFactory
from tests.service_process import REPOSITORY, ServiceProcess


def smoke(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "checks.smoke", "--delivery-bound", "30", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.fixture
def healthy(service_factory: ServiceFactory) -> ServiceProcess:
    return service_factory(SETTINGS)


def test_the_settings_file_says_all(healthy: ServiceProcess, tmp_path: Path) -> None:
    """Exit status 0, a table, and JUnit beside it; no colour without a terminal."""
    junit = tmp_path / "smoke.xml"

    done = smoke("--settings", str(healthy.settings_file), "--junit", str(junit))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0].startswith("✓ The service answers HTTP requests ")
    assert " 0 failed, 0 skipped in " in done.stdout.splitlines()[-1]
    assert "\x1b" not in done.stdout
    suite = ElementTree.parse(junit).getroot()
    assert (suite.get("failures"), suite.get("skipped")) == ("0", "0")


def test_address_and_secret_are_enough(healthy: ServiceProcess) -> None:
    """From another host there is no settings file; what differs from the defaults is said."""
    done = smoke(
        *("--url", healthy.url, "--secret-file", str(healthy.root / "secret"), "--users", "2"),
        *("--presence-grace", "1", "--json"),
        *(part for origin in ORIGINS for part in ("--origin", origin)),
    )

    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert (report["ok"], report["users"], report["skipped"]) == (True, 2, 0)


def test_a_failed_check_is_exit_status_1(healthy: ServiceProcess) -> None:
    """The gate: what is expected here is not what the service was configured with."""
    done = smoke("--settings", str(healthy.settings_file), "--text-limit", "10")

    assert (done.returncode, done.stderr) == (1, "")
    assert "✗ A text over the limit is refused" in done.stdout
    assert "FAILED: " in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say which service: --settings FILE, or --url URL and --secret-file FILE"),
        (["--url", "http://127.0.0.1:1"], "--secret-file FILE is needed to sign tokens with"),
        (["--url", "x", "--secret-file", "SECRET"], "'x' is no base URL"),
        (["--url", "http://127.0.0.1:1", "--secret-file", "EMPTY"], "EMPTY: is empty"),
        (
            ["--url", "http://127.0.0.1:1", "--secret-file", "MISSING"],
            "MISSING: cannot be read: No such file or directory",
        ),
        (["--settings", "MISSING"], "MISSING: cannot be read: No such file or directory"),
        (
            ["--url", "http://127.0.0.1:1", "--secret-file", "SECRET", "--users", "1"],
            "at least 2 users are needed to talk, not 1",
        ),
    ],
)
def test_wrong_usage_is_exit_status_2(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line that says what is wrong; nothing is tried."""
    (tmp_path / "SECRET").write_text("s" * 32)
    (tmp_path / "EMPTY").write_text("\n")
    names = ("SECRET", "EMPTY", "MISSING")
    given = [str(tmp_path / each) if each in names else each for each in arguments]

    status = main(given)

    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.startswith("smoke: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_an_unknown_option_is_exit_status_2() -> None:
    assert smoke("--no-such-option").returncode == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_cleans_up_and_ends(
    number: signal.Signals, service_factory: ServiceFactory
) -> None:
    """Ctrl-C, a termination and a lost terminal: one line, and nothing stays in the service."""
    program = ("-m", "tests.checks.smoke.broken_service", "tokens-checked-in-time")
    service = service_factory(SETTINGS, program=program)
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "checks.smoke", "--settings", str(service.settings_file)),
            *("--patience", "60"),
        ],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Under nohup it would be ignored, and stay so.
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    ) as process:
        deadline = time.monotonic() + 60
        while not workspaces_of(service):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    assert (process.returncode, out, err) == (1, "", "smoke: interrupted\n")
    token = service.token("someone", "elsewhere")  # let in after all that asked before
    assert service.get("/api/chat/workspace/elsewhere/members", token=token)[0] == 200
    assert workspaces_of(service) == ["elsewhere"]
