"""The smoke test by itself: `python -m checks.smoke --settings F`, or `--url U --secret-file F`.

Exit status: 0 the service works, 1 it does not, or the run was interrupted, 2 wrong usage or
settings. Ctrl-C, SIGTERM and SIGHUP interrupt: what was made in the service is removed first.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from chatservice.auth import sign
from chatservice.config import (
    CHECKS_GRACE,
    Settings,
    SettingsError,
    load_settings,
    settings_from,
)
from chatservice.control import ask
from checks.smoke.interruption import interruptible
from checks.smoke.report import CheckResult, result_line
from checks.smoke.runner import DEADLINE, PATIENCE, run_smoke
from checks.smoke.target import SmokeTarget

WRONG_SECRET_BYTES: Final = 32
T = TypeVar("T")


class UsageError(Exception):
    """The command line is wrong, or names a file that is."""


def main(argv: list[str] | None = None) -> int:
    """Run the smoke test as the command line says; give the exit status."""
    arguments = _parser().parse_args(argv)
    try:
        target = _target(arguments)
        with interruptible():
            report = asyncio.run(
                run_smoke(
                    target,
                    users=arguments.users,
                    delivery_bound=arguments.delivery_bound,
                    nodes=arguments.node,
                    deadline=arguments.deadline,
                    patience=arguments.patience,
                    on_result=None if arguments.json or not sys.stderr.isatty() else _show,
                )
            )
    except (UsageError, SettingsError, ValueError) as error:
        print(f"smoke: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("smoke: interrupted", file=sys.stderr)
        return 1
    if arguments.junit:
        arguments.junit.write_text(report.to_junit(), encoding="utf-8")
    print(report.to_json() if arguments.json else report.table(colour=sys.stdout.isatty()))
    return 0 if report.ok else 1


def _show(result: CheckResult) -> None:
    """Show progress to a person who waits; the table follows."""
    print(result_line(result), file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m checks.smoke",
        description="Prove with several simulated users that a chat service works.",
    )
    where = parser.add_argument_group("the service")
    where.add_argument("--settings", type=Path, help="its settings file: says all that follows")
    where.add_argument("--url", help="http(s)://host[:port]")
    where.add_argument("--secret-file", type=Path, help="the HS256 secret that it takes")
    where.add_argument(
        "--origin", action="append", default=[], help="an allowed origin; repeat for more"
    )
    where.add_argument("--presence-grace", type=float, help="seconds (default 10)")
    where.add_argument("--history-keep", type=int, help="messages (default 1000)")
    where.add_argument("--text-limit", type=int, help="characters (default 4000)")
    where.add_argument(
        "--node", action="append", default=[], help="a base URL to spread connections over"
    )
    how = parser.add_argument_group("the test")
    how.add_argument("--users", type=int, default=3, help="how many talk (default 3)")
    how.add_argument(
        "--delivery-bound", type=float, default=1.0, help="seconds for a message (default 1)"
    )
    how.add_argument(
        "--deadline", type=float, default=DEADLINE, help=f"seconds for all (default {DEADLINE:g})"
    )
    how.add_argument(
        "--patience",
        type=float,
        default=PATIENCE,
        help=f"seconds for an answer (default {PATIENCE:g})",
    )
    how.add_argument("--json", action="store_true", help="print JSON instead of a table")
    how.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML there")
    return parser


def _target(arguments: argparse.Namespace) -> SmokeTarget:
    """Put the target together; what is not said on the command line is in the settings.

    Raises:
        UsageError: something is missing.
        SettingsError: the settings file is wrong.
    """
    settings = load_settings(arguments.settings) if arguments.settings else None
    # The defaults are the service's own.
    known = settings or settings_from(
        {"service": {"state_dir": "-", "run_dir": "-"}, "auth": {"secret_file": "-"}}, where="-"
    )
    url = arguments.url or (settings and _address(settings))
    if not url:
        raise UsageError("say which service: --settings FILE, or --url URL and --secret-file FILE")
    secret_file = arguments.secret_file or known.auth.secret_file
    if secret_file in ("", "-"):
        raise UsageError("--secret-file FILE is needed to sign tokens with")
    issued = partial(sign, issuer=known.auth.issuer, audience=known.auth.audience)
    timing, history, limits = known.timing, known.history, known.limits
    return SmokeTarget(
        base_url=url,
        sign=partial(issued, _read_secret(Path(secret_file))),
        sign_bad=partial(issued, secrets.token_hex(WRONG_SECRET_BYTES)),
        origins=tuple(arguments.origin or known.auth.origins),
        presence_grace=_given(arguments.presence_grace, min(timing.presence_grace, CHECKS_GRACE)),
        history_keep=_given(arguments.history_keep, history.keep),
        text_limit=_given(arguments.text_limit, limits.text),
        cleanup=_cleanup(settings),
    )


def _address(settings: Settings) -> str:
    """Give the address at which a service with these settings answers on this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.service.host, settings.service.host)  # noqa: S104 - recognised, not bound
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.service.port}"


def _given(value: T | None, otherwise: T) -> T:
    return otherwise if value is None else value


def _read_secret(path: Path) -> str:
    try:
        secret = path.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from None
    if not secret.strip():
        raise UsageError(f"{path}: is empty")
    return secret


def _cleanup(settings: Settings | None) -> Callable[[str], Awaitable[None]] | None:
    """Forget workspaces through the control socket, where that is on this machine."""
    if settings is None or not settings.control_socket.exists():
        return None
    path = settings.control_socket

    async def forget(workspace: str) -> None:
        await asyncio.to_thread(ask, path, "forget", workspace=workspace)

    return forget


if __name__ == "__main__":
    sys.exit(main())
