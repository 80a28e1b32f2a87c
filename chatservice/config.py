"""The service's settings: a TOML file, checked whole before anything starts.

Every field here is a key of the file; `templates/chatservice/settings.toml.j2` documents each
one where an operator meets it. Secrets are never in the file: it names the files that hold them.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import Meta

Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Text = Annotated[str, Meta(min_length=1)]


class SettingsError(Exception):
    """A setting is wrong. `key` is dotted (`limits.text`); the message is one line."""

    def __init__(self, where: str, key: str, why: str) -> None:
        super().__init__(f"{where}: {key}: {why}" if key else f"{where}: {why}")
        self.where = where
        self.key = key
        self.why = why


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    pass


class ServiceSettings(_Section, frozen=True, kw_only=True):
    """Where the service listens, and where it keeps its files."""

    host: Text = "127.0.0.1"
    port: Port = 8765
    admin_host: Text = "127.0.0.1"
    admin_port: Port = 8766
    state_dir: Text
    run_dir: Text
    survive_crashes: bool = True


class AuthSettings(_Section, frozen=True, kw_only=True):
    """Who may connect. One of `secret_file`, `jwks_file` and `jwks_url` is required."""

    secret_file: str = ""
    previous_secret_file: str = ""
    jwks_file: str = ""
    jwks_url: str = ""
    jwks_refresh: Seconds = 300.0
    issuer: str = ""
    audience: str = ""
    leeway: Annotated[float, Meta(ge=0, le=300)] = 5.0
    origins: list[str] = []


class StoreSettings(_Section, frozen=True, kw_only=True):
    """Where messages live."""

    kind: Literal["sqlite", "postgres"] = "sqlite"
    busy_timeout: Seconds = 2.0
    dsn_file: str = ""
    connections: Annotated[int, Meta(ge=1, le=100)] = 8
    lease: Annotated[float, Meta(ge=1, le=300)] = 6.0


class HistorySettings(_Section, frozen=True, kw_only=True):
    """How much is kept of each workspace, and handed out at once."""

    keep: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    newest: Annotated[int, Meta(ge=0, le=1000)] = 50
    page: Annotated[int, Meta(ge=1, le=1000)] = 200


class LimitSettings(_Section, frozen=True, kw_only=True):
    """What one client, user or workspace may ask of the process."""

    text: Annotated[int, Meta(ge=1, le=1_000_000)] = 4000
    frame_bytes: Annotated[int, Meta(ge=256, le=16_777_216)] = 65536
    rate: Annotated[float, Meta(gt=0)] = 20.0
    burst: Count = 40
    connections: Count = 20_000
    connections_per_user: Count = 20
    connections_per_workspace: Count = 5000
    handshakes: Count = 1000
    unsent_bytes: Annotated[int, Meta(ge=65_536)] = 1_048_576
    queued_writes: Count = 20_000


CHECKS_PREFIX: Final = "smoke-"
"""How the names of workspaces begin that belong to the checks: only these can be deleted."""
CHECKS_GRACE: Final = 1.0
"""Most seconds of grace in those, so that a check does not wait for `timing.presence_grace`."""


class TimingSettings(_Section, frozen=True, kw_only=True):
    """Every duration, in seconds, and how fast members come back."""

    handshake: Seconds = 10.0
    heartbeat: Seconds = 25.0
    presence_grace: Annotated[float, Meta(ge=0, le=3600)] = 10.0
    close: Seconds = 5.0
    drain: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    reconnect_spread: Annotated[float, Meta(ge=0, le=3600)] = 2.0
    returns_per_second: Annotated[float, Meta(gt=0, le=1_000_000)] = 200.0


class LogSettings(_Section, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "pretty"] = "auto"


class Settings(_Section, frozen=True, kw_only=True):
    """All settings of one process."""

    service: ServiceSettings
    auth: AuthSettings
    store: StoreSettings = StoreSettings()
    history: HistorySettings = HistorySettings()
    limits: LimitSettings = LimitSettings()
    timing: TimingSettings = TimingSettings()
    log: LogSettings = LogSettings()

    @property
    def database(self) -> Path:
        """The SQLite file."""
        return Path(self.service.state_dir) / "chat.db"

    @property
    def control_socket(self) -> Path:
        """The Unix socket on which the running process takes orders."""
        return Path(self.service.run_dir) / "control.sock"


def load_settings(path: Path) -> Settings:
    """Read and check a settings file.

    Raises:
        SettingsError: the file cannot be read or is not TOML, or a value is wrong.
    """
    try:
        mapping = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(str(path), "", f"cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(str(path), "", f"is not TOML: {error}") from None
    return settings_from(mapping, where=str(path))


def settings_from(mapping: dict[str, Any], *, where: str) -> Settings:
    """Check a mapping of settings; `where` names its source in errors.

    Raises:
        SettingsError: a key is unknown or missing, or a value is wrong.
    """
    try:
        settings = msgspec.convert(mapping, Settings)
    except msgspec.ValidationError as error:
        key, why = _locate(str(error))
        raise SettingsError(where, key, why) from None
    _check_whole(settings, where)
    return settings


def _locate(detail: str) -> tuple[str, str]:
    """Turn msgspec's "Expected `int`, got `str` - at `$.limits.text`" into key and reason."""
    why, _, path = detail.partition(" - at `$")
    key = path.removesuffix("`").lstrip(".")
    if field := re.fullmatch(r"Object contains unknown field `(.+)`", why):
        return f"{key}.{field[1]}".lstrip("."), "unknown key"
    if field := re.fullmatch(r"Object missing required field `(.+)`", why):
        return f"{key}.{field[1]}".lstrip("."), "is required"
    return key, why[:1].lower() + why[1:]


def _check_whole(settings: Settings, where: str) -> None:
    """Check what one field alone cannot tell."""
    auth = settings.auth
    sources = [key for key in ("secret_file", "jwks_file", "jwks_url") if getattr(auth, key)]
    if not sources:
        raise SettingsError(
            where, "auth.secret_file", "is required, unless jwks_file or jwks_url is given"
        )
    if len(sources) > 1:
        raise SettingsError(where, f"auth.{sources[1]}", f"cannot be given beside {sources[0]}")
    if auth.previous_secret_file and not auth.secret_file:
        raise SettingsError(where, "auth.previous_secret_file", "is of no use without secret_file")
    if settings.store.kind == "postgres" and not settings.store.dsn_file:
        raise SettingsError(where, "store.dsn_file", 'is required with store.kind = "postgres"')
    for index, origin in enumerate(auth.origins):
        if not re.fullmatch(r"https?://[^/\s]+", origin):
            raise SettingsError(
                where,
                f"auth.origins[{index}]",
                f"{origin!r} is no origin; expected scheme://host[:port], as a browser sends it",
            )
    if settings.history.newest > settings.history.keep:
        raise SettingsError(where, "history.newest", "is larger than history.keep")
