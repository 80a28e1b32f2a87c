"""The lock of one environment on one host: a lease file, changed only under flock(1).

`<root>/lock` holds two lines: `BOOT EXPIRES TOKEN`, and the holder as JSON. EXPIRES counts
hundredths of a second on the host's own uptime, which no clock adjustment moves and which a
reboot (another BOOT) ends. Everyone who changes the file holds flock on the root directory, so
that of any number who try at once exactly one wins.

On a full disk a deployment must still be able to undo itself, and a person to roll back. So an
extension overwrites what is there, of the same length, and takes no room; and `<root>/spare` takes
up some room that is given back to who needs the lock and finds none.

What a script prints: on success nothing; when another holds the lease `LEFT`, the hundredths
of a second until it ends, and the holder's line.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import PurePosixPath

from opskit.commands import Command, script

HELD = 191
"""Exit status: the lease is another's. No program that opskit runs ends with it."""
BUSY = 192
"""Exit status: flock was not to be had within ten seconds."""
SPARE = 1024 * 1024
"""Bytes of `<root>/spare`: a rollback writes a few KiB."""

_PRELUDE = f"""
root=$1 mine=$2 ttl=$3
boot= until=0 token= holder= left=0
exec 9< "$root" && flock -w 10 9 || exit {BUSY}
read -r up _ < /proc/uptime
now=${{up%.*}}${{up#*.}}
read -r this_boot < /proc/sys/kernel/random/boot_id
if [ -e "$root/lock" ]; then
  {{ read -r boot until token; IFS= read -r holder; }} < "$root/lock"
fi
[ "$boot" = "$this_boot" ] && left=$((until - now))
line() {{
  printf '%s %-12s %s\\n' "$this_boot" "$((now + ttl))" "$mine"
}}
lease() {{
  umask 077
  {{ line; printf '%s\\n' "$1"; }} | cat > "$root/.lock.new" &&
  mv -fT "$root/.lock.new" "$root/lock" && return
  rm -f "$root/.lock.new"
  return 1
}}
extend() {{
  line 1<> "$root/lock"
}}
lost() {{
  printf '%s\\n%s\\n' "$left" "$holder"
  exit {HELD}
}}
"""

_ACQUIRE = """
mkdir -p -m 700 "$1" || exit 1
{prelude}
[ "$token" != "$mine" ] && [ "$left" -gt 0 ] && lost
lease "$4" 2> /dev/null || {{ rm -f "$root/spare"; lease "$4"; }}
"""

_RENEW = """
{prelude}
[ "$token" = "$mine" ] || lost
extend
"""

_FENCED = """
{prelude}
[ "$token" = "$mine" ] || lost
extend || exit
exec 9<&-
shift 3
exec "$@"
"""

_RELEASE = """
{prelude}
[ "$token" = "$mine" ] || lost
rm -f "$root/lock"
[ -e "$root/spare" ] || fallocate -l {spare} "$root/spare" 2> /dev/null || rm -f "$root/spare"
"""


def _script(text: str, root: PurePosixPath, token: str, ttl: float, *more: str) -> tuple[str, ...]:
    hundredths = str(round(ttl * 100))
    text = text.format(prelude=_PRELUDE.strip("\n"), spare=SPARE)
    return script(text, str(root), token, hundredths, *more)


def acquire(root: PurePosixPath, token: str, holder: str, *, ttl: float) -> Command:
    """Take the lease for `ttl` seconds, unless another's has not ended; `holder` is one line."""
    return Command(_script(_ACQUIRE, root, token, ttl, holder), "take the lock", "lock")


def renew(root: PurePosixPath, token: str, *, ttl: float) -> Command:
    """Extend the lease to `ttl` seconds from now, while it is still ours.

    It is begun when a third of that is over, and after two thirds more it comes too late.
    """
    argv = _script(_RENEW, root, token, ttl)
    seconds = max(10.0, ttl * 2 / 3)
    return Command(argv, "renew the lock", "renew-lock", timeout=seconds, quick=True)


def release(root: PurePosixPath, token: str) -> Command:
    """Give the lease up, if it is still ours; see that there is a spare for the next."""
    return Command(_script(_RELEASE, root, token, 0), "release the lock", "unlock")


def fenced(command: Command, root: PurePosixPath, token: str, *, ttl: float) -> Command:
    """Run a command only while the lease is ours, and extend that first.

    An opskit that was suspended for longer than its lease is thereby stopped by the host itself.
    """
    argv = _script(_FENCED, root, token, ttl, *command.argv)
    return replace(command, argv=argv, inner=command)
