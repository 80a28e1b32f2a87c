"""Deploys on hosts with a quick proof, where a test is about something else than the smoke test."""

from __future__ import annotations

import ssl
import time
import urllib.error
import urllib.request
from typing import Literal

from checks.smoke import CheckResult, Report
from opskit.deploy.act import Act, Timing
from opskit.layout import PROXY_AUTHORITY
from tests.hosts.machine import Host
from tests.hosts.site import TIMING, HostSite


def trust(hosts: list[Host]) -> ssl.SSLContext:
    """Trust the authorities that the hosts' proxies made for themselves."""
    authorities = "".join(host.text("cat", str(PROXY_AUTHORITY)) for host in hosts)
    return ssl.create_default_context(cadata=authorities)


def ask(url: str, context: ssl.SSLContext, timeout: float = 10.0) -> tuple[int, str]:
    """Give status and body of a GET request; status 0 and the reason when nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout, context=context) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode("utf-8", "replace")
    except OSError as error:
        return 0, str(error)


def quick_smoke(act: Act) -> Report:
    """Ask three questions through the proxy of the first host, instead of the smoke test."""
    node = act.lead.target
    context = ssl.create_default_context(cadata=node.executor.get(PROXY_AUTHORITY))
    results = []
    for path in ("/healthz", "/readyz", "/version"):
        started = time.monotonic()
        status, said = ask(f"https://{node.name}{path}", context)
        verdict: Literal["passed", "failed"] = "passed" if status == 200 else "failed"
        seconds = time.monotonic() - started
        results.append(CheckResult(path[1:], path, verdict, seconds, f"{status} {said}"))
    total = sum(one.seconds for one in results)
    return Report(f"https://{node.name}", "", 0, tuple(results), total)


def deploy(site: HostSite, *, timing: Timing = TIMING, smoke: bool = False) -> Act:
    """Deploy; unless told otherwise with the quick proof."""
    operation = site.prepare()
    operation.act.timing = timing
    if not smoke:
        operation.act.smoke = quick_smoke
    return site.run(operation)


def let_the_leases_end(site: HostSite) -> None:
    """Let the time pass that a dead owner's lease lasts, without waiting for it."""
    for host in site.hosts:
        lock = host.root / "opt/chat/lock"
        if lock.exists():
            boot, _, rest = lock.read_text().split(" ", 2)
            lock.write_text(f"{boot} 0 {rest}")


def leftovers(site: HostSite) -> list[str]:
    """Name what no finished act leaves behind on any host."""
    found = []
    for host in site.hosts:
        root = host.root / "opt/chat"
        paths = [root / "in-progress.json", root / "lock"]
        for pattern in ("releases/.*", "layers/.*", "secrets/.*", ".*.new"):
            paths += root.glob(pattern)
        found += [f"{host.name}: {path.relative_to(root)}" for path in paths if path.exists()]
    return found


def current(site: HostSite) -> list[str]:
    """Give what `current` points at, on each host."""
    return [str((host.root / "opt/chat/current").readlink()) for host in site.hosts]
