"""Logs: one JSON object a line, or one line for a person on a terminal.

    log = logs.get_logger("server")
    log.info("member joined", conn="c12", workspace="w", user="u")

Promises, beside those of `log_format`: writing never blocks the event loop and never fails the
caller. When the stream stalls, breaks or its disk is full, lines are dropped, counted, and the
count is logged as soon as the stream takes lines again.

The standard library's logging is underneath, so the lines of libraries come out the same way.
Imports nothing of chatservice but `config` and `log_format`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, TextIO

from chatservice.config import LogSettings
from chatservice.log_format import FIELDS, ROOT, JsonFormatter, PrettyFormatter

MAX_QUEUED: Final = 10_000
"""How many lines may wait for the stream."""

# --- the loggers --------------------------------------------------------------------------


class Log:
    """A logger that takes fields by keyword. A disabled level costs one comparison."""

    __slots__ = ("_context", "_logger")

    def __init__(self, logger: logging.Logger, context: Mapping[str, object]) -> None:
        self._logger = logger
        self._context = context

    def bind(self, **fields: object) -> Log:
        """Give a logger that adds these fields to each of its lines."""
        return Log(self._logger, {**self._context, **fields})

    def debug(self, msg: str, /, **fields: object) -> None:
        """Say what only somebody who looks for a bug wants to know."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._log(logging.DEBUG, msg, fields)

    def info(self, msg: str, /, **fields: object) -> None:
        """Say what happened."""
        if self._logger.isEnabledFor(logging.INFO):
            self._log(logging.INFO, msg, fields)

    def warning(self, msg: str, /, **fields: object) -> None:
        """Say what somebody should look at, some day."""
        if self._logger.isEnabledFor(logging.WARNING):
            self._log(logging.WARNING, msg, fields)

    def error(self, msg: str, /, **fields: object) -> None:
        """Say what does not work."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._log(logging.ERROR, msg, fields)

    def exception(self, msg: str, /, **fields: object) -> None:
        """Say what does not work, with the exception that is being handled as field `exc`."""
        if self._logger.isEnabledFor(logging.ERROR):
            self._log(logging.ERROR, msg, fields, sys.exc_info())

    def _log(self, level: int, msg: str, fields: Mapping[str, object], exc: Any = None) -> None:
        record = self._logger.makeRecord(self._logger.name, level, "", 0, msg, (), exc)
        record.__dict__[FIELDS] = {**self._context, **fields} if self._context else fields
        self._logger.handle(record)


def get_logger(name: str) -> Log:
    """Give the logger of one part of the service; `name` is the module's, without the package."""
    return Log(logging.getLogger(f"{ROOT}.{name}"), {})


# --- the stream ---------------------------------------------------------------------------


