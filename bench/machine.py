"""What the machine is, and what a process uses of it: facts from /proc, and pinning to cores."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

_TICKS: Final = os.sysconf("SC_CLK_TCK")
_PACKAGES: Final = ("uvloop", "websockets", "msgspec", "python-socketio", "uvicorn")
DESCRIPTORS: Final = 12_000
_FSYNCS: Final = 50


def facts(state_dir: Path) -> dict[str, Any]:
    """Describe this machine, as far as it bears on the figures."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "filesystem": filesystem(state_dir),
        "fsync_ms": round(fsync_seconds(state_dir) * 1000, 3),
        "load_average": os.getloadavg()[0],
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def filesystem(directory: Path) -> str:
    """Give the type of the file system that a directory is on; `tmpfs` makes fsync a lie."""
    at = directory.resolve()
    best, kind = Path(), "unknown"
    for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
        _, mounted, fs, *_ = line.split(" ")
        point = Path(mounted.replace(r"\040", " "))
        if at.is_relative_to(point) and len(point.parts) >= len(best.parts):
            best, kind = point, fs
    return kind


def fsync_seconds(directory: Path) -> float:
    """Measure what making 4 KiB durable takes: the median of several."""
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_FSYNCS):
            file.write(bytes(4096))
            file.flush()
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def allow_descriptors() -> None:
    """Raise the limit of open files to what a swarm needs; what we start inherits it.

    Raises:
        OSError: the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < DESCRIPTORS:
        raise OSError(f"the hard limit of open files is {hard}; raise it: ulimit -Hn {DESCRIPTORS}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, DESCRIPTORS), hard))


class Cores:
    """One core for the server, the others for the load, where there are two or more.

    Args:
        load: how many cores the load gets, and the server all others; by default it is the
            server that gets one.
    """

    def __init__(self, *, load: int | None = None) -> None:
        self._all = os.sched_getaffinity(0)
        self.pinned = len(self._all) > 1
        ordered = sorted(self._all)
        server = 1 if load is None else max(1, len(ordered) - load)
        self._server = set(ordered[:server]) if self.pinned else self._all
        self._load = set(ordered[server:]) if self.pinned else self._all

    def __str__(self) -> str:
        if not self.pinned:
            return "one core for server and load together: they disturb each other"
        return f"server pinned to {_names(self._server)}, load to {_names(self._load)}"

    @contextlib.contextmanager
    def of_server(self) -> Iterator[None]:
        """What is started in here runs on the server's core, with all its threads."""
        os.sched_setaffinity(0, self._server)
        try:
            yield
        finally:
            os.sched_setaffinity(0, self._load)


def _names(cores: set[int]) -> str:
    return ("core " if len(cores) == 1 else "cores ") + ", ".join(map(str, sorted(cores)))


def cpu_seconds(pid: int) -> float:
    """Give the CPU time, user and system, of a process, its threads and its descendants so far.

    In clock ticks of 10 ms (proc(5), /proc/pid/stat), so windows of seconds are exact to 1 %.
    """
    pids, total = {pid}, 0
    processes = {child: parent for child, parent, _ in _processes()}
    while grown := {c for c, parent in processes.items() if parent in pids} - pids:
        pids |= grown
    for child, _, ticks in _processes():
        total += ticks if child in pids else 0
    return total / _TICKS


def _processes() -> Iterator[tuple[int, int, int]]:
    """Give process id, parent, and CPU ticks with those of reaped children, of every process."""
    for entry in os.scandir("/proc"):
        if not entry.name.isdecimal():
            continue
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            stat = Path(entry.path, "stat").read_text(encoding="utf-8", errors="replace")
            fields = stat.rpartition(")")[2].split()
            yield int(entry.name), int(fields[1]), sum(map(int, fields[11:15]))


def memory_bytes(pid: int) -> dict[str, int]:
    """Give what a process occupies (proc(5), /proc/pid/smaps_rollup).

    `uss` is its alone; `pss` has its share of pages that others map too. Neither has what the
    kernel keeps for its sockets.
    """
    sizes: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()[1:]:
        key, _, value = line.partition(":")
        sizes[key] = int(value.split()[0]) * 1024
    return {"uss": sizes["Private_Clean"] + sizes["Private_Dirty"], "pss": sizes["Pss"]}
