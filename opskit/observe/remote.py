"""Prometheus and Alertmanager on a monitoring host, run from an environment's rendered files.

As `site` does it on this machine, with the same places below its root: a configuration lies
beside the others, is validated there by the programs' own tools, is switched to by rename, and is
taken back when a program refuses it all the same. The programs are units of systemd, that
`opskit provision` writes (see `provisioning`).
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from opskit.commands import files, secret_files
from opskit.commands import monitoring as commands
from opskit.deployments import Record
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.observe.local import resolve_secrets
from opskit.observe.places import executor_of, root_of, timer_of, unit_of
from opskit.observe.probe import FILE as PROBED
from opskit.observe.probe import deployment_metrics
from opskit.observe.probing import (
    REPOSITORY,
    RUN,
    key_of,
    layer_key_of,
    probe_files,
    probes,
)
from opskit.observe.rendering import render_monitoring
from opskit.observe.site import RELEASES_KEPT, Changes, Stays
from opskit.observe.systemd import PROGRAMS, UNITS, USER, daemons_of
from opskit.provision.rendering import python_of
from opskit.secrets import Secret
from opskit.transport import Executor

if TYPE_CHECKING:
    from opskit.fleet import Fleet

_ANSWERS: Final = {"prometheus": "/-/ready", "alertmanager": "/-/ready", "exporter": "/metrics"}


class RemoteSite:
    """The monitoring of one environment on its monitoring host.

    Args:
        environment: what is watched.
        executor: reaches the host.
    """

    def __init__(self, environment: Environment, executor: Executor) -> None:
        self.environment = environment
        self.executor = executor
        self.root = root_of(environment)

    @property
    def current(self) -> str:
        """The link to the configuration that is live, with its host."""
        return f"{self.executor.host}:{self.root / 'current'}"

    @property
    def prometheus_url(self) -> str:
        """Where Prometheus answers, on the host."""
        return f"http://127.0.0.1:{self.environment.monitoring.prometheus_port}"

    @property
    def alertmanager_url(self) -> str:
        """Where Alertmanager answers, on the host."""
        return f"http://127.0.0.1:{self.environment.monitoring.alertmanager_port}"

    def apply(
        self,
        rendered: Mapping[str, str],
        secrets: Mapping[str, Secret],
        release: str = "",
        serving: str = "",
    ) -> Changes:
        """Make a configuration live there, and have everything run from it.

        Args:
            rendered: the files of the configuration.
            secrets: what receivers are told with.
            release: which it belongs to from now on; empty for none.
            serving: the release to which it belongs if nothing does yet; empty for none.

        Raises:
            Failure: the host is not ready for it, it is not valid, or a program does not run from
                it. What was live before is live still.
        """
        text = "".join(f"{path}\0{content}\0" for path, content in sorted(rendered.items()))
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        incoming = f".incoming-{name}"
        place = self.root / "configs" / incoming
        self.require_provisioned()
        replaced = self._write_secrets(secrets)
        try:
            self.executor.check(files.unpack(place, _archive(rendered)))
            changes = self._switch(name, incoming, release, serving=serving, probes=RUN in rendered)
        except Failure:
            if replaced:
                self.executor.check(secret_files.restore(self.root / "secrets"))
            raise
        if replaced:
            self.executor.check(secret_files.discard(self.root / "secrets"))
        if isinstance(changes, Stays):
            raise Failure(f"{self.executor.host}: the configuration that was sent is gone")
        return changes

    def restore(self, release: str) -> Changes | Stays:
        """Make what belonged to a release live again; where that is not known, all stays.

        Raises:
            Failure: a program does not run from it. What was live before is live still.
        """
        self.require_provisioned()
        return self._switch("", "", release, probes=False)

    def say_deployed(self, record: Record) -> None:
        """Have the exporter say what was deployed last."""
        path = self.root / "metrics" / "deployment.prom"
        self.executor.check(files.write(path, deployment_metrics(record).encode()))

    def say_probed(self, metrics: str) -> Path:
        """Have the exporter say what a probe found; gives where that is written there."""
        path = self.root / "metrics" / PROBED
        self.executor.check(files.write(path, metrics.encode()))
        return Path(path)

    def bring_layer(self) -> PurePosixPath:
        """Give where the libraries of the probe lie there; they are brought if need be.

        Raises:
            Failure: they cannot be had, or do not arrive whole.
        """
        from opskit.layer import MARKER, build_layer, kept_layers

        environment, executor = self.environment, self.executor
        key = layer_key_of(environment)
        place = self.root / "layers" / key
        if not executor.check(commands.missing([place])):
            return place
        lock = REPOSITORY / "chatservice/requirements.txt"
        built = build_layer(
            lock, key, kept_layers(), python=environment.python, platform=environment.platform
        )
        incoming = self.root / "layers" / f".incoming-{key}"
        executor.put_tree(built, incoming)
        sums = json.loads((built / MARKER).read_text(encoding="utf-8"))["files"]
        executor.check(files.verify_checksums(incoming, sums))
        executor.check(files.move(incoming, place, readable=True))
        return place

    def probe(self) -> None:
        """Have the smoke test run there, now and whenever its time has come."""
        if probes(self.environment):
            units = (timer_of("probe", self.environment), unit_of("probe", self.environment))
            self.executor.check(commands.start(*units, wait=False))

    def stop(self) -> list[str]:
        """End everything, the probe and its timer too; gives the names of what ran."""
        timer = timer_of("probe", self.environment)
        names = {timer: "probe", unit_of("probe", self.environment): "probe"}
        names |= {unit_of(name, self.environment): name for name in _ANSWERS}
        ended = self.executor.check(commands.stop(tuple(names)))
        return list(dict.fromkeys(names[unit] for unit in ended.split()))

    def require_provisioned(self) -> None:
        """Check that the host was made ready.

        Raises:
            Failure: it was not.
        """
        units = [unit_of(name, self.environment) for name in _ANSWERS]
        if probes(self.environment):  # a key for it may have come after the host was made ready
            units += [timer_of("probe", self.environment), unit_of("probe", self.environment)]
        places = [self.root / "configs", self.root / "secrets", *(UNITS / name for name in units)]
        missing = self.executor.check(commands.missing(places)).split()
        if missing:
            raise Failure(
                f"{self.executor.host}: the monitoring host is not ready: {missing[0]} is missing",
                hint=f"opskit provision {self.environment.name}",
            )

    def _write_secrets(self, secrets: Mapping[str, Secret]) -> bool:
        for name, value in secrets.items():
            path = self.root / "secrets" / name
            self.executor.check(secret_files.replace(path, value, group=USER))
        return bool(secrets)

    def _switch(
        self, name: str, incoming: str, release: str, *, serving: str = "", probes: bool
    ) -> Changes | Stays:
        as_user = ("setpriv", f"--reuid={USER}", f"--regid={USER}", "--init-groups", "--reset-env")
        python = (python_of(self.environment), "-I", "-B")
        argvs = {
            "promtool": (PROGRAMS["promtool"], "check", "config", "@/prometheus/prometheus.yml"),
            "amtool": (PROGRAMS["amtool"], "check-config", "@/alertmanager/alertmanager.yml"),
            "the probe": (*python, f"@/{RUN}", "--check"),
        }
        if not probes:
            del argvs["the probe"]
        checks = [{"name": name, "argv": (*as_user, *argv)} for name, argv in argvs.items()]
        order = {
            "root": str(self.root),
            "configuration": name,
            "incoming": incoming,
            "release": release,
            "serving": serving,
            "kept": RELEASES_KEPT,
            "checks": checks,
            "daemons": self._daemons(),
        }
        said: dict[str, Any] = json.loads(self.executor.check(commands.switch(order)))
        if "problem" in said:
            raise Failure(
                f"{self.executor.host}: {said['problem']}",
                lines=said["lines"],
                hint="correct what it names in environments.yaml or templates/",
            )
        if "unknown" in said:
            return Stays(said["stays"], tuple(said["releases"]))
        return Changes(
            said["configuration"], said["switched"], tuple(said["started"]), (),
            tuple(said["reloaded"]),
        )  # fmt: skip

    def _daemons(self) -> list[dict[str, Any]]:
        return [
            {
                "name": daemon.name,
                "unit": unit_of(daemon.name, self.environment),
                "port": self.environment.monitoring.port_of(daemon.name),
                "ready": _ANSWERS[daemon.name],
                "reloads": daemon.name != "exporter",
            }
            for daemon in daemons_of(self.environment, self.root)
        ]


@contextmanager
def remote_site(environment: Environment) -> Iterator[RemoteSite]:
    """Give an environment's monitoring on its monitoring host; it is connected to when needed."""
    executor = executor_of(environment)
    try:
        yield RemoteSite(environment, executor)
    finally:
        executor.close()


