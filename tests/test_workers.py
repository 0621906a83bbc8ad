import multiprocessing
import os
import sys
import threading
import time
from multiprocessing.connection import Connection
from types import ModuleType, SimpleNamespace

import pytest

from cifar_jax import UserError
from cifar_jax.evaluation import workers


class Sleeper:
    """A contender that does nothing."""

    def __init__(self, argument):
        if argument == "bad":
            raise UserError("no such argument")

    def nap(self, seconds):
        time.sleep(seconds)
        return "rested"

    def fail(self):
        raise ValueError("two\nlines")

    def flags(self):
        return os.environ["XLA_FLAGS"], os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"]


@pytest.fixture
def serve(monkeypatch):
    """Serves a sleeper in a thread: a process would take seconds to start."""
    module = ModuleType("cifar_jax.evaluation.sleeper")
    module.Sleeper = Sleeper
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setitem(workers._WORKERS, "sleeper", ("sleeper", "Sleeper", ()))
    for name in ("XLA_FLAGS", *workers._ENVIRONMENT):  # they come back after the test
        monkeypatch.setenv(name, os.environ.get(name, ""))
    killed = []

    def process(target, args, daemon):
        assert target is workers._serve and not daemon
        # In a process of its own the other side has its own end of the pipe.
        own = Connection(os.dup(args[0].fileno()))
        thread = threading.Thread(target=target, args=(own, *args[1:]), daemon=True)
        return SimpleNamespace(
            start=thread.start, join=thread.join, kill=lambda: killed.append(True)
        )

    context = SimpleNamespace(Pipe=multiprocessing.Pipe, Process=process)
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda kind: context)
    return killed


def test_answers_and_faults(serve, capfd):
    worker = workers.Worker("sleeper", None)
    answer, seconds = worker.timed("nap", 0.05)
    assert answer == "rested" and 0.05 <= seconds.wall < 5
    with pytest.raises(UserError, match="sleeper cannot be measured here: ValueError"):
        worker.call("fail")
    assert "two\nlines" in capfd.readouterr().err  # the whole of it, for who looks
    with pytest.raises(UserError, match="named cannot .* here: no such argument"):
        workers.Worker("sleeper", "bad", name="named")


def test_flags_are_added(serve, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--here")
    environment = {"XLA_FLAGS": "--more", "XLA_PYTHON_CLIENT_PREALLOCATE": "true"}
    worker = workers.Worker("sleeper", None, environment=environment)
    assert worker.call("flags") == ("--here --more", "true")
    assert environment["XLA_FLAGS"] == "--more"
    assert workers.Worker("sleeper", None).call("flags")[1] == "false"


def test_one_that_takes_too_long_is_ended(serve):
    worker = workers.Worker("sleeper", None)
    assert worker.timed("nap", 0.0, limit=5.0)[0] == "rested"
    with pytest.raises(UserError, match="sleeper took more than 0 s"):
        worker.timed("nap", 1.0, limit=0.1)
    assert serve == [True]
