"""opskit's SSH, against real hosts: who is trusted, how commands run, and what breaks."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from opskit import ssh_connection, ssh_watch
from opskit.commands import Command, remote, script
from opskit.environments import load_environments
from opskit.host_keys import HostKeyRefused
from opskit.patience import Patience
from opskit.ssh import SshExecutor, connections
from opskit.ssh_connection import Address, ConnectionLost, Login
from opskit.ssh_trouble import CannotConnect
from opskit.transport import CommandTimeout
from tests.hosts.conftest import NewHosts
from tests.hosts.machine import Host

DEADLINE = 30.0


def sh(text: str, *arguments: str, stdin: bytes = b"", timeout: float = 30.0) -> Command:
    """Give a command that runs a shell script, and takes no longer however slow the host is."""
    argv = script(text, *arguments)
    what = "run the test's script"
    return Command(argv, what, "test", stdin=stdin, timeout=timeout, quick=True)


@contextmanager
def connected(
    host: Host, user: str = "root", patience: Patience | None = None, **login: object
) -> Iterator[SshExecutor]:
    """Give an executor that trusts the lab's hosts, and uses the lab's key."""
    fields = {
        "identity_file": host.key, "known_hosts": host.known_hosts, "agent": False,
        "config": Path("/dev/null"), **login,
    }  # fmt: skip
    address = Address(host.address, user)
    executor = SshExecutor(address, Login(**fields), patience)  # type: ignore[arg-type]
    try:
        yield executor
    finally:
        executor.close()


@pytest.fixture
def root(host: Host) -> Iterator[SshExecutor]:
    with connected(host) as executor:
        yield executor


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not within {DEADLINE:g} s: {what}"
        time.sleep(0.05)


def runs(host: Host, marker: str) -> bool:
    """Say whether a process with this word on its command line runs there."""
    return host.run("pgrep", "-f", marker, check=False).returncode == 0


# --- running ----------------------------------------------------------------------------------


def test_arguments_arrive_as_they_were_given(root: SshExecutor) -> None:
    arguments = [
        "",
        "two words",
        "$HOME `id` $(id)",
        "it's",
        'a "quote"',
        "back\\slash",
        "*",
        "ü\n",
    ]
    said = root.check(sh(r'printf "%s|" "$@"', *arguments))
    assert said == "".join(f"{one}|" for one in arguments)


def test_output_error_and_status_are_told_apart(root: SshExecutor) -> None:
    result = root.run(sh("echo out; echo err >&2; exit 7"))
    assert (result.status, result.stdout, result.stderr) == (7, "out\n", "err\n")


def test_a_command_killed_by_a_signal_says_which(root: SshExecutor) -> None:
    assert root.run(sh("kill -TERM $$")).status == 128 + 15


def test_tens_of_megabytes_go_in_and_out_at_once(root: SshExecutor) -> None:
    content = bytes(range(256)) * 4096 * 24  # 24 MiB, which is more than any window
    command = sh("tee /dev/stderr | sha256sum", stdin=content, timeout=120)
    result = root.run(command)
    assert result.stdout.split()[0] == hashlib.sha256(content).hexdigest()
    assert len(result.stderr) >= len(content) // 2


def test_a_command_that_reads_nothing_leaves_no_writer_behind(root: SshExecutor) -> None:
    before = threading.active_count()
    assert root.run(sh("exit 3", stdin=b"x" * 30_000_000)).status == 3
    until(lambda: threading.active_count() <= before + 2, "the writer ends")


def test_commands_of_many_threads_share_one_connection(root: SshExecutor, host: Host) -> None:
    def one(number: int) -> str:
        return root.check(sh('sleep 0.2; echo "$1 ${SSH_CONNECTION}"', str(number)))

    with ThreadPoolExecutor(24) as pool:
        said = [line.split() for line in pool.map(one, range(24))]
    assert [int(words[0]) for words in said] == list(range(24))
    assert len({tuple(words[1:]) for words in said}) == 1
    assert root.round_trips == 5 + 24 * 3


def test_small_packets_go_at_once(host: Host) -> None:
    login = Login(identity_file=host.key, known_hosts=host.known_hosts, agent=False)
    connection = ssh_connection.Connection(Address(host.address, "root"), login, Patience())
    sock = connection.transport().sock
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    connection.close()


def test_other_users_run_commands_as_root_through_sudo(host: Host) -> None:
    with connected(host, "ops") as executor:
        result = executor.run(sh("id -un; cat", stdin=b"read as it was given"))
        assert (result.status, result.stdout, result.stderr) == (
            0,
            "root\nread as it was given",
            "",
        )


def test_a_user_without_sudo_is_told_so(host: Host) -> None:
    with (
        connected(host, "nosudo") as executor,
        pytest.raises(Exception, match="user nosudo may not run commands as root") as caught,
    ):
        executor.run(sh("true"))
    assert "/etc/sudoers.d/nosudo" in caught.value.hint  # type: ignore[attr-defined]


def test_a_stream_gives_lines_as_they_are_written_and_ends_what_wrote_them(
    root: SshExecutor, host: Host
) -> None:
    command = sh("n=0; while :; do n=$((n+1)); echo line $n; sleep 0.05; done # stream-marker")
    with closing(root.stream(command)) as lines:
        assert [next(lines) for _ in range(5)] == [f"line {n}" for n in range(1, 6)]
        assert runs(host, "stream-marker")
    until(lambda: not runs(host, "stream-marker"), "the stream's command ends")


def test_bytes_that_are_not_utf8_come_through_a_stream(root: SshExecutor) -> None:
    command = sh(r"printf 'a\377b\nlast'")
    assert list(root.stream(command)) == ["a\udcffb", "last"]


# --- time -------------------------------------------------------------------------------------


def failing(executor: SshExecutor, command: Command) -> None:
    """Run a command that ends with its connection."""
    with pytest.raises(ConnectionLost):
        executor.run(command)


def test_a_command_whose_opskit_is_gone_is_ended_by_the_host(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_GRACE", 1.0)
    with connected(host) as executor:
        waiting = threading.Thread(
            target=failing, args=(executor, sh("sleep 601 # orphan-marker", timeout=2))
        )
        waiting.start()
        until(lambda: runs(host, "orphan-marker"), "it runs")
        host.run("pkill", "-KILL", "-f", "^sshd: root")
        waiting.join(DEADLINE)
        until(lambda: not runs(host, "orphan-marker"), "the host ends it")


@pytest.mark.parametrize("user", ["root", "ops"])
def test_a_command_that_takes_too_long_is_killed_with_its_children(
    host: Host, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "_GRACE", 300.0)  # the host itself would end it much later
    marker = f"timeout-{user}"
    with connected(host, user) as executor:
        started = time.monotonic()
        with pytest.raises(CommandTimeout, match="not done after 1 s"):
            executor.run(sh(f"sh -c 'sleep 600 # {marker}' & wait # {marker}", timeout=1))
        assert time.monotonic() - started < DEADLINE
        until(lambda: not runs(host, marker), "the command is killed")
        assert executor.check(sh("echo on")) == "on\n"


def test_an_interrupted_caller_leaves_nothing_running(root: SshExecutor, host: Host) -> None:
    seen: list[BaseException] = []

    def interrupted() -> None:
        stream = root.stream(sh("echo begun; sleep 600 # interrupt-marker"))
        assert next(stream) == "begun"
        try:
            stream.throw(KeyboardInterrupt())
        except KeyboardInterrupt as error:
            seen.append(error)

    thread = threading.Thread(target=interrupted)
    thread.start()
    thread.join(DEADLINE)
    assert len(seen) == 1
    until(lambda: not runs(host, "interrupt-marker"), "the command is killed")


def test_a_host_that_falls_silent_holds_a_command_no_longer_than_its_timeout(
    new_hosts: NewHosts,
) -> None:
    [host] = new_hosts()
    with connected(host) as executor:
        executor.check(sh("true"))
        with host.silent():
            started = time.monotonic()
            with pytest.raises(CannotConnect, match="the host does not answer within 2 s"):
                executor.run(sh("true", timeout=2))
            assert time.monotonic() - started < DEADLINE
        assert executor.check(sh("echo again")) == "again\n"


def test_a_slow_host_is_given_the_time_that_is_configured(host: Host) -> None:
    """Those of its own commands that would be of no use later are given no more."""
    slow = replace(sh("sleep 2; echo done", timeout=0.5), quick=False)
    with connected(host, patience=Patience(command=DEADLINE)) as executor:
        assert executor.check(slow) == "done\n"
        with pytest.raises(CommandTimeout, match=r"not done after 0\.5 s"):
            executor.run(replace(slow, quick=True))
    with (
        connected(host, patience=Patience(command=1.5)) as executor,
        pytest.raises(CommandTimeout, match=r"not done after 1\.5 s") as caught,
    ):
        executor.run(slow)
    assert caught.value.hint == (
        "see what keeps the host busy; if it is only slow, set `command_timeout` above 1.5 "
        "in environments.yaml"
    )


def test_a_host_is_waited_for_as_long_as_is_configured(new_hosts: NewHosts, tmp_path: Path) -> None:
    [host] = new_hosts()
    file = tmp_path / "environments.yaml"
    file.write_text(
        f"environments: {{prod: {{target: ssh, hosts: [{host.address}], connect_timeout: 1.5,\n"
        f"  identity_file: {host.key}, known_hosts: {host.known_hosts},\n"
        "  url: 'https://chat.test', secrets: {jwt_secret: 'env:NONE'}}}\n"
    )
    [executor] = connections(load_environments(file).get("prod"))
    where, slow = f"{host.address} port 22", "if it is only slow, set `connect_timeout` above 1.5"
    with host.silent():
        started = time.monotonic()
        with pytest.raises(
            CannotConnect, match=rf"{where} does not answer within 1\.5 s"
        ) as caught:
            executor.connect()
        assert time.monotonic() - started < Patience.connect
        assert caught.value.hint.endswith(f"; {slow} in environments.yaml")
    with connected(host) as patient:
        patient.connect()
    with host.frozen():
        with pytest.raises(
            CannotConnect, match=rf"{where} takes .* says nothing in 1\.5 s"
        ) as caught:
            executor.connect()
        assert caught.value.hint.endswith(f"; {slow} in environments.yaml")


@contextmanager
def late(host: Host, *, seconds: float) -> Iterator[int]:
    """Listen in front of a host's sshd, and pass on what follows its greeting so much later."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def carry(source: socket.socket, sink: socket.socket, *, holds: bool) -> None:
            with contextlib.suppress(OSError):
                while chunk := source.recv(65536):
                    sink.sendall(chunk)
                    if holds:
                        time.sleep(seconds)
                    holds = False
            with contextlib.suppress(OSError):  # however that ended, the other side hears of it
                sink.shutdown(socket.SHUT_WR)

        def serve() -> None:
            taken, _ = server.accept()
            with taken, socket.create_connection((host.address, host.port)) as behind:
                out = threading.Thread(target=carry, args=(taken, behind), kwargs={"holds": False})
                out.start()
                carry(behind, taken, holds=True)
                out.join()

        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        yield server.getsockname()[1]
        serving.join(DEADLINE)
        assert not serving.is_alive()


