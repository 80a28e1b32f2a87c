"""The line that a command becomes over SSH."""

from __future__ import annotations

import shlex
from dataclasses import replace

from opskit.commands import Command, remote

COMMAND = Command(("printf", "%s", "it's $HOME"), "print", "print", timeout=2.5)


def test_a_line_is_one_bounded_session() -> None:
    words = shlex.split(remote.line(COMMAND, sudo=False))
    assert words[:7] == ["exec", "setsid", "-w", "timeout", "-s", "KILL", "13"]
    assert words[-3:] == ["printf", "%s", "it's $HOME"]


def test_sudo_comes_first_and_asks_nothing() -> None:
    assert shlex.split(remote.line(COMMAND, sudo=True))[:5] == [
        "exec",
        "sudo",
        "-n",
        "--",
        "setsid",
    ]
    assert remote.kill(77, sudo=True) == "exec sudo -n -- kill -s KILL -- -77"
    assert remote.kill(77, sudo=False) == "exec kill -s KILL -- -77"


def test_a_stream_outlives_its_timeout() -> None:
    assert "604800" in shlex.split(remote.line(COMMAND, sudo=False, stream=True))


def test_the_leader_is_taken_out_of_what_was_said() -> None:
    said = remote.said(b"a banner\nopskit-leader 77\nan error\n")
    assert said == remote.Said(77, "a banner\nan error\n")
    assert remote.said(b"sudo: a password is required\n").leader is None
    assert remote.said(b"opskit-leader 7").leader is None


def test_what_is_read_is_counted_and_never_in_the_line() -> None:
    words = shlex.split(remote.line(replace(COMMAND, stdin=b"a secret"), sudo=False))
    assert words[-4:] == ["8", "printf", "%s", "it's $HOME"]
    assert "secret" not in " ".join(words)
