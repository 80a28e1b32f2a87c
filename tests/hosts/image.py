"""The root folder that every test host starts from: a Debian 12, made once and then cached.

It is what a person gets from a hosting company: systemd, sshd, Python, sudo, and nothing of the
chat service. What this machine needs to reach Debian's packages (mirror, proxy, name servers)
is copied into it, so that `apt-get install` on a host is the real thing. The package of the
proxy lies in apt's cache already, downloaded but not installed: a test does not wait for it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

CACHE: Final = Path(os.environ.get("OPSKIT_HOSTS_CACHE", "/var/cache/opskit-hosts"))
SUITE: Final = "bookworm"
PACKAGES: Final = (
    "systemd", "systemd-sysv", "libpam-systemd", "dbus", "openssh-server", "python3", "sudo",
    "ca-certificates", "curl", "iproute2", "iputils-ping", "kmod", "procps", "util-linux",
)  # fmt: skip
DOWNLOADED: Final = ("caddy",)
"""What lies in apt's cache of the hosts, so that a test need not download it again."""
_MIRROR: Final = "http://deb.debian.org/debian"

_SETUP: Final = """
set -eu
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
apt-get -qq install --yes --no-install-recommends --download-only $DOWNLOADED
useradd --create-home --shell /bin/bash ops
echo 'ops ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/ops
useradd --create-home --shell /bin/bash nosudo
for home in /root /home/ops /home/nosudo; do
  install -d -m 700 -o "$(stat -c %U "$home")" -g "$(stat -c %G "$home")" "$home/.ssh"
done
rm -f /etc/ssh/ssh_host_*
systemctl enable --quiet systemd-networkd
mkdir -p /var/log/journal
"""


class CannotBuild(Exception):
    """The image could not be made; says what was tried and what came of it."""


def ensure_image() -> Path:
    """Give the image's root folder, which nobody may write to; made when it is not there.

    Raises:
        CannotBuild: debootstrap or apt failed, usually for want of a network.
    """
    settings = _apt_settings()
    recipe = repr((SUITE, PACKAGES, DOWNLOADED, _mirror(), settings, _SETUP))
    image = CACHE / hashlib.sha256(recipe.encode()).hexdigest()[:16]
    CACHE.mkdir(parents=True, exist_ok=True)
    with _locked(CACHE / ".lock"):
        if not image.is_dir():
            making = image.with_suffix(".making")
            shutil.rmtree(making, ignore_errors=True)
            _build(making, settings)
            making.rename(image)
            _forget_others(image)
    return image


def _build(root: Path, settings: str) -> None:
    """Make the root folder; about 80 s, most of them debootstrap's."""
    packages = ",".join(PACKAGES)
    _run("debootstrap", "--variant=minbase", f"--include={packages}", SUITE, str(root), _mirror())
    mirror = _mirror()
    security = mirror.removesuffix("/debian") + "/debian-security"
    (root / "etc/apt/sources.list").write_text(
        f"deb {mirror} {SUITE} main\n"
        f"deb {mirror} {SUITE}-updates main\n"
        f"deb {security} {SUITE}-security main\n"
    )
    (root / "etc/apt/apt.conf.d/99this-machine").write_text(settings)
    write_name_servers(root)
    # No daemon starts in a root folder that has not been booted (invoke-rc.d(8)).
    policy = root / "usr/sbin/policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "DOWNLOADED": " ".join(DOWNLOADED)}
    _run("chroot", str(root), "sh", "-c", _SETUP, environment=environment)
    policy.unlink()


def write_name_servers(root: Path) -> None:
    """Let a root folder ask the name servers that this machine asks."""
    uplink = Path("/run/systemd/resolve/resolv.conf")
    source = uplink if uplink.exists() else Path("/etc/resolv.conf")
    target = root / "etc/resolv.conf"
    target.unlink(missing_ok=True)
    target.write_text(source.read_text())


def _mirror() -> str:
    """Give the mirror that this machine takes Debian's packages from."""
    places = sorted(Path("/etc/apt").glob("sources.list*")) + sorted(
        Path("/etc/apt/sources.list.d").glob("*")
    )
    for place in places:
        if place.suffix in (".list", ".sources") and place.is_file():
            for address in re.findall(
                r"^[^#\n]*?(https?://\S+/debian)/?\s", place.read_text(), re.M
            ):
                return str(address)
    return _MIRROR


def _apt_settings() -> str:
    """Give what this machine's apt needs to reach its mirror: proxies and checks."""
    if shutil.which("apt-config") is None:
        return ""
    said = _run("apt-config", "dump", "Acquire").splitlines()
    wanted = re.compile(r"Acquire::(https?::Proxy|Check-)", re.IGNORECASE)
    return "".join(f"{line}\n" for line in said if wanted.match(line))


def _forget_others(image: Path) -> None:
    """Remove the images of other recipes that no host runs from."""
    mounts = Path("/proc/mounts").read_text()
    for other in CACHE.iterdir():
        if other != image and other.is_dir() and str(other) not in mounts:
            shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _run(*argv: str, environment: dict[str, str] | None = None) -> str:
    """Run one program to its end, and give what it wrote."""
    done = subprocess.run(
        argv, check=False, capture_output=True, text=True, env=environment, timeout=900
    )
    if done.returncode != 0:
        raise CannotBuild(f"{_shown(argv)} ended with {done.returncode}:\n{_last_lines(done)}")
    return done.stdout


def _shown(argv: Sequence[str]) -> str:
    return " ".join(argv)[:200]


def _last_lines(done: subprocess.CompletedProcess[str]) -> str:
    return "\n".join((done.stdout + done.stderr).splitlines()[-10:])
