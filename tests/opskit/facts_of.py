"""Facts to start from: a host on which nothing is deployed yet."""

from opskit.facts import Facts

EMPTY = Facts(
    python="3.11.2",
    machine="x86_64",
    user=1000,
    tools={"flock": True, "setsid": True},
    writable=True,
    free_bytes=10**10,
    free_files=10**6,
    current=None,
    releases={},
    incoming=(),
    layers=(),
    in_progress="",
    lease=None,
    processes=(),
    nodes={},
    unit=True,
    proxy=None,
    control=None,
    record="",
    serving=None,
    listeners=(),
    bindable={},
)
