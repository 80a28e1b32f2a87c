"""Look at one environment on this host and print what is there, as one JSON object.

Runs on the host with any Python from 3.11 on, as `python3 -I - ROOT HOST PORT ADMIN_HOST ADMIN_PORT
[UNIT]`; changes nothing. opskit/facts.py reads what it prints.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from typing import Any

Address = tuple[str, int, str, int]
"""Host and port, for clients and then for the metrics."""
LOOPBACK = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - recognised, not bound
UNITS = "/etc/systemd/system"
PROXY = "caddy.service"
LONGEST = 131_072
"""Bytes of an answer that are looked at."""
TOOLS = ("flock", "nohup", "setsid", "sha256sum", "sync", "tar", "tail")


def text(path: str) -> str | None:
    """Give a file's text; None when it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def names(directory: str) -> list[str]:
    """Give the names in a directory; none where there is no such directory."""
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def releases(root: str) -> dict[str, Any]:
    """Give the manifest of every installed release; None for one that cannot be read."""
    found = {}
    for name in names(os.path.join(root, "releases")):
        if re.fullmatch(r"v[1-9][0-9]*", name):
            try:
                manifest = json.loads(text(f"{root}/releases/{name}/manifest.json") or "")
            except ValueError:
                manifest = None
            if isinstance(manifest, dict):
                manifest.pop("files", None)
            found[name] = manifest
    return found


def installed_tool(name: str) -> bool:
    """Say whether a program is there to be run."""
    places = os.environ.get("PATH", os.defpath).split(os.pathsep)
    return any(os.access(os.path.join(place, name), os.X_OK) for place in places if place)


def addresses(root: str, names_of_releases: Iterable[str], default: Address) -> list[Address]:
    """Give the distinct addresses of the releases' settings; the default first."""
    settings = {text(f"{root}/releases/{name}/config/settings.toml") for name in names_of_releases}
    found = {address for each in settings if each and (address := address_of(each))}
    return [default, *sorted(found - {default})]


def address_of(settings: str) -> Address | None:
    """Give the address in a settings file's text; None when it cannot be read.

    One of an older release may not name the host of its metrics: that was loopback.
    """
    try:
        service = tomllib.loads(settings)["service"]
        host, admin_host = service["host"], service.get("admin_host", "127.0.0.1")
        return reached(host), int(service["port"]), reached(admin_host), int(service["admin_port"])
    except (ValueError, KeyError, TypeError):
        return None


def reached(host: str) -> str:
    """Give where on this host a service answers that is bound to an address."""
    return LOOPBACK.get(host, host)


def incoming(root: str) -> list[str]:
    """Give what a broken-off upload left, relative to the root."""
    found = []
    for directory in ("releases", "layers"):
        for name in names(os.path.join(root, directory)):
            if name.startswith(".incoming-"):
                found.append(f"{directory}/{name}")
    return found


