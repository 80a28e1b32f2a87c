"""The smoke test on a monitoring host, once, its result exported. opskit is not installed there.

    python3 -I run.py [--check]

It is part of the monitoring's configuration: beside it lie `probe.json`, which says what to do,
and `code`, with what is needed of this repository. Libraries are those that the service runs on,
and Debian's httpx. With `--check` nothing is run: all of it is there and can be loaded.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent


def main(*, check: bool) -> int:
    """Run it; a service that does not work is a result, and exported."""
    told: dict[str, Any] = json.loads((HERE / "probe.json").read_text(encoding="utf-8"))
    sys.path[:0] = [str(HERE / "code"), told["layer"]]
    from chatservice.auth import sign
    from checks.smoke import Report, SmokeTarget, run_smoke
    from opskit.observe.probe import certificate_validity, export, finished, probe_metrics
    from opskit.signing import with_key, with_secret

    if check:
        return 0
    secret = Path(told["secret"]).read_bytes()
    issued = partial(sign, issuer=told["issuer"], audience=told["audience"])
    if told["key_id"] is None:
        signs = with_secret(secret.removesuffix(b"\n"), issued)
    else:
        signs = with_key(secret, issued, kid=told["key_id"])
    target = SmokeTarget(
        base_url=told["url"],
        sign=signs.sign,
        sign_bad=signs.bad,
        origins=tuple(told["origins"]),
        presence_grace=told["presence_grace"],
        history_keep=told["history_keep"],
        text_limit=told["text_limit"],
        cleanup=None,  # a timer on the hosts deletes what checks leave
        certificates=told["certificates"],
    )
    started, report, why = time.time(), None, ""
    try:
        report = asyncio.run(
            run_smoke(
                target,
                users=told["users"],
                delivery_bound=told["delivery_bound"],
                deadline=told["deadline"],
            )
        )
    except (OSError, ValueError) as error:
        why = str(error)
    assert report is None or isinstance(report, Report)
    found = finished(started, time.time(), report, why, certificate_validity(told["url"]))
    export(probe_metrics(found), Path(told["metrics"]))
    if report is not None:
        print(report.table())
    return 0 if found.ok else 1


if __name__ == "__main__":
    sys.exit(main(check=sys.argv[1:] == ["--check"]))
