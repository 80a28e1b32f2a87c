"""Brings the release and its layer to the host, and verifies every byte there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from opskit.commands import files
from opskit.deploy.act import Part
from opskit.deploy.step import Step
from opskit.failure import Failure

LayerBuilder = Callable[[str], Path]
"""Gives a layer's directory on this machine, by its name; builds it if need be."""
MARKER = "layer.json"


class Install(Step):
    """Uploads beside what is there; what has its final name is whole and verified."""

    name = "install"

    def __init__(self, build_layer: LayerBuilder) -> None:
        self._build_layer = build_layer

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return "upload the release, and its layer if that is new there; verify all checksums"

    def skip(self, part: Part) -> str:
        """The release that serves is there already."""
        return "it is there" if part.release is None else ""

    def apply(self, part: Part) -> str:
        """Upload, verify, rename."""
        assert part.release is not None
        layer = self._layer(part, part.release.layer)
        executor, layout = part.target.executor, part.target.layout
        incoming = layout.incoming(part.number)
        executor.put_tree(part.release.path, incoming)
        sums = dict(part.release.files)
        verify(part, incoming, sums)
        self._publish(part, incoming, layout.release(part.number))
        return f"{len(sums)} files verified, layer {part.release.layer[:10]} {layer}"

    def _layer(self, part: Part, name: str) -> str:
        if name in part.looked.layers:
            return "is there"
        part.note(f"layer {name[:10]} is new: its packages are fetched and verified")
        executor, layout = part.target.executor, part.target.layout
        place = self._build_layer(name)
        incoming = layout.incoming_layer(name)
        executor.put_tree(place, incoming)
        verify(part, incoming, listed((place / MARKER).read_text(encoding="utf-8")))
        self._publish(part, incoming, layout.layer(name))
        return "uploaded"

    def _publish(self, part: Part, incoming: PurePosixPath, place: PurePosixPath) -> None:
        """Give what was verified its name, on disk and for the service's user to read."""
        readable = bool(part.target.supervisor.group)
        part.target.executor.check(files.move(incoming, place, readable=readable))

    def undo(self, part: Part) -> str:
        """Remove what was not finished; a finished release stays, to be looked at."""
        layout = part.target.layout
        left = [layout.incoming(part.number)]
        if part.release is not None:
            left.append(layout.incoming_layer(part.release.layer))
        part.target.executor.check(files.remove(*left))
        return ""


def listed(manifest: str) -> dict[str, str]:
    """Read the checksums that a release or a layer holds of itself; none where it is damaged."""
    try:
        return {str(path): str(digest) for path, digest in json.loads(manifest)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def verify(part: Part, directory: PurePosixPath, sums: dict[str, str]) -> None:
    """Have the host compare each file with its checksum.

    Raises:
        Failure: one differs or is missing.
    """
    _refuse_empty(part, directory, len(sums))
    result = part.target.executor.run(files.verify_checksums(directory, sums))
    if result.status != 0:
        bad = (result.stdout + result.stderr).strip().splitlines()
        raise _damaged(part, directory, bad or ["sha256sum failed"])


def verify_installed(part: Part, *manifests: PurePosixPath) -> None:
    """Have the host compare trees that were installed earlier with their own manifests.

    Raises:
        Failure: a file differs or is missing, or a manifest cannot be read.
    """
    places = {manifest.parent: manifest.name for manifest in manifests}
    command = files.verify_own(places, python=part.target.python)
    said = json.loads(part.target.executor.check(command))
    for directory in places:
        found = said[str(directory)]
        _refuse_empty(part, directory, found["files"])
        if found["bad"]:
            raise _damaged(part, directory, found["bad"])


def _refuse_empty(part: Part, directory: PurePosixPath, count: int) -> None:
    if not count:
        host = part.target.executor.host
        raise Failure(f"{host}: {directory} has no checksums", hint="deploy again")


def _damaged(part: Part, directory: PurePosixPath, bad: list[str]) -> Failure:
    return Failure(
        f"{part.target.executor.host}: {directory} is damaged: {bad[0]}",
        hint="look at the disk of that host, and deploy again",
        lines=bad[:20],
    )
