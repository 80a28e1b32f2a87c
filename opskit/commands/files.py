"""Files and directories: write, read, link, remove. A file is replaced by rename, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath

from opskit.commands import Command, script
from opskit.commands.host import program

_WRITE = """
umask 077
target=$1 mode=$2
new=$(dirname "$target")/.$(basename "$target").$$.new
trap 'rm -f "$new"' EXIT
cat > "$new" && chmod "$mode" "$new" && sync -d "$new" && mv -fT "$new" "$target"
"""

_UNPACK = """
rm -rf "$1" && mkdir -p "$1" && exec tar -x -p --no-same-owner --warning=no-timestamp -f - -C "$1"
"""

_MOVE = """
if [ -n "$3" ]; then
  chmod -R a+rX "$1" || exit
fi
sync -f "$1" && mv -fT "$1" "$2" && sync "$(dirname "$2")"
"""

_LINK = """
new=$(dirname "$2")/.$(basename "$2").$$.new
trap 'rm -f "$new"' EXIT
ln -s "$1" "$new" && mv -fT "$new" "$2" && readlink "$2"
"""


def make_directories(*paths: PurePosixPath, mode: int = 0o700) -> Command:
    """Make directories with their parents; those that are there keep their mode."""
    argv = ("mkdir", "-p", f"-m{mode:o}", *map(str, paths))
    return Command(argv, "make the directories", "make-directories")


def write(
    path: PurePosixPath, content: bytes, *, mode: int = 0o644, secret: bool = False
) -> Command:
    """Write a file, complete and on disk under its name, or not at all."""
    return Command(
        script(_WRITE, str(path), f"{mode:o}"),
        f"write {path}",
        "write-file",
        stdin=content,
        secret=secret,
    )


def read(path: PurePosixPath) -> Command:
    """Read a file; a missing one reads as empty."""
    argv = script('if [ -e "$1" ]; then\n  exec cat "$1"\nfi', str(path))
    return Command(argv, f"read {path}", "read-file", changes=False)


def unpack(path: PurePosixPath, archive: bytes) -> Command:
    """Unpack a tar archive into a directory, which is made; what was there before is removed."""
    return Command(
        script(_UNPACK, str(path)), f"unpack into {path}", "unpack", stdin=archive, timeout=600.0
    )


def move(source: PurePosixPath, target: PurePosixPath, *, readable: bool = False) -> Command:
    """Rename a file or directory once it is on disk; nothing must be there that holds something.

    Args:
        source: it.
        target: what it is called then.
        readable: let every user read it and all in it first; nothing in it is secret.
    """
    argv = script(_MOVE, str(source), str(target), "readable" if readable else "")
    what = f"rename {source.name} to {target}, once it is on disk"
    return Command(argv, what, "move", timeout=120.0)


def remove(*paths: PurePosixPath) -> Command:
    """Remove files and whole directories; missing ones are fine."""
    names = ", ".join(path.name for path in paths)
    argv = ("rm", "-rf", "--", *map(str, paths))
    return Command(argv, f"remove {names}", "remove", timeout=120.0)


def link(target: PurePosixPath | str, path: PurePosixPath) -> Command:
    """Point the symbolic link `path` at `target` by rename; prints what it points at now."""
    return Command(script(_LINK, str(target), str(path)), f"point {path} at {target}", "link")


def verify_checksums(directory: PurePosixPath, sums: dict[str, str]) -> Command:
    """Compare every file with its SHA-256; prints those that differ or are missing."""
    listing = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    return Command(
        script('cd "$1" && exec sha256sum --check --strict --quiet -', str(directory)),
        f"verify {len(sums)} checksums in {directory}",
        "verify-checksums",
        changes=False,
        stdin=listing.encode(),
        timeout=120.0,
    )


def verify_own(manifests: Mapping[PurePosixPath, str], *, python: str) -> Command:
    """Compare every file of some trees with what their own manifests say, by their directories."""
    arguments = [word for place, name in manifests.items() for word in (str(place), name)]
    names = ", ".join(place.name for place in manifests)
    return program(
        "verify", python, arguments, f"verify all of {names}", changes=False, timeout=120.0
    )
