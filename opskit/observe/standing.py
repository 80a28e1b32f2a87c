"""How an environment is watched: what runs for that, from which configuration, and what fires.

It is a part of `opskit status`, which it must neither hold up nor spoil: the look goes on beside
the others, is given up after `LOOK_SECONDS`, and that it failed is an answer.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from opskit.commands import Command
from opskit.commands import monitoring as commands
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.observe.places import (
    DAEMONS,
    executor_of,
    home_of,
    note_of,
    root_of,
    timer_of,
    unit_of,
)
from opskit.observe.probing import probes
from opskit.transport import Executor, LocalExecutor

if TYPE_CHECKING:
    from opskit.observe.firing import Seen

LOOK_SECONDS: Final = 5.0
"""How long a look may take, from its beginning; on the same network it takes a tenth of that."""
_ASKED: Final = {"alertmanager": "/api/v2/alerts", "prometheus": "/api/v1/alerts"}
_NAMES: Final = {"alertmanager": "Alertmanager", "prometheus": "Prometheus"}
_OK: Final = 200


@dataclass(frozen=True)
class Program:
    """A program that watches.

    Attributes:
        name: prometheus, alertmanager, exporter, or probe for the timer of the smoke test.
        state: as systemd has it: active, inactive, failed; `not there` where it has no unit.
        seconds: for how long it has been so; None where that is not known.
    """

    name: str
    state: str
    seconds: float | None

    @property
    def runs(self) -> bool:
        """Whether it does what it is for."""
        return self.state == "active"


@dataclass(frozen=True)
class Standing:
    """How an environment is watched.

    Attributes:
        host: from which host; empty: this machine.
        programs: what there is to run; empty where that could not be seen.
        configuration: the name of the one that is live; empty for none.
        releases: those that it belongs to, the oldest first; none where `monitor` brought it.
        alerts: what fires, as Alertmanager has it; None where that could not be asked.
        silence: who could not be asked, and why; empty when all answered.
        trouble: all that is wrong with watching; empty when nothing is.
        next: what to do about that.
    """

    host: str
    programs: tuple[Program, ...]
    configuration: str
    releases: tuple[str, ...]
    alerts: Seen | None
    silence: str
    trouble: str
    next: str

    def to_json(self) -> dict[str, Any]:
        """Give it for --json; the keys are stable."""
        return {
            "host": self.host or None,
            "programs": [
                {
                    "name": one.name,
                    "state": one.state,
                    "seconds": None if one.seconds is None else round(one.seconds, 1),
                }
                for one in self.programs
            ],
            "configuration": self.configuration or None,
            "releases": list(self.releases),
            "alerts": self.alerts.to_json() if self.alerts else None,
            "silence": self.silence,
            "trouble": self.trouble,
            "next": self.next,
        }


def is_watched(environment: Environment) -> bool:
    """Say whether it is to be watched: by its monitoring host, or by what was started here.

    What `opskit monitor --stop` ended is not looked for; what died is.
    """
    if environment.monitoring.host:
        return True
    root = home_of(environment)
    return any(note_of(root, name).exists() for name in DAEMONS)


class Looking:
    """A look that has begun, and that nobody waits for longer than `seconds` from then on."""

    def __init__(self, environment: Environment, *, seconds: float = LOOK_SECONDS) -> None:
        self._environment = environment
        self._seconds = seconds
        self._until = time.monotonic() + seconds
        self._found: list[Standing] = []
        self._thread: threading.Thread | None = None
        if is_watched(environment):
            # A daemon: what does not answer must not keep opskit from ending.
            self._thread = threading.Thread(target=self._look, name="watching", daemon=True)
            self._thread.start()

    def end(self) -> Standing | None:
        """Give what was seen; None where nothing is to be watched."""
        if self._thread is None:
            return None
        self._thread.join(max(0.0, self._until - time.monotonic()))
        if self._found:
            return self._found[0]
        where = self._environment.monitoring.host or "this machine"
        return _unseen(self._environment, f"{where} did not answer within {self._seconds:g} s", "")

    def _look(self) -> None:
        environment = self._environment
        try:
            with _reached(environment) as executor:
                self._found.append(look(environment, executor))
        except Failure as failure:
            self._found.append(_unseen(environment, str(failure), failure.hint))
        except Exception as error:  # whatever it is: `status` has more to tell than this
            where = environment.monitoring.host or "this machine"
            why = f"{where}: its monitoring cannot be looked at: {error!r}"
            self._found.append(_unseen(environment, why, ""))


def look(environment: Environment, executor: Executor) -> Standing:
    """Find out how an environment is watched, with one command.

    Args:
        environment: which.
        executor: runs it where it is watched from.

    Raises:
        Failure: that could not be reached.
    """
    said = executor.check(_survey(environment))
    try:
        return read(environment, json.loads(said))
    except (ValueError, KeyError, TypeError) as error:
        why = f"what it says of its monitoring cannot be read: {error!r}"
        raise Failure(f"{executor.host}: {why}") from None


def read(environment: Environment, seen: Mapping[str, Any]) -> Standing:
    """Read what `commands/host/survey_monitoring.py` prints."""
    programs = tuple(
        Program(name, str(one["state"]), one["seconds"]) for name, one in seen["programs"].items()
    )
    alerts, silent = _alerts(environment, seen["answers"])
    wrong = [_down(one) for one in programs if not one.runs] + list(silent.values())
    if any(one.state == "not there" for one in programs):
        again = f"opskit provision {environment.name}"
    else:
        again = f"opskit monitor {environment.name}"
    return Standing(
        host=environment.monitoring.host or "",
        programs=programs,
        configuration=str(seen["configuration"] or ""),
        releases=tuple(map(str, seen["releases"])),
        alerts=alerts,
        silence="; ".join(silent.values()),
        trouble="; ".join(wrong),
        next=again if wrong else "",
    )


def _down(one: Program) -> str:
    what = "the probe's timer" if one.name == "probe" else one.name
    return f"{what} has died" if one.state == "failed" else f"{what} is {one.state}"


def _alerts(
    environment: Environment, answers: Mapping[str, Any]
) -> tuple[Seen | None, dict[str, str]]:
    """Give what fires, and of each that does not answer what there is to say."""
    from opskit.observe.firing import seen_in

    parsed: dict[str, Any] = {}
    silent: dict[str, str] = {}
    for name, answer in answers.items():
        try:
            if answer["status"] == _OK:
                parsed[name] = json.loads(answer["body"])
                continue
            how = f"answers with HTTP {answer['status']}" if answer["status"] else "does not answer"
        except ValueError:
            how = "answers with something else than JSON"
        silent[name] = f"{_NAMES[name]} {how} at {_address(environment, name)}"
    if "alertmanager" not in parsed:
        return None, silent
    rules = parsed["prometheus"]["data"]["alerts"] if "prometheus" in parsed else []
    return seen_in(environment, parsed["alertmanager"], rules), silent


def _address(environment: Environment, name: str) -> str:
    url = f"http://127.0.0.1:{environment.monitoring.port_of(name)}"
    host = environment.monitoring.host
    return f"{url} of {host}" if host else url


def _unseen(environment: Environment, why: str, hint: str) -> Standing:
    return Standing(
        host=environment.monitoring.host or "",
        programs=(),
        configuration="",
        releases=(),
        alerts=None,
        silence=why,
        trouble=why,
        next=hint,
    )


@contextmanager
def _reached(environment: Environment) -> Iterator[Executor]:
    """Give what runs commands where an environment is watched from."""
    if not environment.monitoring.host:
        yield LocalExecutor()
        return
    executor = executor_of(environment)
    try:
        yield executor
    finally:
        executor.close()


def _survey(environment: Environment) -> Command:
    there = bool(environment.monitoring.host)
    units = {name: unit_of(name, environment) for name in DAEMONS} if there else {}
    if there and probes(environment):
        units["probe"] = timer_of("probe", environment)
    order = {
        "root": str(root_of(environment) if there else home_of(environment)),
        "units": units,
        "programs": DAEMONS,
        "ask": {
            name: (environment.monitoring.port_of(name), path) for name, path in _ASKED.items()
        },
    }
    return commands.survey(order, python=commands.PYTHON if there else sys.executable)
