"""What must be true of a host before anything is changed there.

Each check is a small pure function of what was seen; `opskit check` shows all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opskit.deploy.act import Part
from opskit.deploy.step import Step
from opskit.deployments import Action, Record
from opskit.environment import Environment
from opskit.facts import Facts
from opskit.failure import Failure
from opskit.layout import release_name

FREE_BYTES = 256 * 1024 * 1024
"""Room for two layers (60 MB each), a few releases and the growth of the store meanwhile."""
FREE_FILES = 20_000


@dataclass(frozen=True)
class Verdict:
    """What one check found.

    Attributes:
        name: the check's.
        ok: whether all is well.
        detail: what was found.
        hint: what to do about it; empty when it is fine.
        node: where; empty where there is one node, or for all of them.
    """

    name: str
    ok: bool
    detail: str
    hint: str = ""
    node: str = ""


Check = Callable[[Environment, Facts], Verdict]


def python(environment: Environment, facts: Facts) -> Verdict:
    """The host runs the Python that the layer is built for."""
    wanted = environment.python
    ok = ".".join(facts.python.split(".")[:2]) == wanted
    hint = "" if ok else f"install Python {wanted} there, or change `python` in environments.yaml"
    return Verdict("python", ok, f"Python {facts.python}, {facts.machine}", hint)


def tools(environment: Environment, facts: Facts) -> Verdict:
    """Every program that opskit runs there is installed."""
    missing = [name for name, there in sorted(facts.tools.items()) if not there]
    if not missing:
        return Verdict("tools", True, ", ".join(sorted(facts.tools)))
    hint = "install util-linux, coreutils and tar"
    return Verdict("tools", False, "not installed: " + ", ".join(missing), hint)


def room(environment: Environment, facts: Facts) -> Verdict:
    """The file system of the root has room for a release and its layer."""
    if facts.free_bytes < FREE_BYTES:
        free, needed = facts.free_bytes / 1e6, FREE_BYTES / 1e6
        detail = f"only {free:.0f} MB free at {environment.root}, a deploy needs {needed:.0f} MB"
        hint = "make room there (see with: df -h; du -xh / | sort -h | tail); a rollback needs none"
        return Verdict("disk", False, detail, hint)
    if 0 <= facts.free_files < FREE_FILES:
        hint = f"remove files (see with: df -i): at least {FREE_FILES} must be possible"
        detail = f"only {facts.free_files} more files are possible at {environment.root}"
        return Verdict("disk", False, detail, hint)
    return Verdict("disk", True, f"{facts.free_bytes / 1e9:.1f} GB free")


def permission(environment: Environment, facts: Facts) -> Verdict:
    """The root belongs to who deploys, and can be written."""
    root = environment.root
    if not facts.writable:
        hint = "run opskit as its owner, or choose another root"
        return Verdict("root", False, f"{root} cannot be written by user {facts.user}", hint)
    return Verdict("root", True, str(root))


def public_port(environment: Environment, facts: Facts) -> Verdict:
    """The public port is free, or ours."""
    bound = environment.settings.service
    return _port(environment, facts, "port", bound.host, bound.port)


def admin_port(environment: Environment, facts: Facts) -> Verdict:
    """The port of the metrics is free, or ours."""
    bound = environment.settings.service
    return _port(environment, facts, "admin_port", bound.admin_host, bound.admin_port)


def _port(environment: Environment, facts: Facts, key: str, host: str, port: int) -> Verdict:
    name = key.replace("_", " ")
    address = f"{host}:{port}"
    listener = facts.listener(port)
    ours = {one.pid: one.release for one in facts.processes}
    if listener is None:
        why = facts.bindable.get(port, "")
        hint = f"change chat.service.{key} at {environment.where('chat', 'service', key)}"
        if why and not facts.processes:
            return Verdict(name, False, f"nothing can listen on {address}: {why}", hint)
        return Verdict(name, True, f"{address} is free")
    if listener.pid in ours:
        return Verdict(name, True, f"{address} is {release_name(ours[listener.pid])}'s")
    for number in facts.running_beyond(environment.nodes):
        if listener.pid in [one.pid for one in facts.nodes[number]]:
            detail = f"{address} is in use by node {number} (pid {listener.pid}), one too many now"
            where = environment.where("chat", "service", key)
            hint = f"write what chat.service.{key} was before at {where}, then: opskit deploy "
            hint += f"{environment.name} (sends the members of node {number} to the others and "
            hint += (
                f"ends it), and change it after that; or end all: opskit stop {environment.name}"
            )
            return Verdict(name, False, detail, hint)
    who = (
        f"pid {listener.pid} ({listener.command[:120]})"
        if listener.pid
        else "another user's process"
    )
    hint = (
        f"stop it (kill {listener.pid}), " if listener.pid else "stop it, "
    ) + f"or choose another chat.service.{key} at {environment.where('chat', 'service', key)}"
    return Verdict(name, False, f"{address} is in use by {who}", hint)


def provisioned(environment: Environment, facts: Facts) -> Verdict:
    """The unit that runs the service is there, on hosts."""
    if environment.target == "local":
        return Verdict("unit", True, "needs none on this machine")
    if facts.unit:
        return Verdict("unit", True, environment.unit)
    hint = f"opskit provision {environment.name}"
    return Verdict("unit", False, f"{environment.unit} is not there", hint)


CHECKS: tuple[Check, ...] = (provisioned, python, tools, permission, room, public_port, admin_port)


def verdicts(environment: Environment, facts: Facts) -> list[Verdict]:
    """Run every check."""
    return [check(environment, facts) for check in CHECKS]


class Preflight(Step):
    """Looks before anything is changed."""

    name = "preflight"

    def describe(self, part: Part) -> str:
        """Say what the step does."""
        return f"see that {part.target.executor.host} can run the release; change nothing"

    def apply(self, part: Part) -> str:
        """Look, and refuse what cannot work."""
        facts = part.look()
        bad = [one for one in verdicts(part.target.environment, facts) if not one.ok]
        if bad:
            host = part.target.executor.host
            raise Failure(
                f"{host}: " + "; ".join(one.detail for one in bad),
                hint="; ".join(one.hint for one in bad),
            )
        way = f", {how_it_will_go(facts)}" if facts.serving else ""
        return f"{how_it_is(facts, part.record)}, {facts.free_bytes / 1e9:.0f} GB free{way}"


def how_it_is(facts: Facts, record: Record) -> str:
    """Say what serves; and where nothing does, whether anything did, and what a deploy starts."""
    if facts.serving is not None:
        return f"{release_name(facts.serving.release)} serves"
    if facts.processes:
        names = sorted({one.release for one in facts.processes})
        said = " and ".join(release_name(number) for number in names)
        return f"{said} {'runs' if len(names) == 1 else 'run'} and nothing answers"
    if facts.current is None:
        return "nothing serves yet"
    last, name = record.last, release_name(facts.current)
    how = "was stopped" if last is not None and last.action is Action.STOP else "does not run"
    return f"{name} is current and {how}; this deploy starts it again, or a newer release"


def how_it_will_go(facts: Facts) -> str:
    """Say what a deployment will mean for those who are connected."""
    if (control := facts.control) is None:
        return "it is silent: its members will be cut, and come back"
    count = control.get("connections")
    if "last_start" in control:
        return f"{count} connection{'s' * (count != 1)} will move"
    return (
        f"{count} member{'s' * (count != 1)} will be asked to come back (it does not hand "
        "connections over)"
    )
