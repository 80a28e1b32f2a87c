"""The order of things: steps run forward, are undone backward, and what that depends on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import pytest

from opskit.deploy import plan
from opskit.deploy.act import Act, Part
from opskit.deploy.plan import Event
from opskit.deploy.step import Step
from opskit.deployments import Action
from opskit.environments import load_environments
from opskit.failure import Failure, Misuse, PersonNeeded, Unreachable
from opskit.fleet import Fleet
from opskit.lock import Holder, Lease
from opskit.person import this_person
from opskit.problems import ConfigError, Problem
from opskit.supervision import Detached
from opskit.target import Target
from opskit.transport import Executor, LocalExecutor, RecordingExecutor
from tests.opskit.site import quick_smoke


class Note(Step):
    """A step that writes down what is done with it."""

    def __init__(
        self,
        name: str,
        log: list[str],
        *,
        fails: BaseException | None = None,
        undo_fails: Exception | None = None,
        skipped: str = "",
        during: Callable[[Part], None] = lambda part: None,
    ) -> None:
        self.name = name
        self._log = log
        self._fails = fails
        self._undo_fails = undo_fails
        self._skipped = skipped
        self._during = during

    def describe(self, part: Part) -> str:
        return self.name

    def skip(self, part: Part) -> str:
        return self._skipped

    def apply(self, part: Part) -> str:
        self._log.append(f"do {self.name}")
        self._during(part)
        if self._fails is not None:
            raise self._fails
        return "done"

    def undo(self, part: Part) -> str:
        self._log.append(f"undo {self.name}")
        if self._undo_fails is not None:
            raise self._undo_fails
        return "undone"


@pytest.fixture
def make_act(tmp_path: Path) -> Callable[..., Act]:
    file = tmp_path / "environments.yaml"
    file.write_text(
        "environments: {dev: {target: local, root: r, secrets: {jwt_secret: generate}}}"
    )
    environment = load_environments(file).get("dev")

    def make(executor: Executor | None = None) -> Act:
        one = executor or RecordingExecutor()
        target = Target(environment, one, Detached(environment.layout, "python3"), "python3")
        fleet = Fleet(environment, (target,))
        return Act(fleet, Action.DEPLOY, this_person(), quick_smoke, lambda node, text: None)

    return make


def run(act: Act, *steps: Step) -> list[str]:
    events: list[Event] = []
    try:
        plan.run(act, steps, events.append)
    finally:
        act.warnings.append("; ".join(f"{one.kind} {one.step}" for one in events))
    return [f"{one.kind} {one.step}" for one in events]


def test_steps_run_in_order(make_act: Callable[..., Act]) -> None:
    """Each is announced and done; a skipped one is neither done nor undone."""
    log: list[str] = []
    seen = run(make_act(), Note("a", log), Note("b", log, skipped="no need"), Note("c", log))
    assert log == ["do a", "do c"]
    assert seen == ["started a", "done a", "skipped b", "started c", "done c"]


def test_a_failure_undoes_in_reverse_what_was_begun(make_act: Callable[..., Act]) -> None:
    """The failed step too, since it may have been done in part; a later one was never begun."""
    log: list[str] = []
    act = make_act()
    steps = [
        Note("a", log),
        Note("b", log, skipped="no need"),
        Note("c", log, fails=Failure("c broke", hint="do this")),
        Note("d", log),
    ]
    with pytest.raises(Failure, match="c broke") as caught:
        run(act, *steps)
    assert log == ["do a", "do c", "undo c", "undo a"]
    assert (caught.value.status, caught.value.hint) == (1, "do this")
    assert act.failure == "c broke"


@pytest.mark.parametrize(
    ("error", "kind", "status", "said"),
    [
        (KeyboardInterrupt(), Failure, 1, "interrupted"),
        (ZeroDivisionError("by zero"), Failure, 1, "internal error: ZeroDivisionError: by zero"),
        (ConfigError([Problem("f:1", "k", "is wrong")]), Misuse, 2, "f:1: k: is wrong"),
    ],
)
def test_whatever_it_is_everything_is_undone(
    make_act: Callable[..., Act],
    error: BaseException,
    kind: type[Failure],
    status: int,
    said: str,
) -> None:
    """Ctrl-C, a bug, and a wrong configuration are undone as any failure is."""
    log: list[str] = []
    with pytest.raises(kind) as caught:
        run(make_act(), Note("a", log), Note("b", log, fails=error))
    assert log == ["do a", "do b", "undo b", "undo a"]
    assert (caught.value.status, str(caught.value)) == (status, said)


def test_when_undoing_fails_the_rest_is_undone_and_a_person_is_needed(
    make_act: Callable[..., Act],
) -> None:
    """Exit status 3, both reasons, and the command to run."""
    log: list[str] = []
    act = make_act()
    act.lead.before = 7
    steps = [
        Note("a", log),
        Note("b", log, undo_fails=Failure("v7 does not start", lines=["its log"])),
        Note("c", log, fails=Failure("c broke")),
    ]
    with pytest.raises(PersonNeeded) as caught:
        run(act, *steps)
    assert log == ["do a", "do b", "do c", "undo c", "undo b", "undo a"]
    assert caught.value.status == 3
    assert str(caught.value) == "c broke; and undoing it failed too: v7 does not start"
    assert caught.value.hint == "opskit rollback v7 --env dev"
    assert caught.value.lines == ("its log",)
    assert act.broken


def test_after_the_point_of_no_return_nothing_is_undone(make_act: Callable[..., Act]) -> None:
    """Once it is recorded, what fails is a warning, and the steps after it still run."""

    def record(part: Part) -> None:
        part.act.recorded = True

    log: list[str] = []
    act = make_act()
    seen = run(
        act,
        Note("record", log, during=record),
        Note("prune", log, fails=Failure("disk on fire")),
        Note("unlock", log),
    )
    assert log == ["do record", "do prune", "do unlock"]
    assert seen[-4:] == ["started prune", "failed prune", "started unlock", "done unlock"]
    assert act.warnings[0] == "prune: disk on fire"


@pytest.fixture
def act_of_two(make_act: Callable[..., Act]) -> Act:
    one = make_act()
    fleet = Fleet(one.environment, (one.fleet.lead, one.fleet.lead))
    return Act(fleet, Action.DEPLOY, this_person(), quick_smoke, lambda node, text: None)


def test_ctrl_c_undoes_only_once_all_nodes_have_ended_what_they_do(act_of_two: Act) -> None:
    """What is undone on one node while it is still being done there would be done in the end."""
    log: list[str] = []
    undoing = threading.Event()

    class Slow(Note):
        def undo(self, part: Part) -> str:
            undoing.set()
            return super().undo(part)

    def interrupted(part: Part) -> None:
        if part is act_of_two.lead:
            os.kill(os.getpid(), signal.SIGINT)
            undoing.wait(0.5)
        log.append("ended")

    with pytest.raises(Failure, match=r"^interrupted$"):
        run(act_of_two, Slow("a", log, during=interrupted))
    assert sorted(log[:-2]) == ["do a", "do a", "ended", "ended"]
    assert log[-2:] == ["undo a", "undo a"]


def test_ctrl_c_after_the_point_of_no_return_undoes_nothing(act_of_two: Act) -> None:
    """Not in a step on all nodes at once either: the next ones are done, and it is a warning."""
    log: list[str] = []

    def recorded(part: Part) -> None:
        part.act.recorded = True

    def interrupted(part: Part) -> None:
        if part is act_of_two.lead:
            os.kill(os.getpid(), signal.SIGINT)
            threading.Event().wait(0.2)  # so that it is heard while this is still under way

    run(
        act_of_two,
        Note("record", log, during=recorded),
        Note("prune", log, during=interrupted),
        Note("unlock", log),
    )
    assert not [line for line in log if line.startswith("undo")]
    assert log[-2:] == ["do unlock", "do unlock"]
    assert act_of_two.warnings[0] == "prune: interrupted"


def test_ctrl_c_is_not_heard_while_undoing(make_act: Callable[..., Act]) -> None:
    """Whoever presses it again in the middle of undoing does not leave half of it undone."""

    class Impatient(Note):
        def undo(self, part: Part) -> str:
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(os.getpid(), number)
            return super().undo(part)

    log: list[str] = []
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Failure, match="interrupted"):
        run(make_act(), Note("a", log), Impatient("b", log, fails=KeyboardInterrupt()))
    assert log == ["do a", "do b", "undo b", "undo a"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def leased(make_act: Callable[..., Act], root: Path) -> tuple[Act, Lease]:
    """Give an act that has begun, on this machine, under a lease that it holds."""
    local = LocalExecutor()
    act = make_act(local)
    lease = Lease(local, PurePosixPath(root), Holder("me", "now", "deploy dev", ""), ttl=60)
    lease.acquire()
    act.lead.hold(lease)
    act.number, act.lead.begun = 2, True
    act.lead.mark("begin")
    return act, lease


def test_without_the_lease_nothing_is_undone(make_act: Callable[..., Act], tmp_path: Path) -> None:
    """Who took it has put everything back; undoing once more would undo theirs."""
    root = tmp_path / "r"
    act, lease = leased(make_act, root)
    log: list[str] = []

    def lose(part: Part) -> None:
        text = (root / "lock").read_text()
        (root / "lock").write_text(text.replace(lease.token, "theirs"))

    with pytest.raises(Failure, match="the lock was lost"):
        run(act, Note("a", log, during=lose), Note("b", log, during=lambda part: part.mark("b")))
    assert log == ["do a"]
    assert "theirs" in (root / "lock").read_text()


def test_a_lease_that_nobody_else_took_is_taken_again_to_undo(
    make_act: Callable[..., Act], tmp_path: Path
) -> None:
    """When the lock file merely vanished, the note of the act is still ours: so is the undoing."""
    root = tmp_path / "r"
    act, lease = leased(make_act, root)
    log: list[str] = []

    def lose(part: Part) -> None:
        (root / "lock").unlink()

    with pytest.raises(Failure, match="the lock was lost"):
        run(act, Note("a", log, during=lose), Note("b", log))
    assert log == ["do a", "undo a"]
    lease.release()
    assert not (root / "lock").exists()


def test_a_deployment_that_others_mended_is_left_alone(
    make_act: Callable[..., Act], tmp_path: Path
) -> None:
    """When the note of the act is gone, another has come and gone: nothing is undone."""
    root = tmp_path / "r"
    act, _ = leased(make_act, root)
    log: list[str] = []

    def lose(part: Part) -> None:
        (root / "lock").unlink()
        (root / "in-progress.json").unlink()

    with pytest.raises(Failure, match="the lock was lost"):
        run(act, Note("a", log, during=lose), Note("b", log))
    assert log == ["do a"]
    assert not (root / "lock").exists()


def test_a_node_that_falls_silent_while_undoing_is_left_alone(act_of_two: Act) -> None:
    """Each of its steps would be waited for in vain; the other node is put back whole."""
    log: list[str] = []

    class Silent(Note):
        def undo(self, part: Part) -> str:
            if part is act_of_two.lead:
                raise Unreachable("it does not answer")
            return super().undo(part)

    steps = Note("a", log), Note("b", log), Silent("c", log, fails=Failure("no"))
    with pytest.raises(PersonNeeded, match=r"undoing it failed too: .*it does not answer"):
        run(act_of_two, *steps)
    assert [line for line in log if line.startswith("undo")] == ["undo c", "undo b", "undo a"]
    assert [part.broken for part in act_of_two.parts] == [True, False]
