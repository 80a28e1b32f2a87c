"""What a monitoring host needs to run the smoke test by itself, as files of its configuration.

The code is opskit's own, so that a probe asks what a deployment asks; it goes with the release
like everything else. It signs its tokens with `monitoring.probe_key`, a private key of its own, or
else with the shared secret. `secrets.signing_key` never leaves the machine of whoever has it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from chatservice.config import CHECKS_GRACE
from opskit.environment import Environment
from opskit.render import TEMPLATES
from opskit.secrets import Secret, SecretRef, resolve

REPOSITORY: Final = TEMPLATES.parent
RUN: Final = "probe/run.py"
_OF_OPSKIT: Final = (
    "opskit/__init__.py", "opskit/deployments.py", "opskit/failure.py", "opskit/layout.py",
    "opskit/signing.py", "opskit/transport.py", "opskit/observe/__init__.py",
    "opskit/observe/probe.py", "opskit/commands/host/__init__.py",
)  # fmt: skip
"""What `opskit.observe.probe` needs of opskit, beside its commands."""


@dataclass(frozen=True)
class Key:
    """What the probe signs with.

    Attributes:
        name: of its file there.
        value: the secret itself.
        key_id: the `kid` of a private key, empty where its set names none; None for a shared one.
    """

    name: str
    value: Secret
    key_id: str | None


def probes(environment: Environment) -> bool:
    """Say whether the monitoring host can run the smoke test."""
    return bool(_signs_with(environment))


def _signs_with(environment: Environment) -> str:
    """Give the name of the secret that the probe signs with; empty where there is none."""
    if environment.monitoring.probe_key:
        return "probe_key"
    return "jwt_secret" if "jwt_secret" in environment.secrets else ""


def warning(environment: Environment) -> str:
    """Say that the monitoring host does not run the smoke test, and what to do; empty if it does.

    Nobody would notice a service that answers and does not work.
    """
    host, name = environment.monitoring.host, environment.name
    if not host or probes(environment):
        return ""
    why = "there is nothing that it could sign tokens with"
    if "signing_key" in environment.secrets:
        why = "tokens are signed with secrets.signing_key, which never leaves this machine"
    return (
        f"{host} does not run the smoke test: {why}. Make a key pair for it (docs/hosts.md, Watch "
        "it from a host), add its public half to the key set of the service and give the private "
        f"one as monitoring.probe_key; then opskit provision {name}, and opskit deploy {name}. "
        f"Until then have this machine run `opskit probe {name}` every "
        f"{environment.monitoring.probe_interval} s"
    )


def key_of(environment: Environment) -> Key:
    """Fetch what the probe signs with.

    Raises:
        ConfigError: it is missing, or no key that the service takes; says which, and where.
    """
    name, reference = _signs_with(environment), environment.monitoring.probe_key
    if reference is None:
        return Key(name, environment.resolve_secrets([name])[name], None)
    from opskit.signing import in_set, public_key  # here: it loads cryptography

    path = ("monitoring", "probe_key")
    ref = SecretRef.parse(reference, where=environment.where(*path), key=".".join(path))
    value = resolve(ref, environment.base_dir)
    try:
        public = public_key(value)
    except ValueError as error:
        raise ref.error(f"cannot be signed with: {error}") from None
    if "jwks" not in environment.secrets:
        return Key(name, value, "")  # the service fetches the set from chat.auth.jwks_url
    known = in_set(environment.resolve_secrets(["jwks"])["jwks"], public)
    if known is None:
        raise ref.error("has its public half not in secrets.jwks: no host would take its tokens")
    return Key(name, value, str(known.get("kid") or ""))


def layer_key_of(environment: Environment) -> str:
    """Give the layer that the smoke test runs on: that of the service itself."""
    from opskit.layer import layer_key, this_platform

    lock = (REPOSITORY / "chatservice/requirements.txt").read_bytes()
    return layer_key(lock, environment.python, environment.platform or this_platform())


def probe_files(
    environment: Environment,
    root: PurePosixPath,
    *,
    key: Key,
    layer: PurePosixPath,
    certificates: str,
) -> dict[str, str]:
    """Give the files: path below the configuration -> content; nothing in them is secret.

    Args:
        environment: what is probed.
        root: where the monitoring lies on its host.
        key: what it signs with.
        layer: the libraries there.
        certificates: PEM of the authorities of the hosts' own proxies; empty for none.
    """
    settings = environment.settings
    told = {
        "url": environment.base_url,
        "layer": str(layer),
        "secret": str(root / "secrets" / key.name),
        "key_id": key.key_id,
        "metrics": str(root / "metrics"),
        "certificates": certificates,
        "issuer": settings.auth.issuer,
        "audience": settings.auth.audience,
        "origins": list(settings.auth.origins),
        "presence_grace": min(settings.timing.presence_grace, CHECKS_GRACE),
        "history_keep": settings.history.keep,
        "text_limit": settings.limits.text,
        "users": environment.smoke.users,
        "delivery_bound": environment.smoke.delivery_ms / 1000,
        "deadline": environment.smoke.timeout,
    }
    return {
        RUN: (REPOSITORY / "opskit/observe/probe_host.py").read_text(encoding="utf-8"),
        "probe/probe.json": json.dumps(told, indent=1, sort_keys=True) + "\n",
        **{
            f"probe/code/{path}": (REPOSITORY / path).read_text(encoding="utf-8")
            for path in _code()
        },
    }


def _code() -> list[str]:
    found = [Path(path) for path in _OF_OPSKIT]
    found += [
        path.relative_to(REPOSITORY) for path in (REPOSITORY / "opskit/commands").glob("*.py")
    ]
    for package in ("chatservice", "checks"):
        found += [path.relative_to(REPOSITORY) for path in (REPOSITORY / package).rglob("*.py")]
    return sorted({str(path) for path in found if "__pycache__" not in path.parts})
