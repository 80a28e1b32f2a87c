"""Making a fresh Debian host ready: look, packages, users, directories, units, proxy.

The look needs nothing but a shell: Python is one of the things that may be missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from opskit.commands import Command, script

# `kind:name` for each thing to look at; one line of tab-separated fields for each comes back.
_LOOK = r"""
export LC_ALL=C
tab=$(printf '\t')
say() { (IFS=$tab; printf '%s\n' "$*"); }
say os "$(. /etc/os-release 2>/dev/null && echo "$ID$tab$VERSION_ID")"
for thing in "$@"; do
  kind=${thing%%:*} name=${thing#*:}
  case $kind in
    package)
      say package "$name" "$(dpkg-query -W -f='${db:Status-Status} ${Version}' "$name" 2>/dev/null)"
      ;;
    candidate)
      say candidate "$name" "$(apt-cache policy "$name" 2>/dev/null |
        sed -n 's/^ *Candidate: *//p')"
      ;;
    user) say user "$name" "$(getent passwd "$name")" ;;
    path) say path "$name" "$(stat -c '%F|%a|%U|%G' "$name" 2>/dev/null)" ;;
    file)
      say file "$name" "$(stat -c '%F|%a|%U|%G' "$name" 2>/dev/null)" \
        "$( [ -f "$name" ] && base64 -w 0 "$name")"
      ;;
    shipped)
      say shipped "$name" "$(dpkg-query -W -f='${Conffiles}\n' '*' 2>/dev/null |
        awk -v name="$name" '$1 == name { print $2 }')"
      ;;
    unit)
      say unit "$name" "$(systemctl is-enabled "$name" 2>/dev/null)" \
        "$(systemctl is-active "$name" 2>/dev/null)" \
        "$(systemctl show --property=NeedDaemonReload --value "$name" 2>/dev/null)"
      ;;
    runs)
      for file in $(grep -lsE "^ExecStart=.* $name/run\.py serve" /etc/systemd/system/*.service); do
        say runs "$name" "${file##*/}"
      done
      ;;
  esac
done
"""

_FINISH = """
ls /var/lib/dpkg/updates | grep -q '^[0-9]' || exit 0
DEBIAN_FRONTEND=noninteractive exec dpkg --configure -a --force-confold
"""

_PROXY = r"""
target=$1 main=$2
umask 022
mkdir -p "$(dirname "$target")" || exit
before=
if [ -e "$target" ]; then before=$target.before; cp -p "$target" "$before" || exit; fi
cat > "$target.new" && chmod 644 "$target.new" && mv -fT "$target.new" "$target" || exit
[ -e "$main" ] || exit 0
if why=$(setpriv --reuid=caddy --regid=caddy --init-groups env HOME=/var/lib/caddy \
    caddy validate --adapter caddyfile --config "$main" 2>&1); then
  rm -f "$target.before"
  exit 0
fi
if [ -n "$before" ]; then mv -fT "$before" "$target"; else rm -f "$target"; fi
printf '%s\n' "$why" | tail -n 3 >&2
exit 1
"""


def look(things: Sequence[str]) -> Command:
    """Look at what is there; each thing is `kind:name`."""
    return Command(script(_LOOK, *things), "look at the host", "look", changes=False)


def update_packages() -> Command:
    """Fetch the list of packages."""
    return Command(
        ("apt-get", "-qq", "update"), "fetch the list of packages", "apt-update", timeout=300.0
    )


def finish_packages() -> Command:
    """Finish an installation that was interrupted; apt installs nothing before that."""
    return Command(
        script(_FINISH), "finish what an interrupted installation left", "dpkg", timeout=600.0
    )


def install_packages(names: Sequence[str]) -> Command:
    """Install packages; what a person changed in /etc stays, and nothing is asked."""
    options = ("-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Options::=--force-confold")
    argv = ("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", *options)
    return Command(
        (*argv, "install", "--yes", "--no-install-recommends", *names),
        "install " + ", ".join(names),
        "apt-install",
        timeout=900.0,
    )


def add_user(name: str) -> Command:
    """Make a system user, with a group of the same name, that nobody can log in as."""
    argv = ("useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent")
    return Command(
        (*argv, "--shell", "/usr/sbin/nologin", name), f"make the user {name}", "add-user"
    )


def make_directory(path: PurePosixPath, *, mode: int, owner: str, group: str) -> Command:
    """Make a directory, or give one that is there this mode and these owners."""
    argv = ("install", "-d", f"-m{mode:o}", f"-o{owner}", f"-g{group}", str(path))
    return Command(argv, f"make {path} ({owner}:{group} {mode:o})", "make-directory")


def write_proxy(path: PurePosixPath, content: bytes, *, main: PurePosixPath) -> Command:
    """Write a file of Caddy's configuration; one that it refuses is taken back at once."""
    argv = script(_PROXY, str(path), str(main))
    return Command(argv, f"write {path}, if Caddy takes it", "write-proxy", stdin=content)


def read_units() -> Command:
    """Let systemd read its units again."""
    return Command(("systemctl", "daemon-reload"), "let systemd read its units", "daemon-reload")


def enable(unit: str) -> Command:
    """Let a unit start at boot."""
    return Command(
        ("systemctl", "enable", "--quiet", unit), f"let {unit} start at boot", "enable-unit"
    )


def reload_or_start(unit: str) -> Command:
    """Let a unit read its configuration, or start it."""
    argv = ("systemctl", "reload-or-restart", unit)
    return Command(argv, f"let {unit} read its configuration", "reload-unit", timeout=60.0)
