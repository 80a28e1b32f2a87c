"""What a monitoring host needs to run the smoke test by itself, as files of its configuration.

The code is opskit's own, so that a probe asks what a deployment asks; it goes with the release
like everything else. Only tokens that a shared secret signs can be made there: a private key
never leaves the machine of whoever has it.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Final

from chatservice.config import CHECKS_GRACE
from opskit.environment import Environment
from opskit.render import TEMPLATES

REPOSITORY: Final = TEMPLATES.parent
SIGNED_WITH: Final = "jwt_secret"
"""The secret that tokens are signed with, by the name of its file there, too."""
RUN: Final = "probe/run.py"
_OF_OPSKIT: Final = (
    "opskit/__init__.py", "opskit/deployments.py", "opskit/failure.py", "opskit/layout.py",
    "opskit/transport.py", "opskit/observe/__init__.py", "opskit/observe/probe.py",
    "opskit/commands/host/__init__.py",
)  # fmt: skip
"""What `opskit.observe.probe` needs of opskit, beside its commands."""


def probes(environment: Environment) -> bool:
    """Say whether the monitoring host can run the smoke test."""
    return SIGNED_WITH in environment.secrets


def layer_key_of(environment: Environment) -> str:
    """Give the layer that the smoke test runs on: that of the service itself."""
    from opskit.layer import layer_key, this_platform

    lock = (REPOSITORY / "chatservice/requirements.txt").read_bytes()
    return layer_key(lock, environment.python, environment.platform or this_platform())


def probe_files(
    environment: Environment, root: PurePosixPath, *, layer: PurePosixPath, certificates: str
) -> dict[str, str]:
    """Give the files: path below the configuration -> content; nothing in them is secret.

    Args:
        environment: what is probed.
        root: where the monitoring lies on its host.
        layer: the libraries there.
        certificates: PEM of the authorities of the hosts' own proxies; empty for none.
    """
    settings = environment.settings
    told = {
        "url": environment.base_url,
        "layer": str(layer),
        "secret": str(root / "secrets" / SIGNED_WITH),
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
