"""One throwaway host: a booted systemd with an sshd and an address of its own.

It is a systemd-nspawn container over the image's root folder and an overlay directory, which is
its disk: killed and started again it is the same machine after a power cut. What is done to it
here goes past SSH, so that it works when SSH is what a test broke.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.hosts.image import write_name_servers
from tests.hosts.network import Network, run
from tests.small_disks import take_all

BOOT_DEADLINE: Final = 60.0
"""Seconds for a boot; it takes one or two on an idle machine."""
USERS: Final = ("root", "ops", "nosudo")
"""Who can log in with the lab's key: root, one with sudo without a password, one without sudo."""

_REBOOT: Final = 133
"""What systemd-nspawn ends with, where it has no unit of its own, when its machine reboots."""
_SUPERVISE: Final = f"""
for group in $GROUPS_OF_HOST; do echo $$ > "$group/cgroup.procs"; done
exec 3<&0 </dev/null
if [ "$WITH_ITS_MAKER" = yes ]; then
  (cat <&3 >/dev/null; kill -KILL $(cat "$INIT/cgroup.procs") 0) &
fi
exec 3<&-
while :; do
  "$@"
  [ $? = {_REBOOT} ] || exit
done
"""
"""Starts the machine again when it reboots; kills it when the other end of its stdin is closed."""

_NETWORK: Final = """\
[Match]
Name=host0

[Network]
Address={address}/24
Gateway={gateway}
LinkLocalAddressing=no
IPv6AcceptRA=no
"""


