"""The monitoring on a host: what must be there before anything is changed."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from opskit.failure import Failure
from opskit.observe import remote
from opskit.observe.remote import RemoteSite
from opskit.transport import LocalExecutor
from tests.opskit.observe.test_probing import keyed


def test_a_key_that_came_later_asks_for_the_units_of_the_probe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that was made ready without one: `opskit provision` first, then a configuration."""
    units = tmp_path / "units"
    for name in ("configs", "secrets"):
        (tmp_path / "root" / name).mkdir(parents=True)
    units.mkdir()
    for name in ("prometheus", "alertmanager", "exporter"):
        (units / f"opskit-{name}-prod.service").touch()
    monkeypatch.setattr(remote, "UNITS", PurePosixPath(units))

    def site(*, probe_key: bool) -> RemoteSite:
        one = RemoteSite(keyed(tmp_path, probe_key=probe_key), LocalExecutor())
        one.root = PurePosixPath(tmp_path / "root")
        return one

    site(probe_key=False).require_provisioned()
    for name in ("opskit-probe-prod.timer", "opskit-probe-prod.service"):
        with pytest.raises(Failure, match=f"not ready: {units / name} is missing") as caught:
            site(probe_key=True).apply({}, {})
        assert caught.value.hint == "opskit provision prod"
        (units / name).touch()
    assert list((tmp_path / "root/configs").iterdir()) == []
    site(probe_key=True).require_provisioned()
