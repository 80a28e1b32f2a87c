"""A word that every secret holds, and the looking for it where it must not be."""

from __future__ import annotations

import base64
import os
import secrets
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.hosts.machine import Host

_GREP = ("grep", "--recursive", "--files-with-matches", "--null", "--text", "--devices=skip",
         "--fixed-strings", "--file=-")  # fmt: skip


@dataclass(frozen=True)
class Canary:
    """A word that is nowhere else, and how it looks in base64."""

    word: str = field(default_factory=lambda: f"canary{secrets.token_hex(6)}")

    @property
    def shapes(self) -> list[str]:
        """The word, and what base64 makes of it wherever it stands in what is encoded."""
        found = [self.word]
        for shift, start in ((0, 0), (1, 2), (2, 3)):
            encoded = base64.b64encode(b"\0" * shift + self.word.encode()).decode()
            found.append(encoded[start : (shift + len(self.word)) * 8 // 6])
        return found

    def shows_in(self, text: str) -> list[str]:
        """Give the lines of a text that hold it."""
        return [line for line in text.splitlines() if any(shape in line for shape in self.shapes)]

    def files(self, places: Iterable[Path]) -> list[Path]:
        """Find every file below some directories that holds it."""
        argv = (*_GREP, *map(str, places))
        done = subprocess.run(argv, input=self._patterns, capture_output=True, check=False)
        return sorted(Path(name) for name in done.stdout.decode().split("\0") if name)

    def files_of(self, host: Host) -> list[str]:
        """Find every file that was written on a host and holds it: on its disk, and in memory."""
        disk = host.directory / "upper"
        found = [f"/{path.relative_to(disk)}" for path in self.files([disk])]
        argv = (*_GREP, "/run", "/tmp", "/dev/shm")
        done = host.run(*argv, stdin=self._patterns, check=False)
        return sorted([*found, *filter(None, done.stdout.decode().split("\0"))])

    @property
    def _patterns(self) -> bytes:
        # Not among the words of grep, which are watched, too.
        return "\n".join(self.shapes).encode()


@dataclass
class Processes:
    """What was seen of all processes here; those of the test hosts are among them.

    Attributes:
        showing: command lines and environments that held the canary.
        programs: what was running, to know that there was something to see.
    """

    canary: Canary
    showing: set[str] = field(default_factory=set)
    programs: set[str] = field(default_factory=set)

    def look(self) -> None:
        """Look at every process once."""
        for place in Path("/proc").glob("[0-9]*"):
            for name in ("cmdline", "environ"):
                try:
                    text = (place / name).read_bytes().decode("utf-8", "replace")
                except OSError:
                    continue
                if name == "cmdline":
                    self.programs.add(os.path.basename(text.partition("\0")[0]))
                if self.canary.shows_in(text.replace("\0", " ")):
                    self.showing.add(f"{name} of {place.name}: {text}")


@contextmanager
def processes_watched(canary: Canary) -> Iterator[Processes]:
    """Look at all processes again and again."""
    found, ended = Processes(canary), threading.Event()

    def look() -> None:
        while not ended.wait(0.04):
            found.look()

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
