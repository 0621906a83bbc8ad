"""Who does which run of a study, whatever becomes of its workers."""

import multiprocessing
import pathlib

import pytest
from optuna.trial import TrialState
from support.studying import SAMPLED, make

from cifar_jax.studies import journal as journals
from cifar_jax.studies import table
from cifar_jax.studies.journal import MOST_STARTS, Journal


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    monkeypatch.setattr(journals, "POLL_SECONDS", 0.01)


def finish(journal, job, accuracy):
    journal.complete(job, [accuracy], {"accuracy": accuracy, "loss": 1 - accuracy})


def test_finalists_wait_for_the_last_run(tmp_path):
    first, second = (Journal(make(**SAMPLED), tmp_path) for _ in range(2))
    jobs = [first.claim() for _ in range(4)]
    last = second.claim()
    for job in jobs:
        finish(first, job, 0.5)
    assert not first.is_done()
    assert {trial.user_attrs["seed"] for trial in first.trials()} == {0}
    finish(second, last, 0.9)
    assert not first.is_done()
    seeds = [trial.user_attrs["seed"] for trial in first.trials()]
    assert seeds == [0] * 5 + [1] * 2


def finish_all(journal, accuracy=lambda job: 0.5):
    done = []
    while (job := journal.claim()) is not None:
        done.append((job.candidate.name, job.seed))
        finish(journal, job, accuracy(job))
    return done


def states(journal):
    return [trial.state for trial in journal.trials()]


def test_every_run_is_done_once_and_in_order(tmp_path):
    journal = Journal(make(), tmp_path)
    assert not journal.is_done()
    expected = [("C2", 0), ("C2", 1), ("C4", 0), ("C4", 1)]
    assert finish_all(journal) == expected
    assert journal.is_done()
    again = Journal(make(), tmp_path)
    assert again.is_done() and again.claim() is None


def test_workers_share_a_study(tmp_path):
    first, second = Journal(make(), tmp_path), Journal(make(), tmp_path)
    jobs = [first.claim(), second.claim(), first.claim(), second.claim()]
    assert len({(job.candidate.name, job.seed) for job in jobs}) == 4
    for journal, job in zip((first, second, second, first), jobs, strict=True):
        finish(journal, job, 0.5)
    assert first.claim() is None and second.claim() is None


def test_more_seeds_are_added_to_a_study(tmp_path):
    finish_all(Journal(make(), tmp_path))
    more = Journal(make(**{"study.seeds": 3}), tmp_path)
    assert finish_all(more) == [("C2", 2), ("C4", 2)]


def claim_and_wait(folder, connection):
    job = Journal(make(), pathlib.Path(folder)).claim()
    connection.send((job.candidate.name, job.seed))
    connection.recv()


def test_a_killed_worker_gives_its_run_back(tmp_path):
    context = multiprocessing.get_context("forkserver")
    ours, theirs = context.Pipe()
    process = context.Process(target=claim_and_wait, args=(str(tmp_path), theirs))
    process.start()
    name, seed = ours.recv()
    journal = Journal(make(), tmp_path)
    mine = journal.claim()  # not the one that is being worked on
    assert (mine.candidate.name, mine.seed) != (name, seed)
    process.kill()
    process.join()
    back = journal.claim()
    assert (back.candidate.name, back.seed) == (name, seed)
    assert back.number == 0
    mine.lock.release()
    back.lock.release()


def test_what_another_worker_closes_just_now_is_not_claimed(tmp_path, monkeypatch):
    first, second = (Journal(make(), tmp_path) for _ in range(2))
    job, lock = first.claim(), Journal._lock

    def late(self, number):
        if number == 0:
            finish(first, job, 0.5)
        return lock(self, number)

    monkeypatch.setattr(Journal, "_lock", late)
    mine = second.claim()
    assert mine.number == 1
    mine.lock.release()


def test_what_is_closed_stays_so(tmp_path):
    journal = Journal(make(), tmp_path)
    job = journal.claim()
    assert not journal.is_closed(job)
    journal.prune(job)
    journal.give_back(job)
    assert journal.is_closed(job)
    assert states(journal)[0] == TrialState.PRUNED


def test_a_run_that_kills_its_workers_is_given_up(tmp_path):
    for start in range(MOST_STARTS):
        job = Journal(make(), tmp_path).claim()
        assert (job.number, start) == (0, start)
        job.lock.release()  # as the kernel does when the worker dies
    journal = Journal(make(), tmp_path)
    job = journal.claim()
    assert job.number == 1
    job.lock.release()
    (failed,) = (t for t in journal.trials() if t.state == TrialState.FAIL)
    assert "its process died 3 times" in failed.user_attrs["error"]


