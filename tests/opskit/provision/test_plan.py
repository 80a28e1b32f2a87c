"""What a host needs, from what was seen there: pure, and tested as data."""

from __future__ import annotations

from base64 import b64encode
from hashlib import md5
from pathlib import Path

import pytest

from opskit.environment import Environment
from opskit.environments import load_environments
from opskit.failure import Failure
from opskit.provision import plan, rendering
from opskit.provision.seen import Place, Seen, Unit, parse_look
from opskit.transport import RecordingExecutor

YAML = """\
environments:
  shop:
    target: ssh
    hosts: [192.0.2.7]
    url: {url}
    secrets:
      jwt_secret: env:NONE
    chat:
      service: {{port: {port}}}
"""
FRESH = "os\tdebian\t12\npackage\tpython3.11\tinstalled 3.11.2-6\npackage\tcaddy\t\n"
FRESH += "candidate\tcaddy\t2.6.2-5\nuser\tchat\t\npath\t/opt/chat\t\n"
FRESH += "file\t/etc/caddy/Caddyfile\t\t\nunit\tchat-shop.service\t\tinactive\tno\n"
FRESH += "unit\tcaddy.service\t\tinactive\tno\n"


def shop(directory: Path, url: str = "https://chat.example.net", port: int = 8765) -> Environment:
    path = directory / "environments.yaml"
    path.write_text(YAML.format(url=url, port=port))
    return load_environments(path).get("shop")


def ready(environment: Environment, *, caddy: str = "2.6.2-5") -> Seen:
    """Give what is seen on a host that needs nothing."""
    files = {
        str(plan.unit_path(environment)): rendering.unit(environment),
        "/etc/caddy/sites/chat-shop.caddy": rendering.site(
            environment, "192.0.2.7", tuple(map(int, caddy.split("-")[0].split(".")))
        ),
        "/etc/caddy/Caddyfile": rendering.caddyfile(plan.SITES),
    }
    places = {
        str(path): Place("directory", mode, owner, group)
        for path, mode, owner, group in plan.directories_of(environment)
    }
    places |= {
        path: Place("regular file", 0o644, "root", "root", text.encode())
        for path, text in files.items()
    }
    return Seen(
        system="debian 12",
        packages={"python3.11": "3.11.2-6", "caddy": caddy},
        candidates={"caddy": caddy},
        users={"chat": "chat:x:999:999::/nonexistent:/usr/sbin/nologin"},
        places=places,
        shipped={},
        units={
            environment.unit: Unit(enabled=True, active=True, stale=False),
            "caddy.service": Unit(enabled=True, active=True, stale=False),
        },
        runs={"/opt/chat/current": [environment.unit]},
    )


def steps(environment: Environment, seen: Seen) -> list[tuple[str, str]]:
    return [(change.step, change.text) for change in plan.changes(environment, "192.0.2.7", seen)]


def changed(seen: Seen, **fields: object) -> Seen:
    return Seen(**{**vars(seen), **fields})


def test_a_host_that_is_ready_needs_nothing(tmp_path: Path) -> None:
    environment = shop(tmp_path)
    assert steps(environment, ready(environment)) == []


def test_a_fresh_host_needs_everything_in_this_order(tmp_path: Path) -> None:
    assert steps(shop(tmp_path), parse_look(FRESH)) == [
        ("packages", "install caddy"),
        ("user", "make the system user chat, without a login"),
        ("directories", "make /opt/chat (root:root 755)"),
        ("directories", "make /opt/chat/releases (root:root 755)"),
        ("directories", "make /opt/chat/layers (root:root 755)"),
        ("directories", "make /opt/chat/secrets (root:chat 750)"),
        ("directories", "make /opt/chat/state (chat:chat 700)"),
        ("directories", "make /opt/chat/run (chat:chat 700)"),
        ("unit", "write /etc/systemd/system/chat-shop.service"),
        ("unit", "let chat-shop.service start at boot"),
        ("proxy", "write /etc/caddy/sites/chat-shop.caddy"),
        ("proxy", "write /etc/caddy/Caddyfile"),
        ("proxy", "let Caddy serve it"),
    ]


