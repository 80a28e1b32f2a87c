"""What the benches' command lines share: common arguments, a directory to work in, the report."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.load import Shape
from bench.machine import Cores, allow_descriptors
from bench.member import LoadError
from tests.service_process import ServiceFailed


class CommandLine(argparse.ArgumentParser):
    """The arguments of one bench; every bench knows `--state-dir` and `--json`.

    Args:
        bench: its name, `fanout`.
        about: its module's docstring, of which the first line says what it measures.
    """

    def __init__(self, bench: str, about: str | None) -> None:
        super().__init__(prog=f"bench.{bench}", description=(about or bench).splitlines()[0])
        self._positive: list[str] = []
        self.add_argument(
            "--state-dir", type=Path, default=Path("/var/tmp"), help="on a real disk (/var/tmp)"
        )
        self.add_argument("--json", action="store_true")

    def positive(self, name: str, default: float, about: str) -> None:
        """Take one number above zero; a whole one where the default is."""
        self._positive.append(name)
        self.add_argument(f"--{name}", type=type(default), default=default, help=about)

    def windows(self, *, seconds: float, rounds: int) -> None:
        """Take how long and how often to measure."""
        self.positive("seconds", seconds, f"of each window ({seconds:g})")
        self.positive("rounds", rounds, f"of which the median counts ({rounds})")

    def shapes(self, default: Iterable[str]) -> None:
        """Take rooms and members, and how many of these publish."""
        self.add_argument("--shape", nargs="+", default=list(default), metavar="ROOMSxMEMBERS")
        self.positive("publishers", 10, "most in a room (10)")

    def read(self, argv: Sequence[str] | None) -> argparse.Namespace:
        """Read the command line; one that cannot be ends the bench with status 2."""
        arguments = self.parse_args(argv)
        for name in self._positive:
            if getattr(arguments, name) <= 0:
                self.error(f"--{name} must be positive")
        for text in getattr(arguments, "shape", ()):
            try:
                shape_of(text, arguments.publishers)
            except ValueError:
                self.error(f"--shape {text}: expected ROOMSxMEMBERS, 100x10 for example")
        if not arguments.state_dir.is_dir():
            self.error(f"--state-dir: {arguments.state_dir} is no directory")
        return arguments

    @contextmanager
    def scratch(self, arguments: argparse.Namespace) -> Iterator[Path]:
        """Give a directory to work in; what goes wrong there ends the bench with status 1."""
        try:
            allow_descriptors()
            with tempfile.TemporaryDirectory(prefix="b-", dir=arguments.state_dir) as name:
                directory = Path(name)
                directory.chmod(0o755)  # PostgreSQL runs as another user
                yield directory
        except (LoadError, ServiceFailed, OSError) as error:
            print(f"{self.prog}: {error}", file=sys.stderr)
            sys.exit(1)

    def report(
        self,
        arguments: argparse.Namespace,
        machine: Mapping[str, Any],
        cores: Cores | None,
        parameters: Iterable[str],
        **found: Any,
    ) -> str:
        """Write everything for a script."""
        report = {
            "bench": self.prog.removeprefix("bench."),
            "machine": {**machine, **({"placement": str(cores)} if cores else {})},
            "parameters": {key: getattr(arguments, key) for key in parameters},
            **found,
        }
        return json.dumps(report, indent=2)


def shape_of(text: str, publishers: int) -> Shape:
    """Read `ROOMSxMEMBERS`.

    Raises:
        ValueError: it is something else.
    """
    rooms, _, members = text.partition("x")
    shape = Shape(int(rooms), int(members), min(publishers, int(members)))
    if shape.rooms < 1 or shape.members < 1:
        raise ValueError(text)
    return shape
