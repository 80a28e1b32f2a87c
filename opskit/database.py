"""Whether the next release could use its database: `opskit check` tries it. Changes nothing.

It is tried with the address that the environment names now, whatever serves, and from where the
release would use it: on this machine with the source that would be deployed, on a host with the
packages of a release that lies there, as the service's user. Where none lies there yet, nothing on
the host speaks PostgreSQL: the host tries the port, this machine the rest. What PostgreSQL answers
to that counts; that this machine does not reach it, or is not let in, says nothing of the host.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from chatservice.store.migrate import release_schema
from opskit.commands import Command
from opskit.commands.inspection import try_database
from opskit.deploy.preflight import Verdict
from opskit.environment import Environment
from opskit.facts import Facts
from opskit.failure import Failure
from opskit.layout import release_name
from opskit.operations import source
from opskit.problems import ConfigError
from opskit.release import MIGRATIONS
from opskit.secret_checks import check_value
from opskit.secrets import Secret, resolve
from opskit.target import Target
from opskit.transport import Executor, LocalExecutor

_SAME_FROM_EVERYWHERE: Final = ("28P01", "3D000")
"""What PostgreSQL says of the address, and not of who asks: invalid_password, and
invalid_catalog_name (SQLSTATEs; PostgreSQL, appendix A)."""
_SHORTEST: Final = 4
"""Letters of a password that is taken out of messages; fewer are in words anyway."""


def address_of(environment: Environment) -> Secret | None:
    """Give the address of the environment's database; None without one, or where it is faulty.

    Why it is faulty is said where the secrets are looked at.
    """
    ref = environment.secrets.get("database_url")
    if environment.settings.store.kind != "postgres" or ref is None:
        return None
    try:
        value = resolve(ref, environment.base_dir)
        check_value("database_url", ref, value)
    except ConfigError:
        return None
    return value


def try_from_here(environment: Environment, address: Secret) -> Verdict:
    """Try it from this machine, with the source that would be deployed."""
    try:
        return verdict(environment, _tried_here(environment, address), address)
    except Failure as failure:
        return Verdict("database", False, str(failure), failure.hint)


def try_from_host(node: Target, facts: Facts, address: Secret) -> Verdict:
    """Try it from a host, as its service would."""
    environment = node.environment
    number = _release_there(facts)
    if number is not None:
        release = node.layout.release(number)
        command = try_database(node.python, (release / "code", release / "layer"), address)
        try:
            tried = _tried(node.executor, node.supervisor.as_service(command))
        except Failure as failure:
            return Verdict("database", False, str(failure), failure.hint)
        if "cannot" not in tried:
            return verdict(environment, tried, address)
        without = f"{release_name(number)} there cannot try it ({tried['cannot']})"
    else:
        without = "no release lies there yet"
    try:
        tried = _tried_here(environment, address)
    except Failure as failure:
        tried = {"cannot": str(failure)}
    if "cannot" in tried or ("error" in tried and tried["kind"] not in _SAME_FROM_EVERYWHERE):
        said = f"not tried from there: {without}; only its port was. The first deploy tries it "
        return Verdict("database", True, said + "(step migrate) before it switches anything")
    found = verdict(environment, tried, address)
    detail = f"{found.detail}; from this machine: {without}, so from there only its port was tried"
    return Verdict("database", found.ok, detail, found.hint)


def verdict(environment: Environment, tried: Mapping[str, Any], address: Secret) -> Verdict:
    """Say what was found: a cause and what to do about it, and nothing of the password."""
    if "cannot" in tried:
        return Verdict("database", True, f"not tried: {tried['cannot']}")
    if "error" in tried:
        detail = _without_password(tried["error"], address)
        return Verdict("database", False, detail, _remedy(environment, tried["kind"], address))
    where, user, schema = f"PostgreSQL at {tried['where']}", tried["user"], tried["schema"]
    named = f"database_url at {environment.where('secrets', 'database_url')}"
    release = release_schema(source(environment) / MIGRATIONS / "postgres")
    if tried["standby"]:
        hint = f"let {named} lead to the primary, or promote this one"
        return Verdict("database", False, f"{where} is a standby, which takes no writes", hint)
    if schema and schema["readable_from"] > release.version:
        detail = f"{where} has schema {schema['version']}, which releases from schema "
        detail += f"{schema['readable_from']} on can read; the source here has {release.version}"
        return Verdict("database", False, detail, "deploy from newer source, or restore a backup")
    if not tried["may_create"] and (not schema or schema["version"] < release.version):
        hint = f"as its owner: GRANT CREATE ON SCHEMA public TO {user}; or let {named} name another"
        detail = f"{where}: user {user} may not make the tables there that the release needs"
        return Verdict("database", False, detail, hint)
    encrypted = "with TLS" if tried["tls"] else "without TLS"
    state = f"schema {schema['version']}" if schema else "empty, the deploy makes its tables"
    return Verdict("database", True, f"{where}: user {user} is let in, {encrypted}; {state}")


def _release_there(facts: Facts) -> int | None:
    """Give a release whose packages can be used: the current one at best, else the newest."""
    there = [number for number, manifest in facts.releases.items() if manifest is not None]
    return facts.current if facts.current in there else max(there, default=None)


def _tried_here(environment: Environment, address: Secret) -> Mapping[str, Any]:
    # Through an executor, so that no PGPASSWORD or PGSSLMODE of this terminal is of any help.
    command = try_database(sys.executable, (PurePosixPath(source(environment)),), address)
    return _tried(LocalExecutor(), command)


def _tried(executor: Executor, command: Command) -> Mapping[str, Any]:
    """Give what the program that tries it prints.

    Raises:
        Failure: it could not be run, or not to its end; of the database that says nothing.
    """
    try:
        said = json.loads(executor.check(command))
    except ValueError:
        return {"cannot": f"{command.name} printed no JSON"}
    return dict(said)


def _remedy(environment: Environment, kind: str, address: Secret) -> str:
    """Say what to do about it."""
    named = f"database_url at {environment.where('secrets', 'database_url')}"
    parts = urlsplit(address.decode("utf-8", "replace"))
    user, name = parts.username or "USER", parts.path.lstrip("/") or "NAME"
    match kind:
        case "28P01":
            return f"correct {named}, or set the password there (in psql: \\password {user})"
        case "28000":
            return (
                f"let it in by a line of the server's pg_hba.conf (a `hostssl` one wants "
                f"sslmode=require or more), or correct {named}"
            )
        case "3D000":
            return f"make it (createdb --owner={user} {name}), or correct {named}"
        case "42501":
            return f"as its owner: GRANT CONNECT ON DATABASE {name} TO {user}; or correct {named}"
        case "53300":
            return "raise max_connections there, or end what holds the connections"
        case "tls":
            return f"turn TLS on in the server (ssl = on), or correct sslmode in {named}"
        case "file":
            return f"correct sslrootcert in {named}: the file must be where the service runs"
    return f"see that PostgreSQL runs and listens there, or correct {named}"


def _without_password(text: str, address: Secret) -> str:
    """Take the password out of a message, in case that it quotes the address."""
    password = urlsplit(address.decode("utf-8", "replace")).password or ""
    for one in (password, unquote(password)):
        if len(one) >= _SHORTEST:
            text = text.replace(one, "***")
    return text
