"""What has to be changed on a host for it to watch, from what was seen there."""

from __future__ import annotations

from pathlib import Path

import pytest

from opskit.commands import shown
from opskit.environment import Environment
from opskit.failure import Failure
from opskit.observe import provisioning
from opskit.provision.seen import Seen, parse_look
from tests.opskit.observe.test_reach import prod

FRESH = "os\tdebian\t12\n"


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    return prod(tmp_path, hosts=["chat1"], host="monitor", admin_host="0.0.0.0")


def commands(environment: Environment, seen: Seen) -> list[str]:
    found = provisioning.changes(environment, "monitor", seen)
    return [shown(command) for change in found for command in change.commands]


def test_on_a_fresh_host_debians_own_units_are_off_before_they_are_installed(
    environment: Environment,
) -> None:
    """Debian starts what it installs: it would take the ports, and watch nothing."""
    run = commands(environment, parse_look(FRESH))
    mask = run.index("systemctl mask --quiet prometheus.service prometheus-alertmanager.service")
    [install] = [number for number, line in enumerate(run) if " install --yes " in line]
    assert mask < install
    for name in ("prometheus", "alertmanager", "exporter"):
        assert f"systemctl enable --quiet opskit-{name}-prod.service" in run
    assert "systemctl enable --quiet opskit-probe-prod.timer" in run
    assert "systemctl start opskit-probe-prod.timer" not in run, "there is nothing to probe yet"
    assert "install -d -m750 -oroot -gopskit-monitor /opt/chat-monitoring/prod/secrets" in run


def test_a_prometheus_that_was_there_is_left_alone(environment: Environment) -> None:
    """It is not turned off; where it has the port, a person decides."""
    there = FRESH + "package\tprometheus\tinstalled 2.42.0\n"
    assert not [line for line in commands(environment, parse_look(there)) if "mask" in line
                and " prometheus.service" in line]  # fmt: skip
    runs = there + "unit\tprometheus.service\tenabled\tactive\tno\n"
    with pytest.raises(
        Failure, match=r"prometheus\.service runs there already, on port 9090"
    ) as it:
        commands(environment, parse_look(runs))
    assert "monitoring.prometheus_port" in it.value.hint


def test_another_system_is_refused(environment: Environment) -> None:
    with pytest.raises(Failure, match="monitor: runs fedora 41; provisioning needs Debian"):
        commands(environment, parse_look("os\tfedora\t41\n"))


def test_a_unit_that_changed_is_started_anew_where_it_runs(environment: Environment) -> None:
    """And only that one."""
    name = "opskit-prometheus-prod.service"
    seen = parse_look(f"{FRESH}unit\t{name}\tenabled\tactive\tyes\n")
    texts = [one.text for one in provisioning.changes(environment, "monitor", seen)]
    assert f"let systemd read {name}, and start it anew" in texts
    assert f"let {name} start at boot" not in texts
    assert "let systemd read opskit-exporter-prod.service" in texts
