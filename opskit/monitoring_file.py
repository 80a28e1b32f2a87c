"""The `monitoring` section of an environment: who watches it, at which thresholds, who is told.

Every key has a default, so that an environment without the section is watched all the same.
Secrets are references, as everywhere; they are resolved where the monitoring runs, not before.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from opskit import host_names
from opskit.problems import ConfigError
from opskit.secrets import SecretRef, Source

Severity = Literal["critical", "warning"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


def _reference(text: str) -> str:
    try:
        ref = SecretRef.parse(text)
    except ConfigError as error:
        raise PydanticCustomError(
            "secret_reference", "{why}", {"why": error.problems[0].why}
        ) from None
    if ref.source is Source.GENERATE:
        why = "generate makes a jwt_secret only; give env:NAME, file:PATH or command:WORDS"
        raise PydanticCustomError("secret_reference", "{why}", {"why": why})
    return text


def _address(text: str) -> str:
    if not re.fullmatch(r"https?://[^\s@]+", text):
        raise ValueError("expected http(s)://host[:port][/path], without a user or a password")
    return text


def _mail(text: str) -> str:
    if not re.fullmatch(r"[^\s@<>\"']+@[^\s@<>\"']+", text):
        raise ValueError("expected an address like team@example.com")
    return text


def _smarthost(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9._-]+:[0-9]{1,5}", text):
        raise ValueError("expected host:port, as smtp.example.com:587")
    return text


def _channel(text: str) -> str:
    if not re.fullmatch(r"[#@][^\s\"']+", text):
        raise ValueError('expected a channel in quotes, like "#alerts"')
    return text


Reference = Annotated[str, AfterValidator(_reference)]
Address = Annotated[str, AfterValidator(_address)]
Mail = Annotated[str, AfterValidator(_mail)]
Ratio = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Alerts(_Section):
    """The thresholds: an alert fires above them (or, for what runs out, below)."""

    error_ratio: Ratio = 0.05
    min_requests: Count = 30
    latency: Annotated[float, Field(gt=0, le=10)] = 0.5
    slo: Annotated[float, Field(gt=0.5, lt=1)] = 0.999
    regression: Annotated[float, Field(gt=1, le=100)] = 2.0
    restarts: Annotated[int, Field(ge=1, le=100)] = 2
    connections_dropped: Ratio = 0.3
    min_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    slow_members: Count = 3
    room_errors: Count = 0
    storage_errors: Count = 3
    loop_lag: Annotated[float, Field(gt=0, le=10)] = 0.25
    disk_free: Annotated[int, Field(ge=1)] = 1_000_000_000
    disk_hours: Annotated[int, Field(ge=1, le=720)] = 24
    certificate_days: Annotated[int, Field(ge=1, le=365)] = 14
    smoke_stale: Annotated[int, Field(ge=60, le=604_800)] = 1200


class Webhook(_Section):
    """A program that is told of alerts with an HTTP POST."""

    url: Address
    token: Reference | None = None
    severity: Severity = "warning"


class Email(_Section):
    """A mailbox that alerts are sent to.

    `tls`: whether the connection must be turned into TLS before anything is sent (RFC 3207).
    """

    to: Mail
    sender: Mail
    smarthost: Annotated[str, AfterValidator(_smarthost)]
    tls: bool = True
    user: str = ""
    password: Reference | None = None
    severity: Severity = "warning"

    @model_validator(mode="after")
    def _no_password_in_clear(self) -> Self:
        if self.password is not None and not self.tls:
            raise ValueError("a password is not sent without TLS: leave out `tls: false`")
        return self


class Slack(_Section):
    """A channel that alerts are posted to."""

    channel: Annotated[str, AfterValidator(_channel)]
    url: Reference
    severity: Severity = "warning"


class Deadman(_Section):
    """A service that raises the alarm when the watchdog's beat stops coming."""

    url: Address
    token: Reference | None = None


class Receivers(_Section):
    """Who is told of alerts."""

    webhook: Webhook | None = None
    email: Email | None = None
    slack: Slack | None = None
    deadman: Deadman | None = None


class Monitoring(_Section):
    """How an environment is watched.

    Attributes:
        host: the machine that does, over SSH; None: the one where `opskit monitor` is run.
        probe_key: the private key that its probe signs tokens with; None: the shared secret.
    """

    host: Annotated[str, AfterValidator(host_names.checked)] | None = None
    prometheus_port: Port = 9090
    alertmanager_port: Port = 9093
    exporter_port: Port = 9095
    scrape_interval: Annotated[int, Field(ge=1, le=60)] = 15
    retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    probe_interval: Annotated[int, Field(ge=5, le=86_400)] = 300
    probe_key: Reference | None = None
    grafana_url: Address = "http://127.0.0.1:3000"
    runbooks_url: Address | Literal["docs/runbooks"] = "docs/runbooks"
    alerts: Alerts = Alerts()
    receivers: Receivers = Receivers()

    def port_of(self, program: str) -> int:
        """Give where on loopback prometheus, alertmanager or the exporter listens."""
        return int(getattr(self, f"{program}_port"))

    def secrets(self) -> dict[str, str]:
        """Give the references that the receivers need, by the name of the file each becomes."""
        told = self.receivers
        named = {
            "webhook_token": told.webhook and told.webhook.token,
            "email_password": told.email and told.email.password,
            "slack_url": told.slack and told.slack.url,
            "deadman_token": told.deadman and told.deadman.token,
        }
        return {name: reference for name, reference in named.items() if reference}
