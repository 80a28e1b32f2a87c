"""No secret shows anywhere but in its own files: on the hosts, here, or in what opskit says."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hosts.canary import Canary, Processes, processes_watched
from tests.hosts.conftest import HostSites
from tests.hosts.database import GUARDED, guard
from tests.hosts.proven import let_the_leases_end
from tests.hosts.site import HostSite
from tests.postgres_server import PostgresServer
from tests.service_process import REPOSITORY

pytestmark = pytest.mark.slow
IN_SERVE = "    import uvloop\n"
SECRETS = ["database_url", "jwt_previous_secret", "jwt_secret"]


def test_a_canary_is_found_where_it_shows(tmp_path: Path) -> None:
    """In a file, in base64 wherever it begins, and among the words of a process."""
    canary = Canary()
    for shift in range(3):
        (tmp_path / f"{shift}").write_text("+" * shift + canary.word)
        encoded = subprocess.run(
            ["base64", "-w0", tmp_path / f"{shift}"], check=True, capture_output=True
        )
        (tmp_path / f"{shift}").write_bytes(encoded.stdout)
    (tmp_path / "plain").write_text(f"a {canary.word} sings")
    (tmp_path / "other").write_text("nothing")
    assert [path.name for path in canary.files([tmp_path])] == ["0", "1", "2", "plain"]
    found = Processes(canary)
    argv = ["sh", "-c", "echo runs; read line", canary.word]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before its first instruction it has no command line
        found.look()
    assert [text.partition(":")[0] for text in found.showing] == [f"cmdline of {process.pid}"]


def test_no_secret_shows_anywhere(
    host_site: HostSites, lab_postgres: PostgresServer, tmp_path: Path
) -> None:
    """A canary in every secret, through deploys that work, fail and are killed, through sudo.

    Looked at are everything that opskit says, every process's command line and environment all
    the time, every file on the host with its journal, and every file that was made here.
    """
    canary = Canary()
    site = host_site(user="ops")
    guard(lab_postgres, f"{canary.word}-right")
    address = lab_postgres.database().partition("@")[2]
    address = address.replace("127.0.0.1", site.hosts[0].network.gateway)
    right, wrong = (
        f"postgresql://{GUARDED}:{canary.word}-{word}@{address}" for word in ("right", "wrong")
    )
    site.secret("jwt_secret", f"{canary.word}-{'j' * 32}")
    site.secret("jwt_previous_secret", f"{canary.word}-{'p' * 32}")
    site.secret("database_url", right)
    site.secrets["database_url"] = "command:cat database_url"
    site.configure(store={"kind": "postgres"})
    (tmp_path / "tmp").mkdir()
    said: dict[str, str] = {}

    def opskit(*words: str, status: int = 0) -> None:
        done = site.opskit(*words, TMPDIR=str(tmp_path / "tmp"))
        said[" ".join(words)] = done.stdout + done.stderr
        assert done.returncode == status, done.stdout + done.stderr

    with processes_watched(canary) as processes:
        opskit("--debug", "check", "prod")
        opskit("deploy", "prod", "--plan")
        opskit("deploy", "prod", "--json")
        site.secret("jwt_previous_secret", f"{canary.word}-{'q' * 32}")
        site.change("killed")
        said["killed"] = killed_with_its_secrets_written(site)
        assert canary.files_of(site.hosts[0]) == secret_files("", ".before")
        opskit("status", "prod")
        site.edit("__main__.py", IN_SERVE, "    raise RuntimeError(settings)\n")
        opskit("--debug", "deploy", "prod", status=1)
        site.restore()
        site.change("refused")
        (site.directory / "database_url").write_text(wrong)
        opskit("--debug", "deploy", "prod", "--json", status=1)
        opskit("check", "prod", "--json", status=1)
        (site.directory / "database_url").write_text(right)
        opskit("deploy", "prod")
        opskit("rollback", "--env", "prod", "--json")
        for command in ("check", "deployments"):
            opskit(command, "prod")
        opskit("tail", "prod", "--no-follow")
        opskit("token", "prod", "--workspace", "w", "--user", "ada", "--json")
    assert processes.showing == set()
    assert processes.programs >= {"sudo", "python3.11", "sh"}
    assert {what: canary.shows_in(text) for what, text in said.items()} == {
        what: [] for what in said
    }
    host = site.hosts[0]
    assert "RuntimeError" in said["--debug deploy prod"]
    assert "password authentication failed" in said["--debug deploy prod --json"]
    assert databases(said) == {
        "--debug check prod": "from this machine: no release lies there yet",
        "check prod --json": "password authentication failed",
        "check prod": "user guarded is let in",
    }
    assert canary.shows_in(host.text("journalctl", "--output=export", "--no-pager")) == []
    assert canary.shows_in(host.text("systemctl", "show", site.environment.unit)) == []
    assert canary.files_of(host) == secret_files("")
    here = canary.files([tmp_path, site.layers.parent])
    assert [str(path.relative_to(site.directory)) for path in here] == SECRETS


def databases(said: dict[str, str]) -> dict[str, str]:
    """Give what `check` found of the database each time: tried from here, from the host, ..."""
    told = (
        "from this machine: no release lies there yet",
        "password authentication failed",
        f"user {GUARDED} is let in",
    )
    return {
        what: next(one for one in told if one in text)
        for what, text in said.items()
        if "check prod" in what
    }


def secret_files(*endings: str) -> list[str]:
    """Name the secrets' files on a host; `.before` is what the changed one was before."""
    names = [f"/opt/chat/secrets/{name}" for name in SECRETS]
    if ".before" in endings:
        names.append("/opt/chat/secrets/.jwt_previous_secret.before")
    return sorted(names)


def killed_with_its_secrets_written(site: HostSite) -> str:
    """Deploy, killed just after it wrote a secret; gives its words."""
    words = (str(site.file), str(site.layers), "behind", "write-secret")
    done = subprocess.run(
        [sys.executable, "-m", "tests.hosts.dying", *words],
        env=site.environ, cwd=REPOSITORY, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    let_the_leases_end(site)
    return done.stdout + done.stderr
