"""Executors: this machine, and one that only remembers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath

import pytest

from opskit.commands import Command, files
from opskit.failure import Failure
from opskit.transport import (
    CommandFailed,
    CommandTimeout,
    LocalExecutor,
    RecordingExecutor,
    Result,
)

LOCAL = LocalExecutor()
REPOSITORY = Path(__file__).resolve().parents[2]


def shell(text: str, *, timeout: float = 30.0, secret: bool = False) -> Command:
    return Command(("sh", "-c", text), "try it", "try", timeout=timeout, secret=secret)


def test_a_result_has_status_and_both_outputs() -> None:
    """Whatever the status is, `run` gives it and does not raise."""
    assert LOCAL.run(shell("echo out; echo err >&2; exit 3")) == Result(3, "out\n", "err\n")


def test_input_of_any_size_is_read_by_the_command() -> None:
    """More than a pipe holds goes in and comes out."""
    text = "0123456789abcdef" * 65_536
    command = Command(("cat",), "copy", "copy", stdin=text.encode())
    assert LOCAL.check(command) == text


def test_a_failed_command_says_what_where_and_why() -> None:
    """The error names the host, what was tried, and the last thing the command said."""
    with pytest.raises(CommandFailed) as caught:
        LOCAL.check(shell("echo one >&2; echo two >&2; exit 1"))
    assert str(caught.value) == "this machine: could not try it: two"
    assert caught.value.lines == ("one",)
    with pytest.raises(CommandFailed, match="could not try it: exit status 4"):
        LOCAL.check(shell("exit 4"))


def test_what_a_secret_command_says_is_not_shown() -> None:
    """It may have repeated its input."""
    with pytest.raises(CommandFailed) as caught:
        LOCAL.check(shell("echo hush >&2; exit 1", secret=True))
    assert "hush" not in str(caught.value)
    assert caught.value.lines == ()


def test_a_program_that_is_missing_is_a_plain_error() -> None:
    """Not a traceback."""
    with pytest.raises(Failure, match="no-such-program: No such file or directory"):
        LOCAL.run(Command(("no-such-program",), "try it", "try"))


def test_a_hanging_command_is_killed_with_its_children(tmp_path: Path) -> None:
    """After its time opskit goes on, and nothing that the command started is left."""
    text = f"echo $$ > {tmp_path}/parent; sleep 300 & echo $! > {tmp_path}/child; wait"
    started = time.monotonic()
    with pytest.raises(CommandTimeout, match=r"not done after 0\.5 s"):
        LOCAL.run(shell(text, timeout=0.5))
    assert time.monotonic() - started < 30
    for name in ("parent", "child"):
        pid = int((tmp_path / name).read_text())
        deadline = time.monotonic() + 20
        while alive(pid):
            assert time.monotonic() < deadline, f"the {name} lives on"
            time.sleep(0.01)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def test_a_child_that_keeps_the_pipe_does_not_hang_opskit(tmp_path: Path) -> None:
    """A detached process that forgot to close its output is cut off when the time is up."""
    pid_file = tmp_path / "pid"
    text = f"setsid sh -c 'echo $$ > {pid_file}; exec sleep 300' & sleep 0.2"
    with pytest.raises(CommandTimeout):
        LOCAL.run(shell(text, timeout=2.0))
    os.kill(int(pid_file.read_text()), signal.SIGKILL)


def test_the_environment_of_opskit_does_not_reach_a_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As over SSH: no secret that opskit was given in a variable is handed on."""
    monkeypatch.setenv("CHAT_JWT_SECRET", "hush")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    names = {line.partition("=")[0] for line in LOCAL.check(shell("env")).splitlines()}
    assert "PATH" in names
    assert names.isdisjoint({"CHAT_JWT_SECRET", "PYTHONPATH", "VIRTUAL_ENV"})


def test_a_ctrl_c_reaches_opskit_and_not_the_command() -> None:
    """A command runs in a session of its own, away from the terminal's signals."""
    said = LOCAL.check(shell("ps -o sid= -p $$; echo $$")).split()
    assert said[0] == said[1]
    assert int(said[0]) != os.getsid(0)


def test_lines_are_streamed_as_they_come(tmp_path: Path) -> None:
    """A line is given before the command ends; closing the stream ends the command."""
    stream = LOCAL.stream(shell(f"echo one; echo $$ > {tmp_path}/pid; exec sleep 300"))
    assert next(stream) == "one"
    pid_file = tmp_path / "pid"
    deadline = time.monotonic() + 20
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stream.close()
    assert not alive(int(pid_file.read_text()))


def test_an_interrupted_command_is_ended(tmp_path: Path) -> None:
    """When opskit itself is interrupted, what it was running does not go on alone."""
    program = (
        "from opskit.transport import LocalExecutor\n"
        "from opskit.commands import Command\n"
        f"text = 'echo $$ > {tmp_path}/pid; exec sleep 300'\n"
        "try:\n"
        "    LocalExecutor().run(Command(('sh', '-c', text), 'wait', 'wait'))\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    pid_file = tmp_path / "pid"
    deadline = time.monotonic() + 30
    while not (pid_file.exists() and pid_file.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[0] == "interrupted\n"
    assert not alive(int(pid_file.read_text()))


def test_a_recording_executor_changes_nothing(tmp_path: Path) -> None:
    """What would change is remembered and succeeds; what only looks is really run, if it may."""
    path = PurePosixPath(tmp_path / "file")
    executor = RecordingExecutor(reader=LOCAL)
    executor.put(b"content", path)
    assert not (tmp_path / "file").exists()
    (tmp_path / "file").write_text("there")
    assert executor.get(path) == "there"
    assert [command.name for command in executor.commands] == ["write-file", "read-file"]
    assert RecordingExecutor().get(path) == "", "without a reader even looking is not done"


def test_a_recording_executor_answers_from_its_table() -> None:
    """An answer is a result, or is made from the command."""
    executor = RecordingExecutor(
        {
            "link": lambda command: Result(0, command.argv[-2]),
            "remove": Result(1, "", "disk on fire"),
        }
    )
    assert executor.check(files.link("releases/v2", PurePosixPath("/r/current"))) == "releases/v2"
    with pytest.raises(CommandFailed, match="host: could not remove r: disk on fire"):
        executor.check(files.remove(PurePosixPath("/r")))


def test_an_opskit_that_dies_while_a_command_reads_leaves_no_half_file(tmp_path: Path) -> None:
    """The command has all that it reads from the start, so what it writes is whole."""
    target, size = tmp_path / "file", 4 * 1024 * 1024
    program = (
        "from opskit.commands import Command, script\n"
        "from opskit.transport import LocalExecutor\n"
        'text = \'kill -9 $PPID; cat > "$1.new" && mv "$1.new" "$1"\'\n'
        f"argv = script(text, {str(target)!r})\n"
        f"LocalExecutor().run(Command(argv, 'write', 'write', stdin=b'x' * {size}))\n"
    )
    died = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, check=False)
    assert died.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 30
    while not target.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert target.stat().st_size == size
