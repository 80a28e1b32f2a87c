"""Compare every file of some trees with the SHA-256 that each tree's own manifest has of it.

Runs on the host, as `python3 -I - DIRECTORY MANIFEST [DIRECTORY MANIFEST]...`; changes nothing. It
prints `{DIRECTORY: {"files": how many the manifest lists, "bad": ["PATH: why", ...]}}`; a manifest
that cannot be read lists none.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys


def listed(path: str) -> dict[str, str]:
    """Give the checksums in a manifest, by path; none where it is damaged."""
    try:
        with open(path, "rb") as file:
            return {str(name): str(digest) for name, digest in json.load(file)["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def why_bad(path: str, digest: str) -> str:
    """Say what is wrong with a file; empty when it is as it should be."""
    try:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return f"FAILED ({error.strerror})"
    return "" if found == digest else "FAILED"


def main(arguments: list[str]) -> None:
    """Compare, and print."""
    result = {}
    for directory, manifest in zip(arguments[::2], arguments[1::2], strict=True):
        wanted = listed(os.path.join(directory, manifest))
        bad = [
            f"{name}: {why}"
            for name, digest in sorted(wanted.items())
            if (why := why_bad(os.path.join(directory, name), digest))
        ]
        result[directory] = {"files": len(wanted), "bad": bad}
    json.dump(result, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1:])
