"""`opskit/make-venv` finds a Python, and makes the environment whole or not at all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE_VENV = ROOT / "opskit/make-venv"
DEBIAN = Path("/etc/debian_version").exists()

# A Python of which the test decides what is wrong with it; it answers what make-venv asks.
INTERPRETER = """\
#!/bin/sh
case "$*" in
    *'sys.exit(sys.version_info'*) exit {old} ;;
    *'print('*) echo {version} ;;
    *'import ensurepip'*) [ -e "{directory}/ensurepip" ] ;;
    '-m venv --clear '*) mkdir "$4" && echo half > "$4/half"; {venv} ;;
    *) echo "unexpected: $*" >&2; exit 99 ;;
esac
"""


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Give the directory that is first on the PATH."""
    directory = tmp_path / "tools"
    directory.mkdir()
    return directory


def tool(tools: Path, name: str, text: str) -> None:
    (tools / name).write_text(text)
    (tools / name).chmod(0o755)


def python(
    tools: Path, name: str = "python3", *, version: str = "3.12", ensurepip: bool = True,
    venv: str = "true",
) -> None:  # fmt: skip
    old = int(version < "3.11")
    text = INTERPRETER.format(old=old, version=version, directory=tools, venv=venv)
    tool(tools, name, text)
    if ensurepip:
        (tools / "ensurepip").touch()


def make_venv(tools: Path, name: str = "python3") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(MAKE_VENV), name, str(tools.parent / "venv")],
        capture_output=True, text=True, check=False,
        env={"PATH": f"{tools}:/usr/bin:/bin"},
    )  # fmt: skip


def test_a_real_environment_is_made_with_pip_and_made_anew_over_an_old_one(
    tmp_path: Path,
) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv/left over").touch()
    done = subprocess.run(
        [str(MAKE_VENV), sys.executable, str(tmp_path / "venv")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"making {tmp_path}/venv with Python {version}\n"
    assert not (tmp_path / "venv/left over").exists()
    pip = [str(tmp_path / "venv/bin/python"), "-m", "pip", "--version"]
    assert subprocess.run(pip, capture_output=True, check=False).returncode == 0


def test_what_lies_behind_a_link_is_not_emptied(tools: Path) -> None:
    """`python -m venv --clear` follows the link: another checkout's environment was gone."""
    python(tools)
    other = tools.parent / "other"
    other.mkdir()
    (other / "theirs").touch()
    link = tools.parent / "venv"
    link.symlink_to(other)
    done = make_venv(tools)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"make-venv: {link} is a link to {other}, which would be emptied. Remove the link,\n"
        f"make-venv: then make again: rm {link}\n"
    )
    assert link.is_symlink()
    assert (other / "theirs").exists()


def test_no_python_is_told_with_what_to_do(tools: Path) -> None:
    done = make_venv(tools, "python-of-nowhere")
    assert done.returncode == 1
    assert done.stderr == (
        "make-venv: there is no python-of-nowhere; install Python 3.11 or newer, or say where it "
        "is:\nmake-venv: make PYTHON=/path/to/python3 dev\n"
    )


def test_a_python_that_is_too_old_is_told_with_what_to_do(tools: Path) -> None:
    python(tools, "old", version="3.10")
    done = make_venv(tools, "old")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "make-venv: old is Python 3.10; install 3.11 or newer, or say where it is:\n"
        "make-venv: make PYTHON=/path/to/python3 dev\n"
    )


def test_where_python3_is_too_old_a_newer_one_beside_it_is_taken(tools: Path) -> None:
    python(tools, "python3", version="3.10")
    for name in ("python3.14", "python3.13"):
        tool(tools, name, "#!/bin/sh\nexit 127\n")
    python(tools, "python3.12", version="3.12")
    done = make_venv(tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"making {tools.parent}/venv with Python 3.12\n"


def test_what_failed_half_way_is_removed(tools: Path) -> None:
    python(tools, venv="exit 1")
    done = make_venv(tools)
    assert done.returncode == 1
    assert done.stderr == (
        f"make-venv: python3 -m venv --clear {tools.parent}/venv failed; see above\n"
    )
    assert not (tools.parent / "venv").exists()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_what_was_interrupted_is_removed(tools: Path, stop: signal.Signals) -> None:
    """As Ctrl-C does it: the signal goes to all that belongs to the command."""
    os.mkfifo(tools / "reached")
    python(tools, venv=f'echo > "{tools}/reached"; exec sleep 600')
    process = subprocess.Popen(
        [str(MAKE_VENV), "python3", str(tools.parent / "venv")],
        stdout=subprocess.DEVNULL,
        env={"PATH": f"{tools}:/usr/bin:/bin"},
        start_new_session=True,
    )
    (tools / "reached").read_text()
    assert (tools.parent / "venv/half").exists()
    os.killpg(process.pid, stop)
    assert process.wait(30) == 128 + stop
    assert not (tools.parent / "venv").exists()


@pytest.mark.skipif(not DEBIAN, reason="what Debian and Ubuntu keep in a package of its own")
class TestWithoutEnsurepip:
    """Debian's python3 without python3-venv."""

    def test_root_gets_the_package_installed(self, tools: Path) -> None:
        """And is told of nothing but that."""
        python(tools, ensurepip=False)
        tool(tools, "id", "#!/bin/sh\necho 0\n")
        tool(
            tools, "apt-get",
            f'#!/bin/sh\necho "$DEBIAN_FRONTEND $*" | tee -a "{tools}/asked"\n'
            f'[ "$1" = update ] || touch "{tools}/ensurepip"\n',
        )  # fmt: skip
        done = make_venv(tools)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == (
            "installing python3.12-venv, without which Python makes no virtual environment\n"
            f"making {tools.parent}/venv with Python 3.12\n"
        )
        assert (tools / "asked").read_text().splitlines() == [
            "noninteractive update",
            "noninteractive install --yes --no-install-recommends python3.12-venv",
        ]

    def test_anybody_else_is_told_the_command_to_run(self, tools: Path) -> None:
        python(tools, ensurepip=False)
        tool(tools, "id", "#!/bin/sh\necho 1000\n")
        done = make_venv(tools)
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            "make-venv: python3 has no ensurepip. Run this, then make again:\n"
            "make-venv: sudo apt-get update && sudo apt-get install python3.12-venv\n"
        )
        assert not (tools.parent / "venv").exists()

    def test_what_apt_get_complains_of_is_shown(self, tools: Path) -> None:
        python(tools, ensurepip=False)
        tool(tools, "id", "#!/bin/sh\necho 0\n")
        tool(tools, "apt-get", "#!/bin/sh\necho E: no network\nexit 100\n")
        done = make_venv(tools)
        assert done.returncode == 1
        assert done.stderr == (
            "E: no network\n"
            "make-venv: python3.12-venv could not be installed. Run this, then make again:\n"
            "make-venv: apt-get update && apt-get install python3.12-venv\n"
        )
        assert not (tools.parent / "venv").exists()

    def test_a_package_that_does_not_help_is_told(self, tools: Path) -> None:
        """As with a Python that somebody built without it."""
        python(tools, ensurepip=False)
        tool(tools, "id", "#!/bin/sh\necho 0\n")
        tool(tools, "apt-get", "#!/bin/sh\n")
        assert make_venv(tools).stderr == (
            "make-venv: python3 has no ensurepip even with python3.12-venv; is it the system's "
            "own Python?\n"
        )
