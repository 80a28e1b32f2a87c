"""What a host needs, step by step: pure functions from what was seen to what has to change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath
from typing import Final

from opskit.commands import Command, files
from opskit.commands import provisioning as commands
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.provision import rendering
from opskit.provision.change import Change, file_diff
from opskit.provision.rendering import USER
from opskit.provision.seen import Place, Seen

PROXY: Final = "caddy"
SITES: Final = PurePosixPath("/etc/caddy/sites")
CADDYFILE: Final = PurePosixPath("/etc/caddy/Caddyfile")
UNITS: Final = PurePosixPath("/etc/systemd/system")
CADDY_UNIT: Final = "caddy.service"
_NO_LOGIN: Final = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")
_OURS: Final = b"# opskit provision writes this file"

Step = Callable[[Environment, str, Seen], list[Change]]


def look(environment: Environment) -> Command:
    """Give the command that looks at everything that the steps ask about."""
    return commands.look(
        [
            *(f"package:{name}" for name in (*packages_of(environment), PROXY)),
            f"candidate:{PROXY}",
            f"user:{USER}",
            *(f"path:{path}" for path, *_ in directories_of(environment)),
            *(f"file:{path}" for path in (unit_path(environment), CADDYFILE, _site(environment))),
            f"shipped:{CADDYFILE}",
            *(f"unit:{name}" for name in (environment.unit, CADDY_UNIT)),
            f"runs:{environment.layout.current}",
        ]
    )


def changes(environment: Environment, host: str, seen: Seen) -> list[Change]:
    """Give everything that has to be changed, in order; nothing where the host is ready.

    Args:
        environment: what the host shall be ready for.
        host: its name or address, as environments.yaml has it.
        seen: what is there.

    Raises:
        Failure: something is in the way that only a person can decide about.
    """
    require_debian(host, seen)
    require_own_root(environment, host, seen)
    return [change for step in STEPS for change in step(environment, host, seen)]


def require_debian(host: str, seen: Seen) -> None:
    """Check that a host runs what can be provisioned.

    Raises:
        Failure: it does not.
    """
    if seen.system.partition(" ")[0] not in ("debian", "ubuntu"):
        raise Failure(
            f"{host}: runs {seen.system or 'an unknown system'}; provisioning needs Debian",
            hint="install Debian 12 or newer there, or set the host up yourself: "
            "docs/hosts.md says what it needs",
        )


def require_own_root(environment: Environment, host: str, seen: Seen) -> None:
    """Check that no other environment's service lives in the same root on a host.

    Both would be started at boot, each with the other's connections, messages and releases. An
    environment that was given another name finds its former unit like that.

    Raises:
        Failure: one does.
    """
    others = [name for name in seen.runs.get(str(environment.layout.current), ())
              if name != environment.unit]  # fmt: skip
    if not others:
        return
    other = others[0].removesuffix(".service")
    name, where = environment.name, environment.where("root")
    units, site = f"{UNITS}/{other}.service", f"{SITES}/{other}.caddy"
    raise Failure(
        f"{host}: {environment.root} is where {other}.service runs, of an environment "
        f"{other.removeprefix('chat-')}; two cannot share it",
        hint=f"end that one, there as root (members reconnect): systemctl disable --now "
        f"{other}.service; rm {units} {site}; and, unless that is the former name of {name}: "
        f"mv {environment.root} {environment.root}.{other}; then: opskit provision {name}, opskit "
        f"deploy {name}. To keep both, give {name} another `root` at {where}, and ports of its own",
    )


# --- steps ------------------------------------------------------------------------------------


def packages(environment: Environment, host: str, seen: Seen) -> list[Change]:
    """The Python that runs the service, and the proxy, are installed."""
    missing = [name for name in (*packages_of(environment), PROXY) if name not in seen.packages]
    if not missing:
        return []
    run = (
        commands.finish_packages(),
        commands.update_packages(),
        commands.install_packages(missing),
    )
    return [Change("packages", "install " + ", ".join(missing), run)]


def user(environment: Environment, host: str, seen: Seen) -> list[Change]:
    """The service has a user of its own, that nobody can log in as."""
    return system_user(USER, host, seen)


def system_user(name: str, host: str, seen: Seen) -> list[Change]:
    """Give what makes a user that nobody can log in as.

    Raises:
        Failure: there is one that can.
    """
    entry = seen.users.get(name)
    if entry is None:
        text = f"make the system user {name}, without a login"
        return [Change("user", text, (commands.add_user(name),))]
    shell = entry.rpartition(":")[2]
    if shell not in _NO_LOGIN:
        raise Failure(
            f"{host}: user {name} exists and can log in (its shell is {shell}); opskit needs "
            "one of its own",
            hint=f"if nobody logs in as {name}, there as root: usermod -s /usr/sbin/nologin {name}",
        )
    return []


def directories(environment: Environment, host: str, seen: Seen) -> list[Change]:
    """Each directory is there, with its owner and mode."""
    found = []
    for path, mode, owner, group in directories_of(environment):
        if seen.places.get(str(path)) != Place("directory", mode, owner, group):
            command = commands.make_directory(path, mode=mode, owner=owner, group=group)
            found.append(Change("directories", command.description, (command,)))
    return found


def unit(environment: Environment, host: str, seen: Seen) -> list[Change]:
    """The service's unit is there, read, and starts at boot."""
    path, wanted, name = unit_path(environment), rendering.unit(environment), environment.unit
    now, state = seen.text(str(path)), seen.units.get(name)
    found = []
    if now != wanted:
        run = (files.write(path, wanted.encode()), commands.read_units())
        diff = file_diff(str(path), now, wanted)
        text = f"write {path}"
        if state is not None and state.active:
            text += " (the service runs on; what is new counts from its next start)"
        found.append(Change("unit", text, run, diff))
    elif state is not None and state.stale:
        found.append(Change("unit", "let systemd read its units", (commands.read_units(),)))
    if state is None or not state.enabled:
        found.append(Change("unit", f"let {name} start at boot", (commands.enable(name),)))
    return found


