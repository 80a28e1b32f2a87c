"""What a signal does to an act that is under way."""

from __future__ import annotations

import signal

import pytest

from opskit.deploy import cli


def test_under_nohup_a_hangup_undoes_nothing() -> None:
    """It is ignored already; a termination is taken for Ctrl-C all the same."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM)}
    try:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        cli._undo_on_signals()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
