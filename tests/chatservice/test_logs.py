"""What is logged reaches the stream, and a stream that fails reaches nobody."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import logging
import os
import pty
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import pytest

from chatservice import logs
from chatservice.config import LogSettings
from chatservice.log_format import JsonFormatter
from chatservice.logs import LineWriter

DEADLINE = 20.0


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    """Take back what `configure` does to the process."""
    root = logging.getLogger()
    watched = [
        root,
        *(logging.getLogger(name) for name in ("chatservice", "asyncio", "websockets")),
    ]
    levels = [logger.level for logger in watched]
    handlers = list(root.handlers)
    hooks = sys.excepthook, threading.excepthook
    yield
    for handler in set(root.handlers) - set(handlers):
        root.removeHandler(handler)
        handler.close()
    for logger, level in zip(watched, levels, strict=True):
        logger.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks


def configured(stream: TextIO, **settings: Any) -> LineWriter:
    logs.configure(LogSettings(**settings), stream=stream, release="v7")
    (writer,) = (h for h in logging.getLogger().handlers if isinstance(h, LineWriter))
    return writer


def lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.005)


# --- what gets where ----------------------------------------------------------------------


def test_fields_levels_and_names_reach_the_stream() -> None:
    stream = io.StringIO()
    writer = configured(stream)
    log = logs.get_logger("server")
    log.debug("hidden", a=1)
    log.info("joined", conn="c1", workspace="w")
    log.warning("odd")
    log.error("broken", n=2)
    writer.flush()
    heard = lines(stream.getvalue())
    assert all(line.pop("ts") for line in heard)
    assert heard == [
        {"level": "info", "logger": "server", "msg": "joined", "conn": "c1", "workspace": "w",
         "release": "v7"},
        {"level": "warning", "logger": "server", "msg": "odd", "release": "v7"},
        {"level": "error", "logger": "server", "msg": "broken", "n": 2, "release": "v7"},
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("level", "heard"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)]
)
def test_the_level_is_that_of_the_settings(level: str, heard: int) -> None:
    stream = io.StringIO()
    writer = configured(stream, level=level)
    log = logs.get_logger("x")
    for say in (log.debug, log.info, log.warning, log.error):
        say("m")
    writer.flush()
    assert len(lines(stream.getvalue())) == heard


def test_a_disabled_level_formats_nothing() -> None:
    class Untouchable:
        def __str__(self) -> str:
            raise AssertionError

    writer = configured(io.StringIO(), level="info")
    logs.get_logger("x").debug("m", value=Untouchable())
    writer.flush()


def test_bound_fields_come_first_and_can_be_overridden() -> None:
    stream = io.StringIO()
    writer = configured(stream)
    log = logs.get_logger("x").bind(conn="c1", user="ada")
    log.info("one", n=1)
    log.bind(user="bob").info("two")
    log.info("three", conn="c2")
    writer.flush()
    one, two, three = lines(stream.getvalue())
    assert list(one) == ["ts", "level", "logger", "msg", "conn", "user", "n", "release"]
    assert (two["conn"], two["user"]) == ("c1", "bob")
    assert (three["conn"], three["user"]) == ("c2", "ada")


def test_an_exception_is_logged_with_its_traceback() -> None:
    stream = io.StringIO()
    writer = configured(stream)
    try:
        raise ValueError("why")
    except ValueError:
        logs.get_logger("x").exception("failed", n=1)
    writer.flush()
    (line,) = lines(stream.getvalue())
    assert (line["level"], line["msg"], line["n"]) == ("error", "failed", 1)
    assert line["exc"].endswith("ValueError: why")


def test_libraries_are_heard_from_warning_on() -> None:
    stream = io.StringIO()
    writer = configured(stream, level="debug")
    for name in ("websockets.server", "asyncio", "another"):
        logging.getLogger(name).info("quiet")
        logging.getLogger(name).warning("loud %d", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        warnings.warn("deprecated", DeprecationWarning, stacklevel=1)
    writer.flush()
    heard = lines(stream.getvalue())
    assert [line["logger"] for line in heard] == [
        "websockets.server", "asyncio", "another", "py.warnings",
    ]  # fmt: skip
    assert heard[0]["msg"] == "loud 1"
    assert "DeprecationWarning: deprecated" in heard[3]["msg"]


def test_configuring_again_moves_to_the_new_stream() -> None:
    first, second = io.StringIO(), io.StringIO()
    configured(first)
    logs.get_logger("x").info("one")
    writer = configured(second)
    logs.get_logger("x").info("two")
    writer.flush()
    assert [line["msg"] for line in lines(first.getvalue())] == ["one"]
    assert [line["msg"] for line in lines(second.getvalue())] == ["two"]


def test_lines_of_many_threads_are_whole_and_complete(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("w") as stream:
        writer = configured(stream)
        log = logs.get_logger("x")

        def say(thread: int) -> None:
            for n in range(500):
                log.info("m", thread=thread, n=n, filler="x" * 100)

        threads = [threading.Thread(target=say, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        writer.flush(DEADLINE)
    heard = lines(path.read_text())
    for thread_number in range(4):
        assert [line["n"] for line in heard if line["thread"] == thread_number] == list(range(500))


# --- formats ------------------------------------------------------------------------------


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("format", "terminal", "no_colour", "looks"),
    [
        ("auto", False, False, "json"),
        ("auto", True, False, "coloured"),
        ("auto", True, True, "plain"),
        ("json", True, False, "json"),
        ("pretty", False, False, "plain"),
        ("pretty", True, False, "coloured"),
    ],
)
def test_the_format_follows_settings_terminal_and_no_color(
    monkeypatch: pytest.MonkeyPatch, format: str, terminal: bool, no_colour: bool, looks: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1" if no_colour else "")
    stream = _Terminal() if terminal else io.StringIO()
    writer = configured(stream, format=format)
    logs.get_logger("x").info("m")
    writer.flush()
    text = stream.getvalue()
    seen = "json" if text.startswith("{") else "coloured" if "\x1b[" in text else "plain"
    assert seen == looks


def test_a_real_terminal_gets_colour() -> None:
    mother, child = pty.openpty()
    with os.fdopen(child, "w") as stream:
        writer = configured(stream)
        logs.get_logger("x").info("hello")
        writer.flush()
        text = os.read(mother, 1000).decode()
    os.close(mother)
    assert "\x1b[32minfo   \x1b[0m" in text
    assert text.endswith("hello\r\n")


# --- streams that fail --------------------------------------------------------------------


def test_a_broken_pipe_is_survived() -> None:
    reader, writing = os.pipe()
    os.close(reader)
    with os.fdopen(writing, "w", closefd=True) as stream:
        writer = configured(stream)
        log = logs.get_logger("x")
        for _ in range(100):
            log.info("into the void")
        writer.flush()
        assert writer.lost == 100
        writer.close()


def test_a_full_disk_is_survived() -> None:
    with Path("/dev/full").open("w") as stream:
        writer = configured(stream)
        for _ in range(3):
            logs.get_logger("x").info("no space")
        writer.flush()
        assert writer.lost == 3


def test_a_stream_that_is_closed_leaves_no_lines_in_another_file(tmp_path: Path) -> None:
    """The number of a closed file is given to the next one that is opened."""
    stream = (tmp_path / "log").open("w")
    number = stream.fileno()
    writer = configured(stream)
    stream.close()
    with (tmp_path / "other").open("w") as other:
        assert other.fileno() == number
        logs.get_logger("x").info("m")
        writer.flush()
    assert (tmp_path / "other").read_text() == ""
    assert [line["msg"] for line in lines((tmp_path / "log").read_text())] == ["m"]


def test_a_closed_stream_is_survived() -> None:
    stream = io.StringIO()
    writer = configured(stream)
    stream.close()
    logs.get_logger("x").info("m")
    writer.flush()
    assert writer.lost == 1


def test_a_line_that_cannot_be_formatted_is_counted_as_lost() -> None:
    class Broken(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            raise RuntimeError

    writer = LineWriter(io.StringIO(), Broken())
    writer.emit(logging.LogRecord("x", logging.INFO, "", 0, "m", (), None))
    assert writer.lost == 1
    writer.close()


def test_flushing_waits_for_the_lines_and_no_longer() -> None:
    written = threading.Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            time.sleep(0.1)
            written.set()
            return super().write(text)

    writer = LineWriter(Slow(), JsonFormatter("v1"))
    endings: list[Callable[[], None]] = [partial(writer.flush, DEADLINE), writer.close]
    for ending in endings:
        written.clear()
        began = time.monotonic()
        writer.emit(logging.LogRecord("x", logging.INFO, "", 0, "m", (), None))
        ending()
        assert written.is_set()
        assert time.monotonic() - began < DEADLINE / 2


def test_a_stalled_reader_stalls_nobody_and_the_loss_is_reported() -> None:
    """The pipe holds 64 KiB and the queue its maximum; the rest is dropped, counted and told."""
    reader, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reader, "rb") as pipe:
        writer = configured(stream)
        log = logs.get_logger("x")
        count = logs.MAX_QUEUED + 5000
        for n in range(count):
            log.info("m", n=n, filler="x" * 50)
        lost = writer.lost
        assert lost > 1000
        received: list[dict[str, Any]] = []

        def read() -> None:
            received.extend(json.loads(line) for line in pipe)

        reading = threading.Thread(target=read)
        reading.start()
        writer.flush(DEADLINE)
        log.info("after")
        writer.flush(DEADLINE)
        writer.close()
        stream.close()
        reading.join(DEADLINE)
    assert not reading.is_alive()
    numbers = [line["n"] for line in received if "n" in line]
    assert numbers == list(range(count - lost))
    notices = [line for line in received if line["msg"] == "log lines were lost here"]
    assert sum(line["lost"] for line in notices) == lost
    assert notices[0]["level"] == "warning"
    assert received[-1]["msg"] == "after"
    assert writer.lost == 0


async def test_the_event_loop_runs_on_while_the_stream_stalls() -> None:
    reader, writing = os.pipe()
    with os.fdopen(writing, "w") as stream, os.fdopen(reader, "rb"):
        configured(stream)
        log = logs.get_logger("x")
        async with asyncio.timeout(DEADLINE):
            for _ in range(50):
                for _ in range(100):
                    log.info("m", filler="x" * 200)
                await asyncio.sleep(0)


class _Disk:
    """A file descriptor that takes only so many bytes, then fails, until given more."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self.space = 0
        self._file = path.open("wb", buffering=0)
        real = os.write

        def write(fd: int, data: bytes) -> int:
            if not os.path.samestat(os.fstat(fd), os.fstat(self._file.fileno())):
                return real(fd, data)
            if not self.space:
                raise OSError(errno.ENOSPC, "No space left on device")
            taken = real(fd, data[: self.space])
            self.space -= taken
            return taken

        monkeypatch.setattr(os, "write", write)

    def text(self) -> TextIO:
        return io.TextIOWrapper(io.BufferedWriter(self._file), encoding="utf-8")


