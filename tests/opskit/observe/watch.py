"""A whole monitoring for tests: real services, Prometheus, Alertmanager and a webhook receiver.

One Prometheus watches several environments at once; its rules are those that opskit renders, on a
clock that goes sixty times as fast.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.observe.pace import Pace
from opskit.observe.rendering import render_monitoring
from opskit.observe.site import MonitoringSite
from opskit.secrets import Secret
from tests.opskit.observe.receiver import Receiver
from tests.service_process import ServiceProcess, free_ports

HERE: Final = Path(__file__).resolve().parent
SPEED: Final = 60.0
TOKEN: Final = "a-token-of-the-webhook"


def environment_file(
    directory: Path, monitoring: Mapping[str, Any], *, admin_port: int = 8766
) -> Path:
    """Write an environments.yaml with one environment, `main`, and give its path."""
    ports = free_ports(3)
    named = dict(zip(("prometheus_port", "alertmanager_port", "exporter_port"), ports, strict=True))
    main = {
        "target": "local",
        "root": "r",
        "secrets": {"jwt_secret": "generate"},
        "chat": {"service": {"admin_port": admin_port}},
        "monitoring": {"scrape_interval": 1, **named, **monitoring},
    }
    path = directory / "environments.yaml"
    path.write_text(json.dumps({"environments": {"main": main}}), encoding="utf-8")
    return path


class Watch:
    """Prometheus and Alertmanager over services; ended by `close`."""

    def __init__(
        self,
        directory: Path,
        receiver: Receiver,
        main: ServiceProcess,
        *,
        alerts: Mapping[str, Any],
    ) -> None:
        receivers = {
            "webhook": {"url": f"{receiver.url}/alerts", "token": "env:UNUSED"},
            "deadman": {"url": f"{receiver.url}/deadman"},
        }
        monitoring = {"alerts": dict(alerts), "receivers": receivers}
        path = environment_file(directory, monitoring, admin_port=main.admin_port)
        self.environment: Environment = load_environments(path).get("main")
        self.site = MonitoringSite(directory / "m", self.environment.monitoring)
        self._targets: dict[str, str] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def also(self, environment: str, port: int, *, job: str = "chat") -> None:
        """Watch a process of another environment."""
        self._targets[f"prometheus/targets/{job}-{environment}.yml"] = json.dumps(
            [{"targets": [f"127.0.0.1:{port}"], "labels": {"environment": environment}}]
        )

    def export(self, environment: str, directory: Path, record: Path | None = None) -> None:
        """Run an exporter for another environment."""
        [port] = free_ports(1)
        directory.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "opskit.observe.exporter", "--port", str(port)]
        argv += ["--directory", str(directory)]
        argv += ["--record", str(record)] if record else []
        self._processes.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL))
        self.also(environment, port, job="opskit")

    def start(self) -> None:
        """Start to watch."""
        files = render_monitoring(
            self.environment, root=self.site.root, pace=Pace(SPEED)
        )  # fmt: skip
        secrets = {"webhook_token": Secret(TOKEN.encode())}
        self.site.apply(files | self._targets, secrets)

    def close(self) -> None:
        """End everything."""
        with contextlib.suppress(Exception):
            self.site.stop()
        for process in self._processes:
            process.terminate()
            process.wait(30)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Ask Prometheus for a value now."""
        answer = httpx.get(
            f"{self.site.prometheus_url}/api/v1/query",
            params={"query": expression},
            trust_env=False,
        ).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def active(self) -> list[dict[str, Any]]:
        """Ask Alertmanager for every alert that fires, the inhibited and silenced ones too."""
        answer = httpx.get(f"{self.site.alertmanager_url}/api/v2/alerts", trust_env=False)
        alerts: list[dict[str, Any]] = answer.raise_for_status().json()
        return alerts


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[Watch]:
    """Watch until the end of the block."""
    try:
        watch.start()
        yield watch
    finally:
        watch.close()
