"""Signals that ask a run to stop."""

import os
import signal

import pytest

from cifar_jax import Stopped
from cifar_jax.training import interrupt


@pytest.fixture(autouse=True)
def hangup():
    """SIGHUP ends a process, also where the tests were started by nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "exit_code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
)
def test_a_signal_is_noted(number, exit_code):
    with interrupt.listen() as stop:
        assert not stop.poll()
        os.kill(os.getpid(), number)
        assert stop.poll() and stop.signal is number
        assert stop.exit_code == exit_code


@pytest.mark.parametrize(
    ("first", "second", "exit_code"),
    [
        (signal.SIGTERM, signal.SIGTERM, 143),
        (signal.SIGTERM, signal.SIGINT, 130),
        (signal.SIGINT, signal.SIGINT, 130),
    ],
)
def test_a_second_signal_ends_the_process(monkeypatch, first, second, exit_code):
    codes = []
    monkeypatch.setattr(os, "_exit", codes.append)
    with interrupt.listen():
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)  # as a machine that shuts down does
        assert codes == []
        monkeypatch.setattr(interrupt, "TOGETHER_SECONDS", 0.0)
        os.kill(os.getpid(), second)
        assert codes == [exit_code]


def test_output_to_a_closed_terminal_is_dropped(monkeypatch):
    redirected = []
    monkeypatch.setattr(interrupt.stat, "S_ISCHR", lambda mode: True)
    monkeypatch.setattr(os, "dup2", lambda new, old: redirected.append(old))
    with interrupt.listen():
        os.kill(os.getpid(), signal.SIGHUP)
    assert redirected == [1, 2]


def test_a_signal_is_noted_where_nothing_can_be_written(monkeypatch):
    def write(*_):
        raise BrokenPipeError  # Ctrl-C ends `| tee log` as well

    monkeypatch.setattr(os, "write", write)
    with interrupt.listen() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.poll() and stop.exit_code == 130


def test_the_old_handlers_come_back():
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with pytest.raises(ZeroDivisionError), interrupt.listen() as stop:
        assert all(signal.getsignal(number) == stop.note for number in numbers)
        raise ZeroDivisionError
    assert [signal.getsignal(number) for number in numbers] == before


def test_other_signals_are_left_alone():
    before = signal.getsignal(signal.SIGUSR1)
    with interrupt.listen():
        assert signal.getsignal(signal.SIGUSR1) == before


def test_nohup_keeps_a_run_going():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interrupt.listen() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.poll()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_stopped_keeps_message_and_exit_code():
    stopped = Stopped("stopped at step 3", 143)
    assert (str(stopped), stopped.exit_code) == ("stopped at step 3", 143)
