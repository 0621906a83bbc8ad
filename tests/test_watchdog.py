"""A run that no longer gets on ends; one that does, does not."""

import os
import time

import jax
import pytest

from cifar_jax.training import interrupt
from cifar_jax.training.interrupt import StopRequest


@pytest.fixture
def ends(monkeypatch):
    """Exit codes that would have ended the process."""
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(interrupt, "WATCHDOG_TICK", 0.02)
    return codes


def test_a_run_that_hangs_ends_with_one_line(ends, capsys):
    with interrupt.watchdog(StopRequest(), 0.1):
        time.sleep(1)
    assert set(ends) == {1}
    line = capsys.readouterr().err.splitlines()[0]
    assert line.startswith("error: no step has ended for 0.1 seconds")


def test_a_run_that_gets_on_does_not(ends):
    stop = StopRequest()
    stop.poll()  # compiles
    with interrupt.watchdog(stop, 1.0):
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            assert not stop.poll()
            time.sleep(0.02)
    assert ends == []


@pytest.mark.parametrize(("seconds", "processes"), [(0, 2), (0.05, 1)])
def test_it_can_be_off(ends, monkeypatch, seconds, processes):
    monkeypatch.setattr(jax, "process_count", lambda: processes)
    with interrupt.watchdog(StopRequest(), seconds):
        time.sleep(0.3)
    assert ends == []
