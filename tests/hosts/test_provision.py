"""A fresh Debian host becomes one that can be deployed to, and stays as it is after that."""

from __future__ import annotations

import re
import resource
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.provision.run import Node, Outcome, internal_ca, planned, provision
from opskit.ssh import SshExecutor, login_of
from opskit.ssh_connection import Address
from tests.hosts.lab import Lab
from tests.hosts.machine import Host

YAML = """\
environments:
  shop:
    target: ssh
    hosts: [{user}@{host.address}]
    identity_file: {host.key}
    known_hosts: {host.known_hosts}
    url: https://{host.address}
    secrets:
      jwt_secret: env:NONE
"""


def environment_for(
    host: Host, directory: Path, *, user: str = "ops", text: str = YAML
) -> Environment:
    """Give an environment of one host."""
    path = directory / "environments.yaml"
    path.write_text(text.format(host=host, user=user))
    return load_environments(path).get("shop")


def node_for(environment: Environment) -> Node:
    """Give the environment's first host."""
    address = Address.parse(environment.hosts[0])
    return Node(address.host, SshExecutor(address, login_of(environment)), environment)


@dataclass(frozen=True)
class Ready:
    """A host that was made ready, and how."""

    host: Host
    node: Node
    planned: Outcome
    first: Outcome


