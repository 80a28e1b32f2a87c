"""The service's command line: `python -m chatservice COMMAND --settings FILE`.

Exit status: 0 done, 1 failed, 2 wrong usage or settings. Errors are one line on standard error.

Each command loads what it needs and no more: opskit runs several of them in every deployment, and
the whole service takes five times as long to load as to ask the running one something.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from chatservice.asking import ControlError, ask
from chatservice.config import Settings, SettingsError, load_settings
from chatservice.reporting import RELOAD_SECONDS, Report

if TYPE_CHECKING:
    from chatservice.store import SchemaVersion


def main(argv: list[str] | None = None) -> int:
    """Run one command; give its exit status."""
    arguments = _parser().parse_args(argv)
    arguments.report = report = Report()
    try:
        settings = load_settings(arguments.settings)
        status: int = arguments.run(settings, arguments)
    except SettingsError as error:
        return _complain(2, error, report)
    except ControlError as error:
        return _complain(1, error, report)
    except OSError as error:
        return _complain(1, f"{error.filename or 'system'}: {error.strerror}", report)
    return status


def _complain(status: int, error: object, report: Report) -> int:
    report.failed(str(error))
    # At once with its end: unbuffered, `print` writes that by itself, after a line of the log.
    sys.stderr.write(f"chatservice: {error}\n")
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chatservice", description="The chat service.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.add_argument("--settings", type=Path, required=True, metavar="FILE")
        sub.set_defaults(run=run)
        return sub

    serve = command("serve", _serve, "Serve until told to stop.")
    serve.add_argument(
        "--take-over", action="store_true", help="relieve the running process, if there is one"
    )
    command("check", _check, "Check settings, secrets and database; start nothing.")
    command("migrate", _migrate, "Bring the database's schema up to date.")
    command("schema", _schema, "Say which schema this release and the database have, as JSON.")
    copy = command("copy", _copy, "Copy a SQLite store into the empty PostgreSQL store.")
    what = copy.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="the state directory, or the chat.db, of a service that is stopped",
    )
    what.add_argument(
        "--check", action="store_true", help="only see that the PostgreSQL store is empty"
    )
    ctl = command("ctl", _ctl, "Give the running process an order; print its answer as JSON.")
    orders = ctl.add_subparsers(required=True, dest="order", metavar="ORDER")
    orders.add_parser("status", help="what it is and does")
    orders.add_parser("stop", help="stop gracefully")
    orders.add_parser("drain", help="send all members away, paced, and let nobody in")
    reload = orders.add_parser("reload", help="have it start its successor, and hand over to it")
    reload.add_argument(
        "--program", type=Path, default=Path(sys.argv[0]), help="what to start (default: this one)"
    )
    forget = orders.add_parser("forget", help="delete workspaces of the checks")
    forget.add_argument("workspaces", nargs="+", metavar="WORKSPACE")
    sweep = orders.add_parser("sweep", help="delete the checks' workspaces idle for so long")
    sweep.add_argument("seconds", type=float)
    return parser


def _serve(settings: Settings, arguments: argparse.Namespace) -> int:
    import asyncio

    import uvloop

    from chatservice import logs
    from chatservice.admission import Build
    from chatservice.backend import backend
    from chatservice.process import Process, StartError
    from chatservice.store import StoreError

    report = arguments.report
    try:
        kind = backend(settings, where=str(arguments.settings))
        build = Build(
            release=os.environ.get("CHATSERVICE_RELEASE", "unreleased"),
            commit=os.environ.get("CHATSERVICE_COMMIT", "none"),
            schema=kind.release_schema(),
        )
        logs.configure(settings.log, release=build.release)

        async def run() -> None:
            where = str(arguments.settings)
            process = Process(settings, build, kind.store(), kind.bus(), where=where)
            await process.run(take_over=arguments.take_over, report=report)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())
    except (StartError, StoreError) as error:
        return _complain(1, error, report)
    return 0


def _check(settings: Settings, arguments: argparse.Namespace) -> int:
    from chatservice.auth import Authenticator
    from chatservice.backend import backend
    from chatservice.store import StoreError, StoreErrorKind

    Authenticator.from_settings(settings.auth, where=str(arguments.settings))
    try:
        kind = backend(settings, where=str(arguments.settings))
        release, database = kind.release_schema(), kind.database_schema()
        if database is not None and release.version < database.readable_from:
            raise StoreError(
                StoreErrorKind.SCHEMA,
                f"{kind.where} is at schema {database.version}, which needs a release at "
                f"{database.readable_from} or later; this one is at {release.version}",
            )
    except StoreError as error:
        return _complain(1, error, arguments.report)
    print(json.dumps({"ok": True}))
    return 0


def _migrate(settings: Settings, arguments: argparse.Namespace) -> int:
    from chatservice.backend import backend
    from chatservice.store import StoreError

    try:
        database = backend(settings, where=str(arguments.settings)).migrate()
    except StoreError as error:
        return _complain(1, error, arguments.report)
    print(json.dumps({"database": _plain(database)}))
    return 0


def _schema(settings: Settings, arguments: argparse.Namespace) -> int:
    from chatservice.backend import backend
    from chatservice.store import StoreError

    try:
        kind = backend(settings, where=str(arguments.settings))
        release, database = kind.release_schema(), kind.database_schema()
    except StoreError as error:
        return _complain(1, error, arguments.report)
    known = _plain(database) if database is not None else None
    print(json.dumps({"release": _plain(release), "database": known}))
    return 0


def _copy(settings: Settings, arguments: argparse.Namespace) -> int:
    import msgspec

    from chatservice.backend import Postgres, backend
    from chatservice.store import StoreError
    from chatservice.store.sqlite_source import CopyError

    try:
        kind = backend(settings, where=str(arguments.settings))
        if not isinstance(kind, Postgres):
            raise SettingsError(
                str(arguments.settings),
                "store.kind",
                'must be "postgres": that is where copies go',
            )
        if arguments.check:
            kind.check_empty()
            print(json.dumps({"empty": True}))
            return 0
        copied = kind.copy_from(arguments.source)
    except (StoreError, CopyError) as error:
        return _complain(1, error, arguments.report)
    print(json.dumps(msgspec.to_builtins(copied)))
    return 0


def _plain(schema: SchemaVersion) -> dict[str, int]:
    return {"version": schema.version, "readable_from": schema.readable_from}


def _ctl(settings: Settings, arguments: argparse.Namespace) -> int:
    path = settings.control_socket
    if arguments.order == "forget":
        known = [name for name in arguments.workspaces if _forget(path, name)]
        print(json.dumps({"ok": True, "forgotten": known}))
        return 0
    if arguments.order == "drain":
        members = ask(path, "status")["connections"]
        seconds = members / settings.timing.returns_per_second
        print(json.dumps(ask(path, "drain", timeout=60 + 2 * seconds)))
        return 0
    if arguments.order == "reload":
        print(json.dumps(_reload(path, arguments)))
        return 0
    extra = {"seconds": arguments.seconds} if arguments.order == "sweep" else {}
    print(json.dumps(ask(path, arguments.order, **extra)))
    return 0


def _reload(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Have the running process start the release that this file belongs to."""
    argv = [
        sys.executable,
        "-I",
        str(arguments.program.absolute()),
        "serve",
        "--settings",
        str(arguments.settings.absolute()),
        "--take-over",
    ]
    return ask(path, "reload", argv=argv, timeout=RELOAD_SECONDS + 5)


def _forget(path: Path, workspace: str) -> bool:
    """Delete one workspace; gives whether there was one."""
    return bool(ask(path, "forget", workspace=workspace)["forgotten"])


if __name__ == "__main__":
    sys.exit(main())
