"""`opskit tail` over several nodes of which not all can be read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from opskit.commands import Command
from opskit.environments import load_environments
from opskit.failure import Failure
from opskit.fleet import Fleet
from opskit.log import show
from opskit.supervision import Detached
from opskit.target import Target
from opskit.terminal import Terminal
from opskit.transport import RecordingExecutor, Result
from opskit.ui import Ui

LINE = '{"ts": "2026-01-31T12:00:00.000Z", "level": "info", "msg": "here"}\n'


class Gone(RecordingExecutor):
    """A host that is out of reach."""

    def run(self, command: Command) -> Result:
        raise Failure(f"{self.host}: out of reach")


def fleet(directory: Path, *executors: RecordingExecutor) -> Fleet:
    path = directory / "environments.yaml"
    path.write_text(
        "environments: {dev: {target: local, root: r, secrets: {jwt_secret: generate}}}"
    )
    environment = load_environments(path).get("dev")
    supervisor = Detached(environment.layout, "python3")
    nodes = [Target(environment, one, supervisor, "python3") for one in executors]
    return Fleet(environment, tuple(nodes))


def tail(nodes: Fleet) -> str:
    stream = io.StringIO()
    ui = Ui(Terminal(stream), "opskit")
    with pytest.raises(Failure, match="gone: out of reach"):
        show(
            nodes, form="json", search="", level="", workspace="", since="", lines=20,
            follow=False, ui=ui, aside=ui,
        )  # fmt: skip
    return stream.getvalue()


def test_a_node_out_of_reach_keeps_nobody_from_the_logs_of_the_others(tmp_path: Path) -> None:
    """Nothing at all was shown, when it was needed most; the exit status tells of the one."""
    there = RecordingExecutor({"log-size": Result(0, "70\n"), "log": Result(0, LINE)}, host="there")
    shown = tail(fleet(tmp_path, there, Gone(host="gone")))
    assert '"source": "there"' in shown
    assert '"msg": "here"' in shown


def test_where_no_node_can_be_read_that_is_all_there_is_to_say(tmp_path: Path) -> None:
    assert tail(fleet(tmp_path, Gone(host="gone"), Gone(host="gone"))) == ""
