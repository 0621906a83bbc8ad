"""Which runs a study has, whatever becomes of them: with runs that only pretend."""

import fcntl
import json
import random

import optuna
import pytest
from support.runs import tiny_config, train
from support.studying import SAMPLED, Pretended, config_of, make

from cifar_jax import UserError, _runtime
from cifar_jax.studies import driver, executors, plots
from cifar_jax.studies.driver import run_study
from cifar_jax.studies.journal import Journal
from cifar_jax.studies.run import Outcome
from cifar_jax.studies.run import train as train_run

GRID = ["C2/seed-0", "C2/seed-1", "C4/seed-0", "C4/seed-1"]
PRUNED = {
    "study.pruner": "halving",
    "study.reduction_factor": 2,
    "base.train.epochs": 4,
    "study.space": (dict(factor="C", values=tuple(range(1, 13))),),
}


@pytest.fixture(autouse=True)
def no_plots(monkeypatch):
    """They take most of the time; others test them."""
    monkeypatch.setattr(plots, "draw", lambda study, rows: ())


def by_width(config, epoch):
    """Returns an accuracy that grows with the width."""
    del epoch
    return config.model.widths[0] / 20


def states(rows):
    return [run.state for row in rows for run in row.runs]


def study(path, executor=None, *, retry_failed=False, part=None, merge=False, **keys):
    """Runs a study; returns its rows and the executor."""
    executor = executor or Pretended()
    rows = run_study(
        config_of(**keys),
        path,
        executor=executor,
        retry_failed=retry_failed,
        part=part,
        merge=merge,
    )
    return rows, executor


def test_each_run_is_done_once(tmp_path):
    rows, executor = study(tmp_path)
    assert executor.trained == GRID and executor.num_scored == 2
    assert states(rows) == ["done"] * 4
    before = (tmp_path / "winner.json").read_bytes()
    again, executor = study(tmp_path)
    assert not executor.trained and not executor.num_scored
    assert states(again) == ["done"] * 4
    assert (tmp_path / "winner.json").read_bytes() == before


def test_more_seeds_are_added_to_a_study(tmp_path):
    study(tmp_path)
    _, executor = study(tmp_path, **{"study.seeds": 3})
    assert executor.trained == ["C2/seed-2", "C4/seed-2"]


def test_failed_runs_are_kept_and_can_be_done_again(tmp_path):
    fault = Outcome("failed", error="no good")
    rows, executor = study(tmp_path, Pretended(outcomes={"C2/seed-0": [fault]}))
    assert states(rows) == ["failed", "done", "done", "done"]
    assert "C2, seed 0: no good" in (tmp_path / "table.md").read_text()
    rows, executor = study(tmp_path)
    assert not executor.trained and states(rows)[0] == "failed"
    rows, executor = study(tmp_path, retry_failed=True)
    assert executor.trained == ["C2/seed-0"] and states(rows) == ["done"] * 4


def test_a_study_without_a_good_run_says_so(tmp_path):
    fault = Outcome("failed", error="no good")
    outcomes = {name: [fault] for name in GRID}
    with pytest.raises(UserError, match="no run of the study has ended well"):
        study(tmp_path, Pretended(outcomes=outcomes))
    assert "no good" in (tmp_path / "table.md").read_text()


def test_what_is_done_is_in_the_table_though_scoring_fails(tmp_path, monkeypatch):
    def fails(*_):
        raise _runtime.WorkerDied("signal 15; see a log")

    with monkeypatch.context() as patch:
        patch.setattr(driver.Driver, "_score_winner", fails)
        with pytest.raises(UserError, match="signal 15"):
            study(tmp_path)
    assert "0.5000" in (tmp_path / "table.md").read_text()
    study(tmp_path)
    assert "Its test accuracy: 0.2500" in (tmp_path / "table.md").read_text()


def test_a_damaged_line_of_metrics_is_the_runs_own_affair(tmp_path):
    class Damaging(Pretended):
        def call(self, fn, config, workdir, *options):
            outcome = super().call(fn, config, workdir, *options)
            if fn is train_run:
                with (workdir / "metrics.jsonl").open("ab") as file:
                    file.write(b"\0\0\n")
            return outcome

    rows, _ = study(tmp_path, Damaging())
    assert states(rows) == ["done"] * 4


def test_what_is_reported_may_change_and_what_is_measured_may_not(tmp_path):
    study(tmp_path)
    study(tmp_path, **{"study.reported": (("C2", 0.9),)})
    assert "| 0.9000 |" in (tmp_path / "table.md").read_text()
    with pytest.raises(UserError, match="study.latency was False, now True"):
        study(tmp_path, **{"study.latency": True})