def test_a_line_that_was_cut_by_a_full_disk_is_finished_before_the_next(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = _Disk(monkeypatch, tmp_path / "log")
    with disk.text() as stream:
        writer = LineWriter(stream, JsonFormatter("v1"))

        def say(msg: str) -> None:
            writer.emit(logging.LogRecord("chatservice.x", logging.INFO, "", 0, msg, (), None))
            writer.flush()

        disk.space = 150
        say("one")
        say("two, cut in the middle" + "." * 40)
        assert writer.lost == 0
        say("three, lost")
        say("four, lost")
        assert writer.lost == 2
        disk.space = 60  # not even the rest of the second, and then no more
        say("five, lost")
        disk.space = 10_000
        say("six")
        writer.close()
    heard = lines((tmp_path / "log").read_text())
    assert [line["msg"] for line in heard] == [
        "one",
        "two, cut in the middle" + "." * 40,
        "log lines were lost here",
        "six",
    ]
    assert heard[2]["lost"] == 3
    assert writer.lost == 0


def test_a_stream_in_nonblocking_mode_loses_nothing() -> None:
    """Standard error may share its open file with a program that made it non-blocking."""
    reader, writing = os.pipe()
    os.set_blocking(writing, False)
    with os.fdopen(writing, "w") as stream, os.fdopen(reader, "rb") as pipe:
        writer = configured(stream)
        for n in range(3000):
            logs.get_logger("x").info("m", n=n, filler="x" * 50)
        received: list[bytes] = []
        reading = threading.Thread(target=lambda: received.extend(pipe))
        reading.start()
        writer.flush(DEADLINE)
        writer.close()
        stream.close()
        reading.join(DEADLINE)
    assert [json.loads(line)["n"] for line in received] == list(range(3000))


# --- the whole process --------------------------------------------------------------------

CANARY = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLWNhbmFyeQ"


def run(program: str) -> tuple[int, str]:
    """Run a program that has configured its log; give its status and standard error."""
    prelude = (
        "from chatservice import logs\nfrom chatservice.config import LogSettings\n"
        "logs.configure(LogSettings(), release='v1')\nlog = logs.get_logger('x')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", prelude + program],
        capture_output=True, text=True, timeout=DEADLINE * 2, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_the_exception_that_ends_the_process_is_one_line_without_secrets() -> None:
    status, text = run(f"raise RuntimeError('bad {CANARY}\\nsecond line')")
    assert status == 1
    (line,) = lines(text)
    assert (line["level"], line["msg"]) == ("critical", "the process ends on an exception")
    assert line["exc"].endswith("RuntimeError: bad [hidden]\nsecond line")
    assert "canary" not in text.lower()


def test_the_exception_that_ends_a_thread_is_one_line() -> None:
    status, text = run(
        "import threading\n"
        "t = threading.Thread(target=lambda: 1 / 0, name='worker'); t.start(); t.join()\n"
    )
    assert status == 0
    (line,) = lines(text)
    assert (line["level"], line["msg"]) == ("error", "a thread ended on an exception")
    assert line["exc"].endswith("ZeroDivisionError: division by zero")


def test_a_task_whose_exception_nobody_saw_is_one_line_without_secrets() -> None:
    status, text = run(
        "import asyncio, gc\n"
        "async def fail():\n"
        f"    raise ValueError('{CANARY}')\n"
        "async def main():\n"
        "    asyncio.create_task(fail()); await asyncio.sleep(0.01); gc.collect()\n"
        "asyncio.run(main())\n"
    )
    assert status == 0
    (line,) = lines(text)
    assert (line["level"], line["logger"]) == ("error", "asyncio")
    assert line["exc"].endswith("ValueError: [hidden]")


def test_everything_logged_before_the_end_is_written() -> None:
    status, text = run("for n in range(5000): log.info('m', n=n)\nraise SystemExit(3)")
    assert status == 3
    assert [line["n"] for line in lines(text)] == list(range(5000))


def test_an_interrupt_from_the_keyboard_is_no_error() -> None:
    status, text = run("raise KeyboardInterrupt")
    assert (status, text) == (-2, "")
