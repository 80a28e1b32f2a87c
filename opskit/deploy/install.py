"""Brings the release and its layer to the host, and verifies every byte there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from opskit.commands import files
from opskit.deploy.act import Act
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

    def describe(self, act: Act) -> str:
        """Say what the step does."""
        return "upload the release, and its layer if that is new there; verify all checksums"

    def skip(self, act: Act) -> str:
        """The release that serves is there already."""
        return "it is there" if act.release is None else ""

    def apply(self, act: Act) -> str:
        """Upload, verify, rename."""
        assert act.release is not None
        layer = self._layer(act, act.release.layer)
        executor, layout = act.target.executor, act.target.layout
        incoming = layout.incoming(act.number)
        executor.check(files.remove(incoming))
        executor.put_tree(act.release.path, incoming)
        sums = dict(act.release.files)
        verify(act, incoming, sums)
        executor.check(files.move(incoming, layout.release(act.number)))
        executor.check(files.flush(layout.releases))
        return f"{len(sums)} files verified, layer {act.release.layer[:10]} {layer}"

    def _layer(self, act: Act, name: str) -> str:
        if name in act.looked.layers:
            return "is there"
        act.note(f"layer {name[:10]} is new: its packages are fetched and verified")
        executor, layout = act.target.executor, act.target.layout
        place = self._build_layer(name)
        incoming = layout.incoming_layer(name)
        executor.check(files.remove(incoming))
        executor.put_tree(place, incoming)
        verify(act, incoming, listed((place / MARKER).read_text(encoding="utf-8")))
        executor.check(files.move(incoming, layout.layer(name)))
        return "uploaded"

    def undo(self, act: Act) -> str:
        """Remove what was not finished; a finished release stays, to be looked at."""
        layout = act.target.layout
        left = [layout.incoming(act.number)]
        if act.release is not None:
            left.append(layout.incoming_layer(act.release.layer))
        act.target.executor.check(files.remove(*left))
        return ""


def listed(manifest: str) -> dict[str, str]:
    """Read the checksums that a release or a layer holds of itself; none where it is damaged."""
    try:
        return {str(path): str(digest) for path, digest in json.loads(manifest)["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def verify(act: Act, directory: PurePosixPath, sums: dict[str, str]) -> None:
    """Have the host compare each file with its checksum.

    Raises:
        Failure: one differs or is missing.
    """
    host = act.target.executor.host
    if not sums:
        raise Failure(f"{host}: {directory} has no checksums", hint="deploy again")
    result = act.target.executor.run(files.verify_checksums(directory, sums))
    if result.status != 0:
        bad = (result.stdout + result.stderr).strip().splitlines()
        raise Failure(
            f"{host}: {directory} is damaged: " + (bad[0] if bad else "sha256sum failed"),
            hint="look at the disk of that host, and deploy again",
            lines=bad[:20],
        )
