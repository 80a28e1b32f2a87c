"""Releases: code, configuration and a link to their layer, numbered and checksummed.

A release directory appears whole or not at all. Its `content` is a digest of what it does,
independent of its number, time and commit: two releases with the same content are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from chatservice.store import StoreError
from chatservice.store.migrate import release_schema
from opskit.bytecode import compile_tree
from opskit.checksums import checksums, differences
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.layer import layer_key, this_platform
from opskit.layout import release_name
from opskit.render import TEMPLATES, render
from opskit.source import commit, source_files
from opskit.staging import staged

MANIFEST: Final = "manifest.json"
LAYER_LINK: Final = "layer"
PACKAGE: Final = "chatservice"
MIGRATIONS: Final = f"{PACKAGE}/store/migrations"
LOCK_FILE: Final = f"{PACKAGE}/requirements.txt"


@dataclass(frozen=True)
class Schema:
    """The schema that a release brings; see `chatservice.store.SchemaVersion`."""

    version: int
    readable_from: int


@dataclass(frozen=True)
class Release:
    """A release as its manifest describes it.

    Attributes:
        path: the directory that it is in.
        release: its name, `v12`.
        content: digest of what it does.
        commit: the commit it was built from, or `none`.
        dirty: whether what was built differs from that commit.
        built_at: when, UTC, ISO 8601.
        python: the version of Python that it runs with, as `3.11`.
        platform: the kind of machine that its layer is for.
        layer: the name of its layer.
        schema: the database schema that it brings.
        files: the checksum (SHA-256) of each file, by path.
    """

    path: Path
    release: str
    content: str
    commit: str
    dirty: bool
    built_at: str
    python: str
    platform: str
    layer: str
    schema: Schema
    files: Mapping[str, str]

    @property
    def version(self) -> int:
        """The release's number."""
        return int(self.release.removeprefix("v"))

    @classmethod
    def read(cls, directory: Path) -> Release:
        """Read a release's manifest.

        Raises:
            Failure: there is none, or it is damaged.
        """
        path = directory / MANIFEST
        try:
            fields: dict[str, Any] = json.loads(path.read_bytes())
            schema = Schema(**fields.pop("schema"))
            return cls(path=directory, schema=schema, **fields)
        except FileNotFoundError:
            raise Failure(f"{path} is missing: this is no release") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise Failure(f"{path} is damaged: {error}", hint="deploy again") from None

    def manifest(self) -> dict[str, Any]:
        """Give what manifest.json says."""
        return {name: value for name, value in asdict(self).items() if name != "path"}


def build(
    environment: Environment,
    version: int,
    *,
    into: Path,
    source: Path,
    root: Path | None = None,
    lasting: bool = True,
    bytecode: Path | None = None,
) -> Release:
    """Build release `version` of an environment in `into/v<version>`; its layer is not built.

    Args:
        environment: what it is for.
        version: its number.
        into: the directory that it is made in.
        source: the source tree that it is made from.
        root: the environment's root on the host, when that is not `environment.root`.
        lasting: whether it outlives a power cut; not when it is only made to be sent to hosts.
        bytecode: where bytecode is kept for the next release.

    Raises:
        Failure: the release is there already, or something to build it from is missing.
        ConfigError: the configuration cannot be rendered.
        OSError: it cannot be written.
    """
    place = into / release_name(version)
    if place.exists():
        raise Failure(f"{place} is there already", hint="a release never changes; build the next")
    at = commit(source, *_inputs(environment, source))
    platform = environment.platform or this_platform()
    layer = layer_key(_lock(source).read_bytes(), environment.python, platform)
    schema = _schema(source, environment.settings.store.kind)
    with staged(place, lasting=lasting) as directory:
        for path in source_files(source, PACKAGE):
            _write(directory / "code" / path, (source / path).read_bytes())
        for path, text in render(environment, root).items():
            _write(directory / path, text.encode())
        _write(directory / "run.py", (TEMPLATES / PACKAGE / "run.py").read_bytes())
        compile_tree(directory / "code", python=environment.python, kept=bytecode)
        (directory / LAYER_LINK).symlink_to(f"../../layers/{layer}")
        files = checksums(directory)
        release = Release(
            path=place,
            release=release_name(version),
            content=_content(files, environment.python, platform, layer, schema),
            commit=at.id,
            dirty=at.dirty,
            built_at=datetime.now(UTC).isoformat(timespec="seconds"),
            python=environment.python,
            platform=platform,
            layer=layer,
            schema=schema,
            files=files,
        )
        text = json.dumps(release.manifest(), indent=1, sort_keys=True) + "\n"
        _write(directory / MANIFEST, text.encode())
    return release


def verify(directory: Path) -> list[str]:
    """Say what is missing, changed or extra in a release; empty when it is as it was built."""
    try:
        release = Release.read(directory)
    except Failure as failure:
        return [str(failure)]
    faults = differences(directory, release.files, beside={MANIFEST, LAYER_LINK})
    link = directory / LAYER_LINK
    wanted = f"../../layers/{release.layer}"
    if not link.is_symlink():
        faults.append(f"{LAYER_LINK}: is missing")
    elif str(link.readlink()) != wanted:
        faults.append(f"{LAYER_LINK}: leads to {link.readlink()} and not to {wanted}")
    schema, files = release.schema, release.files
    content = _content(files, release.python, release.platform, release.layer, schema)
    if content != release.content:
        faults.append(f"{MANIFEST}: was changed")
    return faults


def _schema(source: Path, store: str) -> Schema:
    """Ask the store which schema the migrations of a source tree bring."""
    migrations = source / MIGRATIONS
    try:
        schema = release_schema(migrations / store)
    except StoreError as error:
        raise Failure(str(error), hint="mend the migration, then deploy again") from None
    return Schema(schema.version, schema.readable_from)


def _lock(source: Path) -> Path:
    path = source / LOCK_FILE
    if not path.is_file():
        raise Failure(
            f"{path} is missing: {source} is not the source of the chat service",
            hint="run opskit in its checkout",
        )
    return path


def _inputs(environment: Environment, source: Path) -> list[str]:
    """Give the paths in the source tree that make a difference to a release."""
    inputs = [PACKAGE, "templates"]
    if environment.path.resolve().is_relative_to(source.resolve()):
        inputs.append(str(environment.path.resolve().relative_to(source.resolve())))
    return inputs


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _content(
    files: Mapping[str, str], python: str, platform: str, layer: str, schema: Schema
) -> str:
    """Digest what a release does. Its bytecode follows from the sources and is left out."""
    sources = {path: digest for path, digest in files.items() if "__pycache__" not in path}
    whole = [sources, python, platform, layer, asdict(schema)]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
