"""Append one line to a file: one write, on disk when this ends, unless the line is there already.

Runs on the host, as `python3 -I - FILE KEY LINE`. A line that contains KEY is not added twice,
so that a command that was killed after it may be run again. A last line that was torn by a crash
is ended first, so that it spoils none but itself.
"""

from __future__ import annotations

import os
import sys


def main(path: str, key: str, line: str) -> None:
    """Append, unless a line with the key is there."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        with open(path, "rb") as file:
            before = file.read()
        if key.encode() in before:
            return
        torn = b"\n" if before and not before.endswith(b"\n") else b""
        record = torn + line.encode() + b"\n"
        written = os.write(descriptor, record)
        if written != len(record):
            raise OSError(f"only {written} of {len(record)} bytes were written")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