def watch(site: RemoteSite, fleet: Fleet, release: str = "") -> Changes:
    """Have everything run from what the environment says now.

    Args:
        site: the monitoring.
        fleet: the hosts that are watched; what their proxies certify with is asked for.
        release: which it belongs to from now on; empty for none.

    Raises:
        ConfigError: a secret that a receiver needs is missing.
        Failure: see `RemoteSite.apply`.
    """
    environment = site.environment
    secrets = resolve_secrets(environment)
    rendered = render_monitoring(environment, root=site.root)
    site.require_provisioned()
    if probes(environment):
        from opskit.smoke import authorities

        key = key_of(environment)
        secrets |= {key.name: key.value}
        layer = site.bring_layer()
        certificates = authorities(fleet)
        rendered |= probe_files(
            environment, site.root, key=key, layer=layer, certificates=certificates
        )
    changes = site.apply(rendered, secrets, release, serving="" if release else _current(fleet))
    site.probe()
    return changes


def _current(fleet: Fleet) -> str:
    """Give the release that shall serve; empty where there is none, or nobody tells."""
    try:
        current = fleet.lead.survey().current
    except Failure:
        return ""  # a host that is down is watched all the same
    return release_name(current) if current else ""


def _archive(rendered: Mapping[str, str]) -> bytes:
    """Give files as a tar archive; every user may read them, for nothing in them is secret."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted({str(one) for name in rendered for one in _above(name)}):
            entry = tarfile.TarInfo(path)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, text in sorted(rendered.items()):
            entry, content = tarfile.TarInfo(name), text.encode()
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _above(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[: end + 1]) for end in range(len(parts))]
