"""The multi-user smoke test: several simulated users prove that a chat service works.

Promises: every check speaks to the service over real connections, as its users do; waits end with
an event or a deadline; one failure never stops or disturbs the others; the workspaces of a run
(`smoke-<random>...`) are forgotten afterwards, also when it is cancelled. A verdict is a value:
nothing here prints or exits, but `python -m checks.smoke`.

Imports of chatservice only the wire and the client (`python -m checks.smoke`, which signs tokens
by itself, more); never opskit.
"""

from checks.smoke.interruption import interruptible
from checks.smoke.report import CheckResult, Report
from checks.smoke.runner import run_smoke
from checks.smoke.target import SmokeTarget

__all__ = ["CheckResult", "Report", "SmokeTarget", "interruptible", "run_smoke"]
