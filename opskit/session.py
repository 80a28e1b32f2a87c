"""What every command of the command line shares: the global options, and how it speaks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from opskit.environment import Environment
    from opskit.environments import Environments
    from opskit.fleet import Fleet
    from opskit.ui import Ui

FILE: Final = "environments.yaml"
Env = Annotated[str, typer.Argument(metavar="ENV", help="An environment of environments.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, with stable keys.")]


class Session:
    """What the global options said, for the command that runs."""

    def __init__(self) -> None:
        self.file: Path | None = None

    def environments(self) -> Environments:
        """Read environments.yaml: the one given, or the nearest from here upward."""
        from opskit.environments import load_environments

        return load_environments(self.file or _nearest())

    def environment(self, name: str) -> Environment:
        """Give one environment."""
        return self.environments().get(name)

    def fleet(self, name: str) -> Fleet:
        """Reach one environment's nodes."""
        from opskit.fleet import connect

        return connect(self.environment(name))

    def ui(self, stream: Any = None) -> Ui:
        """Give what speaks to a person."""
        from opskit.terminal import Terminal
        from opskit.ui import Ui, program

        options = ["--environments", str(self.file)] if self.file else []
        return Ui(Terminal(stream or sys.stdout), program(options))


session = Session()


def _nearest() -> Path:
    here = Path.cwd()
    for directory in (here, *here.parents):
        if (directory / FILE).is_file():
            return directory / FILE
    return here / FILE


def print_json(report: Any) -> None:
    """Print what a script reads."""
    unicode = (getattr(sys.stdout, "encoding", "") or "").lower().startswith("utf")
    typer.echo(json.dumps(report, indent=2, ensure_ascii=not unicode))
