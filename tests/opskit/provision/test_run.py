"""Carrying a plan out, with a recording in place of hosts."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.commands import Command
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.failure import Failure
from opskit.provision.change import Change
from opskit.provision.run import Node, planned, provision
from opskit.transport import RecordingExecutor, Result

FRESH = "os\tdebian\t12\npackage\tpython3.11\tinstalled 3.11.2-6\ncandidate\tcaddy\t2.6.2-5\n"
YAML = """\
environments:
  shop:
    target: ssh
    hosts: [192.0.2.7]
    url: https://chat.example.net
    secrets:
      jwt_secret: env:NONE
"""


@pytest.fixture
def shop(tmp_path: Path) -> Environment:
    (tmp_path / "environments.yaml").write_text(YAML)
    return load_environments(tmp_path / "environments.yaml").get("shop")


def recording(host: str, **answers: Result) -> RecordingExecutor:
    return RecordingExecutor(
        {"look": Result(0, FRESH), **{k.replace("_", "-"): v for k, v in answers.items()}},
        host=host,
    )


def test_a_plan_runs_nothing_but_the_look(shop: Environment) -> None:
    executor = recording("one")
    [outcome] = planned([Node("one", executor, shop)])
    assert len(outcome.changes) == 13
    assert [command.name for command in executor.commands] == ["look"]


def test_what_was_done_and_did_not_take_is_a_failure(shop: Environment) -> None:
    executor = recording("one")
    [outcome] = provision([Node("one", executor, shop)])
    assert len(outcome.changes) == 13
    assert str(outcome.failure).startswith(
        "one: all was done, and this is still to do: install caddy; make the system user chat"
    )
    assert [command.name for command in executor.commands].count("look") == 2


def test_a_change_that_fails_ends_that_host_there_and_no_other(shop: Environment) -> None:
    broken = recording("broken", add_user=Result(9, "", "useradd: no more room\n"))
    fine = recording("fine")
    seen: list[tuple[str, str]] = []

    def observe(host: str, change: Change) -> None:
        seen.append((host, change.step))

    first, second = provision([Node("broken", broken, shop), Node("fine", fine, shop)], observe)
    assert isinstance(first.failure, Failure)
    assert str(first.failure) == "broken: could not make the user chat: useradd: no more room"
    assert [change.step for change in first.changes] == ["packages"]
    assert broken.commands[-1].name == "add-user"
    assert len(second.changes) == 13
    assert [step for host, step in seen if host == "broken"] == ["packages", "user"]
    assert len([step for host, step in seen if host == "fine"]) == 13


def test_a_python_that_apt_has_not_is_said_with_what_to_write(
    shop: Environment, tmp_path: Path
) -> None:
    """As after `python` was changed, or the host's system was upgraded: there was nothing to do."""
    said = "E: Unable to locate package python3.11\nE: Couldn't find any package\n"
    [outcome] = provision([Node("one", recording("one", apt_install=Result(100, "", said)), shop)])
    assert outcome.failure is not None
    assert outcome.failure.hint == (
        f"write the one that its system has as `python` at {tmp_path}/environments.yaml:2, or let "
        "apt have python3.11"
    )


def test_commands_of_a_change_run_in_order(shop: Environment) -> None:
    executor = recording("one")
    provision([Node("one", executor, shop)])
    names = [command.name for command in executor.commands if isinstance(command, Command)]
    assert names == [
        "look", "dpkg", "apt-update", "apt-install", "add-user", *["make-directory"] * 6,
        "write-file",
        "daemon-reload", "enable-unit", "write-proxy", "write-proxy", "enable-unit", "reload-unit",
        "look",
    ]  # fmt: skip
