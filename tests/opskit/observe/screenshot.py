"""What a real browser makes of a page, as pixels."""

from __future__ import annotations

import shutil
import struct
import subprocess
import zlib
from collections import Counter
from pathlib import Path

Pixel = tuple[int, int, int]


def browser() -> str | None:
    """Find a browser that needs no screen."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class Screenshot:
    """A page of a given size, light or dark."""

    def __init__(self, page: Path, *, width: int, height: int, dark: bool = False) -> None:
        program = browser()
        assert program is not None
        shot = page.with_suffix(".dark.png" if dark else ".light.png")
        argv = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            f"--user-data-dir={page.parent / 'profile'}", f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            f"--screenshot={shot}", f"file://{page}",
        ]  # fmt: skip
        subprocess.run(argv, check=True, capture_output=True, timeout=120)
        self.width, self.height, self.rows = _decoded(shot.read_bytes())

    def at(self, x: int, y: int) -> Pixel:
        """Give one pixel."""
        red, green, blue = self.rows[y][x * 3 : x * 3 + 3]
        return red, green, blue

    def colours(self) -> Counter[Pixel]:
        """Count the colours of every fourth pixel of every second row."""
        found: Counter[Pixel] = Counter()
        for y in range(0, self.height, 2):
            row = self.rows[y]
            found.update(zip(row[0::12], row[1::12], row[2::12], strict=False))
        return found


def _decoded(png: bytes) -> tuple[int, int, list[bytearray]]:
    """Read a PNG of eight bits a channel, without interlacing (RFC 2083)."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    position, packed = 8, b""
    width = height = channels = 0
    while position < len(png):
        size, kind = struct.unpack(">I4s", png[position : position + 8])
        body = png[position + 8 : position + 8 + size]
        if kind == b"IHDR":
            width, height, depth, colour, *_, interlaced = struct.unpack(">IIBBBBB", body)
            assert (depth, interlaced) == (8, 0)
            channels = {2: 3, 6: 4}[colour]
        elif kind == b"IDAT":
            packed += body
        position += size + 12
    raw, stride = zlib.decompress(packed), width * channels
    rows: list[bytearray] = []
    above = bytearray(stride)
    for y in range(height):
        start = y * (stride + 1)
        row = bytearray(raw[start + 1 : start + 1 + stride])
        _unfilter(raw[start], row, above, channels)
        rows.append(row)
        above = row
    if channels == 4:
        for index, row in enumerate(rows):
            plain = bytearray(width * 3)
            plain[0::3], plain[1::3], plain[2::3] = row[0::4], row[1::4], row[2::4]
            rows[index] = plain
    return width, height, rows


def _unfilter(kind: int, row: bytearray, above: bytearray, each: int) -> None:
    if kind == 0:
        return
    for index in range(len(row)):
        left = row[index - each] if index >= each else 0
        up = above[index]
        if kind == 1:
            guess = left
        elif kind == 2:
            guess = up
        elif kind == 3:
            guess = (left + up) // 2
        else:
            corner = above[index - each] if index >= each else 0
            estimate = left + up - corner
            distances = (abs(estimate - left), abs(estimate - up), abs(estimate - corner))
            guess = (left, up, corner)[distances.index(min(distances))]
        row[index] = (row[index] + guess) & 255