def command_line(pid: str) -> list[str]:
    """Give a process's arguments; none when it is gone, a kernel thread or a zombie."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return [part.decode("utf-8", "replace") for part in file.read().split(b"\0")[:-1]]
    except OSError:
        return []


def further_nodes(root: str) -> dict[str, Any]:
    """Give the processes of each further node, by its number, that lives below this root."""
    numbers = [name for name in names(os.path.join(root, "nodes")) if name.isdigit()]
    return {name: processes(os.path.join(root, "nodes", name)) for name in numbers}


def processes(root: str) -> list[Any]:
    """Give the processes that serve a release of this root, oldest first."""
    found = []
    pattern = re.compile(re.escape(os.path.join(root, "releases")) + r"/(v[1-9][0-9]*)/run\.py")
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        argv = command_line(name)
        for index, part in enumerate(argv[:-1]):
            match = pattern.fullmatch(part)
            if match and argv[index + 1] == "serve":
                started = start_time(name)
                if started is not None:
                    found.append({"pid": int(name), "release": match.group(1), "started": started})
    return sorted(found, key=lambda process: (process["started"], process["pid"]))


def start_time(pid: str) -> float | None:
    """Give when a process started, in seconds since the Unix epoch; None when it is gone."""
    stat, boot = text(f"/proc/{pid}/stat"), text("/proc/stat")
    if not stat or not boot:
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    booted = re.search(r"^btime (\d+)", boot, re.MULTILINE)
    return (int(booted.group(1)) if booted else 0) + int(fields[19]) / os.sysconf("SC_CLK_TCK")


def get(host: str, port: int, path: str) -> dict[str, Any] | None:
    """Give status and body of a GET request; None when nothing answers in time.

    By hand: the standard library's HTTP client takes longer to load than all else here together.
    """
    request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    answer = b""
    try:
        with socket.create_connection((host, port), timeout=3) as connection:
            connection.sendall(request.encode())
            while len(answer) < LONGEST and (more := connection.recv(65536)):
                answer += more
                if whole(answer):
                    break
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1\.[01] (\d{3})\b", head)
    if status is None:
        return None
    return {"status": int(status[1]), "body": body[:65536].decode("utf-8", "replace")}


def whole(answer: bytes) -> bool:
    """Say whether an answer is complete by its own account."""
    head, ended, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"\r\ncontent-length:[ \t]*(\d+)", head, re.IGNORECASE)
    return bool(ended and length) and len(body) >= int(length[1] if length else 0)


def listeners(ports: set[int]) -> dict[str, Any]:
    """Give who listens on these TCP ports; pid and command are None when that is not visible."""
    inodes: dict[str, int] = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (text(table) or "").splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].rpartition(":")[2], 16)
            if fields[3] == "0A" and port in ports:
                inodes.setdefault(fields[9], port)
    found: dict[str, Any] = {str(port): {"pid": None, "command": None} for port in inodes.values()}
    for name in os.listdir("/proc") if inodes else []:
        if not name.isdigit():
            continue
        for descriptor in names(f"/proc/{name}/fd"):
            try:
                target = os.readlink(f"/proc/{name}/fd/{descriptor}")
            except OSError:
                continue
            if target.startswith("socket:[") and target[8:-1] in inodes:
                port = inodes[target[8:-1]]
                found[str(port)] = {"pid": int(name), "command": " ".join(command_line(name))}
    return found


def bindable(host: str, port: int) -> str | None:
    """Say why nothing could listen there; None when something could, now or after a take-over."""
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except socket.gaierror as error:
        return f"{host}: {error.strerror}"
    family, kind, _, _, address = infos[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            return error.strerror
    return None


def control(root: str) -> dict[str, Any] | None:
    """Give what the service says of itself on its control socket; None when it is silent."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(3)
            peer.connect(os.path.join(root, "run", "control.sock"))
            peer.sendall(b'{"order":"status"}\n')
            with peer.makefile("rb") as lines:
                said = json.loads(lines.readline(65536))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) and said.get("ok") else None


def active(unit: str) -> str:
    """Give the state of a systemd unit, `active` when it runs; empty where that is not known."""
    try:
        done = subprocess.run(
            ["systemctl", "is-active", unit], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def existing(path: str) -> str:
    """Give the nearest directory that exists, from `path` upward."""
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def link(path: str) -> str | None:
    """Give what a symbolic link points at; None where there is none."""
    try:
        return os.readlink(path)
    except OSError:
        return None


def answers(places: Iterable[Address]) -> list[Any]:
    """Give what answers at each public address, and whether it is ready."""
    found = []
    for host, port, admin_host, admin_port in places:
        version = get(host, port, "/version")
        if version is not None:
            ready, metrics = get(host, port, "/readyz"), get(admin_host, admin_port, "/metrics")
            found.append(
                {
                    "host": host,
                    "port": port,
                    "version": version,
                    "ready": ready,
                    "metrics": metrics["status"] if metrics else None,
                }
            )
    return found


def main(root: str, host: str, port: str, admin_host: str, admin_port: str, unit: str = "") -> None:
    """Look, and print."""
    nearest = existing(root)
    usage = os.statvfs(nearest)
    installed = releases(root)
    wanted = (host, int(port), admin_host, int(admin_port))
    json.dump(
        {
            "python": ".".join(map(str, sys.version_info[:3])),
            "machine": os.uname().machine,
            "user": os.getuid(),
            "tools": {tool: installed_tool(tool) for tool in TOOLS},
            "writable": os.access(nearest, os.W_OK | os.X_OK),
            "free_bytes": usage.f_bavail * usage.f_frsize,
            "free_files": usage.f_favail if usage.f_files else -1,  # as many as there is room for
            "current": link(os.path.join(root, "current")),
            "releases": installed,
            "incoming": incoming(root),
            "layers": [name for name in names(f"{root}/layers") if not name.startswith(".")],
            "in_progress": text(os.path.join(root, "in-progress.json")),
            "record": text(os.path.join(root, "deployments.jsonl")),
            "lock": text(os.path.join(root, "lock")),
            "uptime": (text("/proc/uptime") or "0").split()[0],
            "boot": (text("/proc/sys/kernel/random/boot_id") or "").strip(),
            "processes": processes(root),
            "nodes": further_nodes(root),
            "control": control(root),
            "proxy": active(PROXY) if unit else None,
            "unit": not unit or os.path.exists(os.path.join(UNITS, unit)),
            "answers": answers(addresses(root, installed, wanted)),
            "listeners": listeners({wanted[1], wanted[3]}),
            "bindable": {
                str(number): bindable(address, number)
                for address, number in ((host, wanted[1]), (admin_host, wanted[3]))
            },
        },
        sys.stdout,
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
