"""Runs in lockstep: who is answered when, and what ends whom."""

from itertools import pairwise
from types import SimpleNamespace

import pytest

from cifar_jax import UserError
from cifar_jax.training import lockstep as module
from cifar_jax.training.calls import Compile, Train
from cifar_jax.training.interrupt import Stopped
from cifar_jax.training.lockstep import Lockstep

END = 6


class Answers:
    """Stands for the devices, and notes which runs they served."""

    def __init__(self):
        self.compiled, self.trained = [], []
        self.sizes = set()

    def has(self, asked):
        return len(asked) in self.sizes

    def compile(self, asked):
        self.compiled.append(sorted(asked))
        self.sizes.add(len(asked))

    def train(self, asked):
        assert len({request.step for request in asked.values()}) == 1
        self.trained.append((next(iter(asked.values())).step, sorted(asked)))
        return {number: (f"state {number}", None) for number in asked}


class Run:
    """Asks for steps from one to another, with something that happens on the way."""

    def __init__(self, number, start=0, end=END, at=None, act=None):
        self.number, self.step, self.end = number, start, end
        self.at, self.act = at, act
        self.closed = self.saved = False

    def work(self):
        try:
            yield Compile(None)
            while self.step < self.end:
                if self.step == self.at:
                    self.act()
                try:
                    state, _ = yield Train(None, None, None, 1, self.step, False)
                except Stopped as other:
                    self.saved = True
                    raise Stopped("saved", other.exit_code) from other
                assert state == f"state {self.number}"
                self.step += 1
            return self.step
        finally:
            self.closed = True


def turn(runs, answers=None):
    lockstep = Lockstep([f"run {run.number}" for run in runs])
    answers = answers or Answers()
    try:
        lockstep.run({run.number: run.work() for run in runs}, answers)
    finally:
        assert all(run.closed for run in runs)
    return lockstep.outcomes, answers


def fail(error):
    def act():
        raise error

    return act


def test_one_call_serves_all():
    outcomes, answers = turn([Run(0), Run(1), Run(2)])
    assert outcomes == dict.fromkeys(range(3), END)
    assert answers.compiled == [[0, 1, 2]]
    assert answers.trained == [(step, [0, 1, 2]) for step in range(END)]


def test_who_is_behind_catches_up_first():
    outcomes, answers = turn([Run(0, start=4), Run(1), Run(2, start=4), Run(3, 2)])
    assert outcomes == dict.fromkeys(range(4), END)
    assert answers.trained == [
        *((step, [1]) for step in (0, 1)),
        *((step, [1, 3]) for step in (2, 3)),
        *((step, [0, 1, 2, 3]) for step in (4, 5)),
    ]
    # For all at the start, then for those that there are fewer of.
    assert answers.compiled == [[0, 1, 2, 3], [1], [1, 3]]


@pytest.mark.parametrize("who", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 3, END - 1])
def test_a_run_that_fails_or_ends_leaves_the_others(who, at, capsys):
    error = UserError("no good")
    outcomes, answers = turn(
        [Run(n, at=at if n == who else None, act=fail(error)) for n in range(3)]
    )
    assert outcomes == {n: error if n == who else END for n in range(3)}
    left = [n for n in range(3) if n != who]
    assert answers.trained[at:] == [(step, left) for step in range(at, END)]
    assert capsys.readouterr().out == f"run {who}  ended: no good\n"
    outcomes, answers = turn([Run(n, end=at if n == who else END) for n in range(3)])
    assert outcomes == {n: at if n == who else END for n in range(3)}
    assert answers.trained[at:] == [(step, left) for step in range(at, END)]


@pytest.mark.parametrize("who", [0, 1, 2])
def test_when_one_stops_all_save_and_stop(who):
    """Whichever of them is the first to learn of it, and also who is ahead."""
    stopped = Stopped("stopped", 143, "SIGTERM")
    runs = [Run(n, at=3 if n == who else None, act=fail(stopped)) for n in range(3)]
    ahead = Run(3, start=5)
    with pytest.raises(Stopped) as found:
        turn([*runs, ahead])
    assert found.value is stopped
    for run in [*runs, ahead]:
        assert run.saved == (run.number != who)
        assert run.step == (5 if run is ahead else 3)


@pytest.mark.parametrize("who", [0, 1, 2])
def test_a_fault_ends_all_at_once(who):
    runs = [
        Run(n, at=3 if n == who else None, act=fail(KeyError("x"))) for n in (0, 1, 2)
    ]
    with pytest.raises(KeyError):
        turn(runs)
    assert not any(run.saved for run in runs)


def test_a_fault_of_the_devices_ends_all():
    class Broken(Answers):
        def train(self, asked):
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        turn([Run(0), Run(1)], Broken())


def test_a_clock_stands_still_while_only_others_are_at_work(monkeypatch):
    now, seconds = [0.0], {}
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    lockstep = Lockstep(["slow", "quick", "late"])

    class Slow(Answers):
        def compile(self, asked):
            super().compile(asked)
            now[0] += 100

        def train(self, asked):
            now[0] += 10
            return super().train(asked)

    def work(number, steps, segment):
        clock = lockstep.clock(number)
        starts = [clock()]
        yield Compile(None)
        starts.append(clock())
        for step in steps:
            now[0] += segment
            yield Train(None, None, None, 1, step, False)
        seconds[number] = [b - a for a, b in pairwise([*starts, clock()])]

    works = {0: work(0, range(3), 3), 1: work(1, range(3), 1), 2: work(2, [2], 0)}
    lockstep.run(works, Slow())
    # Compiling for all, and then for fewer, counts for the first alone as compiling.
    assert seconds == {0: [100, 3 * 13], 1: [100, 3 * 11], 2: [100, 10]}
