"""environments.yaml, read and checked: every error names file, line and key.

The keys under `chat` are those of `chatservice.config`, checked by its own `settings_from`, so
that no list of them is written twice.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from opskit import chat_settings, environment_checks, yaml_lines
from opskit.environment import SECRET_FILES, Environment, loopback_url, own_settings
from opskit.environment_file import SECRETS, Local, Ssh, read_environment
from opskit.layout import Layout
from opskit.patience import Patience
from opskit.problems import ConfigError, Problem
from opskit.secrets import SecretRef, Source
from opskit.yaml_lines import Document, Key


@dataclass(frozen=True)
class Environments:
    """All environments of one file."""

    path: Path
    by_name: Mapping[str, Environment]

    def get(self, name: str) -> Environment:
        """Give an environment.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self.by_name:
            why = f"there is no environment {name!r}; there are: {', '.join(self.by_name)}"
            raise ConfigError([Problem(yaml_lines.shown(self.path), "", why)])
        return self.by_name[name]


def load_environments(path: Path) -> Environments:
    """Read and check environments.yaml, all of it.

    Raises:
        ConfigError: it cannot be read, or anything in it is wrong; says everything that is.
    """
    try:
        document = yaml_lines.load(path)
    except ConfigError as error:
        if not path.exists():
            why = "there is no such file; run opskit where it is, or give --environments FILE"
            raise ConfigError([Problem(yaml_lines.shown(path), "", why)]) from None
        raise error from None
    value = document.value
    if not isinstance(value, dict) or not isinstance(value.get("environments"), dict):
        why = "expected a mapping `environments:` with one entry for each environment"
        raise ConfigError([document.problem(("environments",), why)])
    problems = [
        document.problem((key,), "unknown key; the only one here is environments")
        for key in value
        if key != "environments"
    ]
    environments: dict[str, Environment] = {}
    for name, raw in value["environments"].items():
        found = _load_one(document, path.absolute(), name, raw)
        if isinstance(found, Environment):
            environments[name] = found
        else:
            problems += found
    problems += _shared_roots(environments.values())
    if problems:
        raise ConfigError(sorted(problems, key=_line_number))
    return Environments(path, MappingProxyType(environments))


def _line_number(problem: Problem) -> int:
    return int(problem.where.rpartition(":")[2])


def _load_one(document: Document, file: Path, name: str, raw: Any) -> Environment | list[Problem]:
    """Check one environment whole."""
    model = read_environment(document, name, raw)
    if isinstance(model, list):
        return model
    path: tuple[Key, ...] = ("environments", name)
    secrets, problems = _read_secrets(document, path, model)
    root = Path(os.path.normpath(file.parent / Path(model.root).expanduser()))
    # A reference that is wrong is there all the same: it is complained of once.
    own = dict(own_settings(Layout(PurePosixPath(root)), model.secrets))
    settings, complaints = chat_settings.check(model.chat, own)
    problems += [_chat_problem(document, path, complaint) for complaint in complaints]
    problems += environment_checks.root(document, path, root, model)
    if settings is not None:
        problems += environment_checks.whole(document, path, settings, model.smoke)
        problems += environment_checks.nodes(document, path, settings, model)
        problems += environment_checks.monitoring(document, path, settings, model)
    if settings is None or problems:
        return problems
    base_url = model.url or (loopback_url(settings) if isinstance(model, Local) else "")
    running = f"{sys.version_info.major}.{sys.version_info.minor}"
    return Environment(
        name=name,
        target=model.target,
        root=root,
        base_url=base_url,
        python=model.python if isinstance(model, Ssh) else running,
        platform=model.platform if isinstance(model, Ssh) else None,
        hosts=tuple(model.hosts) if isinstance(model, Ssh) else (),
        user=(model.user or "") if isinstance(model, Ssh) else "",
        identity_file=_beside(file, model.identity_file) if isinstance(model, Ssh) else None,
        known_hosts=_beside(file, model.known_hosts) if isinstance(model, Ssh) else None,
        jump=(model.jump or "") if isinstance(model, Ssh) else "",
        patience=Patience(model.connect_timeout, model.command_timeout)
        if isinstance(model, Ssh)
        else Patience(),
        nodes=model.nodes if isinstance(model, Local) else 1,
        releases_keep=model.releases.keep,
        smoke=model.smoke,
        monitoring=model.monitoring,
        secrets=MappingProxyType(secrets),
        settings=settings,
        path=file,
        _document=document,
    )


def _beside(file: Path, path: str | None) -> Path | None:
    """Give a path of this machine, relative to environments.yaml unless it is absolute."""
    return Path(os.path.normpath(file.parent / Path(path).expanduser())) if path else None


def _read_secrets(
    document: Document, path: tuple[Key, ...], model: Local | Ssh
) -> tuple[dict[str, SecretRef], list[Problem]]:
    """Read the references of an environment; their values are fetched when they are needed."""
    secrets: dict[str, SecretRef] = {}
    problems: list[Problem] = []
    for name, text in model.secrets.items():
        location = (*path, "secrets", name)
        if name not in SECRETS:
            why = chat_settings.unknown_key(name, list(SECRETS))
            problems.append(document.problem(location, why))
            continue
        try:
            ref = SecretRef.parse(
                text, where=document.where(location), key=yaml_lines.dotted(location)
            )
        except ConfigError as error:
            problems += error.problems
            continue
        if ref.source is Source.GENERATE and (model.target != "local" or name != "jwt_secret"):
            why = "generate is only for the jwt_secret of a local environment; give env:NAME, "
            problems.append(document.problem(location, why + "file:PATH or command:WORDS"))
            continue
        secrets[name] = ref
    return secrets, problems


def _chat_problem(
    document: Document,
    path: tuple[Key, ...],
    complaint: chat_settings.Complaint,
) -> Problem:
    """Find the line that a complaint of the service's is about."""
    key, why = yaml_lines.dotted(complaint.path), complaint.why
    location: tuple[Key, ...] = (*path, "chat", *complaint.path)
    if why != chat_settings.OWN_KEYS.get(key):
        # What the service says of a file that holds a secret is, here, about the secret.
        for name, setting in SECRET_FILES.items():
            why = re.sub(rf"\b{setting.partition('.')[2]}\b", name, why)
            if key == setting:
                location = (*path, "secrets", name)
        if key == SECRET_FILES["jwt_secret"] and why.startswith("is required"):
            why = "is required, unless secrets.jwks or chat.auth.jwks_url is given; for example\n"
            why += "    jwt_secret: env:CHAT_JWT_SECRET"
    return document.problem(location, why)


def _shared_roots(environments: Iterable[Environment]) -> list[Problem]:
    """Find environments on one machine that would overwrite each other."""
    owners: dict[tuple[str, Path], Environment] = {}
    problems = []
    for environment in environments:
        local = environment.target == "local"
        machines = [""] if local else [host.rpartition("@")[2] for host in environment.hosts]
        for machine in machines:
            first = owners.setdefault((machine, environment.root), environment)
            if first is not environment:
                of = f"{first.name} on {machine}" if machine else first.name
                why = f"is also the root of {of}; give each environment its own"
                problems.append(environment.problem("root", why=why))
                break
    return problems
