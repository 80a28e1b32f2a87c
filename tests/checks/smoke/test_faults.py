"""For every check, a real service that is broken on purpose in just that way; the check is red."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from checks.smoke import Report, SmokeTarget, run_smoke
from checks.smoke.runner import GROUPS
from tests.checks.smoke.faults import FAULTS
from tests.checks.smoke.target import SETTINGS, target_of
from tests.service_process import ServiceProcess

AT_ONCE = 4
"""Services that run at the same time: most of the time of a run is waiting."""
PATIENCE = 5.0
"""Seconds to wait for what the fault keeps from coming."""
CHECKS = {check.name for group in GROUPS for check in group.checks}


def broken_service(name: str, root: Path) -> tuple[ServiceProcess, SmokeTarget]:
    """Make a service with this fault, and say what it should be."""
    fault = FAULTS[name]
    program = ("-m", "tests.checks.smoke.broken_service", name)
    service = ServiceProcess(root, overrides=SETTINGS, program=program)
    service.configure({"timing": {"presence_grace": fault.grace}})
    target = target_of(service)  # before it gets wrong settings
    service.configure(fault.overrides)
    return service, target


def run_against(name: str, service: ServiceProcess, target: SmokeTarget) -> tuple[Report, str]:
    """Run the smoke test against the service; give the report and the service's log."""
    try:
        service.start(ready=False)
        service.wait_answering()
        report = asyncio.run(
            run_smoke(target, patience=PATIENCE, delivery_bound=FAULTS[name].bound)
        )
    finally:
        service.close()
    return report, service.log_tail()


@pytest.fixture(scope="module")
def runs(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[tuple[Report, str]]]]:
    """Run all the faults that were selected, several at the same time."""
    root = tmp_path_factory.mktemp("faults")
    selected = [
        str(item.callspec.params["fault"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.module is request.module
        and hasattr(item, "callspec")
    ]
    pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="fault")
    try:
        yield {
            name: pool.submit(run_against, name, *broken_service(name, root / name))
            for name in selected
        }
    finally:
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("fault", FAULTS)
def test_just_the_checks_for_a_fault_go_red(
    fault: str, runs: Mapping[str, Future[tuple[Report, str]]]
) -> None:
    """A service with this fault fails the checks that the table names, and no others."""
    report, log = runs[fault].result(timeout=300)

    failed = {result.name: result.detail for result in report.failures}
    expected = FAULTS[fault]
    assert expected.red <= set(failed) <= expected.red | expected.may, f"{failed}\n{log}"
    assert not report.ok


def test_every_check_has_a_fault() -> None:
    """No check can be added without a fault that it notices."""
    seen_in_test_unreachable = {"answers"}
    covered = {name for fault in FAULTS.values() for name in fault.red}

    assert covered | seen_in_test_unreachable == CHECKS


def test_no_fault_names_an_unknown_check() -> None:
    """A renamed check must be renamed in the table of faults too."""
    assert {name for fault in FAULTS.values() for name in fault.red | fault.may} <= CHECKS
