"""The command line: what it takes, what it says, and which status it ends with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from opskit import cli
from opskit.cli import hoist
from opskit.session import session
from tests.service_process import REPOSITORY

FILE = """\
environments:
  dev:
    target: local
    root: r
    secrets: {jwt_secret: generate}
  prod:
    target: ssh
    hosts: []
    url: https://chat.example.com
    secrets: {jwt_secret: env:CHAT_JWT_SECRET}
  far:
    target: ssh
    hosts: [chat1.example.com]
    url: https://chat.example.org
    secrets: {jwt_secret: env:CHAT_JWT_SECRET}
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "environments.yaml").write_text(FILE)
    return tmp_path


def opskit(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "opskit", *arguments],
        cwd=here,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY), "HOME": str(here)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_loads_nothing_heavy() -> None:
    """`opskit --help` answers at once, since what a command needs is loaded when it runs."""
    program = (
        "import sys\n"
        "from opskit.cli import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit as end:\n"
        "    assert end.code == 0\n"
        "heavy = ('rich', 'pydantic', 'httpx', 'yaml', 'jinja2', 'jwt', 'cryptography', 'asyncio',"
        " 'msgspec', 'websockets', 'uv')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=REPOSITORY, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert re.findall(r"^  ([a-z]+)  ", done.stdout, re.MULTILINE) == [
        "deploy", "rollback", "stop", "drain",
        "status", "deployments", "check", "smoke", "tail", "exec", "render", "token",
        "monitor", "alerts", "probe", "top", "dashboard", "provision",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "hoisted"),
    [
        (["status", "dev"], ["status", "dev"]),
        (["status", "dev", "--debug"], ["--debug", "status", "dev"]),
        (["deploy", "--environments", "f", "dev"], ["--environments", "f", "deploy", "dev"]),
        (["deploy", "dev", "--environments=f"], ["--environments=f", "deploy", "dev"]),
        (["deploy", "dev", "--environments"], ["--environments", "deploy", "dev"]),
        (["x", "--", "--debug"], ["x", "--", "--debug"]),
    ],
)
def test_global_options_may_stand_anywhere(arguments: list[str], hoisted: list[str]) -> None:
    """They are moved to where the parser wants them; what follows `--` is left alone."""
    assert hoist(arguments) == hoisted


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["deploy", "nope"], 2, "there is no environment 'nope'; there are: dev, prod, far"),
        (["deploy"], 2, "Missing argument 'ENV'"),
        (["fly"], 2, "No such command 'fly'"),
        (["deploy", "prod"], 2, "is empty; list the machines to deploy to"),
        (["deploy", "far"], 2, "the environment variable CHAT_JWT_SECRET is not set"),
        (["rollback"], 2, "is empty; list the machines to deploy to"),
        (["rollback", "latest", "--env", "dev"], 2, "'latest' is not a release; expected one like"),
        (["status", "far"], 1, "there is no host of that name"),
        (["tail", "dev", "--format", "xml"], 2, "--format xml: expected pretty or json"),
        (["tail", "dev", "--level", "loud"], 2, "--level loud: expected one of debug, info"),
        (["tail", "dev", "--since", "soon"], 2, "--since: 'soon' is neither a duration"),
        (["tail", "dev", "--no-follow"], 1, "there is no log yet"),
        (["token", "dev", "--workspace", "a/b", "--user", "u"], 2, "is no workspace id"),
        (["smoke", "dev"], 1, "dev: nothing serves"),
        (["rollback", "--env", "dev"], 1, "nothing was deployed yet"),
        (["rollback", "v3", "--env", "dev"], 1, "there is no release v3"),
        (["--environments", "missing.yaml", "status", "dev"], 2, "missing.yaml: there is no such"),
    ],
)
def test_what_is_wrong_is_said_with_its_status(
    here: Path, arguments: list[str], status: int, message: str
) -> None:
    """On standard error, without a traceback; nothing on standard output says otherwise."""
    done = opskit(here, *arguments)
    assert done.returncode == status, done.stdout + done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_file_is_named_with_its_line(here: Path) -> None:
    """Unknown keys and wrong types say file, line and key, all at once."""
    (here / "environments.yaml").write_text(
        "environments:\n  dev:\n    target: local\n    root: r\n    colour: red\n"
        "    secrets: {jwt_secret: generate}\n    smoke: {users: many}\n"
    )
    done = opskit(here, "status", "dev")
    assert done.returncode == 2
    assert "environments.yaml:5: environments.dev.colour: unknown key" in done.stderr
    assert "environments.yaml:7: environments.dev.smoke.users: expected int" in done.stderr


