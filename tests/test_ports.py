"""Ports for servers of tests."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.ports import HIGHEST, LOWEST, Reservations, free_ports

PORT = LOWEST - 1
"""One that nobody is given by `free_ports`."""
OTHER_PROCESS = """
import sys
from pathlib import Path
from tests.ports import Reservations
reservations = Reservations(Path(sys.argv[1]))
print(reservations.take(int(sys.argv[2])), flush=True)
sys.stdin.readline()
"""


def test_free_ports_are_different_and_below_the_ephemeral_ones() -> None:
    ports = free_ports(50) + free_ports(50)

    assert len(set(ports)) == 100
    assert all(LOWEST <= port < HIGHEST for port in ports)


def test_a_port_is_given_once(tmp_path: Path) -> None:
    reservations = Reservations(tmp_path / "ports")

    assert reservations.take(PORT)
    assert not reservations.take(PORT)


def test_a_port_in_use_is_not_given(tmp_path: Path) -> None:
    """It is given when it is free again."""
    reservations = Reservations(tmp_path / "ports")

    with socket.socket() as server:
        server.bind(("127.0.0.1", PORT))
        assert not reservations.take(PORT)
    assert reservations.take(PORT)


def test_a_port_of_another_process_is_not_given_until_that_ends(tmp_path: Path) -> None:
    reservations = Reservations(tmp_path / "ports")

    with subprocess.Popen(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path / "ports"), str(PORT)],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        assert not reservations.take(PORT)
        other.kill()
    assert reservations.take(PORT)
