"""A real PostgreSQL server of the tests' own: started when needed, stopped by its pid.

PostgreSQL does not run as root, so as root its programs run as the user `postgres` (or `nobody`).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Final

from tests.service_process import free_ports

START_DEADLINE: Final = 60.0
_names = count(1)


def postgres_programs() -> Path | None:
    """Give the directory of the newest installed server's programs; None where there is none."""
    candidates = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name)
    )
    if candidates:
        return candidates[-1]
    found = shutil.which("postgres")
    return Path(found).parent if found else None


class PostgresServer:
    """One server under `root`, listening on loopback, with every commit synced to disk.

    Args:
        root: a directory of its own, which a user other than root must be able to reach.
        settings: more of postgresql.conf.
    """

    def __init__(self, root: Path, **settings: str) -> None:
        programs = postgres_programs()
        assert programs is not None, "PostgreSQL is not installed: apt-get install postgresql"
        self._programs = programs
        self.root = root
        self.data = root / "data"
        [self.port] = free_ports(1)
        self._settings = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": str(root),
            "max_connections": "200",
            "shared_buffers": "128MB",
            "log_min_messages": "warning",
            **settings,
        }
        self._user = _runs_as()
        self.process: subprocess.Popen[bytes] | None = None

    def create(self) -> None:
        """Make the cluster's files."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self._user:
            shutil.chown(self.root, self._user)
        self._run("initdb", "-D", str(self.data), "-U", "chat", "-A", "trust", "-E", "UTF8")

    def create_standby(self, primary: PostgresServer, port: int) -> None:
        """Copy the files of a running server, to follow it through `port` once started."""
        self.root.mkdir(parents=True, exist_ok=True)
        if self._user:
            shutil.chown(self.root, self._user)
        self._run(
            "pg_basebackup", "-h", "127.0.0.1", "-p", str(primary.port), "-U", "chat",
            "-D", str(self.data), "-X", "stream", "-c", "fast",
        )  # fmt: skip
        self._as_own("touch", str(self.data / "standby.signal"))
        self._settings["primary_conninfo"] = f"host=127.0.0.1 port={port} user=chat"

    def promote(self) -> None:
        """Make a standby the primary, on a new timeline, and wait until it is."""
        self._run("pg_ctl", "promote", "-w", "-D", str(self.data))

    def own(self, path: Path) -> None:
        """Give a file to the user as whom the server runs, and to nobody else."""
        path.chmod(0o600)
        if self._user:
            shutil.chown(path, self._user)

    def configure(self, **settings: str) -> None:
        """Change postgresql.conf; a running server reads it when it is started anew."""
        self._settings |= settings

    def start(self) -> None:
        """Start it and wait until it takes connections."""
        log = self.root / "postgres.log"
        options = [word for item in self._settings.items() for word in ("-c", "=".join(item))]
        with log.open("ab") as stream:
            self.process = subprocess.Popen(
                [*self._as_user(), str(self._programs / "postgres"), "-D", self.data, *options],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
            )
        deadline = time.monotonic() + START_DEADLINE
        while self._ready().returncode != 0:
            assert self.process.poll() is None, f"PostgreSQL ended:\n{log.read_text()}"
            assert time.monotonic() < deadline, f"PostgreSQL does not start:\n{log.read_text()}"
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop it: SIGINT ends connections and shuts down cleanly, SIGQUIT is like a crash."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(60)

    def database(self) -> str:
        """Make an empty database and give its DSN."""
        name = f"chat{next(_names)}"
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", "chat", name)
        return f"postgresql://chat@127.0.0.1:{self.port}/{name}"

    def _ready(self) -> subprocess.CompletedProcess[bytes]:
        argv = [str(self._programs / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(argv, check=False, capture_output=True)

    def _run(self, program: str, *arguments: str) -> None:
        self._as_own(str(self._programs / program), *arguments)

    def _as_own(self, program: str, *arguments: str) -> None:
        argv = [*self._as_user(), program, *arguments]
        done = subprocess.run(argv, check=False, capture_output=True, text=True, cwd=self.root)
        assert done.returncode == 0, f"{program}: {done.stderr}{done.stdout}"

    def _as_user(self) -> Sequence[str]:
        if not self._user:
            return ()
        return ("setpriv", f"--reuid={self._user}", f"--regid={self._user}", "--clear-groups")


def _runs_as() -> str | None:
    """Whom to run as: nobody else, unless this is root."""
    if os.getuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return "postgres" if "postgres" in names else "nobody"