def test_looking_changes_nothing(tmp_path: Path) -> None:
    command = plan.look(shop(tmp_path))
    assert not command.changes
    assert not any("jwt" in word for word in command.argv)


@pytest.mark.parametrize("system", ["os\tfedora\t40\n", "os\t\n", ""])
def test_another_system_than_debian_is_refused(tmp_path: Path, system: str) -> None:
    with pytest.raises(Failure, match="provisioning needs Debian"):
        plan.changes(shop(tmp_path), "192.0.2.7", parse_look(system))


def test_a_root_in_which_another_environments_service_runs_is_refused(tmp_path: Path) -> None:
    """As after a new name for an environment: two units fought for one root, from boot to boot."""
    environment = shop(tmp_path)
    seen = changed(
        ready(environment),
        runs={"/opt/chat/current": ["chat-old.service", "chat-shop.service"]},
    )
    with pytest.raises(Failure) as caught:
        plan.changes(environment, "192.0.2.7", seen)
    assert str(caught.value) == (
        "192.0.2.7: /opt/chat is where chat-old.service runs, of an environment old; two cannot "
        "share it"
    )
    assert caught.value.hint == (
        "end that one, there as root (members reconnect): systemctl disable --now "
        "chat-old.service; rm /etc/systemd/system/chat-old.service "
        "/etc/caddy/sites/chat-old.caddy; and, unless that is the former name of shop: "
        "mv /opt/chat /opt/chat.chat-old; then: opskit provision shop, opskit deploy shop. "
        "To keep both, give shop another `root` at "
        f"{tmp_path}/environments.yaml:2, and ports of its own"
    )


def test_a_user_that_can_log_in_is_refused(tmp_path: Path) -> None:
    environment = shop(tmp_path)
    seen = changed(ready(environment), users={"chat": "chat:x:1000:1000::/home/chat:/bin/bash"})
    with pytest.raises(
        Failure, match=r"user chat exists and can log in \(its shell is /bin/bash\)"
    ):
        plan.changes(environment, "192.0.2.7", seen)


@pytest.mark.parametrize(
    "place",
    [
        Place("directory", 0o755, "root", "chat"),
        Place("directory", 0o750, "chat", "chat"),
        Place("directory", 0o750, "root", "root"),
        Place("regular file", 0o750, "root", "chat"),
    ],
)
def test_a_directory_with_another_owner_or_mode_is_put_right(tmp_path: Path, place: Place) -> None:
    environment = shop(tmp_path)
    before = ready(environment)
    seen = changed(before, places={**before.places, "/opt/chat/secrets": place})
    assert steps(environment, seen) == [("directories", "make /opt/chat/secrets (root:chat 750)")]


def test_a_unit_that_changed_is_written_and_read_while_the_service_runs_on(tmp_path: Path) -> None:
    environment = shop(tmp_path)
    seen = ready(environment)
    path = str(plan.unit_path(environment))
    old = Place("regular file", 0o644, "root", "root", b"[Service]\nExecStart=/old\n")
    [change] = plan.changes(
        environment, "192.0.2.7", changed(seen, places={**seen.places, path: old})
    )
    assert change.text == (
        f"write {path} (the service runs on; what is new counts from its next start)"
    )
    assert [command.name for command in change.commands] == ["write-file", "daemon-reload"]
    assert "-ExecStart=/old\n" in change.diff
    assert "+Type=notify\n" in change.diff


def test_a_unit_that_systemd_has_not_read_is_read(tmp_path: Path) -> None:
    environment = shop(tmp_path)
    seen = ready(environment)
    units = {**seen.units, environment.unit: Unit(enabled=True, active=False, stale=True)}
    assert steps(environment, changed(seen, units=units)) == [
        ("unit", "let systemd read its units")
    ]


