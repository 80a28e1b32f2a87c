"""The chat service with a fault: `python -m tests.checks.smoke.broken_service FAULT serve ...`."""

from __future__ import annotations

import sys

from chatservice.__main__ import main
from tests.checks.smoke.faults import FAULTS, HARMLESS

if __name__ == "__main__":
    (FAULTS | HARMLESS)[sys.argv[1]].apply()
    sys.exit(main(sys.argv[2:]))