def test_a_sampled_study_in_which_nothing_fits_says_so(tmp_path):
    space = (dict(factor="C", low=2048, high=4096),)
    with pytest.raises(UserError, match="no run of the study has ended well"):
        study(tmp_path, **SAMPLED | {"study.space": space})


def test_a_run_that_kills_its_process_three_times_is_closed(tmp_path):
    died = _runtime.WorkerDied("signal 9; see logs/worker-1.log")
    executor = Pretended(outcomes={"C2/seed-0": [died] * 9})
    rows, _ = study(tmp_path, executor)
    assert executor.trained.count("C2/seed-0") == driver.MOST_DEATHS == 3
    assert states(rows) == ["failed", "done", "done", "done"]
    error = rows[0].runs[0].error
    assert "its process died 3 times (signal 9" in error and "--retry_failed" in error


def test_lost_machines_and_stops_are_not_the_runs_fault(tmp_path):
    lost, stopped = ConnectionError("gone"), Outcome("stopped")
    outcomes = {"C2/seed-0": [lost] * 9, "C4/seed-0": [stopped] * 9}
    rows, _ = study(tmp_path, Pretended(outcomes=outcomes))
    assert states(rows) == ["done"] * 4


def test_a_fault_of_the_driver_does_not_wait_for_the_runs(tmp_path, monkeypatch):
    calls = []

    class Local(Pretended):
        def interrupt(self):
            calls.append("interrupt")

        def shutdown(self, wait=True, *, cancel_futures=False):
            calls.append("shutdown")

    monkeypatch.setattr(executors, "make", lambda *_: Local())
    run_study(config_of(), tmp_path / "sound")
    assert calls == ["shutdown"]
    monkeypatch.setattr(driver.Driver, "_collect", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_study(config_of(), tmp_path / "faulty")
    assert calls[1:] == ["interrupt", "shutdown"]


def test_a_second_driver_is_refused(tmp_path):
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another command works in .*"):
            study(tmp_path)
    assert states(study(tmp_path)[0]) == ["done"] * 4


def test_another_study_is_refused(tmp_path):
    driver.claim(tmp_path, config_of())
    driver.claim(tmp_path, config_of(**{"study.seeds": 5, "base.data.dir": "/other"}))
    with pytest.raises(UserError, match=r"base.train.epochs was 1, now 2"):
        driver.claim(tmp_path, config_of(**{"base.train.epochs": 2}))
    with pytest.raises(UserError, match=r"study.kind was grid, now one_at_a_time"):
        driver.claim(tmp_path, config_of(**{"study.kind": "one_at_a_time"}))


def test_the_best_sampled_designs_get_all_seeds(tmp_path):
    rows, executor = study(tmp_path, Pretended(by_width), **SAMPLED)
    assert len(executor.trained) == 7
    assert [name.partition("/")[2] for name in executor.trained] == ["seed-0"] * 5 + [
        "seed-1"
    ] * 2
    widths = {row.candidate.name: row.candidate.factors["C"] for row in rows}
    finalists = [name.partition("/")[0] for name in executor.trained[5:]]
    assert sorted(map(widths.get, finalists)) == sorted(widths.values())[-2:]


def test_sampled_designs_are_the_same_when_resumed(tmp_path):
    whole, _ = study(tmp_path / "whole", Pretended(by_width), **SAMPLED)
    more = SAMPLED | {"study.trials": 2, "study.seeds": 1}
    study(tmp_path / "parts", Pretended(by_width), **more)
    more["study.trials"] = 5
    parts, executor = study(tmp_path / "parts", Pretended(by_width), **more)
    assert len(executor.trained) == 3
    factors = [[row.candidate.factors for row in rows] for rows in (whole, parts)]
    assert factors[0] == factors[1]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_samplers_propose_what_fits(tmp_path, sampler):
    keys = {**SAMPLED, "study.sampler": sampler, "study.trials": 12, "study.seeds": 1}
    keys["base.budget.limit"] = 4_000
    if sampler == "nsga2":
        keys["study.objectives"] = ("accuracy", "macs")
    rows, _ = study(tmp_path, Pretended(by_width), **keys)
    assert len(rows) == 12 and states(rows) == ["done"] * 12
    assert all(row.candidate.num_parameters < 4_000 for row in rows)


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_hopeless_runs_are_pruned(tmp_path, pruner):
    """Each design is worse than those before it; the table is the same when resumed."""
    keys = PRUNED | {"study.pruner": pruner}
    executor = Pretended(lambda config, epoch: 1 - config.model.widths[0] / 20)
    rows, _ = study(tmp_path, executor, **keys)
    first = {row.candidate.name: row.runs[0] for row in rows}
    pruned = [row for row in rows if row.runs[0].state == "pruned"]
    assert first["C1"].state == "done" and len(pruned) >= 4
    assert all(len(row.runs[0].values) < 4 and len(row.runs) == 1 for row in pruned)
    assert states(rows).count("done") == 2 * (12 - len(pruned))  # with both seeds
    again, executor = study(tmp_path, **keys)
    assert states(again) == states(rows) and not executor.trained


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_what_is_done_is_not_pruned_when_the_journal_is_lost(tmp_path, pruner):
    keys = PRUNED | {"study.pruner": pruner, "study.seeds": 1}
    study(tmp_path, Pretended(by_width), **keys)  # each is better than those before
    (tmp_path / "journal.log").unlink()
    for result in tmp_path.glob("runs/*/*/metrics.jsonl"):  # worse, seen from today
        rows = [json.loads(line) for line in result.read_text().splitlines()]
        worse = [row | {"accuracy": 1 - row["accuracy"]} for row in rows]
        result.write_text("".join(json.dumps(row) + "\n" for row in worse))
    again, executor = study(tmp_path, **keys)
    assert states(again) == ["done"] * 12 and not executor.trained


def test_a_space_that_is_used_up_is_not_drawn_from_again(tmp_path, monkeypatch):
    """Each look would else write hundreds of trials into the journal."""
    space = (dict(factor="C", values=(2, 4)),)
    keys = SAMPLED | {"study.space": space, "study.trials": 30, "study.seeds": 3}
    rows, executor = study(tmp_path, Pretended(by_width), **keys)
    assert len(executor.trained) == 6
    lines = (tmp_path / "journal.log").read_text().count("\n")
    study(tmp_path, Pretended(by_width), **keys)
    more = (tmp_path / "journal.log").read_text().count("\n") - lines
    assert lines < 1.2 * more  # the first time once, and so the second


def test_the_sampler_learns_from_all_seeds(tmp_path):
    study(tmp_path, Pretended(by_width), **SAMPLED)
    journal = Journal(make(**SAMPLED), tmp_path, "journal.log")
    trials = journal._optuna.get_trials()
    assert len(trials) == 7 and all(set(trial.params) for trial in trials)


def test_a_time_limit_stops_a_study_that_resumes(tmp_path):
    class Slow(Pretended):
        def call(self, fn, config, workdir, *options):
            if "C4" in str(workdir) and not self.trained[2:]:
                self.trained.append("stopped")  # as a run does at an epoch's end
                return Outcome("stopped")
            return super().call(fn, config, workdir, *options)

    with pytest.raises(driver.Stopped, match="study.max_seconds") as stopped:
        study(tmp_path, Slow(), **{"study.max_seconds": 1e-9})
    assert stopped.value.exit_code == 0
    assert not (tmp_path / "winner.json").exists()
    for _ in range(3):  # one run each: the last limit comes when all have ended
        with pytest.raises(driver.Stopped, match="study.max_seconds"):
            study(tmp_path, **{"study.max_seconds": 1e-9})
    assert not (tmp_path / "winner.json").exists()
    assert states(study(tmp_path)[0]) == ["done"] * 4


def test_parts_of_a_study_are_merged(tmp_path):
    for number in (1, 2):
        study(tmp_path / "parts", part=(number, 2))
        assert not (tmp_path / "parts" / "table.md").exists()
    _, executor = study(tmp_path / "parts", merge=True)
    study(tmp_path / "whole")
    assert not executor.trained and executor.num_scored == 2
    for name in ("table.md", "results.csv", "winner.json"):
        parts, whole = (tmp_path / folder / name for folder in ("parts", "whole"))
        assert parts.read_text() == whole.read_text()


def test_a_merge_has_what_failed_in_a_part(tmp_path):
    outcomes = {"C4/seed-1": [Outcome("failed", error="no good")]}
    for number in (1, 2):
        study(tmp_path, Pretended(outcomes=outcomes), part=(number, 2))
    with open(tmp_path / ".lock-2-of-2", "a") as file:  # as if it were still running
        fcntl.flock(file, fcntl.LOCK_EX)
        assert states(study(tmp_path, merge=True)[0]) == ["done"] * 3 + ["waiting"]
    assert not (tmp_path / "winner.json").exists()
    rows, _ = study(tmp_path, merge=True)
    assert sorted(states(rows)) == ["done"] * 3 + ["failed"]
    assert "no good" in (tmp_path / "table.md").read_text()
    assert (tmp_path / "winner.json").exists()
    study(tmp_path, part=(1, 1))  # another division, in which it is done
    assert states(study(tmp_path, merge=True)[0]) == ["done"] * 4


def test_a_merge_starts_nothing(tmp_path):
    study(tmp_path, part=(2, 2))
    rows, executor = study(tmp_path, merge=True)
    assert not executor.trained
    assert states(rows) == ["waiting"] * 2 + ["done"] * 2
    # A winner of a part would not be the study's, and the test set is scored once.
    assert not executor.num_scored and not (tmp_path / "winner.json").exists()
    with pytest.raises(UserError, match="typo holds no study; give the --workdir of"):
        study(tmp_path / "typo", merge=True)
    assert not (tmp_path / "typo").exists()
    with pytest.raises(UserError, match="--workdir is gs://mine/x, in a bucket; use a"):
        run_study(config_of(), "gs://mine/x", executor=Pretended())
    with pytest.raises(UserError, match="a part of a study needs designs"):
        study(tmp_path / "sampled", part=(1, 2), **SAMPLED)


def test_a_run_and_a_study_have_folders_of_their_own(tmp_path, digits_dir):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="holds a run; choose another --workdir"):
        study(tmp_path)
    study(tmp_path / "study")
    with pytest.raises(UserError, match="holds a study; choose another --workdir"):
        train(tiny_config(digits_dir), tmp_path / "study")
    assert not (tmp_path / "study" / "config.json").exists()


