"""A lab: some hosts on one network, and everything that has to be removed afterwards.

Every lab has a number, and holds a lock as long as its process lives. Lab 0 is for people and
needs no process (`make lab`). A lab whose process died without removing it is removed by the
next one that starts.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Final

from tests.hosts.image import ensure_image
from tests.hosts.machine import Host
from tests.hosts.network import HIGHEST_LAB, Network

PEOPLES: Final = 0
"""The number of the lab that `make lab` starts."""
HOME: Final = Path("/tmp/opskit-labs")  # as root, whose files are where anybody can look
PROGRAMS: Final = ("systemd-nspawn", "debootstrap", "ssh-keygen", "ip", "iptables", "nsenter")


def why_not() -> str:
    """Say why this machine cannot boot hosts; empty when it can."""
    if os.geteuid() != 0:
        return "booting test hosts takes root"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (tests/install installs it)"
    if not Path("/sys/fs/cgroup").is_dir():
        return "there are no control groups at /sys/fs/cgroup"
    return ""


class Lab:
    """Some hosts on a network of their own.

    Args:
        people: take the lab for people, which lives on after this process.
    """

    def __init__(self, *, people: bool = False) -> None:
        HOME.mkdir(mode=0o755, exist_ok=True)
        self.people = people
        self.number, self._lock = _take(range(1)) if people else _take(range(1, HIGHEST_LAB + 1))
        self.directory = HOME / str(self.number)
        self.network = Network(self.number)
        self.key = self.directory / "id_ed25519"
        """Private key that lets in everywhere here."""
        self.known_hosts = self.directory / "known_hosts"
        """The host keys of all hosts here."""
        self.hosts: list[Host] = []
        self._next = 11
        # The hosts die with the last process that holds the other end of this pipe.
        self._alive, self._held = os.pipe()

    def up(self) -> None:
        """Make the network and the key.

        Raises:
            CannotBuild: there is no image, and it could not be made.
        """
        remove_leftovers()
        self.image = ensure_image()
        remove(self.number)
        self.directory.mkdir()
        self.network.up()
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", str(self.key)]
        subprocess.run(argv, check=True, capture_output=True)
        self.known_hosts.touch()

    def boot(self, count: int = 1, *, layers: Sequence[Path] = (), disk: int = 0) -> list[Host]:
        """Boot some new hosts at once, and wait until they let people in.

        Args:
            count: how many.
            layers: what lies on their disks above the image, from `Host.freeze`.
            disk: the size of each one's disk in MiB; 0 for as much as this machine has.
        """
        made = [self._make(layers, disk) for _ in range(count)]
        for host in made:
            host.start(alive=None if self.people else self._alive)
        for host in made:
            host.wait()
        return made

    def end(self, host: Host) -> None:
        """Remove one host."""
        host.remove()
        self.hosts.remove(host)

    def freeze(self, host: Host) -> Path:
        """Shut a host down, and give its disk as a layer that `boot` takes; the host is gone."""
        layer = self.directory / f"layer-{host.name}"
        host.freeze(layer)
        self.hosts.remove(host)
        return layer

    def down(self) -> None:
        """Remove everything."""
        remove(self.number)
        os.close(self._held)
        os.close(self._alive)
        self._lock.close()

    def _make(self, layers: Sequence[Path], disk: int) -> Host:
        number = self._next
        self._next += 1
        host = _host(self.number, number, layers=(*layers, self.image))
        host.create(disk=disk)
        self.hosts.append(host)
        return host


def remove_leftovers() -> None:
    """Remove every lab whose process has died; never the people's."""
    for directory in HOME.iterdir() if HOME.is_dir() else ():
        if directory.name.isdigit() and int(directory.name) != PEOPLES:
            lock = _try(int(directory.name))
            if lock is not None:
                with lock:
                    remove(int(directory.name))


def remove(number: int) -> None:
    """Remove a lab: its hosts, their disks, its network. One that is not there is fine."""
    directory = HOME / str(number)
    for place in sorted(directory.glob("h*")):
        _host(number, int(place.name.removeprefix("h"))).remove()
    Network(number).down()
    shutil.rmtree(directory, ignore_errors=True)


def _host(lab: int, number: int, *, layers: Sequence[Path] = ()) -> Host:
    directory = HOME / str(lab)
    return Host(
        f"lab{lab}-h{number}",
        directory / f"h{number}",
        layers=layers,
        network=Network(lab),
        last=number,
        key=directory / "id_ed25519",
        known_hosts=directory / "known_hosts",
    )


def _take(numbers: Sequence[int]) -> tuple[int, IO[str]]:
    """Take the first number that no living process holds."""
    for number in numbers:
        lock = _try(number)
        if lock is not None:
            return number, lock
    raise RuntimeError("every lab is in use by a living process")


def _try(number: int) -> IO[str] | None:
    # Beside the labs' directories, so that it can be held while one is removed.
    file = (HOME / f"{number}.lock").open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
