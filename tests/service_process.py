"""A real chat service as a process of its own, for tests: start, stop, kill, restart, take over.

Methods that wait are blocking and bounded; a test with live connections in its own event loop
calls them through `asyncio.to_thread`. Every process is ended by its pid, never by name.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from chatservice.config import Settings, load_settings
from tests.ports import free_ports

__all__ = ["Overrides", "ServiceFailed", "ServiceProcess", "free_ports", "to_toml"]

REPOSITORY: Final = Path(__file__).resolve().parent.parent
START_DEADLINE: Final = 30.0
STOP_DEADLINE: Final = 30.0
LOG_LINES: Final = 200

Overrides = Mapping[str, Mapping[str, Any]]


class ServiceFailed(AssertionError):
    """The service did not do what the test needs of it; the message ends with its last log."""


class ServiceProcess:
    """One chat service under `root`, on ports that stay the same over restarts.

    Args:
        root: a directory of its own; settings, secret, state, run directory and log go there.
        overrides: settings by section, `{"timing": {"presence_grace": 0.5}}`; they win over
            what this class chooses.
        program: what follows the interpreter on the command line; tests that break the service
            on purpose give a launcher of their own here.
        environment: variables added to those of the tests.
    """

    def __init__(
        self,
        root: Path,
        *,
        overrides: Overrides | None = None,
        program: Sequence[str] = ("-m", "chatservice"),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.root = root
        self.program = tuple(program)
        self.environment = dict(environment or {})
        self.secret = secrets.token_hex(32)
        self.process: subprocess.Popen[bytes] | None = None
        self._retired: list[subprocess.Popen[bytes]] = []
        root.mkdir(parents=True, exist_ok=True)
        (root / "state").mkdir(exist_ok=True)
        (root / "run").mkdir(mode=0o700, exist_ok=True)
        self.write_secret("secret", self.secret)
        port, admin_port = free_ports(2)
        self._sections: dict[str, dict[str, Any]] = {
            "service": {
                "port": port,
                "admin_port": admin_port,
                "state_dir": str(root / "state"),
                "run_dir": str(root / "run"),
            },
            "auth": {"secret_file": str(root / "secret")},
            "timing": {"presence_grace": 1.0, "drain": 0.2, "reconnect_spread": 0.2},
            "log": {"format": "json"},
        }
        self.configure(overrides or {})

    # --- where it is --------------------------------------------------------------------------

    @property
    def settings_file(self) -> Path:
        """The TOML file that the process is started with."""
        return self.root / "settings.toml"

    @property
    def settings(self) -> Settings:
        """The settings as the service itself reads them."""
        return load_settings(self.settings_file)

    @property
    def port(self) -> int:
        """The public port."""
        return int(self._sections["service"]["port"])

    @property
    def admin_port(self) -> int:
        """The port of `/metrics`."""
        return int(self._sections["service"]["admin_port"])

    @property
    def url(self) -> str:
        """The public side, `http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        """The admin side, `http://127.0.0.1:port`."""
        return f"http://127.0.0.1:{self.admin_port}"

    @property
    def pid(self) -> int:
        """The process id of the running service."""
        return self._running().pid

    @property
    def returncode(self) -> int | None:
        """How the process ended (minus the signal's number), or None while it runs."""
        if self.process is None:
            raise ServiceFailed("the service was never started")
        return self.process.poll()

    # --- what it is given ---------------------------------------------------------------------

    def configure(self, overrides: Overrides) -> None:
        """Change settings; a running process reads them when it is started anew."""
        for section, values in overrides.items():
            self._sections.setdefault(section, {}).update(values)
        self.settings_file.write_text(to_toml(self._sections), encoding="utf-8")

    def write_secret(self, name: str, value: str) -> Path:
        """Write a private file under the root."""
        path = self.root / name
        path.touch(mode=0o600)
        path.write_text(value + "\n", encoding="utf-8")
        return path

    def token(
        self, user: str, *workspaces: str, name: str | None = None, ttl: float = 300.0
    ) -> str:
        """Sign a token with the service's own secret; a negative `ttl` gives an expired one."""
        from chatservice.auth import sign  # here, so that most tests do not load cryptography

        return sign(self.secret, user=user, workspaces=list(workspaces), name=name, ttl=ttl)

    # --- its life -----------------------------------------------------------------------------

    def start(self, *arguments: str, ready: bool = True) -> None:
        """Start it and, unless told otherwise, wait until it is ready.

        Raises:
            ServiceFailed: it runs already, or it ended or was not ready in time.
        """
        if self.process is not None and self.process.poll() is None:
            raise ServiceFailed(f"the service runs already, with pid {self.process.pid}")
        self.process = self._launch(*arguments)
        if ready:
            self.wait_ready()

    def take_over(self, *, ready: bool = True) -> None:
        """Let a new process take over from the running one, and wait until it serves alone.

        Raises:
            ServiceFailed: the new one ended or was not ready in time (or did not answer, where
                it need not be `ready`), or the old one stayed.
        """
        old = self._running()
        self._retired.append(old)
        self.process = self._launch("--take-over")
        if ready:
            self.wait_ready()
        else:
            self.wait_answering()
        self._wait_ended(old, STOP_DEADLINE)

    def stop(self) -> int:
        """Stop it with SIGTERM and give its exit status; it is killed when it does not end."""
        process = self._running()
        process.send_signal(signal.SIGTERM)
        return self._wait_ended(process, STOP_DEADLINE)

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        process = self._running()
        process.kill()
        process.wait(STOP_DEADLINE)

    def restart(self) -> None:
        """Stop it and start it again on the same ports."""
        self.stop()
        self.start()

    def wait_ready(self, deadline: float = START_DEADLINE) -> None:
        """Wait until the process itself, and no other on its port, answers that it is ready.

        Raises:
            ServiceFailed: it ended, or it was not ready after `deadline` seconds.
        """
        self._wait(lambda: self._is_mine() and self.get("/readyz")[0] == 200, "ready", deadline)

    def wait_answering(self, deadline: float = START_DEADLINE) -> None:
        """Wait until the process itself answers requests, be it ready or not.

        Raises:
            ServiceFailed: it ended, or it did not answer for `deadline` seconds.
        """
        self._wait(self._is_mine, "answering", deadline)

    def _is_mine(self) -> bool:
        return bool(json.loads(self.get("/version")[1])["pid"] == self.pid)

    def _wait(self, holds: Callable[[], bool], what: str, deadline: float) -> None:
        until = time.monotonic() + deadline
        while time.monotonic() < until:
            if (status := self.returncode) is not None:
                raise ServiceFailed(f"the service ended with {status}\n{self.log_tail()}")
            with contextlib.suppress(OSError, http.client.HTTPException, ValueError, KeyError):
                if holds():
                    return
            time.sleep(0.02)
        raise ServiceFailed(f"the service was not {what} after {deadline:g} s\n{self.log_tail()}")

    def close(self) -> None:
        """End whatever still runs. Safe to call twice."""
        for process in (*self._retired, *([self.process] if self.process else [])):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                self._wait_ended(process, STOP_DEADLINE, must=False)

    # --- what it says -------------------------------------------------------------------------

    def get(self, path: str, *, admin: bool = False, token: str = "") -> tuple[int, str]:
        """Give status and body of one plain GET request."""
        port = self.admin_port if admin else self.port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def ctl(self, *arguments: str, deadline: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run `chatservice ctl` against the control socket; never raises for its exit status."""
        argv = [*self.program, "ctl", "--settings", str(self.settings_file), *arguments]
        return subprocess.run(
            [sys.executable, *argv],
            cwd=REPOSITORY,
            env=os.environ | self.environment,
            capture_output=True,
            text=True,
            timeout=deadline,
            check=False,
        )

    @property
    def log_file(self) -> Path:
        """Everything that the process, and those before it, wrote to stdout and stderr."""
        return self.root / "chatservice.log"

    @property
    def log(self) -> str:
        """The log's text so far."""
        if not self.log_file.exists():
            return ""
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def log_tail(self, lines: int = LOG_LINES) -> str:
        """The end of the log, under a heading, for the message of a failed test."""
        last = self.log.splitlines()[-lines:]
        return "\n".join([f"--- the last {len(last)} lines of {self.log_file}", *last])

    # --- inside -------------------------------------------------------------------------------

    def _launch(self, *arguments: str) -> subprocess.Popen[bytes]:
        argv = [*self.program, "serve", "--settings", str(self.settings_file), *arguments]
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, *argv],
                cwd=REPOSITORY,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            raise ServiceFailed("the service was never started")
        if (status := self.process.poll()) is not None:
            raise ServiceFailed(f"the service ended with {status}\n{self.log_tail()}")
        return self.process

    def _wait_ended(
        self, process: subprocess.Popen[bytes], deadline: float, *, must: bool = True
    ) -> int:
        try:
            return process.wait(deadline)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            if must:
                raise ServiceFailed(
                    f"pid {process.pid} had not ended after {deadline:g} s\n{self.log_tail()}"
                ) from None
            return process.returncode


def to_toml(sections: Overrides) -> str:
    """Write sections of plain values as TOML."""
    lines: list[str] = []
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml_value(value)}" for key, value in values.items()]
    return "\n".join(lines) + "\n"


def _toml_value(value: Any) -> str:
    """Numbers, booleans, strings and lists of these look the same in TOML as in JSON."""
    if not isinstance(value, bool | int | float | str | list):
        raise TypeError(f"{value!r} cannot be written as TOML here")
    return json.dumps(value, ensure_ascii=False)
