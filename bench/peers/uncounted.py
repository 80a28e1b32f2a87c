"""The chat service without its metrics, to measure what they cost: nothing is counted or timed.

python -m bench.peers.uncounted serve --settings F
"""

from __future__ import annotations

import sys
from typing import Any

from prometheus_client import Counter, Gauge

from chatservice.__main__ import main
from chatservice.histogram import Child
from chatservice.top import Top


def _nothing(*_: Any, **__: Any) -> None:
    pass


def stop_counting() -> None:
    """Make every call that counts one that does nothing."""
    for kind, names in (
        (Counter, ("inc",)),
        (Gauge, ("inc", "dec", "set")),
        (Child, ("observe",)),
        (Top, ("count",)),
    ):
        for name in names:
            setattr(kind, name, _nothing)


if __name__ == "__main__":
    stop_counting()
    sys.exit(main())
