"""Prometheus and Alertmanager on this machine, run from an environment's rendered files.

    <root>/configs/<digest>/    one configuration, whole and validated; never changed
    <root>/current              -> configs/<digest>, switched by rename
    <root>/releases/v12         -> ../configs/<digest>, what was live when v12 was deployed
    <root>/secrets/             0600; what receivers are told with
    <root>/metrics/             what probes found, for the exporter
    <root>/data/ log/ run/      the programs' own

A configuration is validated by the programs' own tools before `current` points at it, and taken
back when a running program refuses it all the same: a broken one is never live.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import httpx

from opskit.failure import Failure
from opskit.layout import release_number
from opskit.monitoring_file import Monitoring
from opskit.observe.daemons import Daemon, program, said
from opskit.observe.places import note_of
from opskit.secrets import Secret, create_private
from opskit.staging import sync

KEPT: Final = 3
"""Configurations kept that are of no use any more, to be looked at."""
RELEASES_KEPT: Final = 20
"""Releases whose configuration is kept: more than an environment keeps of the releases."""
READY_SECONDS: Final = 60.0
_HTTP: Final = 10.0
_PROMETHEUS: Final = "prometheus/prometheus.yml"
_ALERTMANAGER: Final = "alertmanager/alertmanager.yml"


@dataclass(frozen=True)
class Changes:
    """What applying a configuration did, for people."""

    configuration: str
    switched: bool
    started: tuple[str, ...]
    restarted: tuple[str, ...]
    reloaded: tuple[str, ...]


@dataclass(frozen=True)
class Stays:
    """What is live though another was wanted: nothing is known that belonged to that release.

    `configuration` is its name, empty where none is live; `releases` are those it belongs to.
    """

    configuration: str
    releases: tuple[str, ...]


@dataclass(frozen=True)
class MonitoringSite:
    """One monitoring on this machine.

    Attributes:
        root: where it lies.
        monitoring: ports, how long samples are kept.
        probe: the command that probes, run by the exporter; empty for none.
        record: the record of deployments of an environment on this machine, or None.
        python: the interpreter that has opskit.
    """

    root: Path
    monitoring: Monitoring
    probe: Sequence[str] = ()
    record: Path | None = None
    python: str = sys.executable
    _programs: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    # --- where --------------------------------------------------------------------------------

    @property
    def current(self) -> Path:
        """The link to the configuration that is live."""
        return self.root / "current"

    @property
    def metrics(self) -> Path:
        """Where probes leave what they found."""
        return self.root / "metrics"

    @property
    def prometheus_url(self) -> str:
        """Where Prometheus answers."""
        return f"http://127.0.0.1:{self.monitoring.prometheus_port}"

    @property
    def alertmanager_url(self) -> str:
        """Where Alertmanager answers."""
        return f"http://127.0.0.1:{self.monitoring.alertmanager_port}"

    @property
    def exporter_url(self) -> str:
        """Where opskit's own metrics are."""
        return f"http://127.0.0.1:{self.monitoring.exporter_port}"

    # --- what runs ----------------------------------------------------------------------------

    def daemons(self) -> dict[str, Daemon]:
        """Give what is to run, each as it is to run.

        In this order: an alert that fires before there is anybody to tell is told a minute later.
        """
        options = {
            "alertmanager": (
                self._program("alertmanager"),
                f"--config.file={self.current / _ALERTMANAGER}",
                f"--storage.path={self.root / 'data' / 'alertmanager'}",
                f"--web.listen-address=127.0.0.1:{self.monitoring.alertmanager_port}",
                "--cluster.listen-address=",  # alone: there is nobody to gossip with
            ),
            "exporter": self._exporter(),
            "prometheus": (
                self._program("prometheus"),
                f"--config.file={self.current / _PROMETHEUS}",
                f"--storage.tsdb.path={self.root / 'data' / 'prometheus'}",
                f"--storage.tsdb.retention.time={self.monitoring.retention_days}d",
                f"--web.listen-address=127.0.0.1:{self.monitoring.prometheus_port}",
                # Until an alert that could not be told is tried again (default 1 min).
                f"--rules.alert.resend-delay={max(5, self.monitoring.scrape_interval)}s",
                "--web.enable-lifecycle",
            ),
        }
        ready = {
            "prometheus": f"{self.prometheus_url}/-/ready",
            "alertmanager": f"{self.alertmanager_url}/-/ready",
            "exporter": f"{self.exporter_url}/metrics",
        }
        return {
            name: Daemon(
                name=name,
                argv=argv,
                note=note_of(self.root, name),
                log=self.root / "log" / f"{name}.log",
                ready=Answering(ready[name]),
            )
            for name, argv in options.items()
        }

    def _exporter(self) -> tuple[str, ...]:
        options = [self.python, "-m", "opskit.observe.exporter"]
        options += ["--port", str(self.monitoring.exporter_port)]
        options += ["--directory", str(self.metrics)]
        if self.record is not None:
            options += ["--record", str(self.record)]
        if self.probe:
            options += ["--every", str(self.monitoring.probe_interval), "--", *self.probe]
        return tuple(options)

    def _program(self, name: str) -> str:
        if name not in self._programs:
            names, package = {
                "prometheus": (("prometheus",), "prometheus"),
                "promtool": (("promtool",), "prometheus"),
                "alertmanager": (
                    ("prometheus-alertmanager", "alertmanager"),
                    "prometheus-alertmanager",
                ),
                "amtool": (("amtool",), "prometheus-alertmanager"),
            }[name]
            self._programs[name] = program(*names, package=package)
        return self._programs[name]

    @property
    def running(self) -> bool:
        """Whether anything of it runs: where nothing does, nobody wants it to."""
        return self.current.is_dir() and any(one.pid is not None for one in self.daemons().values())

    # --- acts ---------------------------------------------------------------------------------

    def apply(self, files: Mapping[str, str], secrets: Mapping[str, Secret]) -> Changes:
        """Make a configuration live, and have everything run from it.

        Raises:
            Failure: it is not valid, or a program does not run from it. What was live before is
                live still.
        """
        with self._alone():
            for name, value in secrets.items():
                self._write_secret(name, value)
            return self._switch_to(self._install(files))

    def remember(self, release: str, *, first: bool = False) -> None:
        """Note that what is live now belongs to a release, for when that is rolled back to.

        Args:
            release: which.
            first: leave it as it is where something is known to belong to it already.
        """
        with self._alone():
            live, link = self._live(), self.root / "releases" / release
            if live is not None and not (first and link.is_dir()):
                _link(link, Path("..") / "configs" / live)

    def restore(self, release: str) -> Changes | Stays:
        """Make what belonged to a release live again; where that is not known, all stays.

        Raises:
            Failure: a program does not run from it. What was live before is live still.
        """
        with self._alone():
            link = self.root / "releases" / release
            if link.is_dir():
                return self._switch_to(Path(os.readlink(link)).name)
            live = self._live() or ""
            others = [one for one in (self.root / "releases").glob("v*") if one.is_symlink()]
            names = [one.name for one in others if Path(os.readlink(one)).name == live]
            return Stays(live, tuple(sorted(names, key=release_number)))

    def _switch_to(self, name: str) -> Changes:
        before = self._live()
        _link(self.current, Path("configs") / name)
        try:
            started, restarted, reloaded = self._run(changed=before != name)
        except Failure:
            if before is not None and before != name:
                _link(self.current, Path("configs") / before)
                with contextlib.suppress(Failure):
                    self._run(changed=True)
            raise
        self._prune({name, before})
        return Changes(name, before != name, started, restarted, reloaded)

    def stop(self) -> list[str]:
        """End everything; gives the names of what ran, `probe` where probes were run, too."""
        with self._alone():
            ended = [name for name, daemon in self.daemons().items() if daemon.stop()]
        return [*ended, "probe"] if self.probe and "exporter" in ended else ended

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep two commands apart; the second waits for the first."""
        for directory in (self.root, self.metrics, self.root / "configs"):
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _install(self, files: Mapping[str, str]) -> str:
        """Put a configuration beside the others, validated; gives its name."""
        text = "".join(f"{path}\0{content}\0" for path, content in sorted(files.items()))
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        place = self.root / "configs" / name
        if place.is_dir():
            return name
        incoming = self.root / "configs" / f".incoming-{name}"
        shutil.rmtree(incoming, ignore_errors=True)
        for path, content in files.items():
            file = incoming / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content, encoding="utf-8")
        try:
            self.validate(incoming)
        except Failure:
            shutil.rmtree(incoming, ignore_errors=True)
            raise
        incoming.rename(place)
        sync(place.parent)
        return name

    def validate(self, directory: Path) -> None:
        """Have the programs' own tools check a configuration.

        Raises:
            Failure: they complain; shows of what.
        """
        checks = (
            (self._program("promtool"), "check", "config", str(directory / _PROMETHEUS)),
            (self._program("amtool"), "check-config", str(directory / _ALERTMANAGER)),
        )
        for argv in checks:
            content, words = said(argv)
            if not content:
                tool = Path(argv[0]).name
                lines = [line for line in words.splitlines() if line.strip()]
                raise Failure(
                    f"{tool} refuses the configuration; nothing was changed",
                    lines=[line.replace(f"{directory}/", "") for line in lines],
                    hint="correct what it names in environments.yaml or templates/",
                )

    def _run(self, *, changed: bool) -> tuple[tuple[str, ...], ...]:
        started: list[str] = []
        restarted: list[str] = []
        reloaded: list[str] = []
        for name, daemon in self.daemons().items():
            if daemon.current:
                if changed and name != "exporter":
                    self._reload(name)
                    reloaded.append(name)
                continue
            was_running = daemon.stop()
            self._require_free(name)
            daemon.start(READY_SECONDS)
            (restarted if was_running else started).append(name)
        return tuple(started), tuple(restarted), tuple(reloaded)

    def _require_free(self, name: str) -> None:
        """Make sure that what answers on a port will be ours.

        Raises:
            Failure: something else has it, such as the daemon that a package started.
        """
        port = self.monitoring.port_of(name)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                hint = f"end what has it (`ss -ltnp sport = :{port}`), or set monitoring."
                raise Failure(
                    f"{name}: port {port} of 127.0.0.1 cannot be had: {error.strerror}",
                    hint=f"{hint}{name}_port",
                ) from None

    def _reload(self, name: str) -> None:
        url = self.prometheus_url if name == "prometheus" else self.alertmanager_url
        try:
            answer = httpx.post(f"{url}/-/reload", timeout=_HTTP, trust_env=False)
        except httpx.HTTPError as error:
            raise Failure(f"{name} does not answer at {url}: {error}") from None
        if answer.status_code != httpx.codes.OK:
            raise Failure(f"{name} refuses the configuration: {answer.text.strip()}")

    def _live(self) -> str | None:
        try:
            return Path(os.readlink(self.current)).name
        except OSError:
            return None

    def _write_secret(self, name: str, value: Secret) -> None:
        path = self.root / "secrets" / name
        if path.exists() and path.read_bytes() == value:
            return
        path.unlink(missing_ok=True)
        create_private(path, value)

    def _prune(self, kept: set[str | None]) -> None:
        """Remove what is neither live, nor was a moment ago, nor is a release's."""
        releases = list((self.root / "releases").glob("v*"))
        releases.sort(key=lambda link: link.lstat().st_mtime, reverse=True)
        for link in releases[RELEASES_KEPT:]:
            link.unlink(missing_ok=True)
        kept = kept | {Path(os.readlink(link)).name for link in releases[:RELEASES_KEPT]}
        places = sorted(
            (path for path in (self.root / "configs").iterdir() if path.name not in kept),
            key=lambda path: path.stat().st_mtime,
            reverse=True,
        )
        for path in places[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def _link(link: Path, target: Path) -> None:
    """Point a link at something, in one step."""
    link.parent.mkdir(exist_ok=True)
    new = link.parent / f".{link.name}.new"
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.rename(link)
    sync(link.parent)


@dataclass(frozen=True)
class Answering:
    """Says whether a URL answers that all is well."""

    url: str

    def __call__(self) -> bool:
        """Ask once."""
        try:
            return httpx.get(self.url, timeout=2.0, trust_env=False).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False
