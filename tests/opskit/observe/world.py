"""Everything that the end-to-end test of the alerts watches: services, traffic, faults."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from opskit.observe.site import MonitoringSite
from tests.opskit.observe.receiver import Receiver
from tests.opskit.observe.tls import Authority, TlsProxy
from tests.opskit.observe.traffic import Loop, Traffic
from tests.opskit.observe.watch import HERE, Watch
from tests.opskit.site import Site
from tests.service_process import ServiceProcess

THRESHOLDS: Final = {
    "min_requests": 10,
    "min_connections": 5,
    "restarts": 1,
    "slow_members": 0,
    "disk_free": 16_000_000,
}
"""What tests cannot reach within seconds is less than in production; the rest is the default."""


@dataclass
class PublicSite(Site):
    """An environment that opskit deployed, behind TLS."""

    url: str = ""
    monitoring: dict[str, Any] = field(default_factory=dict)

    def configure(self, **sections: dict[str, Any]) -> None:
        super().configure(**sections)
        if self.url:
            fields = json.loads(self.file.read_text(encoding="utf-8"))
            fields["environments"]["dev"] |= {
                "url": self.url,
                "monitoring": self.monitoring,
                # The machine that tests run on may be slow; that is not what they are about.
                "smoke": {"delivery_ms": 30_000, "timeout": 120.0},
            }
            self.file.write_text(json.dumps(fields), encoding="utf-8")


@dataclass
class World:
    """The services by the name of their environment, and what watches them."""

    directory: Path
    receiver: Receiver
    loop: Loop
    watch: Watch
    services: dict[str, ServiceProcess] = field(default_factory=dict)

    @property
    def site(self) -> MonitoringSite:
        return self.watch.site

    def faults(self, environment: str) -> Path:
        """The directory whose files are the faults of a service."""
        path = self.directory / f"faults-{environment}"
        path.mkdir(exist_ok=True)
        return path

    @contextlib.contextmanager
    def fault(self, environment: str, name: str) -> Iterator[float]:
        """Have a fault until the end of the block; gives when it began."""
        flag = self.faults(environment) / name
        flag.touch()
        try:
            yield time.monotonic()
        finally:
            flag.unlink()

    def add(
        self, environment: str, *, members: int = 3, library: Path | None = None,
        **overrides: dict[str, Any],
    ) -> ServiceProcess:  # fmt: skip
        """Make a service of an environment of its own; `start` starts it, with its members."""
        variables = {"FAULTS": str(self.faults(environment))}
        if library is not None:
            variables["LD_PRELOAD"] = str(library)
        service = ServiceProcess(
            self.directory / environment,
            overrides=overrides,
            program=(str(HERE / "faulty_service.py"),),
            environment={**variables, "PYTHONPATH": str(HERE.parents[2])},
        )
        self.services[environment] = service
        self.watch.also(environment, service.admin_port)
        return service

    def talk(self, environment: str, *, members: int = 3, url: str = "") -> None:
        """Have members talk."""
        Traffic(self.loop, self.services[environment], members=members, url=url).start()

    def firing(self, name: str, environment: str, since: float) -> None:
        self.receiver.wait(name, environment, "firing", since=since)

    def resolved(self, name: str, environment: str, since: float) -> None:
        self.receiver.wait(name, environment, "resolved", since=since)

    def until(self, holds: Callable[[], Any], what: str, deadline: float = 60.0) -> None:
        """Wait for a condition."""
        until = time.monotonic() + deadline
        while not holds():
            assert time.monotonic() < until, f"not {what} after {deadline:g} s"
            time.sleep(0.2)


def disk_library(directory: Path) -> Path:
    """Compile `disk.c`."""
    library = directory / "disk.so"
    compiler = shutil.which("cc") or "gcc"
    argv = [compiler, "-shared", "-fPIC", "-o", str(library), str(HERE / "disk.c"), "-ldl"]
    subprocess.run(argv, check=True)
    return library


@contextlib.contextmanager
def small_disk(directory: Path) -> Iterator[Path | None]:
    """Mount a disk of 64 MB; None where that is not allowed."""
    directory.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(directory)]
    if os.getuid() or subprocess.run(argv, check=False, stderr=subprocess.DEVNULL).returncode:
        yield None
        return
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


class Public:
    """A deployed environment behind TLS that is probed with the real command."""

    def __init__(self, world: World, site: PublicSite, directory: Path) -> None:
        self.site = site
        self.metrics = directory / "probed"
        authority = Authority(directory)
        self.valid = authority.certificate("valid", timedelta(days=90))
        self.expired = authority.certificate("expired", timedelta(hours=-1))
        self.proxy = TlsProxy(site.port)
        site.url = world.loop.run(self.proxy.start(self.valid))
        site.configure()
        site.deploy()
        world.watch.export("public", self.metrics, site.root / "deployments.jsonl")

    def probe(self) -> int:
        """Run `opskit probe` and give its exit status."""
        argv = [sys.executable, "-m", "opskit", "--environments", str(self.site.file)]
        argv += ["probe", "dev", "--out", str(self.metrics), "--json"]
        done = subprocess.run(
            argv,
            env={**os.environ, "SSL_CERT_FILE": str(self.valid)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode in (0, 1), done.stdout + done.stderr
        return done.returncode
