"""What opskit measures, for Prometheus to scrape: a process of its own, beside Prometheus.

    python -m opskit.observe.exporter --port 9095 --directory DIR [--record FILE]
        [--every SECONDS -- PROGRAM ARGUMENT...]

serves the `*.prom` files of a directory (as node_exporter's textfile collector would) and the
last deployment of a record. Where no systemd timer runs the probe it does so itself, `--every` so
many seconds. A probe that hangs is ended; one that fails says so in its own file.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
PROBE_SECONDS: Final = 660.0
"""How long a probe may take: longer than the longest smoke test that can be configured."""


def exposition(directory: Path, record: Path | None) -> str:
    """Give everything there is to say; a file that vanishes meanwhile says nothing."""
    texts = []
    for path in sorted(directory.glob("*.prom")):
        try:
            texts.append(path.read_text(encoding="utf-8"))
        except OSError:
            continue
    if record is not None:
        from opskit.deployments import parse_record
        from opskit.observe.probe import deployment_metrics

        try:
            text = record.read_text(encoding="utf-8")
        except OSError:
            text = ""
        texts.append(deployment_metrics(parse_record(text)))
    return "".join(texts)


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, port: int, directory: Path, record: Path | None) -> None:
        super().__init__(("127.0.0.1", port), _Request)
        self.directory = directory
        self.record = record


class _Request(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10

    def do_GET(self) -> None:
        """Answer a scrape."""
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, "only /metrics is here")
            return
        body = exposition(self.server.directory, self.server.record).encode()
        self.send_response(200)
        self.send_header("Content-Type", CONTENT_TYPE)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Log no scrapes."""


def keep_probing(argv: Sequence[str], every: float) -> None:
    """Run a probe, again and again; the pauses are from start to start."""
    while True:
        started = time.monotonic()
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, timeout=PROBE_SECONDS, check=False
            )
            print(f"probe: exit status {done.returncode}", flush=True)
        except (OSError, subprocess.TimeoutExpired) as error:
            print(f"probe: {error}", file=sys.stderr, flush=True)
        time.sleep(max(1.0, every - (time.monotonic() - started)))


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until ended."""
    parser = argparse.ArgumentParser(prog="opskit.observe.exporter", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--every", type=float, default=0.0)
    parser.add_argument("probe", nargs="*")
    told = parser.parse_args(arguments)
    if told.every and told.probe:
        argv, every = told.probe, told.every
        threading.Thread(target=keep_probing, args=(argv, every), daemon=True).start()
    with _Server(told.port, told.directory, told.record) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
