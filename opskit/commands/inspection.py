"""A look at a host that needs nothing but a shell: its system, memory, clock, ports, reach.

And one at a database, with the packages that a release brings along.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from opskit.commands import Command, script
from opskit.commands.host import program

REACH_SECONDS = 5
"""How long a host may take to connect to a server."""

_INSPECT = r"""
export LC_ALL=C
say() { printf '%s\t%s\n' "$1" "$2"; }
say clock "$(date +%s.%N)"
say user "$(id -u)"
say system "$(. /etc/os-release 2>/dev/null && echo "$PRETTY_NAME")"
say machine "$(uname -m)"
say libc "$(getconf GNU_LIBC_VERSION 2>/dev/null)"
say systemd "$(systemctl --version 2>/dev/null | sed -n '1s/^systemd \([0-9]*\).*/\1/p')"
python=$1
shift
say python "$("$python" -c 'import platform; print(platform.python_version())' 2>/dev/null)"
sed -n 's/^\(MemTotal\|MemAvailable\): *\([0-9]*\) kB/\1\t\2/p' /proc/meminfo
for thing in "$@"; do
  kind=${thing%%:*} name=${thing#*:}
  case $kind in
    port)
      say "port:$name" "$(ss -Hltnp "sport = :$name" 2>/dev/null |
        sed -n 's/.*users:((\("[^"]*",pid=[0-9]*\).*/\1/p; t; s/.*/unknown/p' | head -n 1)"
      ;;
    reach)
      host=${name%:*} port=${name##*:}
      why=$(timeout "$LIMIT" bash -c 'exec 3<>"/dev/tcp/$0/$1"' "$host" "$port" 2>&1)
      case $? in
        0) say "reach:$name" ok ;;
        124) say "reach:$name" "no answer within $LIMIT s" ;;
        *) say "reach:$name" "$(printf '%s\n' "$why" | head -n 1 | sed 's/.*: //')" ;;
      esac
      ;;
    disk)
      place=$name
      until [ -d "$place" ]; do place=$(dirname "$place"); done
      say "disk:$name" "$(df -B1 --output=avail "$place" | tail -n 1 | tr -d ' ')"
      ;;
  esac
done
"""


def inspect(
    python: str,
    ports: Sequence[int],
    servers: Sequence[str],
    disks: Sequence[PurePosixPath] = (),
) -> Command:
    """Look at a host.

    Args:
        python: the interpreter that shall run the service.
        ports: TCP ports whose listeners are asked for.
        servers: `host:port` of each that the host must reach.
        disks: paths, there or not yet, whose file system's free bytes are asked for.
    """
    things = [*(f"port:{port}" for port in ports), *(f"reach:{server}" for server in servers)]
    things += [f"disk:{path}" for path in disks]
    text = f"LIMIT={REACH_SECONDS}\n{_INSPECT.lstrip()}"
    seconds = 30.0 + REACH_SECONDS * len(servers)
    return Command(
        script(text, python, *things), "inspect the host", "inspect", changes=False, timeout=seconds
    )


def try_database(python: str, places: Sequence[PurePosixPath], address: bytes) -> Command:
    """Try a database.

    Args:
        python: the interpreter that the packages are for.
        places: the directories of the chat service and its packages.
        address: of the database; a secret.
    """
    return program(
        "try_database",
        python,
        [str(place) for place in places],
        "try the database",
        changes=False,
        secret=address,
    )