def test_an_error_is_json_where_that_was_asked_for(here: Path) -> None:
    """On standard output, under stable keys, with the same status."""
    done = opskit(here, "deploy", "nope", "--json")
    assert done.returncode == 2
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert set(report) == {"ok", "status", "error", "next", "log", "problems"}
    assert (report["ok"], report["status"]) == (False, 2)
    assert report["problems"][0]["why"].startswith("there is no environment 'nope'")


def test_debug_shows_the_traceback(here: Path) -> None:
    """For whoever mends opskit itself."""
    done = opskit(here, "smoke", "dev", "--debug")
    assert done.returncode == 1
    assert "Traceback (most recent call last)" in done.stderr
    assert "dev: nothing serves" in done.stderr


def test_a_bug_is_no_traceback_unless_asked_for(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is wrong inside, a person reads one line, and how to see more."""

    def broken(name: str) -> NoReturn:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(session, "fleet", broken)
    for arguments, traceback in ((["status", "dev"], False), (["--debug", "status", "dev"], True)):
        with pytest.raises(SystemExit) as end:
            cli.main(arguments)
        assert end.value.code == 1
        said = capsys.readouterr().err
        assert "internal error: ZeroDivisionError: by zero" in said
        assert ("Traceback" in said and "in broken" in said) is traceback


def test_the_file_is_found_from_a_directory_below(here: Path) -> None:
    """As git finds its repository."""
    below = here / "a" / "b"
    below.mkdir(parents=True)
    done = opskit(below, "status", "dev")
    assert done.returncode == 1
    assert "nothing is deployed" in done.stdout
    assert "deploy dev" in done.stdout


def test_looking_makes_nothing(here: Path) -> None:
    """Commands that only look leave no trace where nothing is deployed."""
    for arguments in (
        ["status", "dev"],
        ["deployments", "dev"],
        ["check", "dev"],
        ["deploy", "dev", "--plan"],
        ["render", "dev"],
        ["render", "dev", "--diff"],
    ):
        done = opskit(here, *arguments)
        assert "Traceback" not in done.stderr, done.stderr
        assert not (here / "r").exists(), arguments


def test_render_needs_no_host(here: Path) -> None:
    """The configuration of prod can be looked at before there is any machine."""
    done = opskit(here, "render", "prod")
    assert done.returncode == 0, done.stderr
    assert "# --- config/settings.toml" in done.stdout
    assert 'state_dir = "/opt/chat/state"' in done.stdout
    done = opskit(here, "render", "prod", "--out", "out")
    assert done.stdout == "out/config/settings.toml\n"
    assert 'run_dir = "/opt/chat/run"' in (here / "out/config/settings.toml").read_text()
    report = json.loads(opskit(here, "render", "prod", "--json").stdout)
    assert set(report) == {"environment", "files"}


def test_a_token_is_all_that_is_printed(here: Path) -> None:
    """So that a script can take it; as JSON it comes with where to connect."""
    done = opskit(here, "token", "dev", "--workspace", "team", "--user", "ada")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(".") == 2
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""
    report = json.loads(
        opskit(here, "token", "dev", "--workspace", "team", "--user", "ada", "--json").stdout
    )
    assert report["url"] == "ws://127.0.0.1:8765/api/chat/workspace/team/connect"


def test_a_closed_pipe_is_no_trouble(here: Path) -> None:
    """`opskit ... | head` ends without a traceback."""
    process = subprocess.Popen(
        [sys.executable, "-m", "opskit", "render", "dev"],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(REPOSITORY)},
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=30) in (0, 1)
