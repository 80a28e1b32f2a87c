"""The network of one lab: a bridge of its own with private addresses, and the way out to apt.

Lab N has 10.213.N.0/24; this machine is .1 on it. Hosts reach the world through this machine's
address, since apt needs to.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HIGHEST_LAB: Final = 250
_FORWARD: Final = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True)
class Network:
    """The network of lab `number` (0 to 250)."""

    number: int

    @property
    def bridge(self) -> str:
        """The bridge's name on this machine."""
        return f"opslab{self.number}"

    @property
    def gateway(self) -> str:
        """The address of this machine on it."""
        return self.address(1)

    @property
    def prefix(self) -> str:
        """All its addresses."""
        return f"10.213.{self.number}.0/24"

    def address(self, last: int) -> str:
        """Give the address that ends with `last`."""
        return f"10.213.{self.number}.{last}"

    def up(self) -> None:
        """Make the bridge, and let its hosts out."""
        run("ip", "link", "add", self.bridge, "type", "bridge")
        run("ip", "address", "add", f"{self.gateway}/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")
        _FORWARD.write_text("1\n")
        for rule in self._rules():
            run("iptables", "-w", *rule)

    def down(self) -> None:
        """Remove all of it; what is not there is fine."""
        for rule in self._rules():
            undo = ["-D" if word in ("-A", "-I") else word for word in rule]
            while run("iptables", "-w", *undo, check=False):
                """An interrupted `up` may have been run twice."""
        run("ip", "link", "delete", self.bridge, check=False)

    def _rules(self) -> tuple[tuple[str, ...], ...]:
        here = self.prefix
        return (
            ("-t", "nat", "-A", "POSTROUTING", "-s", here, "!", "-d", here, "-j", "MASQUERADE"),
            # Where the machine forwards nothing by default (Docker's rule), this network may.
            ("-t", "filter", "-I", "FORWARD", "-s", here, "-j", "ACCEPT"),
            ("-t", "filter", "-I", "FORWARD", "-d", here, "-j", "ACCEPT"),
        )


def run(*argv: str, check: bool = True) -> bool:
    """Run a program of iproute2 or iptables, and say whether it succeeded.

    Raises:
        RuntimeError: it did not, and had to; holds what it said.
    """
    done = subprocess.run(argv, check=False, capture_output=True, text=True, timeout=30)
    if check and done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.returncode == 0