@pytest.mark.parametrize("seconds", [1.5, DEADLINE])
def test_a_login_that_takes_long_is_waited_for_as_long_as_is_configured(
    new_hosts: NewHosts, seconds: float
) -> None:
    [host] = new_hosts()
    slow = "1i account optional pam_exec.so /bin/sleep 4"
    host.run("sed", "-i", slow, "/etc/pam.d/sshd")
    with connected(host, patience=Patience(connect=seconds)) as executor:
        if seconds == DEADLINE:
            assert executor.check(sh("echo in")) == "in\n"
            return
        with pytest.raises(CannotConnect) as caught:
            executor.connect()
    where = f"{host.address}: {host.address} port 22"
    assert str(caught.value) == f"{where} does not say within 1.5 s whether it lets root in"
    assert "set `connect_timeout` above 1.5 " in caught.value.hint


def test_a_host_that_is_late_in_each_part_of_connecting_is_connected_to(
    host: Host, tmp_path: Path
) -> None:
    """Its part in the keys may come later than the 15 s that paramiko waits for that by itself."""
    known = tmp_path / "known_hosts"
    with late(host, seconds=16.0) as port:
        known.write_text(f"[127.0.0.1]:{port} {host.host_key()}\n")
        login = Login(identity_file=host.key, known_hosts=known, agent=False)
        address = Address("127.0.0.1", "root", port)
        with closing(SshExecutor(address, login, Patience(connect=DEADLINE))) as executor:
            assert executor.check(sh("echo in")) == "in\n"


