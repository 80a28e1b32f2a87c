"""`opskit probe`: the smoke test once, and what came of it as metrics.

A systemd timer on the monitoring host (or the exporter, in `dev`) runs it on a schedule. That a
probe failed is a result, and is exported like any other.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from opskit.deployments import Action, Deployment, Outcome, Record
from opskit.failure import Failure

if TYPE_CHECKING:
    from checks.smoke import CheckResult, Report
    from opskit.fleet import Fleet

FILE: Final = "probe.prom"
CONNECT_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Probe:
    """One run of the smoke test.

    Attributes:
        at: when it ended, Unix time in seconds.
        seconds: how long it took.
        report: what it found; None when it could not run at all.
        why: why it could not.
        certificate: until when the certificate is valid, Unix time; None without TLS, or when
            none could be read.
        lifetime: for how many seconds it is valid in all; None likewise.
    """

    at: float
    seconds: float
    report: Report | None
    why: str
    certificate: float | None
    lifetime: float | None = None

    @property
    def ok(self) -> bool:
        """Whether the service proved to work."""
        return self.report is not None and self.report.ok

    def to_json(self) -> dict[str, Any]:
        """Give it for --json; the keys are stable."""
        return {
            "ok": self.ok,
            "at": self.at,
            "seconds": self.seconds,
            "why": self.why,
            "certificate_expiry": self.certificate,
            "checks": {one.name: one.verdict for one in self.report.results} if self.report else {},
        }


def probe(fleet: Fleet, *, on_result: Callable[[CheckResult], None] | None = None) -> Probe:
    """Run the smoke test once; a service that does not serve is a result.

    Raises:
        ConfigError: there is nothing to sign tokens with. That is no failure of the service.
    """
    from opskit.smoke import smoke_now

    started = time.time()
    report, why = None, ""
    try:
        report = smoke_now(fleet, on_result=on_result)
    except Failure as failure:
        why = str(failure)
    ended = time.time()
    valid = certificate_validity(fleet.environment.base_url)
    return finished(started, ended, report, why, valid)


def finished(
    started: float,
    ended: float,
    report: Report | None,
    why: str,
    valid: tuple[float, float] | None,
) -> Probe:
    """Put together what a run found."""
    seconds = ended - started
    if valid is None:
        return Probe(ended, seconds, report, why, None)
    return Probe(ended, seconds, report, why, valid[1], valid[1] - valid[0])


def certificate_expiry(url: str) -> float | None:
    """Give until when the certificate at a URL is valid, valid now or not."""
    valid = certificate_validity(url)
    return valid[1] if valid else None


def certificate_validity(url: str) -> tuple[float, float] | None:
    """Give from and until when the certificate at a URL is valid, Unix time in seconds."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        return None
    from cryptography import x509

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # an expired one must be read, too; nothing is sent
    address = (parts.hostname, parts.port or 443)
    try:
        with (
            socket.create_connection(address, CONNECT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=parts.hostname) as secured,
        ):
            shown = secured.getpeercert(binary_form=True)
    except OSError:
        return None
    if shown is None:
        return None
    read = x509.load_der_x509_certificate(shown)
    return read.not_valid_before_utc.timestamp(), read.not_valid_after_utc.timestamp()


def probe_metrics(found: Probe) -> str:
    """Write a run as metrics."""
    lines: list[str] = []
    _metric(lines, "opskit_probe_success", "1 when the last smoke test passed.", found.ok)
    _metric(lines, "opskit_probe_timestamp_seconds", "When the last smoke test ended.", found.at)
    _metric(
        lines, "opskit_probe_duration_seconds", "How long the last smoke test took.", found.seconds
    )
    if found.certificate is not None:
        _metric(
            lines,
            "opskit_probe_certificate_expiry_timestamp_seconds",
            "Until when the certificate that clients are shown is valid.",
            found.certificate,
        )
    if found.lifetime is not None:
        _metric(
            lines,
            "opskit_probe_certificate_lifetime_seconds",
            "For how long that certificate is valid in all.",
            found.lifetime,
        )
    if found.report is not None:
        name = "opskit_probe_check_success"
        lines += [f"# HELP {name} 1 when the check passed.", f"# TYPE {name} gauge"]
        for one in found.report.results:
            if one.verdict != "skipped":
                lines.append(f'{name}{{check="{one.name}"}} {int(one.verdict == "passed")}')
    return "\n".join(lines) + "\n"


def deployment_metrics(record: Record) -> str:
    """Write the last deployment or rollback that counts as metrics; nothing without one."""
    last = next((one for one in reversed(record.deployments) if _counts(one)), None)
    if last is None:
        return ""
    at = datetime.fromisoformat(last.started).timestamp() + last.duration_s
    lines: list[str] = []
    name = "opskit_deploy_timestamp_seconds"
    _metric(lines, name, "When the release that serves was deployed or rolled back to.", at)
    lines += [
        "# HELP opskit_deploy_info What was deployed or rolled back to: always 1.",
        "# TYPE opskit_deploy_info gauge",
        f'opskit_deploy_info{{release="v{last.release}", action="{last.action.value}"}} 1',
    ]
    return "\n".join(lines) + "\n"


def _counts(one: Deployment) -> bool:
    return one.release is not None and one.action is not Action.STOP and one.result is Outcome.GOOD


def _metric(lines: list[str], name: str, what: str, value: float) -> None:
    lines += [f"# HELP {name} {what}", f"# TYPE {name} gauge", f"{name} {float(value)!r}"]


def export(text: str, directory: Path, name: str = FILE) -> Path:
    """Write metrics where the exporter finds them; whoever reads meanwhile sees the old or the new.

    Raises:
        Failure: it cannot be written.
    """
    path = directory / name
    temporary = ""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{name}.", dir=directory)
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        raise Failure(f"{path}: cannot be written: {error.strerror}") from None
    return path
