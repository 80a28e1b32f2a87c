"""`make lab`: hosts for people to deploy to, with an environments file that names them.

`python -m tests.hosts.lab_for_people up DIRECTORY` boots them (those of before are removed first),
`down DIRECTORY` removes them. They live until then, or until this machine is rebooted.
"""

from __future__ import annotations

import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.hosts.database import install_postgres
from tests.hosts.lab import PEOPLES, Lab, remove, why_not
from tests.hosts.machine import Host

_ENVIRONMENTS = """\
# Written by `make lab`. `make lab-down` removes these hosts and this file.
environments:
  # Three hosts that share one PostgreSQL, on a machine of its own ({database.address}).
  lab:
    target: ssh
    hosts: [{three[0].address}, {three[1].address}, {three[2].address}]
    user: ops
    identity_file: id_ed25519
    known_hosts: known_hosts
    url: https://{three[0].address}
    secrets:
      jwt_secret: file:secrets/jwt_secret
      database_url: file:secrets/database_url
    chat:
      store:
        kind: postgres

  # One host with SQLite.
  solo:
    target: ssh
    hosts: [{solo.address}]
    user: root
    identity_file: id_ed25519
    known_hosts: known_hosts
    url: https://{solo.address}
    secrets:
      jwt_secret: file:secrets/jwt_secret
"""


def up(directory: Path) -> None:
    """Boot the hosts, write what opskit needs to reach them, and say what to type next."""
    started = time.monotonic()
    lab = Lab(people=True)
    print("booting five hosts; the first time, an image is made (about a minute)", flush=True)
    lab.up()
    *three, solo, database = lab.boot(5)
    print("installing PostgreSQL on one of them", flush=True)
    address = install_postgres(database)
    shutil.rmtree(directory, ignore_errors=True)
    _private(directory / "secrets/jwt_secret", secrets.token_hex(32))
    _private(directory / "secrets/database_url", address)
    _private(directory / "id_ed25519", lab.key.read_text())
    shutil.copy(lab.known_hosts, directory)
    file = directory / "environments.yaml"
    file.write_text(_ENVIRONMENTS.format(three=three, solo=solo, database=database))
    print(f"\n{_next(directory, three, solo, database)}")
    print(f"\nready after {time.monotonic() - started:.0f} s")


def down(directory: Path) -> None:
    """Remove them."""
    remove(PEOPLES)
    shutil.rmtree(directory, ignore_errors=True)
    print("the lab's hosts are gone")


def _next(directory: Path, three: Sequence[Host], solo: Host, database: Host) -> str:
    opskit = f".venv/bin/opskit --environments {directory}/environments.yaml"
    return "\n".join(
        [
            f"lab   {', '.join(host.address for host in three)}, PostgreSQL on {database.address}",
            f"solo  {solo.address}, SQLite",
            "",
            f"  {opskit} provision solo",
            f"  {opskit} deploy solo",
            f"  {opskit} provision lab",
            f"  {opskit} deploy lab",
            f"  ssh -i {directory}/id_ed25519 -o UserKnownHostsFile={directory}/known_hosts "
            f"root@{solo.address}",
            "  make lab-down",
        ]
    )


def _private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    path.touch(mode=0o600)
    path.write_text(text if text.endswith("\n") else f"{text}\n")


def main() -> int:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["up", directory]:
            if reason := why_not():
                print(f"no lab: {reason}", file=sys.stderr)
                return 1
            up(Path(directory))
        case ["down", directory]:
            down(Path(directory))
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
