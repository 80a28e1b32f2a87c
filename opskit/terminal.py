"""A terminal, or what stands in for one: colour, marks, one live line, tables.

Colour and the live line are for terminals only; NO_COLOR (https://no-color.org) and TERM=dumb are
honoured. Nothing here knows what opskit does.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final, TextIO

STYLES: Final = {
    "bold": "1",
    "dim": "2",
    "red": "31",
    "green": "32",
    "yellow": "33",
    "cyan": "36",
}
_MARKS: Final = {
    "done": ("✓", "ok", "green"),
    "failed": ("✗", "FAILED", "red"),
    "skipped": ("-", "-", "dim"),
    "undone": ("↩", "undone", "yellow"),
    "warning": ("!", "!", "yellow"),
    "current": ("▸", ">", "cyan"),
}
_WORDS: Final = str.maketrans({sign: word for sign, word, _ in _MARKS.values()} | {"…": "..."})
_SPINNER: Final = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_PERIOD: Final = 0.1


class Terminal:
    """Writes for a person to one stream; nowhere, where there is none (`>&-`)."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream if stream is not None else io.StringIO()
        stream = self.stream
        self._outlived = stream is sys.stderr
        self.tty = stream.isatty() and os.environ.get("TERM") != "dumb"
        self.colour = self.tty and not os.environ.get("NO_COLOR")
        self._encoding = getattr(stream, "encoding", "") or ""
        self.unicode = self._encoding.lower().startswith("utf")
        self._lock = threading.Lock()
        self._live = ""

    @property
    def width(self) -> int:
        """The columns of the terminal; 100 where there is none."""
        return shutil.get_terminal_size((100, 24)).columns if self.tty else 100

    def outlive(self) -> None:
        """From here on nothing fails because nobody reads any more what is written.

        A terminal that was closed, `| less` that was left, a full disk behind `> file`: what is
        under way, above all undoing, must not break off in the middle for that.
        """
        self._outlived = True

    def paint(self, style: str, text: str) -> str:
        """Give a text in a style, where there is colour."""
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.colour and text else text

    def mark(self, name: str) -> str:
        """Give a mark: a sign on whatever can show it, else a word."""
        sign, word, style = _MARKS[name]
        return self.paint(style, sign if self.unicode else word)

    def line(self, text: str = "") -> None:
        """Write one line; a live line stays below it."""
        with self._lock:
            self._clear()
            self._write(text + "\n")
            if self._live:
                self._write(self._live)

    @contextlib.contextmanager
    def live(self, text: str) -> Iterator[Callable[[str], None]]:
        """Show a text with a running clock meanwhile; nothing is left of it. Terminals only.

        What it gives changes the text; the clock runs on.
        """
        shown = [text]

        def change(text: str) -> None:
            shown[0] = text

        if not self.tty:
            yield change
            return
        ended = threading.Event()
        thread = threading.Thread(target=self._run, args=(shown, ended), daemon=True)
        thread.start()
        try:
            yield change
        finally:
            ended.set()
            thread.join()

    def _run(self, text: Sequence[str], ended: threading.Event) -> None:
        started = time.monotonic()
        turn = 0
        while not ended.wait(_PERIOD):
            spinner = _SPINNER[turn % len(_SPINNER)] if self.unicode else "|/-\\"[turn % 4]
            shown = f"  {spinner} {text[0]}  {time.monotonic() - started:.1f} s"
            with self._lock:
                self._clear()
                self._live = self.paint("dim", shown[: self.width - 1])
                self._write(self._live)
            turn += 1
        with self._lock:
            self._clear()
            self._live = ""

    def _clear(self) -> None:
        if self._live:
            self._write("\r\x1b[2K")

    def _write(self, text: str) -> None:
        if self._encoding and not self.unicode:
            text = text.translate(_WORDS).encode(self._encoding, "replace").decode(self._encoding)
        try:
            self.stream.write(text)
            self.stream.flush()
        except OSError:
            if not self._outlived:
                raise
            _discard(self.stream)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a table; the last column may be as long as it likes."""
        widths = [
            max(len(visible(row[index])) for row in (head, *rows)) for index in range(len(head))
        ]
        for number, row in enumerate((head, *rows)):
            cells = [
                cell + " " * (width - len(visible(cell)))
                for cell, width in zip(row, widths, strict=True)
            ]
            text = "  ".join(cells).rstrip()
            self.line("  " + (self.paint("dim", text) if number == 0 else text))


def _discard(stream: TextIO) -> None:
    """Let what is written from here on, and what waits to be written, go nowhere.

    Otherwise the interpreter tries once more at its end, and ends with a status of its own (120).
    """
    with contextlib.suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def visible(text: str) -> str:
    """Give a text without its colours."""
    parts = text.split("\x1b[")
    return parts[0] + "".join(part.partition("m")[2] for part in parts[1:])


def standard() -> Terminal:
    """Give the terminal on standard output."""
    return Terminal(sys.stdout)