class Host:
    """One machine of a lab.

    Args:
        name: its hostname, at most 11 characters (the link on this machine is called after it).
        directory: where its disk and its console's log lie.
        layers: the folders under its disk, topmost first; they are never written to.
        network: where it is connected.
        last: the last number of its address.
        key: the private key whose public one lets in.
        known_hosts: the file that its host key is written to.
    """

    port = 22

    def __init__(
        self,
        name: str,
        directory: Path,
        *,
        layers: Sequence[Path],
        network: Network,
        last: int,
        key: Path,
        known_hosts: Path,
    ) -> None:
        self.name = name
        self.directory = directory
        self.layers = tuple(layers)
        self.network = network
        self.address = network.address(last)
        self.key = key
        self.known_hosts = known_hosts
        self.root = directory / "root"
        """Its root folder, seen from this machine."""
        self._supervisor: subprocess.Popen[bytes] | None = None
        self._alive: int | None = None

    # --- power --------------------------------------------------------------------------------

    def create(self, *, disk: int = 0) -> None:
        """Make its disk: a name, an address, and who may log in.

        Args:
            disk: its size in MiB, where it shall have an end of its own, and not this machine's.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        if disk:
            self._make_disk(disk)
        for name in ("upper", "work"):
            (self._disk / name).mkdir(exist_ok=True)
        self._mount()
        root = self.root
        (root / "etc/hostname").write_text(f"{self.name}\n")
        (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n127.0.1.1 {self.name}\n")
        (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
        (root / "etc/systemd/network/10-lab.network").write_text(
            _NETWORK.format(address=self.address, gateway=self.network.gateway)
        )
        write_name_servers(root)
        public = self.key.with_suffix(".pub").read_text()
        for user in USERS:
            self.authorize(user, public)
        self.change_host_key()
        self.trust()

    def start(self, *, alive: int | None = None) -> None:
        """Switch it on, without waiting until it has booted.

        Args:
            alive: a descriptor; when its other end is closed the machine is killed.
        """
        self._mount()
        self._alive = alive
        groups = self._control_groups()
        for group in groups:
            group.mkdir(exist_ok=True)
        console = (self.directory / "console.log").open("ab")
        with console:
            self._supervisor = subprocess.Popen(
                ["sh", "-c", _SUPERVISE, "opskit-host", *self._nspawn()],
                stdin=subprocess.DEVNULL if alive is None else alive,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    "PATH": os.environ["PATH"],
                    "GROUPS_OF_HOST": " ".join(map(str, groups)),
                    "INIT": str(groups[0] / "payload/init.scope"),
                    "WITH_ITS_MAKER": "no" if alive is None else "yes",
                },
            )
        (self.directory / "pid").write_text(str(self._supervisor.pid))

    def wait(self) -> None:
        """Wait until it has booted and lets people in.

        Raises:
            RuntimeError: it did not in time; holds the end of its console.
        """
        self._await(lambda: self.answers(), "answer on its SSH port")
        self._await(lambda: self._booted(), "finish its boot")

    def kill(self) -> None:
        """Take its power away: every process of it dies at once, without a word."""
        pid = self._pid()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        if self._supervisor is not None:
            self._supervisor.wait(30)
            self._supervisor = None
        (self.directory / "pid").unlink(missing_ok=True)
        # The machine's init outlives systemd-nspawn, and takes everything of it along.
        self._await(lambda: not self._kill_processes(), "die")
        # The kernel takes its time over the link, and a new start would find it.
        run("ip", "link", "delete", f"vb-{self.name}", check=False)

    def reboot(self) -> None:
        """Boot it anew, in order, and wait until it lets people in again."""
        before = self.boot_id()
        self.run("systemctl", "reboot", "--no-block")
        self._await(lambda: self.boot_id() not in ("", before), "boot again")
        self.wait()

    def power_cycle(self) -> None:
        """Take its power away, and switch it on again."""
        self.kill()
        self.start(alive=self._alive)
        self.wait()

    def remove(self) -> None:
        """Kill it, and forget its disk."""
        self.kill()
        self._unmount()
        shutil.rmtree(self.directory, ignore_errors=True)

    def freeze(self, layer: Path) -> None:
        """Shut it down in order, and keep its disk as a layer for new hosts; it is gone then."""
        self.run("systemctl", "poweroff", "--no-block")
        self._await(lambda: self._pid() is None, "shut down")
        self.kill()
        self._unmount()
        (self.directory / "upper").rename(layer)
        shutil.rmtree(self.directory, ignore_errors=True)

    # --- what a test does to it ---------------------------------------------------------------

    def run(
        self, *argv: str, stdin: bytes = b"", check: bool = True, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command there as root, past SSH.

        Raises:
            RuntimeError: `check`, and it ended with another status than 0.
        """
        leader = self._leader()
        if leader is None:
            raise RuntimeError(f"{self.name} is not running")
        enter = ("nsenter", f"--target={leader}", "-m", "-u", "-i", "-n", "-p", "-r", "-w")
        environment = ("env", "-i", "HOME=/root", "TERM=dumb", f"PATH={os.defpath}:/usr/sbin:/sbin")
        done = subprocess.run(
            [*enter, *environment, *argv],
            input=stdin, check=False, capture_output=True, timeout=timeout,
        )  # fmt: skip
        if check and done.returncode != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            raise RuntimeError(f"{self.name}: {' '.join(argv)}: status {done.returncode}: {said}")
        return done

    def text(self, *argv: str, check: bool = True) -> str:
        """Run a command there as root, and give what it wrote."""
        return self.run(*argv, check=check).stdout.decode("utf-8", "replace")

    def journal(self, unit: str = "", *, lines: int = 1000) -> str:
        """Give the end of its journal, of one unit or of all."""
        of_unit = ("--unit", unit) if unit else ()
        return self.text("journalctl", "--no-pager", "--output=short-iso", f"-n{lines}", *of_unit)

    @contextmanager
    def silent(self) -> Iterator[None]:
        """Cut its network without a word to anybody: no packet comes through, no error either."""
        run("ip", "neighbour", "replace", self.address, "lladdr", self._link_address(),
            "dev", self.network.bridge, "nud", "permanent")  # fmt: skip
        self._link("down")
        try:
            yield
        finally:
            self._link("up", check=False)  # it is gone if the machine was killed meanwhile
            run("ip", "neighbour", "delete", self.address, "dev", self.network.bridge, check=False)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stop all its processes: its kernel takes connections, and nobody says anything."""
        stopped: set[str] = set()
        while new := set(self._processes()) - stopped:
            self._signal(new, signal.SIGSTOP)
            stopped |= new
        try:
            yield
        finally:
            self._signal(stopped, signal.SIGCONT)

    def fill(self, *, leave: int = 0) -> None:
        """Fill its disk, which has to be one of its own, also what is reserved for root.

        Args:
            leave: bytes to leave free.
        """
        filler = self._disk / "filler"
        os.truncate(filler, max(0, take_all(filler) - leave))

    def make_room(self) -> None:
        """Give the room back that `fill` took."""
        (self._disk / "filler").unlink(missing_ok=True)

    def authorize(self, user: str, public: str) -> None:
        """Let a public key, and no other, in as one user."""
        home = self.root / ("root" if user == "root" else f"home/{user}")
        path = home / ".ssh/authorized_keys"
        path.write_text(public)
        owner = home.stat()
        os.chown(path, owner.st_uid, owner.st_gid)
        path.chmod(0o600)

    def change_host_key(self) -> None:
        """Give it a new host key, as a reinstalled machine has; nobody is told."""
        path = self.root / "etc/ssh/ssh_host_ed25519_key"
        for file in (path, path.with_name(f"{path.name}.pub")):
            file.unlink(missing_ok=True)
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", self.name, "-f", str(path)]
        subprocess.run(argv, check=True, capture_output=True)
        path.chmod(0o600)

    def host_key(self) -> str:
        """Give its public host key as known_hosts has it: type and base64."""
        path = self.root / "etc/ssh/ssh_host_ed25519_key.pub"
        return " ".join(path.read_text().split()[:2])

    def trust(self) -> None:
        """Write its host key into the lab's known_hosts, in place of the one before."""
        before = self.known_hosts.read_text().splitlines() if self.known_hosts.exists() else []
        kept = [line for line in before if line.split()[0] != self.address]
        self.known_hosts.write_text("\n".join([*kept, f"{self.address} {self.host_key()}", ""]))

    def boot_id(self) -> str:
        """Give the identity of its current boot; empty while it is down."""
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
            return self.text("cat", "/proc/sys/kernel/random/boot_id", check=False).strip()
        return ""

    def answers(self) -> bool:
        """Say whether its sshd greets."""
        try:
            with socket.create_connection((self.address, self.port), timeout=1) as connection:
                connection.settimeout(2)
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    # --- how it is made -----------------------------------------------------------------------

    def _nspawn(self) -> tuple[str, ...]:
        return (
            "systemd-nspawn", "--quiet", "--boot", f"--machine={self.name}",
            f"--directory={self.root}", f"--network-bridge={self.network.bridge}",
            "--register=no", "--keep-unit", "--settings=no", "--link-journal=no",
            "--resolv-conf=off", "--timezone=off", "--console=read-only",
            # As systemd has it on a machine of its own, whatever this one allows its shells.
            "--rlimit=RLIMIT_NOFILE=1024:524288",
        )  # fmt: skip

    @property
    def _disk(self) -> Path:
        """Where its disk lies: in a file system of its own, or in this machine's."""
        own = self.directory / "disk"
        return own if own.is_dir() else self.directory

    def _make_disk(self, size: int) -> None:
        image, place = self.directory / "image", self.directory / "disk"
        place.mkdir()
        with image.open("wb") as file:
            os.ftruncate(file.fileno(), size << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop", image, place], check=True, capture_output=True)

    def _mount(self) -> None:
        if os.path.ismount(self.root):
            return
        lower, disk = ":".join(map(str, self.layers)), self._disk
        options = f"lowerdir={lower},upperdir={disk}/upper,workdir={disk}/work"
        subprocess.run(
            ["mount", "-t", "overlay", "overlay", "-o", options, self.root],
            check=True, capture_output=True,
        )  # fmt: skip

    def _unmount(self) -> None:
        for group in self._control_groups():
            _remove_group(group)
        for place in (self.root, self.directory / "disk"):
            if os.path.ismount(place):
                subprocess.run(["umount", "--lazy", place], check=True, capture_output=True)

    def _control_groups(self) -> tuple[Path, ...]:
        """Give the control groups of its own; two machines cannot share one."""
        top = Path("/sys/fs/cgroup")
        if (top / "cgroup.controllers").exists():
            return (top / f"opskit-{self.name}",)
        return tuple(
            top / hierarchy / f"opskit-{self.name}"
            for hierarchy in ("systemd", "unified")
            if (top / hierarchy).is_dir()
        )

    def _pid(self) -> int | None:
        """Give the supervisor's process; never another that was given its number since."""
        try:
            pid = int((self.directory / "pid").read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if f"--machine={self.name}".encode() in words else None

    def _leader(self) -> int | None:
        """Give the process that is the machine's first, as this machine numbers it."""
        supervisor = self._pid()
        for nspawn in _children(supervisor) if supervisor else ():
            if _program(nspawn) == "systemd-nspawn":
                for child in _children(nspawn):
                    # It calls itself so before it is the machine's init, too: that is no leader.
                    if _program(child) == "systemd":
                        return child
        return None

    def _kill_processes(self) -> bool:
        """Kill what is in its control group; says whether there was anything."""
        found = self._processes()
        self._signal(found, signal.SIGKILL)
        return bool(found)

    def _signal(self, processes: Iterable[str], number: signal.Signals) -> None:
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), number)

    def _processes(self) -> list[str]:
        """Give every process of it that lives, by its control group."""
        group = self._control_groups()[0]
        found: list[str] = []
        for directory, _, _ in os.walk(group):
            with contextlib.suppress(OSError):
                found += (Path(directory) / "cgroup.procs").read_text().split()
        return found

    def _booted(self) -> bool:
        if self._leader() is None:
            return False
        return self.text("systemctl", "is-system-running", check=False).strip() in (
            "running",
            "degraded",
        )

    def _link(self, state: str, *, check: bool = True) -> None:
        run("ip", "link", "set", f"vb-{self.name}", state, check=check)

    def _link_address(self) -> str:
        return self.text("cat", "/sys/class/net/host0/address").strip()

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + BOOT_DEADLINE
        while not condition():
            if time.monotonic() > deadline:
                console = (self.directory / "console.log").read_text(errors="replace")
                end = "\n".join(console.splitlines()[-20:])
                raise RuntimeError(f"{self.name} did not {what} in {BOOT_DEADLINE:g} s:\n{end}")
            time.sleep(0.02)


def _children(pid: int) -> list[int]:
    try:
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _program(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _remove_group(group: Path) -> None:
    if not group.is_dir():
        return
    for directory, _, _ in os.walk(group, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