@pytest.fixture(scope="module")
def ready(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    [host] = lab.boot()
    node = node_for(environment_for(host, tmp_path_factory.mktemp("site")))
    [before] = planned([node])
    assert host.text("sh", "-c", "ls -d /opt/chat /etc/caddy 2>/dev/null || true") == ""
    [first] = provision([node])
    yield Ready(host, node, before, first)
    lab.end(host)


def test_a_fresh_host_is_made_ready_exactly_as_planned(ready: Ready) -> None:
    assert ready.first.failure is None
    assert ready.first.changes == ready.planned.changes
    assert [change.step for change in ready.first.changes] == [
        "packages", "user", *["directories"] * 6, "unit", "unit", "proxy", "proxy", "proxy",
    ]  # fmt: skip
    assert ready.first.changes[0].text == "install caddy"


def test_a_second_run_changes_nothing(ready: Ready) -> None:
    before = snapshot(ready.host)
    [again] = provision([ready.node])
    assert (again.changes, again.failure) == ((), None)
    assert snapshot(ready.host) == before


def snapshot(host: Host) -> str:
    """List every file of the disk, and when and as what it was written, but for logs and caches."""
    places = "/etc /opt /usr/local /var/lib"
    skipped = "-path /var/lib/caddy -prune -o -path /var/lib/systemd -prune -o"
    return host.text(
        "sh", "-c", f"find {places} {skipped} -printf '%p %m %u %g %s %T@ %l\\n' | sort"
    )


def test_what_is_secret_is_read_by_root_and_the_service_alone(ready: Ready) -> None:
    listed = ready.host.text(
        "sh", "-c", "cd /opt/chat && stat -c '%n %a %U:%G' . releases layers secrets state run"
    )
    assert listed.splitlines() == [
        ". 755 root:root",
        "releases 755 root:root",
        "layers 755 root:root",
        "secrets 750 root:chat",
        "state 700 chat:chat",
        "run 700 chat:chat",
    ]
    assert ready.host.text("getent", "passwd", "chat").rstrip().endswith(":/usr/sbin/nologin")


def test_the_unit_is_hardened(ready: Ready) -> None:
    host, unit = ready.host, ready.node.environment.unit
    assert unit == "chat-shop.service"
    said = host.text("systemd-analyze", "security", "--no-pager", unit)
    exposure = float(re.findall(r"Overall exposure level for \S+: ([\d.]+)", said)[0])
    print(f"exposure {exposure}")
    assert exposure <= 2.0
    assert host.text("systemd-analyze", "verify", unit, check=False) == ""
    assert host.text("systemctl", "is-enabled", unit).strip() == "enabled"


def test_a_unit_without_a_release_does_not_fail(ready: Ready) -> None:
    unit = ready.node.environment.unit
    ready.host.run("systemctl", "start", unit)
    said = ready.host.text("systemctl", "show", unit, "--property=ActiveState,ConditionResult")
    assert said.splitlines() == ["ActiveState=inactive", "ConditionResult=no"]


STAND_IN = """\
import http.server, json, pathlib, os, resource, socket
with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
    notify.connect(os.environ["NOTIFY_SOCKET"])
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8765), None)
    pathlib.Path("/opt/chat/state/written").write_text("by the service")
    secret = pathlib.Path("/opt/chat/secrets/jwt_secret").read_text()
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    refused = []
    for path in ("/opt/chat/releases/new", "/srv/open/new", "/opt/chat/secrets/new"):
        try:
            pathlib.Path(path).write_text("")
        except OSError:
            refused.append(path)
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            said = {"secret": secret, "refused": refused, "user": os.getuid(), "limit": limit}
            body = json.dumps(said).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        def log_message(self, *words):
            pass
    server.RequestHandlerClass = Handler
    notify.send(b"READY=1")
server.serve_forever()
"""


@pytest.fixture
def serving(ready: Ready) -> Iterator[Ready]:
    """Put a stand-in where the release would be, and start the unit."""
    host, unit = ready.host, ready.node.environment.unit
    release = "/opt/chat/releases/v1"
    host.run("mkdir", release)
    # Anybody may write there, but for a service that is confined.
    host.run("install", "-d", "-m777", "/srv/open")
    host.run("tee", f"{release}/run.py", stdin=STAND_IN.encode())
    host.run("install", "-m640", "-groot", "-gchat", "/dev/stdin", "/opt/chat/secrets/jwt_secret",
             stdin=b"the secret")  # fmt: skip
    host.run("ln", "-sfn", "releases/v1", "/opt/chat/current")
    host.run("systemctl", "start", unit)
    yield ready
    host.run("systemctl", "stop", unit)
    host.run("rm", "-rf", "/opt/chat/current", release, "/opt/chat/secrets/jwt_secret")


def get(ready: Ready, path: str, **headers: str) -> tuple[int, str]:
    """Ask the host over HTTPS, trusting its own authority and nobody else."""
    context = ssl.create_default_context(cadata=internal_ca(ready.node.executor))
    request = urllib.request.Request(f"https://{ready.host.address}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def test_what_the_unit_runs_is_served_over_https_and_confined(serving: Ready) -> None:
    status, body = get(serving, "/anything")
    uid = serving.host.text("id", "-u", "chat").strip()
    # What the unit asks for, unless this machine lets nobody have as many.
    limit = min(43024, resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    assert (status, body) == (
        200,
        '{"secret": "the secret", "refused": ["/opt/chat/releases/new", "/srv/open/new", '
        f'"/opt/chat/secrets/new"], "user": {uid}, "limit": {limit}}}',
    )
    assert serving.host.text("cat", "/opt/chat/state/written") == "by the service"


def test_the_service_comes_back_after_a_reboot(serving: Ready) -> None:
    serving.host.reboot()
    assert get(serving, "/")[0] == 200
    assert serving.host.text("systemctl", "is-active", serving.node.environment.unit) == "active\n"


def test_no_token_is_in_the_proxys_log(serving: Ready) -> None:
    serving.host.run("systemctl", "stop", serving.node.environment.unit)
    status, _ = get(
        serving,
        "/api/chat/workspace/w/connect?token=CANARY-query&after=7",
        **{
            "Authorization": "Bearer CANARY-header",
            "Sec-WebSocket-Protocol": "chat.v1, bearer.CANARY-protocol",
        },
    )
    assert status in (502, 503)
    journal = serving.host.journal("caddy.service")
    assert "after=7" in journal
    assert "CANARY" not in journal


def test_what_somebody_changed_is_put_back_and_nothing_else(ready: Ready) -> None:
    ready.host.run("chmod", "777", "/opt/chat/secrets")
    ready.host.run("systemctl", "disable", "--quiet", "--now", "caddy")
    [outcome] = provision([ready.node])
    assert outcome.failure is None
    assert [change.text for change in outcome.changes] == [
        "make /opt/chat/secrets (root:chat 750)",
        "let Caddy serve it",
    ]
    assert ready.host.text("systemctl", "is-active", "caddy") == "active\n"
    assert ready.host.text("systemctl", "is-enabled", "caddy") == "enabled\n"


def test_a_proxy_configuration_of_somebody_elses_is_left_alone(ready: Ready) -> None:
    ours = ready.host.text("cat", "/etc/caddy/Caddyfile")
    theirs = "http://their.site {\n\trespond theirs\n}\n"
    ready.host.run("tee", "/etc/caddy/Caddyfile", stdin=theirs.encode())
    try:
        [refused] = provision([ready.node])
        assert "Caddyfile is somebody's own" in str(refused.failure)
        assert ready.host.text("cat", "/etc/caddy/Caddyfile") == theirs
        both = f"{theirs}import /etc/caddy/sites/*.caddy\n"
        ready.host.run("tee", "/etc/caddy/Caddyfile", stdin=both.encode())
        [taken] = provision([ready.node])
        assert (taken.changes, taken.failure) == ((), None)
    finally:
        ready.host.run("tee", "/etc/caddy/Caddyfile", stdin=ours.encode())


def test_a_site_that_caddy_refuses_is_taken_back(ready: Ready, tmp_path: Path) -> None:
    from opskit.commands import provisioning
    from opskit.provision.plan import CADDYFILE, SITES

    before = ready.host.text("cat", f"{SITES}/chat-shop.caddy")
    command = provisioning.write_proxy(
        SITES / "chat-shop.caddy", b"nonsense {\n\tno_such_thing\n}\n", main=CADDYFILE
    )
    result = ready.node.executor.run(command)
    assert result.status == 1
    assert "no_such_thing" in result.stderr
    assert ready.host.text("cat", f"{SITES}/chat-shop.caddy") == before


def test_a_user_that_can_log_in_is_not_taken_for_the_services(lab: Lab, tmp_path: Path) -> None:
    [host] = lab.boot()
    try:
        host.run("useradd", "--shell", "/bin/bash", "chat")
        [outcome] = planned([node_for(environment_for(host, tmp_path))])
        assert "user chat exists and can log in" in str(outcome.failure)
    finally:
        lab.end(host)


INTERRUPTED = """
for attempt in 1 2 3 4 5; do
  apt-get -qq install --yes --no-install-recommends caddy >/dev/null 2>&1 &
  while kill -0 $! 2>/dev/null; do
    for written in /var/lib/dpkg/updates/[0-9]*; do
      [ -e "$written" ] || continue
      pkill -STOP dpkg
      [ -e "$written" ] && pkill -KILL apt-get && pkill -KILL dpkg && exit
      pkill -CONT dpkg
    done
  done
  apt-get -qq purge --yes caddy >/dev/null 2>&1
done
echo 'dpkg was through each time before it could be killed' >&2
exit 1
"""
"""On a busy machine the moment in which dpkg keeps a journal may pass unseen."""


def test_an_installation_that_was_killed_is_finished(lab: Lab, tmp_path: Path) -> None:
    [host] = lab.boot()
    try:
        host.run("sh", "-c", INTERRUPTED)
        refused = host.run("apt-get", "install", "--yes", "caddy", check=False).stderr.decode()
        assert "dpkg was interrupted" in refused
        [outcome] = provision([node_for(environment_for(host, tmp_path))])
        assert outcome.failure is None
        assert host.text("systemctl", "is-active", "caddy") == "active\n"
    finally:
        lab.end(host)


def test_a_host_that_cannot_be_reached_does_not_hold_up_the_others(
    ready: Ready, tmp_path: Path
) -> None:
    environment = environment_for(ready.host, tmp_path)
    away = Node("away", SshExecutor(Address(ready.host.address, "ops", 2222)), environment)
    first, second = provision([away, ready.node])
    assert "nothing answers" in str(first.failure)
    assert second.failure is None
