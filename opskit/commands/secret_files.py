"""The files of secrets on a host: replaced one by one, with a way back.

`.NAME.before` holds what a secret was before; an empty `.NAME.absent` says that there was none.
Every script is safe to run again after it was killed half-way.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from opskit.commands import Command, script

_REPLACE = """
umask 077
directory=$1 name=$2 group=${3-}
mkdir -p "$directory" && cd "$directory" || exit
cat > ".$name.next" || exit
if [ -n "$group" ]; then
  chgrp "$group" ".$name.next" && chmod 640 ".$name.next" || exit
fi
if [ ! -e ".$name.before" ] && [ ! -e ".$name.absent" ]; then
  if [ -e "$name" ]; then
    cp -p "$name" ".$name.copy" && sync -d ".$name.copy" && mv -fT ".$name.copy" ".$name.before"
  else
    : > ".$name.absent"
  fi || exit
fi
sync -d ".$name.next" && mv -fT ".$name.next" "$name"
"""

_RESTORE = """
cd "$1" 2> /dev/null || exit 0
for before in .*.before; do
  [ -e "$before" ] || continue
  name=${before#.}
  mv -fT "$before" "${name%.before}" && echo "${name%.before}" || exit
done
for absent in .*.absent; do
  [ -e "$absent" ] || continue
  name=${absent#.}
  rm -f "${name%.absent}" "$absent" && echo "${name%.absent}" || exit
done
rm -f .*.next .*.copy
"""

_DISCARD = """
cd "$1" 2> /dev/null || exit 0
rm -f .*.before .*.absent .*.next .*.copy
"""

_MAKE_ONCE = """
umask 077
path=$1
mkdir -p "$(dirname "$path")" || exit
if [ ! -s "$path" ]; then
  cat > "$path.$$" && sync -d "$path.$$" && mv -nT "$path.$$" "$path" || exit
  rm -f "$path.$$"
fi
exec cat "$path"
"""


def read(path: PurePosixPath) -> Command:
    """Read a secret, in base64; a missing one reads as empty."""
    argv = script('if [ -e "$1" ]; then\n  exec base64 -w 0 "$1"\nfi', str(path))
    return Command(argv, f"read {path.name}", "read-secret", changes=False, secret=True)


def replace(path: PurePosixPath, value: bytes, *, group: str = "") -> Command:
    """Write a secret; the one before can be restored until it is discarded.

    Only its owner reads it, and `group` where that is given: the service's, on hosts.
    """
    argv = script(_REPLACE, str(path.parent), path.name, *filter(None, [group]))
    return Command(argv, f"write the secret {path.name}", "write-secret", stdin=value, secret=True)


def restore(directory: PurePosixPath) -> Command:
    """Put back every secret that was replaced; prints their names."""
    return Command(script(_RESTORE, str(directory)), "bring secrets back", "restore-secrets")


def discard(directory: PurePosixPath) -> Command:
    """Forget what the replaced secrets were."""
    return Command(script(_DISCARD, str(directory)), "forget old secrets", "discard-secrets")


def make_once(path: PurePosixPath, value: bytes) -> Command:
    """Write a private file unless it is there; prints what it holds."""
    argv = script(_MAKE_ONCE, str(path))
    return Command(argv, f"make {path.name} once", "make-once", stdin=value, secret=True)