def proxy(environment: Environment, host: str, seen: Seen) -> list[Change]:
    """Caddy runs with the site; a configuration of somebody else's is left alone."""
    found: list[Change] = []
    run: list[Command] = []
    site = rendering.site(environment, host, seen.version(PROXY))
    main = rendering.caddyfile(SITES)
    for path, wanted in ((_site(environment), site), (CADDYFILE, main)):
        now = seen.text(str(path))
        if now == wanted:
            continue
        if path == CADDYFILE and not _may_replace(seen):
            if f"import {SITES}/*.caddy" in (now or ""):
                continue
            raise Failure(
                f"{host}: {CADDYFILE} is somebody's own, and does not take in {SITES}",
                hint=f"add this line at its end, and run it again: import {SITES}/*.caddy",
            )
        command = commands.write_proxy(path, wanted.encode(), main=CADDYFILE)
        found.append(
            Change("proxy", f"write {path}", (command,), file_diff(str(path), now, wanted))
        )
    state = seen.units.get(CADDY_UNIT)
    if state is None or not state.enabled:
        run.append(commands.enable(CADDY_UNIT))
    if found or state is None or not state.active:
        run.append(commands.reload_or_start(CADDY_UNIT))
    if run:
        text = "let Caddy serve it"
        if state is not None and state.active and seen.version(PROXY) < (2, 7):
            text += " (Caddy before 2.7 closes WebSockets then: members reconnect once)"
        found.append(Change("proxy", text, tuple(run)))
    return found


STEPS: Final[Sequence[Step]] = (packages, user, directories, unit, proxy)


# --- what they are about ----------------------------------------------------------------------


def packages_of(environment: Environment) -> tuple[str, ...]:
    """Give the packages that the service needs: the interpreter that its layer is built for."""
    return (f"python{environment.python}",)


def directories_of(environment: Environment) -> list[tuple[PurePosixPath, int, str, str]]:
    """Give every directory with its mode, owner and group; parents first.

    Releases are read by the service and written by root; secrets are read by both and by nobody
    else; what the service writes is its own.
    """
    layout = environment.layout
    return [
        (layout.root, 0o755, "root", "root"),
        (layout.releases, 0o755, "root", "root"),
        (layout.layers, 0o755, "root", "root"),
        (layout.secrets, 0o750, "root", USER),
        (layout.state, 0o700, USER, USER),
        (layout.run, 0o700, USER, USER),
    ]


def unit_path(environment: Environment) -> PurePosixPath:
    """Give where the service's unit lies."""
    return UNITS / environment.unit


def _site(environment: Environment) -> PurePosixPath:
    return SITES / f"{environment.unit.removesuffix('.service')}.caddy"


def _may_replace(seen: Seen) -> bool:
    """Say whether Caddy's main file is ours, its package's, or not there yet."""
    place = seen.places.get(str(CADDYFILE))
    if place is None or place.content is None:
        return place is None
    return place.content.startswith(_OURS) or seen.as_shipped(str(CADDYFILE))
