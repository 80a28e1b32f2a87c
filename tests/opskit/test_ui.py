"""What a person sees: marks and words, on terminals and elsewhere."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from opskit.deploy.plan import Event, Kind
from opskit.deploy.preflight import Verdict
from opskit.deployments import Record
from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.facts import HeldLease, Manifest, Process, Serving
from opskit.failure import Failure, PersonNeeded
from opskit.fleet import Fleet
from opskit.lock import Holder
from opskit.node_status import NodeStatus
from opskit.progress import Progress
from opskit.status import Status
from opskit.supervision import Detached
from opskit.target import Target
from opskit.terminal import Terminal, visible
from opskit.transport import RecordingExecutor
from opskit.ui import Ui, nearby, program
from opskit.views import show_deployments, show_status, show_verdicts
from tests.opskit.facts_of import EMPTY
from tests.opskit.test_deployments import ONE, record


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.fixture
def plain() -> tuple[Ui, io.StringIO]:
    stream = io.StringIO()
    return Ui(Terminal(stream), ".venv/bin/opskit"), stream


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    file = tmp_path / "environments.yaml"
    file.write_text(
        "environments: {dev: {target: local, root: r, secrets: {jwt_secret: generate}}}"
    )
    return load_environments(file).get("dev")


def test_colour_is_for_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    """On one, unless NO_COLOR or a dumb terminal say otherwise; never elsewhere."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert Terminal(Tty()).paint("red", "x") == "\x1b[31mx\x1b[0m"
    assert Terminal(io.StringIO()).paint("red", "x") == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert Terminal(Tty()).paint("red", "x") == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not Terminal(Tty()).tty


def test_marks_are_words_where_signs_cannot_be_shown() -> None:
    """An ASCII stream gets words, so that nothing fails to be written."""
    ascii_stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert Terminal(ascii_stream).mark("done") == "ok"
    assert Terminal(ascii_stream).mark("failed") == "FAILED"


def test_what_a_stream_cannot_show_is_words_or_question_marks() -> None:
    """A deployment that served ended with an internal error where the locale knew no ✓."""
    written = io.BytesIO()
    terminal = Terminal(io.TextIOWrapper(written, encoding="ascii"))
    terminal.line("✓ passed, ✗ failed … by Zoë")
    assert written.getvalue() == b"ok passed, FAILED failed ... by Zo?\n"


def test_without_standard_output_nothing_is_written() -> None:
    """`opskit ... >&-`: there is no stream, and that was an internal error."""
    terminal = Terminal(None)
    terminal.line("lost")
    assert not terminal.tty


def test_a_table_is_aligned_by_what_is_seen() -> None:
    """Colours take no room."""
    stream = Tty()
    terminal = Terminal(stream)
    terminal.colour = True
    terminal.table(["a", "b"], [[terminal.paint("red", "long"), "x"], ["s", "y"]])
    lines = [visible(line) for line in stream.getvalue().splitlines()]
    assert lines == ["  a     b", "  long  x", "  s     y"]


def test_steps_are_plain_lines_without_a_terminal() -> None:
    """Done, failed and undone, with times; what has nothing to say when undone is not shown."""
    stream = io.StringIO()
    progress = Progress(Terminal(stream))
    for event in (
        Event(Kind.STARTED, "lock"),
        Event(Kind.DONE, "lock", "", 0.12),
        Event(Kind.SKIPPED, "mend", "nothing was interrupted"),
        Event(Kind.SKIPPED, "switch", "v1 serves already"),
        Event(Kind.STARTED, "smoke"),
        Event(Kind.NOTE, "smoke", "a word in between"),
        Event(Kind.FAILED, "smoke", "it broke\nfor a reason", 1.5),
        Event(Kind.UNDOING, "smoke"),
        Event(Kind.UNDONE, "smoke", "", 0.1),
        Event(Kind.UNDOING, "switch"),
        Event(Kind.UNDONE, "switch", "v1 serves again", 0.4),
        Event(Kind.STUCK, "lock", "no route to host", 0.0),
    ):
        progress(event)
    lines = [" ".join(line.split()) for line in stream.getvalue().splitlines()]
    assert lines == [
        "ok lock 0.12 s",
        "- switch v1 serves already",
        "a word in between",
        "FAILED smoke it broke 1.50 s",
        "undoing",
        "undone switch v1 serves again 0.40 s",
        "FAILED lock no route to host",
    ]


def test_a_step_is_one_line_of_eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each was one column longer, and its time was broken over two lines."""
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Tty()
    Progress(Terminal(stream))(Event(Kind.DONE, "lock", "taken", 100.12))
    line = stream.getvalue().removesuffix("\n")
    assert line.startswith("  ✓ lock       taken ")
    assert line.endswith(" 100.12 s")
    assert len(line) < 80


def test_an_error_says_what_where_and_what_next(plain: tuple[Ui, io.StringIO]) -> None:
    """The log lines, the reason, and the command as this person has to type it."""
    ui, stream = plain
    ui.error(Failure("it broke", hint="opskit deploy dev", lines=["one", "two"]))
    assert stream.getvalue().splitlines() == [
        "",
        "  | one",
        "  | two",
        "",
        "FAILED it broke",
        "  next: .venv/bin/opskit deploy dev",
    ]
    stream.truncate(0)
    ui.error(PersonNeeded("it broke", hint="opskit rollback v1 --env dev"))
    assert "run: .venv/bin/opskit rollback v1 --env dev" in stream.getvalue()


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("look with: opskit status", "look with: P status"),
        ("opskit deploy dev, or opskit stop dev", "P deploy dev, or P stop dev"),
        ("/usr/bin/opskit deploy dev", "/usr/bin/opskit deploy dev"),
        ("opskit died in the step switch", "opskit died in the step switch"),
        ("opskit deployment", "opskit deployment"),
    ],
)
def test_commands_in_a_text_can_be_run_as_they_are(text: str, written: str) -> None:
    """Only commands are rewritten, not every mention of opskit."""
    assert Ui(Terminal(io.StringIO()), "P").runnable(text) == written


def test_how_to_call_opskit_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name when that finds this very program, else by its path from here."""
    script = tmp_path / "bin" / "opskit"
    script.parent.mkdir()
    script.touch(mode=0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(script)])
    monkeypatch.setenv("PATH", "/nowhere")
    assert program() == "bin/opskit"
    monkeypatch.setenv("PATH", str(script.parent))
    assert program(["--environments", "f"]) == "opskit --environments f"
    assert nearby(Path("/elsewhere/x")) == "/elsewhere/x"


MANIFEST = Manifest("c", "0123456789abcdef", True, "", "layer", 1, 1)
SERVING = Serving(2, 22, "0123456789abcdef", "127.0.0.1", 8765, "", True)
FINE = replace(
    EMPTY,
    current=2,
    releases={1: MANIFEST, 2: MANIFEST},
    processes=(Process(22, 2, 0.0),),
    serving=SERVING,
)
CONTROL = {"uptime": 90.0, "connections": 3, "rooms": 1, "schema": 1, "database_bytes": 10**6}


@pytest.fixture
def make(environment: Environment) -> Callable[..., Status]:
    def make(**changes: object) -> Status:
        fleet = fleet_of(environment)
        node = NodeStatus(fleet.lead, FINE, Record((ONE,)), CONTROL, "", None, "")
        return Status(fleet, (replace(node, **changes),))  # type: ignore[arg-type]

    return make


def fleet_of(environment: Environment) -> Fleet:
    supervisor = Detached(environment.layout, "python3")
    return Fleet(environment, (Target(environment, RecordingExecutor(), supervisor, "python3"),))


def test_a_status_without_trouble(
    make: Callable[..., Status], plain: tuple[Ui, io.StringIO]
) -> None:
    """All is well, and nothing is suggested."""
    ui, stream = plain
    status = make()
    assert (status.ok, status.trouble) == (True, ("", ""))
    show_status(ui, status)
    shown = stream.getvalue()
    assert "release    v2, commit 0123456789+" in shown
    assert "serving    v2 for 1 min, pid 22, 127.0.0.1:8765" in shown
    assert "members    3 connections, 1 rooms" in shown
    assert "next:" not in shown


@pytest.mark.parametrize(
    ("change", "trouble", "command"),
    [
        ({"current": None, "serving": None}, "nothing is deployed", "deploy dev"),
        ({"serving": None}, "nothing serves; it was not stopped by opskit", "deploy dev"),
        (
            {"serving": replace(SERVING, release=1)},
            "v1 serves, but current is v2",
            "rollback v1 --env dev",
        ),
        (
            {"serving": replace(SERVING, unready="the disk is full")},
            "not ready: the disk is full",
            "tail dev --level warning",
        ),
    ],
)
def test_trouble_comes_with_the_next_command(
    make: Callable[..., Status],
    plain: tuple[Ui, io.StringIO],
    change: dict[str, object],
    trouble: str,
    command: str,
) -> None:
    """What is wrong, and what to run."""
    ui, stream = plain
    status = make(facts=replace(FINE, **change))  # type: ignore[arg-type]
    assert not status.ok
    assert status.trouble == (trouble, f"opskit {command}")
    assert status.to_json()["trouble"] == trouble
    show_status(ui, status)
    assert f"next: .venv/bin/opskit {command}" in stream.getvalue()


def test_a_service_without_its_unit_is_sent_to_provisioning(make: Callable[..., Status]) -> None:
    """It serves, and would not after a reboot; on a fresh host a deploy would only be refused."""
    status = make(facts=replace(FINE, unit=False))
    assert status.ok
    assert status.trouble[0].endswith("is not there: nothing starts it at boot")
    assert status.trouble[1] == "opskit provision dev"
    fresh = make(facts=replace(FINE, unit=False, current=None, serving=None))
    assert fresh.trouble == ("nothing is deployed", "opskit provision dev")


def test_an_expired_certificate_is_trouble(make: Callable[..., Status]) -> None:
    """It stood there in red, and nothing was said to be wrong."""
    status = replace(make(), certificate=1.0)
    assert status.trouble == (
        "the certificate that http://127.0.0.1:8765 shows has expired: nobody connects",
        "opskit check dev",
    )
    assert replace(make(), certificate=4e9).trouble == ("", "")


def test_who_is_busy_is_shown(make: Callable[..., Status], plain: tuple[Ui, io.StringIO]) -> None:
    """While somebody deploys, status says who, since when and for what; it is no trouble."""
    ui, stream = plain
    lease = HeldLease("token", Holder("ann@desk", "noon", "deploy dev", ""), 12.0)
    note = json.dumps({"step": "smoke", "deployment": {**ONE.to_json(), "id": "x"}})
    status = make(facts=replace(FINE, lease=lease, in_progress=note))
    show_status(ui, status)
    assert "ann@desk is busy since noon: deploy dev" in stream.getvalue()
    assert status.to_json()["lock"] == {"who": "ann@desk", "since": "noon", "what": "deploy dev"}
    assert status.trouble == ("", "")


def test_an_empty_record_says_so(
    make: Callable[..., Status], plain: tuple[Ui, io.StringIO]
) -> None:
    """And lines that cannot be read are told of."""
    ui, stream = plain
    show_deployments(ui, make(record=Record((), (3, 7))), 20)
    assert "no deployments yet" in stream.getvalue()
    assert "cannot be read: 3, 7" in stream.getvalue()


def test_only_what_serves_is_marked_in_the_record(
    make: Callable[..., Status], plain: tuple[Ui, io.StringIO]
) -> None:
    """Of two acts that made it serve, the newer one."""
    ui, stream = plain
    acts = record(("deploy", 1, "good"), ("deploy", 2, "undone"), ("rollback", 1, "good"))
    show_deployments(ui, make(record=acts, facts=replace(EMPTY, current=1)), 20)
    rows = [line.split()[:3] for line in stream.getvalue().splitlines()[1:]]
    assert rows == [[">", "v1", "rollback"], ["v2", "deploy", "undone"], ["v1", "deploy", "good"]]


def test_verdicts_with_hints(plain: tuple[Ui, io.StringIO]) -> None:
    """What is wrong comes with what to do."""
    ui, stream = plain
    show_verdicts(ui, [Verdict("disk", True, "9 GB"), Verdict("port", False, "in use", "stop it")])
    assert stream.getvalue().splitlines() == [
        "  ok disk         9 GB",
        "  FAILED port         in use",
        "      next: stop it",
    ]
