"""Commands are values: what they say, and how they are shown."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import fields
from pathlib import PurePosixPath

from hypothesis import given
from hypothesis import strategies as st

from opskit.commands import Command, files, lock, quote, script, secret_files, service, shown
from opskit.layout import Layout

LAYOUT = Layout(PurePosixPath("/opt/chat"))
ROOT = LAYOUT.root
PYTHON = "/usr/bin/python3"


@given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
def test_quote_is_what_a_shell_splits_into_the_same_words(argv: list[str]) -> None:
    """Whatever the words are, a POSIX shell reads exactly them."""
    assert shlex.split(quote(argv)) == argv


def test_quote_survives_a_real_shell() -> None:
    """Sh itself agrees, for the characters that mean something to it."""
    words = ["a b", "$HOME", "`id`", "it's", '"', "\\", "*", "", "-n", "new\nline", "é"]
    line = quote(["printf", "[%s]", *words])
    done = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True)
    assert done.stdout == "".join(f"[{word}]" for word in words)


def test_a_script_takes_its_arguments_by_number() -> None:
    """What is passed to a script is `$1`, `$2`, and never part of its text."""
    argv = script('printf "%s-%s" "$1" "$2"', "a b", "$(id)")
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == "a b-$(id)"


def test_simple_commands_as_data() -> None:
    """Each names its program, its paths and whether it changes anything."""
    cases = [
        (
            files.make_directories(LAYOUT.root, LAYOUT.releases),
            ("mkdir", "-p", "-m700", "/opt/chat", "/opt/chat/releases"),
            True,
        ),
        (
            files.remove(LAYOUT.release(1), LAYOUT.layer("abc")),
            ("rm", "-rf", "--", "/opt/chat/releases/v1", "/opt/chat/layers/abc"),
            True,
        ),
        (
            service.run(LAYOUT, 3, "ctl", "status", python=PYTHON, changes=False),
            (
                PYTHON,
                "-I",
                "/opt/chat/releases/v3/run.py",
                "ctl",
                "--settings",
                "/opt/chat/releases/v3/config/settings.toml",
                "status",
            ),
            False,
        ),
        (
            service.follow(LAYOUT.log, after=20),
            (
                "tail",
                "-c",
                "+21",
                "--follow=name",
                "--retry",
                "--sleep-interval=0.1",
                "--",
                "/opt/chat/log/chatservice.log",
            ),
            False,
        ),
    ]
    for command, argv, changes in cases:
        assert (command.argv, command.changes) == (argv, changes)


def test_programs_go_to_the_host_on_standard_input() -> None:
    """Nothing of opskit is installed there: Python gets the program on stdin, isolated."""
    command = service.end(ROOT, [12, 34], python=PYTHON, seconds=10.0)
    assert command.argv == (PYTHON, "-I", "-", "/opt/chat", "10", "12", "34")
    assert command.stdin.startswith(b'"""End processes')
    assert command.timeout > 10.0
    survey = service.survey(ROOT, python=PYTHON, address=("127.0.0.1", 1), admin=("10.0.0.5", 2))
    assert survey.argv == (PYTHON, "-I", "-", "/opt/chat", "127.0.0.1", "1", "10.0.0.5", "2")
    assert not survey.changes


def test_the_start_detaches_and_takes_over() -> None:
    """The service gets a session of its own, so that no signal to opskit reaches it."""
    command = service.start(LAYOUT, 2, python=PYTHON)
    assert "setsid nohup" in command.argv[2]
    assert command.argv[4:] == (
        PYTHON,
        "/opt/chat/releases/v2",
        "/opt/chat/log/chatservice.log",
        "--take-over",
    )
    assert service.start(LAYOUT, 2, python=PYTHON, take_over=False).argv[-1] == ""


def test_the_plan_shows_a_command_on_one_line() -> None:
    """Programs by their name, the command inside a fence, long arguments cut, secrets never."""
    inner = files.write(LAYOUT.in_progress, b"x" * 1000)
    fenced = lock.fenced(inner, ROOT, "token", ttl=15)
    assert shown(fenced) == shown(inner) == "<write-file.sh> /opt/chat/in-progress.json 644"
    assert shown(files.remove(ROOT)) == "rm -rf -- /opt/chat"
    assert shown(service.end(ROOT, [1], python=PYTHON, seconds=2)) == "<end.py> /opt/chat 2 1"
    secret = secret_files.replace(LAYOUT.secret("jwt_secret"), b"hush")
    assert shown(secret) == "<write-secret.sh> /opt/chat/secrets jwt_secret < (secret)"
    long = Command(("printf", "y" * 500), "print", "print")
    assert len(shown(long)) < 120


def test_a_fence_keeps_all_else_of_a_command() -> None:
    """Its input, its timeout and its secrecy are those of the command inside."""
    inner = secret_files.replace(LAYOUT.secret("jwt_secret"), b"hush")
    fenced = lock.fenced(inner, ROOT, "token", ttl=15)
    assert fenced.inner is inner
    assert fenced.argv[-len(inner.argv) :] == inner.argv
    same = [field.name for field in fields(Command) if field.name not in ("argv", "inner")]
    assert {name: getattr(fenced, name) for name in same} == {
        name: getattr(inner, name) for name in same
    }


def test_a_secret_is_in_no_argument_and_no_text_form() -> None:
    """Not in argv, and not in the repr that a traceback would show."""
    command = secret_files.replace(LAYOUT.secret("jwt_secret"), b"hush-hush")
    assert command.secret
    assert command.stdin == b"hush-hush"
    assert "hush-hush" not in repr(command)
    assert "hush-hush" not in shown(command)