# The journal


def flipped(content, place):
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: flipped(content, len(content) // 2),
        lambda content: content.replace(b'"seed":1', b'"seed":0'),
        lambda content: content.replace(b"\n", b"\njunk\n", 1),
        lambda content: b"[]\n" + content,
        lambda content: b"".join(content.splitlines(keepends=True)[1:]),
        lambda content: b"".join(content.splitlines(keepends=True)[::-1]),
    ],
)
@pytest.mark.parametrize("keys", [{}, SAMPLED], ids=["grid", "sampled"])
def test_a_damaged_journal_is_one_line_and_costs_no_run(tmp_path, damage, keys):
    before, _ = study(tmp_path, Pretended(by_width), **keys)
    path = tmp_path / "journal.log"
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged \(line \d+ of \d+: ") as error:
        study(tmp_path, **keys)
    assert "\n" not in str(error.value) and path.read_bytes() == content
    path.rename(tmp_path / "damaged.log")  # as the message says
    rows, executor = study(tmp_path, Pretended(by_width), **keys)
    assert not executor.trained and not executor.num_scored
    names = [{row.candidate.name: states([row]) for row in r} for r in (before, rows)]
    assert names[0] == names[1]


def test_a_hundred_damages_are_found_or_do_no_harm(tmp_path):
    study(tmp_path, **PRUNED)
    made, draw = make(**PRUNED), random.Random(0)
    runs = Journal(made, tmp_path).runs()
    path = tmp_path / "journal.log"
    content = path.read_bytes()
    for _ in range(100):
        path.write_bytes(flipped(content, draw.randrange(len(content))))
        try:
            assert Journal(made, tmp_path).runs() == runs
        except UserError as error:
            assert "is damaged" in str(error)


def test_a_line_that_was_cut_off_is_dropped(tmp_path):
    study(tmp_path)
    path = tmp_path / "journal.log"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"op_code": 6, "work')
    rows, executor = study(tmp_path)
    assert states(rows) == ["done"] * 4 and not executor.trained
    assert path.read_bytes() == whole


def test_optuna_reads_the_journal(tmp_path):
    study(tmp_path, Pretended(by_width), **SAMPLED)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
    storage = optuna.storages.JournalStorage(backend)
    read = optuna.load_study(study_name="study", storage=storage)
    assert len(read.trials) == 7
    assert read.best_trial.params["C"] == max(t.params.get("C", 0) for t in read.trials)


def test_the_journal_of_an_older_version_costs_no_run(tmp_path):
    """It had no checksums."""
    study(tmp_path)
    path = tmp_path / "journal.log"
    records = map(json.loads, path.read_text().splitlines())
    old = [{k: v for k, v in record.items() if k != "crc"} for record in records]
    path.write_text("".join(json.dumps(record) + "\n" for record in old))
    with pytest.raises(
        UserError, match=r"line 1 of \d+: no checksum.* move journal.log"
    ):
        study(tmp_path)
    path.unlink()
    rows, executor = study(tmp_path)
    assert states(rows) == ["done"] * 4 and not executor.trained


def test_winner_json_is_read_by_people_and_programs(tmp_path):
    study(tmp_path, Pretended(by_width))
    record = json.loads((tmp_path / "winner.json").read_text())
    assert record["design"] == "C4" and record["seeds"] == [0, 1]
    assert record["validation"] == [0.2, 0.2] and record["test"] == [0.25, 0.25]