def test_a_stopped_sshd_ends_a_stream(new_hosts: NewHosts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ssh_watch, "INTERVAL", 0.2)
    monkeypatch.setattr(Patience, "silence", 2.0)
    [host] = new_hosts()
    with connected(host) as executor:
        stream = executor.stream(sh("echo begun; sleep 600"))
        assert next(stream) == "begun"
        host.run("pkill", "-STOP", "-f", "^sshd: root")
        started = time.monotonic()
        with pytest.raises(ConnectionLost) as caught:
            next(stream)
        assert str(caught.value) == (
            f"{host.address}: connection lost while it should run the test's script "
            "(it said nothing for 2 s)"
        )
        slow = "; if it is only slow, set `connect_timeout` above 2 in environments.yaml"
        assert caught.value.hint.endswith(slow)
        assert time.monotonic() - started < DEADLINE


def test_a_command_of_a_host_that_lost_its_power_fails_and_the_next_reconnects(
    new_hosts: NewHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_watch, "INTERVAL", 0.2)
    monkeypatch.setattr(Patience, "silence", 2.0)
    [host] = new_hosts()
    with connected(host) as executor:
        executor.check(sh("true"))
        failures: list[BaseException] = []

        def wait() -> None:
            try:
                executor.run(sh("touch /tmp/begun; sleep 600", timeout=300))
            except ConnectionLost as error:
                failures.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: (host.root / "tmp").exists() and runs(host, "sleep 600"), "it runs")
        host.power_cycle()
        waiting.join(DEADLINE)
        [failure] = failures
        assert str(failure).startswith(f"{host.address}: connection lost while it should run")
        assert "run the same command again" in failure.hint  # type: ignore[attr-defined]
        assert executor.check(sh("echo back")) == "back\n"