class LineWriter(logging.Handler):
    """Hands lines to a thread that writes them, all that wait at once.

    A pipe whose reader stalls would otherwise block the event loop, and with it every member.
    """

    def __init__(self, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._stream = stream
        self._fd = _descriptor(stream)
        self._lines: queue.SimpleQueue[str | threading.Event | None] = queue.SimpleQueue()
        self._lost = 0
        self._lost_lock = threading.Lock()
        self._unfinished = b""
        self._thread = threading.Thread(target=self._run, name="logs", daemon=True)
        self._thread.start()

    @property
    def lost(self) -> int:
        """How many lines were lost since the last notice of it."""
        return self._lost

    def createLock(self) -> None:
        """Need none: the queue takes lines from any thread."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Queue one line, or count it as lost."""
        if self._lines.qsize() >= MAX_QUEUED:
            self._count_lost(1)
            return
        try:
            self._lines.put(self.format(record))
        except Exception:
            self._count_lost(1)  # nothing in the service may fail for a line of its log

    def flush(self, timeout: float = 2.0) -> None:
        """Wait until what was logged so far is written, for at most `timeout` seconds."""
        written = threading.Event()
        self._lines.put(written)
        if self._thread.is_alive():
            written.wait(timeout)

    def close(self) -> None:
        """Write what waits, and end; the stream stays open."""
        self.flush()
        self._lines.put(None)
        super().close()

    def _count_lost(self, lines: int) -> None:
        with self._lost_lock:
            self._lost += lines

    def _run(self) -> None:
        while True:
            batch = [self._lines.get()]
            with contextlib.suppress(queue.Empty):
                while len(batch) < 1000:
                    batch.append(self._lines.get_nowait())
            lines = [item for item in batch if isinstance(item, str)]
            if lines:
                self._write(lines)
            for item in batch:
                if isinstance(item, threading.Event):
                    item.set()
            if None in batch:
                break
        if self._fd is not None:
            os.close(self._fd)

    def _write(self, lines: list[str]) -> None:
        """Write lines, the number of those lost before them first."""
        with self._lost_lock:
            lost, self._lost = self._lost, 0
        if lost:
            lines.insert(0, self._notice(lost))
        unwritten = self._put("".join(f"{line}\n" for line in lines), len(lines))
        if lost and unwritten == len(lines):  # the notice itself
            unwritten += lost - 1
        self._count_lost(unwritten)

    def _notice(self, lost: int) -> str:
        record = logging.LogRecord(
            f"{ROOT}.logs", logging.WARNING, "", 0, "log lines were lost here", (), None
        )
        record.__dict__[FIELDS] = {"lost": lost}
        return self.format(record)

    def _put(self, text: str, lines: int) -> int:
        """Write text of so many lines; give how many at its end were not written."""
        if self._fd is not None:
            return self._put_bytes(self._fd, text.encode("utf-8", "backslashreplace"))
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            return lines
        return 0

    def _put_bytes(self, fd: int, content: bytes) -> int:
        """Write past the stream's own buffer, which would write a lost line twice or half.

        The rest of a line that was written in part comes first at the next call, so that no line
        ever continues in another.
        """
        content = self._unfinished + content
        sent = 0
        while sent < len(content):
            try:
                sent += os.write(fd, content[sent:])
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        within_line = content[sent - 1 : sent] != b"\n" if sent else bool(self._unfinished)
        rest = content[sent:]
        self._unfinished = rest[: rest.index(b"\n") + 1] if within_line else b""
        return rest.count(b"\n") - within_line


def _descriptor(stream: TextIO) -> int | None:
    """Give a file descriptor for what a stream writes to, or None for one in memory.

    One of our own: the number of the stream's would mean another file once the stream is closed.
    """
    try:
        return os.dup(stream.fileno())
    except (OSError, ValueError, AttributeError):
        return None


# --- setting up ---------------------------------------------------------------------------


def configure(settings: LogSettings, *, stream: TextIO | None = None, release: str) -> None:
    """Send everything that is logged in this process to one stream, from now on.

    Args:
        settings: the level of the service's own loggers, and the format; `auto` is pretty on a
            terminal and JSON elsewhere. Libraries are heard from WARNING on.
        stream: standard error by default.
        release: named in each JSON line.
    """
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    formatter: logging.Formatter
    if settings.format == "pretty" or (settings.format == "auto" and terminal):
        # https://no-color.org
        formatter = PrettyFormatter(colour=terminal and not os.environ.get("NO_COLOR"))
    else:
        formatter = JsonFormatter(release)
    root = logging.getLogger()
    for handler in [h for h in root.handlers if isinstance(h, LineWriter)]:
        root.removeHandler(handler)
        handler.close()
    root.addHandler(LineWriter(stream, formatter))
    root.setLevel(logging.WARNING)
    logging.getLogger(ROOT).setLevel(settings.level.upper())
    for library in ("websockets", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread


def _log_uncaught(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Keep the promises of a line for the exception that ends the process, too."""
    if issubclass(kind, KeyboardInterrupt):
        return
    logging.getLogger(ROOT).critical(
        "the process ends on an exception", exc_info=(kind, error, trace)
    )


def _log_uncaught_in_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return
    logging.getLogger(ROOT).error(
        "a thread ended on an exception",
        exc_info=(args.exc_type, args.exc_value, args.exc_traceback),
    )
