"""The command line: parses, calls, shows. Nothing else.

What a command needs is imported when it runs, so that `opskit --help` answers at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from opskit import looking
from opskit.deploy import cli as acting
from opskit.failure import Failure
from opskit.observe import cli as watching
from opskit.problems import ConfigError
from opskit.provision import cli as provisioning
from opskit.session import FILE, print_json, session

app = typer.Typer(
    name="opskit",
    help="Deploys, proves, watches and rolls back the chat service.",
    epilog="Exit status: 0 done; 1 failed, and nothing changed or all was undone; 2 wrong usage or "
    "configuration; 3 a person is needed (the command to run is shown).",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

for _commands in (acting, looking, watching, provisioning):
    _commands.register(app)


@app.callback()
def _global(
    environments: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help=f"The environments (default: {FILE}, here or in a directory above).",
        ),
    ] = None,
    debug: Annotated[bool, typer.Option(help="Show the traceback of an error.")] = False,
) -> None:
    session.file = environments


# --- the program ------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run one command and end with its exit status."""
    arguments = hoist(sys.argv[1:] if argv is None else argv)
    try:
        app(arguments, prog_name="opskit")
    except (Failure, ConfigError) as error:
        _explain(error, arguments)
        sys.exit(error.status)
    except KeyboardInterrupt:
        sys.exit(1)
    except OSError as error:
        said = f"{error.filename or 'system'}: {error.strerror}"
        _explain(Failure(said).with_traceback(error.__traceback__), arguments)
        sys.exit(1)
    except Exception as error:
        said = f"internal error: {type(error).__name__}: {error}"
        bug = Failure(said, hint="see where with: --debug").with_traceback(error.__traceback__)
        _explain(bug, arguments)
        sys.exit(1)
    sys.exit(0)


def _explain(error: Failure | ConfigError, arguments: Sequence[str]) -> None:
    """Say what went wrong: as JSON where that was asked for, else on standard error."""
    if "--debug" in arguments:
        import traceback

        traceback.print_exception(error)
    if "--json" in arguments:
        from opskit.reports import error_report

        print_json(error_report(error))
    else:
        session.ui(sys.stderr).error(error)


def hoist(arguments: Sequence[str]) -> list[str]:
    """Let the global options stand anywhere: move them to the front."""
    first: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for one in waiting:
        if one == "--":
            rest += [one, *waiting]
        elif one == "--debug" or one.startswith("--environments="):
            first.append(one)
        elif one == "--environments":
            first += [one, *([value] if (value := next(waiting, None)) is not None else [])]
        else:
            rest.append(one)
    return first + rest