def test_a_run_that_gets_on_is_not_given_up(tmp_path):
    for epoch in range(1, 2 * MOST_STARTS):
        journal = Journal(make(), tmp_path)
        job = journal.claim()
        assert job.number == 0
        journal.report(job, epoch, 0.1)
        job.lock.release()
    for _ in range(2 * MOST_STARTS):  # nor one that is stopped and saved
        journal = Journal(make(), tmp_path)
        job = journal.claim()
        assert job.number == 0
        journal.give_back(job)


def test_failed_runs_are_kept_and_can_be_done_again(tmp_path):
    journal = Journal(make(), tmp_path)
    journal.fail(journal.claim(), "no good")
    assert len(finish_all(journal)) == 3
    assert journal.is_done()
    assert states(journal).count(TrialState.FAIL) == 1
    assert journal.retry_failed() == 1
    assert finish_all(journal) == [("C2", 0)]
    assert states(journal) == [TrialState.COMPLETE] * 4


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    journal = Journal(make(), tmp_path)
    finish(journal, journal.claim(), 0.5)
    path = tmp_path / "journal.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 6, "work')
    again = Journal(make(), tmp_path)
    assert len(finish_all(again)) == 3
    assert path.read_bytes().startswith(whole)
    assert states(Journal(make(), tmp_path)) == [TrialState.COMPLETE] * 4


def test_sampled_designs_do_not_depend_on_the_worker(tmp_path):
    found = []
    for name, workers in (("one", 1), ("two", 2)):
        journals_ = [Journal(make(**SAMPLED), tmp_path / name) for _ in range(workers)]
        for number in range(5):
            journal = journals_[number % workers]
            job = journal.claim()
            assert job.seed == 0
            finish(journal, job, job.candidate.factors["C"] / 10)
        trials = journals_[0].trials()
        found.append([trial.user_attrs["factors"] for trial in trials])
    assert found[0] == found[1]
    assert len({str(factors) for factors in found[0]}) == 5


def test_the_best_sampled_designs_get_all_seeds(tmp_path):
    study = make(**SAMPLED)
    journal = Journal(study, tmp_path)
    assert not journal.is_done()
    done = finish_all(journal, lambda job: job.candidate.factors["C"] / 10)
    assert journal.is_done()
    assert [seed for _, seed in done] == [0] * 5 + [1] * 2
    assert len(done) == study.runs == 7
    rows = table.rows(study, journal.candidates(), journal.trials())
    first = table.ranked(study, rows)[:2]
    assert {row.candidate.name for row in first} == {name for name, _ in done[5:]}
    widths = sorted((row.candidate.factors["C"] for row in rows), reverse=True)
    assert sorted((r.candidate.factors["C"] for r in first), reverse=True) == widths[:2]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_propose_what_fits(tmp_path, sampler):
    keys = {**SAMPLED, "study.sampler": sampler, "study.trials": 12, "study.seeds": 1}
    keys["base.budget.limit"] = 4_000
    if sampler == "nsga2":
        keys["study.objectives"] = ("accuracy", "macs")
    study = make(**keys)
    journal = Journal(study, tmp_path)
    while (job := journal.claim()) is not None:
        assert job.candidate.num_parameters < 4_000
        values = [0.5, job.candidate.cost.macs][: len(study.objectives)]
        journal.complete(job, values, {"accuracy": 0.5, "loss": 1.0})
    assert len(journal.trials()) == 12


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_hopeless_runs_are_pruned(tmp_path, pruner):
    keys = {"study.pruner": pruner, "study.reduction_factor": 2, "base.train.epochs": 4}
    keys["study.space"] = (dict(factor="C", values=tuple(range(1, 13))),)
    journal = Journal(make(**keys), tmp_path)
    ended = {}
    while (job := journal.claim()) is not None:
        accuracy = 1 - job.candidate.factors["C"] / 20  # each worse than those before
        assert job.candidate.name not in ended
        for epoch in range(1, 5):
            journal.report(job, epoch, accuracy)
            if epoch < 4 and journal.prunes(job):
                journal.prune(job)
                ended[job.candidate.name] = epoch
                break
        else:
            finish(journal, job, accuracy)
    assert "C1" not in ended
    assert len(ended) >= 4
    count = states(journal).count
    assert count(TrialState.PRUNED) == len(ended)
    assert count(TrialState.COMPLETE) == 2 * (12 - len(ended))  # each with both seeds
