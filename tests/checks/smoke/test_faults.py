"""For every check, a real service that is broken on purpose in just that way; the check is red."""

from __future__ import annotations

import pytest

from checks.smoke import run_smoke
from checks.smoke.runner import GROUPS
from tests.checks.smoke.faults import FAULTS, Fault
from tests.checks.smoke.target import SETTINGS, target_of
from tests.conftest import ServiceFactory

PATIENCE = 3.0
"""Seconds to wait for what the fault keeps from coming."""


@pytest.mark.parametrize(("name", "fault"), FAULTS.items(), ids=list(FAULTS))
async def test_the_checks_for_a_fault_go_red_and_no_others(
    name: str, fault: Fault, service_factory: ServiceFactory
) -> None:
    """A service with this fault fails just the checks that the table names."""
    service = service_factory(
        SETTINGS,
        program=("-m", "tests.checks.smoke.broken_service", name),
        start=False,
    )
    service.configure({"timing": {"presence_grace": fault.grace}})
    target = target_of(service)
    service.configure(fault.overrides)
    service.start(ready=False)
    service.wait_answering()

    report = await run_smoke(target, patience=PATIENCE, delivery_bound=fault.bound)

    failed = {result.name: result.detail for result in report.failures}
    assert fault.red <= set(failed) <= fault.red | fault.may, failed
    assert not report.ok


def test_every_check_has_a_fault() -> None:
    """No check can be added without a fault that it notices."""
    seen_in_test_unreachable = {"answers"}
    checks = {check.name for group in GROUPS for check in group.checks}
    covered = {name for fault in FAULTS.values() for name in fault.red}

    assert covered | seen_in_test_unreachable == checks


def test_no_fault_names_an_unknown_check() -> None:
    """A renamed check must be renamed in the table of faults too."""
    checks = {check.name for group in GROUPS for check in group.checks}

    assert {name for fault in FAULTS.values() for name in fault.red | fault.may} <= checks