WRITE = 'cat > "$1.new" && mv "$1.new" "$1"'


@pytest.mark.parametrize("sent", [0, 5, 6])
def test_what_was_sent_in_part_is_never_taken_for_the_whole(host: Host, sent: int) -> None:
    """As when opskit is killed: whatever came of a file until then, it is not put in place."""
    path = f"/tmp/part-{sent}"
    command = sh(WRITE, path, stdin=b"secret")
    login = Login(identity_file=host.key, known_hosts=host.known_hosts, agent=False)
    connection = ssh_connection.Connection(Address(host.address, "root"), login, Patience())
    channel = connection.transport().open_session()
    channel.exec_command(remote.line(command, sudo=False))
    channel.sendall(command.stdin[:sent])
    until(lambda: host.run("test", "-e", f"{path}.new", check=False).returncode == 0, "it runs")
    connection.close()
    until(lambda: not runs(host, f"[c]at > .*{path}"), "it ends")
    assert host.run("test", "-e", path, check=False).returncode == 1


def test_an_upload_whose_connection_dies_is_not_put_in_place(root: SshExecutor, host: Host) -> None:
    def cut() -> None:
        until(lambda: (host.root / "root/big.new").exists(), "the upload begins")
        host.run("pkill", "-KILL", "-f", "^sshd: root")

    root.connect()
    cutting = threading.Thread(target=cut)
    cutting.start()
    with pytest.raises(ConnectionLost):
        root.run(sh(f"sleep 2; {WRITE}; sleep 5", "/root/big", stdin=b"x" * 60_000_000))
    cutting.join(DEADLINE)
    until(lambda: not runs(host, "[b]ig.new"), "it ends")
    assert not (host.root / "root/big").exists()
    assert root.check(sh(WRITE, "/root/big", stdin=b"y" * 60_000_000)) == ""
    assert (host.root / "root/big").stat().st_size == 60_000_000


