"""Layers: the unpacked dependencies of a release, built once for each lock file.

A layer is named by what determines it (lock file, Python, platform) and holds the checksums of
its files, so that one which is half-written or was tampered with is never taken. Packages come
from wherever uv is configured to find them; the lock file's hashes decide what is accepted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any, Final

from opskit.bytecode import compile_tree
from opskit.checksums import checksums, differences
from opskit.failure import Failure
from opskit.staging import staged

MARKER: Final = "layer.json"
_RECIPE: Final = b"1"
"""Changes when layers are made in another way, so that old ones are not taken for new ones."""
_UV_TIMEOUT: Final = 600.0
_NOT_FOR_HOSTS: Final = (".lock", "bin")
"""What uv leaves that no host needs: its lock, and scripts that name this machine's Python."""


def this_platform() -> str:
    """Name the kind of this machine, such as `linux-x86_64`."""
    return sysconfig.get_platform()


def kept_layers() -> Path:
    """Give the directory on this machine where built layers are kept."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "opskit" / "layers"


def layer_key(lock: bytes, python: str, platform: str) -> str:
    """Give the name of a layer, from all that determines its content.

    Args:
        lock: the content of the lock file.
        python: the version of Python, as `3.11`.
        platform: `this_platform()`, or the platform of the hosts, as uv names it.
    """
    digest = hashlib.sha256()
    for part in (_RECIPE, lock, python.encode(), platform.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()[:20]


def build_layer(
    lock_file: Path, key: str, into: Path, *, python: str, platform: str | None = None
) -> Path:
    """Give the layer `into/key`, building it unless it is there, whole and untouched.

    Args:
        lock_file: requirements, all pinned and with hashes.
        key: its name; see `layer_key`.
        into: the directory of layers.
        python: the version of Python that it is for, as `3.11`.
        platform: the platform that it is for, as uv names it; None for this machine.

    Raises:
        Failure: a package cannot be had, or is not what the lock file says.
    """
    place = into / key
    if place.exists() and not verify(place):
        return place
    with staged(place, replace=True) as directory:
        _install(lock_file, directory, python=python, platform=platform)
        for name in _NOT_FOR_HOSTS:
            _remove(directory / name)
        compile_tree(directory, python=python)
        marker = {
            "key": key,
            "python": python,
            "platform": platform or this_platform(),
            "files": checksums(directory),
        }
        (directory / MARKER).write_text(json.dumps(marker, indent=1, sort_keys=True) + "\n")
    return place


def verify(layer: Path) -> list[str]:
    """Say what is missing, changed or extra in a layer; empty when it is whole."""
    try:
        marker: dict[str, Any] = json.loads((layer / MARKER).read_bytes())
        files: dict[str, str] = marker["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return [f"{MARKER}: is missing or damaged"]
    return differences(layer, files, beside={MARKER})


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _install(lock_file: Path, directory: Path, *, python: str, platform: str | None) -> None:
    """Have uv put the wheels of a lock file into a directory.

    Raises:
        Failure: it did not; says why, and what to do.
    """
    # fmt: off
    argv = [
        _uv(), "pip", "install", "--quiet", "--color", "never", "--no-progress",
        "--python", sys.executable, "--no-python-downloads", "--python-version", python,
        *(["--python-platform", platform] if platform else []),
        "--target", str(directory), "--link-mode", "copy", "--only-binary", ":all:",
        "--require-hashes", "--requirements", str(lock_file),
    ]
    # fmt: on
    environ = {k: v for k, v in os.environ.items() if k not in ("VIRTUAL_ENV", "PYTHONPATH")}
    try:
        done = subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_UV_TIMEOUT,
            env=environ,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failure(
            f"{lock_file}: the packages did not arrive within {_UV_TIMEOUT:g} s", hint=_HINT
        ) from None
    if done.returncode:
        said = without_credentials(done.stdout.decode(errors="replace")).strip()
        raise Failure(
            f"{lock_file}: the packages for Python {python} on {platform or this_platform()} "
            "could not be installed; nothing was changed",
            hint=_HINT,
            lines=said.splitlines()[-20:],
        )


_HINT: Final = (
    "uv needs a package registry, or its cache from an earlier build: see that this machine "
    "reaches it. A registry of your own is named in UV_DEFAULT_INDEX or uv.toml (uv does not "
    "read pip's settings)"
)


def _uv() -> str:
    """Find the uv of this environment."""
    import uv  # here, since most commands build no layer

    with contextlib.suppress(FileNotFoundError):
        return str(uv.find_uv_bin())
    raise Failure("uv is not installed beside opskit", hint="run `make dev` again")


def without_credentials(text: str) -> str:
    """Take user and password out of the addresses in a text."""
    return re.sub(r"(?<=://)[^/@\s]+@", "", text)
