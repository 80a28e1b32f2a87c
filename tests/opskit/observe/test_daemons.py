"""Programs that outlive the command that started them, and what they run themselves."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from opskit.observe import daemons
from opskit.observe.daemons import Daemon, command_line
from opskit.observe.site import Answering
from tests.service_process import free_ports

DEADLINE = 30.0


def until(holds: Callable[[], object], what: str) -> None:
    end = time.monotonic() + DEADLINE
    while not holds():
        assert time.monotonic() < end, f"not {what} after {DEADLINE:g} s"
        time.sleep(0.02)


@pytest.mark.parametrize("stubborn", [False, True], ids=["orderly", "by force"])
def test_an_exporter_that_is_stopped_leaves_no_probe_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stubborn: bool
) -> None:
    """The probe that is under way ends with it, and nothing that the probe started goes on."""
    if stubborn:
        monkeypatch.setattr(daemons, "END_SECONDS", 1.0)
    pids = tmp_path / "pids"
    program = tmp_path / "probe.py"
    deaf = "signal.signal(signal.SIGTERM, signal.SIG_IGN)" if stubborn else ""
    program.write_text(
        "import os, signal, subprocess, sys\n"
        f"{deaf}\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"text = f'{{os.getpid()}} {{child.pid}}'\n"
        f"open({str(pids) + '.new'!r}, 'w').write(text)\n"
        f"os.rename({str(pids) + '.new'!r}, {str(pids)!r})\n"
        "child.wait()\n"
        "signal.pause()\n",
        encoding="utf-8",
    )
    [port] = free_ports(1)
    options = ["--port", str(port), "--directory", str(tmp_path), "--every", "600"]
    exporter = Daemon(
        name="exporter",
        argv=(sys.executable, "-m", "opskit.observe.exporter", *options, "--", sys.executable,
              str(program)),
        note=tmp_path / "run/exporter.json",
        log=tmp_path / "exporter.log",
        ready=Answering(f"http://127.0.0.1:{port}/metrics"),
        environ={"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    exporter.start(DEADLINE)
    try:
        until(pids.exists, "probing")
        under_way = [int(word) for word in pids.read_text().split()]
        # Between its exec and its first instruction a process has no command line yet.
        until(lambda: all(command_line(pid) for pid in under_way), "run by both")
        assert exporter.stop()
        assert [command_line(pid) for pid in under_way] == [None, None]
        assert exporter.pid is None
        assert not exporter.stop()
    finally:
        exporter.stop()