def test_a_connection_that_dies_between_commands_is_not_noticed(
    root: SshExecutor, host: Host
) -> None:
    assert root.check(sh("echo one")) == "one\n"
    host.run("pkill", "-KILL", "-f", "^sshd: root")
    assert root.check(sh("echo two")) == "two\n"


def test_a_connection_to_a_host_that_lost_its_power_meanwhile_is_made_anew(
    new_hosts: NewHosts,
) -> None:
    [host] = new_hosts()
    with connected(host) as executor:
        boot = executor.check(sh("cat /proc/sys/kernel/random/boot_id"))
        with host.silent():  # nobody closes the connection: only its next use shows it
            host.kill()
        host.power_cycle()
        assert executor.check(sh("cat /proc/sys/kernel/random/boot_id")) not in ("", boot)


# --- trust ------------------------------------------------------------------------------------


def fingerprint(host: Host) -> str:
    path = host.root / "etc/ssh/ssh_host_ed25519_key.pub"
    said = subprocess.run(["ssh-keygen", "-lf", path], check=True, capture_output=True, text=True)
    return said.stdout.split()[1]


def test_an_unknown_host_is_refused_until_its_key_is_accepted_as_told(
    host: Host, tmp_path: Path
) -> None:
    known = tmp_path / "known_hosts"
    with connected(host, known_hosts=known) as executor:
        with pytest.raises(HostKeyRefused, match="its host key is not known yet") as caught:
            executor.run(sh("true"))
        assert f"ED25519 {fingerprint(host)}" in str(caught.value)
        accept = caught.value.hint.rpartition("accept it once with: ")[2]
        subprocess.run(accept, shell=True, check=True)
        assert executor.check(sh("echo trusted")) == "trusted\n"
    assert known.read_text() == f"{host.address} {host.host_key()}\n"


def test_a_changed_host_key_is_refused_loudly(new_hosts: NewHosts) -> None:
    [host] = new_hosts()
    before = fingerprint(host)
    host.change_host_key()
    host.run("systemctl", "restart", "ssh")
    with connected(host) as executor:
        with pytest.raises(HostKeyRefused, match="ITS HOST KEY HAS CHANGED") as caught:
            executor.run(sh("true"))
        assert fingerprint(host) in str(caught.value)
        assert f"{before} in {host.known_hosts}" in str(caught.value)
        told = caught.value.hint.partition("): ")[2]
        subprocess.run(told, shell=True, check=True, capture_output=True)
        assert executor.check(sh("echo trusted")) == "trusted\n"


