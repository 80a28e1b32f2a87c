"""The shell behind the files of secrets, run for real."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path, PurePosixPath

from opskit.commands import secret_files as commands
from opskit.transport import LocalExecutor

LOCAL = LocalExecutor()


def there(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(directory.iterdir())}


def test_a_replaced_secret_comes_back(tmp_path: Path) -> None:
    """Restoring gives what was there before the first of several writes, and says which."""
    directory = tmp_path / "secrets"
    path = PurePosixPath(directory / "jwt")
    LOCAL.check(commands.replace(path, b"one\n"))
    LOCAL.check(commands.discard(PurePosixPath(directory)))
    for value in (b"two\n", b"three\n"):
        LOCAL.check(commands.replace(path, value))
    assert there(directory) == {"jwt": "three\n", ".jwt.before": "one\n"}
    assert LOCAL.check(commands.restore(PurePosixPath(directory))) == "jwt\n"
    assert there(directory) == {"jwt": "one\n"}
    assert LOCAL.check(commands.restore(PurePosixPath(directory))) == ""


def test_a_new_secret_goes_away_again(tmp_path: Path) -> None:
    """Restoring removes what was not there before."""
    directory = PurePosixPath(tmp_path / "secrets")
    LOCAL.check(commands.replace(directory / "jwt", b"one\n"))
    assert there(Path(directory)) == {"jwt": "one\n", ".jwt.absent": ""}
    LOCAL.check(commands.restore(directory))
    assert there(Path(directory)) == {}


def test_what_is_discarded_does_not_come_back(tmp_path: Path) -> None:
    """Once the new secret counts, nothing of the old one is left."""
    directory = PurePosixPath(tmp_path / "secrets")
    LOCAL.check(commands.replace(directory / "jwt", b"one\n"))
    LOCAL.check(commands.discard(directory))
    LOCAL.check(commands.replace(directory / "jwt", b"two\n"))
    LOCAL.check(commands.discard(directory))
    LOCAL.check(commands.restore(directory))
    assert there(Path(directory)) == {"jwt": "two\n"}


def test_secrets_are_private(tmp_path: Path) -> None:
    """The directory is 0700 and every file in it 0600, the old one's too."""
    directory = tmp_path / "secrets"
    LOCAL.check(commands.replace(PurePosixPath(directory / "jwt"), b"one\n"))
    LOCAL.check(commands.discard(PurePosixPath(directory)))
    LOCAL.check(commands.replace(PurePosixPath(directory / "jwt"), b"two\n"))
    LOCAL.check(commands.make_once(PurePosixPath(directory / "salt"), b"salt\n"))
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {"jwt": 0o600, ".jwt.before": 0o600, "salt": 0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_any_bytes_can_be_read_back(tmp_path: Path) -> None:
    """A secret need not be text."""
    path = PurePosixPath(tmp_path / "key")
    value = bytes(range(256))
    LOCAL.check(commands.replace(path, value))
    assert base64.b64decode(LOCAL.check(commands.read(path))) == value
    assert LOCAL.check(commands.read(PurePosixPath(tmp_path / "missing"))) == ""


def test_what_is_made_once_stays(tmp_path: Path) -> None:
    """Whoever comes second gets what the first one made."""
    path = PurePosixPath(tmp_path / "salt")
    assert LOCAL.check(commands.make_once(path, b"first\n")) == "first\n"
    assert LOCAL.check(commands.make_once(path, b"second\n")) == "first\n"
    assert os.listdir(tmp_path) == ["salt"]