def test_the_proxys_own_file_is_replaced_only_as_it_was_shipped_or_ours(tmp_path: Path) -> None:
    environment = shop(tmp_path)
    seen = ready(environment)
    main = "/etc/caddy/Caddyfile"

    def with_main(content: bytes, shipped: dict[str, str]) -> Seen:
        place = Place("regular file", 0o644, "root", "root", content)
        return changed(seen, places={**seen.places, main: place}, shipped=shipped)

    default = b":80 {\n}\n"
    digest = md5(default, usedforsecurity=False).hexdigest()
    assert ("proxy", f"write {main}") in steps(environment, with_main(default, {main: digest}))
    older = b"# opskit provision writes this file; of an older opskit\n"
    assert ("proxy", f"write {main}") in steps(environment, with_main(older, {}))
    with pytest.raises(Failure, match="Caddyfile is somebody's own") as refused:
        steps(environment, with_main(default, {main: "0" * 32}))
    assert refused.value.hint.endswith("import /etc/caddy/sites/*.caddy")
    taken_in = default + b"import /etc/caddy/sites/*.caddy\n"
    assert steps(environment, with_main(taken_in, {})) == []


@pytest.mark.parametrize(
    ("caddy", "keeps", "warns"), [("2.6.2-5", False, True), ("2.7.0-1", True, False),
                                  ("2:2.10.1", True, False)]
)  # fmt: skip
def test_websockets_survive_a_change_of_the_proxy_where_it_can_leave_them(
    tmp_path: Path, caddy: str, keeps: bool, warns: bool
) -> None:
    environment = shop(tmp_path)
    seen = changed(ready(environment), packages={"python3.11": "3.11.2", "caddy": caddy})
    version = seen.version("caddy")
    assert ("stream_close_delay 24h" in rendering.site(environment, "h", version)) is keeps
    places = {k: v for k, v in seen.places.items() if not k.endswith("shop.caddy")}
    text = steps(environment, changed(seen, places=places))[-1][1]
    assert ("members reconnect once" in text) is warns


@pytest.mark.parametrize(
    ("url", "addresses", "internal"),
    [
        ("https://chat.example.net", ["https://chat.example.net"], False),
        ("https://192.0.2.9", ["https://192.0.2.9", "https://192.0.2.7"], True),
        ("https://192.0.2.7", ["https://192.0.2.7"], True),
        ("https://chat.internal:8443", ["https://chat.internal:8443", "https://192.0.2.7:8443"],
         True),
        ("https://[fd00::1]", ["https://[fd00::1]", "https://192.0.2.7"], True),
        ("https://chat", ["https://chat", "https://192.0.2.7"], True),
        ("http://chat.example.net:8080", ["http://chat.example.net:8080"], False),
    ],
)  # fmt: skip
def test_who_certifies_follows_from_the_address(
    tmp_path: Path, url: str, addresses: list[str], internal: bool
) -> None:
    environment = shop(tmp_path, url)
    assert rendering.addresses(environment, "192.0.2.7") == addresses
    assert rendering.is_internal(environment) is internal
    site = rendering.site(environment, "192.0.2.7", (2, 6, 2))
    assert ("tls internal" in site) is internal
    assert f"{', '.join(addresses)} {{\n" in site


def test_only_a_low_port_takes_a_capability(tmp_path: Path) -> None:
    high = rendering.unit(shop(tmp_path))
    assert "CapabilityBoundingSet=\n" in high
    assert "PrivateUsers=yes\n" in high
    assert "AmbientCapabilities=CAP_NET_BIND_SERVICE\n" in rendering.unit(shop(tmp_path, port=443))


def test_a_look_that_is_cut_short_leaves_out_what_it_did_not_say() -> None:
    seen = parse_look(
        "os\tdebian\t12\npackage\tcaddy\tdeinstall 2.6.2-5\nfile\t/a\tregular file|644|root|root\t"
        f"{b64encode(b'content').decode()}\npath\t/b\tdirectory|1777|root|root\nunit\tx\n"
    )
    assert seen.packages == {}
    assert seen.places == {
        "/a": Place("regular file", 0o644, "root", "root", b"content"),
        "/b": Place("directory", 0o1777, "root", "root"),
    }
    assert seen.units == {}


def test_packages_are_installed_without_a_question(tmp_path: Path) -> None:
    executor = RecordingExecutor()
    for change in plan.changes(shop(tmp_path), "192.0.2.7", parse_look(FRESH)):
        for command in change.commands:
            assert command.changes
            executor.check(command)
    install = next(one for one in executor.commands if one.name == "apt-install")
    assert install.argv[-4:] == ("install", "--yes", "--no-install-recommends", "caddy")
    assert "DEBIAN_FRONTEND=noninteractive" in install.argv