def test_a_key_that_is_not_let_in_is_named(host: Host, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", wrong], check=True)
    with (
        connected(host, "ops", identity_file=wrong) as executor,
        pytest.raises(CannotConnect, match=f"user ops is not let in with the key {wrong}"),
    ):
        executor.run(sh("true"))


def test_a_missing_key_file_is_named(host: Host, tmp_path: Path) -> None:
    with (
        connected(host, identity_file=tmp_path / "none") as executor,
        pytest.raises(CannotConnect, match="none: there is no such private key"),
    ):
        executor.run(sh("true"))


def test_an_encrypted_key_is_used_from_the_agent(
    host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encrypted, socket = tmp_path / "key", tmp_path / "agent"
    encrypted.write_bytes(host.key.read_bytes())
    encrypted.chmod(0o600)
    change = ["ssh-keygen", "-q", "-p", "-P", "", "-N", "a passphrase", "-f", str(encrypted)]
    subprocess.run(change, check=True, capture_output=True)
    with (
        connected(host, identity_file=encrypted) as executor,
        pytest.raises(CannotConnect, match="the private key is encrypted") as caught,
    ):
        executor.run(sh("true"))
    assert caught.value.hint == "add it to your agent: ssh-add"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        until(socket.exists, "the agent listens")
        monkeypatch.setenv("SSH_AUTH_SOCK", str(socket))
        subprocess.run(["ssh-add", "-q", host.key], check=True)
        with connected(host, identity_file=encrypted, agent=True) as executor:
            assert executor.check(sh("echo in")) == "in\n"
    finally:
        agent.terminate()
        agent.wait()


# --- ways -------------------------------------------------------------------------------------


def test_an_alias_of_the_ssh_configuration_is_honoured(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text(
        f"Host chat-one\n  HostName {host.address}\n  User ops\n  IdentityFile {host.key}\n"
        f"  IdentityFile {tmp_path}/missing\n"
    )
    login = Login(known_hosts=host.known_hosts, agent=False, config=config)
    with closing(SshExecutor(Address.parse("chat-one"), login)) as executor:
        assert executor.host == "chat-one"
        assert executor.check(sh("echo $SUDO_USER")) == "ops\n"


def test_an_ssh_configuration_that_cannot_be_read_is_named(host: Host, tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host\n  nonsense\n")
    with (
        connected(host, config=config) as executor,
        pytest.raises(CannotConnect, match=f"^{config}: cannot be read"),
    ):
        executor.run(sh("true"))


def test_a_thread_that_finds_the_connection_dead_leaves_a_new_one_alone(host: Host) -> None:
    login = Login(identity_file=host.key, known_hosts=host.known_hosts, agent=False)
    connection = ssh_connection.Connection(Address(host.address, "root"), login, Patience())
    dead = connection.transport()
    dead.close()
    made = connection.transport()
    connection.discard(dead)
    assert connection.established() is made
    connection.discard(made)
    assert connection.established() is None


@pytest.mark.parametrize("way", ["jump", "ProxyJump"])
def test_a_host_behind_another_is_reached_through_it(
    new_hosts: NewHosts, tmp_path: Path, way: str
) -> None:
    gateway, behind = new_hosts(2)
    config = tmp_path / "config"
    config.write_text(
        f"Host {behind.address}\n  ProxyJump ops@{gateway.address}\n" if way == "ProxyJump" else ""
    )
    jump = Address(gateway.address, "ops") if way == "jump" else None
    keys = f"Host *\n  IdentityFile {gateway.key}\n"
    config.write_text(config.read_text() + keys)
    with connected(behind, jump=jump, config=config) as executor:
        assert executor.check(sh('echo "${SSH_CONNECTION%% *}"')) == f"{gateway.address}\n"
    known = tmp_path / "known_hosts"
    known.write_text(f"{behind.address} {behind.host_key()}\n")
    with (
        connected(behind, jump=jump, config=config, known_hosts=known) as executor,
        pytest.raises(HostKeyRefused, match="its host key is not known yet") as caught,
    ):
        executor.run(sh("true"))
    assert f"(through {gateway.address})" in str(caught.value)


def test_a_host_that_its_jump_host_does_not_reach_is_waited_for_no_longer(
    new_hosts: NewHosts,
) -> None:
    gateway, behind = new_hosts(2)
    jump = Address(gateway.address, "ops")
    with (
        connected(behind, patience=Patience(connect=1.5), jump=jump) as executor,
        behind.silent(),
    ):
        started = time.monotonic()
        with pytest.raises(CannotConnect) as caught:
            executor.connect()
        assert time.monotonic() - started < DEADLINE
    assert str(caught.value) == (
        f"{behind.address}: the jump host does not reach {behind.address} port 22 within 1.5 s"
    )
    assert "set `connect_timeout` above 1.5 " in caught.value.hint


def test_a_host_that_is_not_there_is_told_from_one_that_refuses(host: Host, lab: object) -> None:
    with pytest.raises(CannotConnect, match=r"nothing answers at \S+ port 2222"):
        SshExecutor(Address(host.address, "root", 2222)).connect()
    with pytest.raises(CannotConnect, match="there is no host of that name"):
        SshExecutor(Address("no-such-host.invalid")).connect()


@pytest.mark.parametrize(
    ("text", "address", "shown"),
    [
        ("chat1.example.com", Address("chat1.example.com"), "chat1.example.com"),
        ("ops@10.0.0.1:2222", Address("10.0.0.1", "ops", 2222), "10.0.0.1:2222"),
        ("fd00::2", Address("fd00::2"), "fd00::2"),
        ("ops@[fd00::2]:22", Address("fd00::2", "ops", 22), "[fd00::2]:22"),
    ],
)
def test_addresses_are_read_as_openssh_reads_them(text: str, address: Address, shown: str) -> None:
    assert Address.parse(text) == address
    assert str(address) == shown
