"""Studies as a user meets them: runs, tables, interruptions, several workers."""

import csv
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import jax
import pytest
from support.studying import config_of, make

from cifar_jax import UserError
from cifar_jax.studies import folder, plan, results, table, winner, worker
from cifar_jax.studies.journal import Journal
from cifar_jax.training.interrupt import Stopped

ROOT = pathlib.Path(__file__).parent.parent


def rows(study, journal):
    return table.rows(study, journal.candidates(), journal.trials())


def cells(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module", autouse=True)
def compile_fast():
    """Of this whole module: its first fixture trains, too."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def finished(digits_dir, tmp_path_factory):
    """A study in which one design diverges and one is over the budget."""
    path = tmp_path_factory.mktemp("study")
    items = (
        dict(name="narrow", change={"model.widths": (2, 4)}),
        dict(name="wide", change={"model.widths": (4, 8)}),
        dict(name="diverges", change={"optim.learning_rate": 1e35}),
        dict(name="huge", change={"model.widths": (40, 80)}),
    )
    keys = {"study.kind": "list", "study.space": items, "base.budget.limit": 20_000}
    study = make(digits_dir, **keys)
    journal = Journal(study, path)
    worker.work(study, journal)
    winner.score(study, journal)
    results.write(study, rows(study, journal), path)
    return study, journal


def test_a_study_goes_on_past_what_fails(finished):
    study, journal = finished
    found = {row.candidate.name: row for row in rows(study, journal)}
    assert [run.state for run in found["narrow"].runs] == ["done", "done"]
    assert [run.state for run in found["wide"].runs] == ["done", "done"]
    assert [run.state for run in found["diverges"].runs] == ["failed", "failed"]
    assert "diverged" in found["diverges"].runs[0].error
    assert found["huge"].runs == () and "the limit is 20,000" in (
        found["huge"].candidate.refusal
    )
    assert {path.name for path in (journal.folder / "runs").iterdir()} == {
        "narrow",
        "wide",
        "diverges",
    }


def test_its_runs_are_ordinary_ones_that_leave_the_test_set_alone(finished):
    study, journal = finished
    for name in ("narrow", "wide"):
        for seed in (0, 1):
            run = worker.run_directory(journal.folder, name, seed)
            result = json.loads((run / "result.json").read_text())
            assert result["test"] is None and result["seed"] == seed
            assert result["val"]["num_examples"] == 144
            assert (run / "best").exists() and (run / "metrics.jsonl").exists()


def test_its_table_is_that_of_its_runs(finished):
    _, journal = finished
    lines = cells(journal.folder / "results.csv")
    assert [line["state"] for line in lines] == ["done"] * 4 + ["failed"] * 2 + [
        "refused"
    ]
    text = (journal.folder / "table.md").read_text()
    for name in ("narrow", "wide"):
        accuracy = []
        for seed in (0, 1):
            run = worker.run_directory(journal.folder, name, seed)
            accuracy.append(json.loads((run / "result.json").read_text())["val"])
        a, b = (each["accuracy"] for each in accuracy)
        mean, std = (a + b) / 2, abs(a - b) / 2**0.5
        (line,) = (line for line in text.splitlines() if f"| {name} |" in line)
        assert f"| 2 | {mean:.4f} ± {std:.4f} |" in line
    assert "Never started:\n\n- huge:" in text and "- diverges, seed 1: " in text
    assert {path.name for path in (journal.folder / "plots").iterdir()} == {
        "accuracy.png",
        "pareto_parameters.png",
        "pareto_macs.png",
    }


def test_only_the_winner_is_tested(finished):
    study, journal = finished
    record = json.loads((journal.folder / "winner.json").read_text())
    best = max(
        (row for row in rows(study, journal) if row.count("done")),
        key=lambda row: row.mean("accuracy"),
    )
    assert record["design"] == best.candidate.name
    assert record["validation"] == best.values("accuracy")
    assert record["seeds"] == [0, 1] and len(record["test"]) == 2
    assert all(0 < accuracy < 1 for accuracy in record["test"])
    before = (journal.folder / "winner.json").stat().st_mtime_ns
    winner.score(study, journal)
    assert (journal.folder / "winner.json").stat().st_mtime_ns == before


def test_a_run_is_pruned_at_its_epoch(digits_dir, tmp_path, monkeypatch):
    keys = {"study.seeds": 1, "base.train.epochs": 2, "study.pruner": "halving"}
    keys["study.space"] = (dict(factor="C", values=(2,)),)
    study = make(digits_dir, **keys)
    journal = Journal(study, tmp_path)
    monkeypatch.setattr(Journal, "prunes", lambda self, job: True)
    worker.work(study, journal)
    (row,) = rows(study, journal)
    (run,) = row.runs
    assert (run.state, run.epochs) == ("pruned", 1)
    metrics = worker.run_directory(tmp_path, "C2", 0) / "metrics.jsonl"
    epochs = [json.loads(line)["epoch"] for line in metrics.read_text().splitlines()]
    assert epochs == [1, 1]


def test_a_stopped_worker_gives_its_run_back(digits_dir, tmp_path, monkeypatch):
    study = make(digits_dir, **{"study.seeds": 1})
    journal = Journal(study, tmp_path)
    with monkeypatch.context() as patch:

        def stop(*args, **options):
            raise Stopped("stopped by SIGTERM", 143)

        patch.setattr(worker.loop, "train_and_evaluate", stop)
        with pytest.raises(Stopped):
            worker.work(study, journal)
    job = Journal(study, tmp_path).claim()
    assert job.number == 0
    job.lock.release()


@pytest.mark.slow
def test_a_fault_of_ours_fails_one_run(digits_dir, tmp_path, monkeypatch, capsys):
    measured = worker._measured

    def broken(study, result, workdir):
        if workdir.name == "seed-0":
            raise KeyError("latency")
        return measured(study, result, workdir)

    monkeypatch.setattr(worker, "_measured", broken)
    study = make(digits_dir)
    journal = Journal(study, tmp_path)
    worker.work(study, journal)
    found = [run for row in rows(study, journal) for run in row.runs]
    assert [run.state for run in found] == ["failed", "done"] * 2
    assert found[0].error == "KeyError: 'latency'"
    assert "Traceback" in capsys.readouterr().err


def test_another_study_is_refused(tmp_path):
    folder.claim(tmp_path, config_of())
    folder.claim(tmp_path, config_of(**{"study.seeds": 5, "base.data.dir": "/other"}))
    with pytest.raises(UserError, match=r"base.train.epochs was 1, now 2"):
        folder.claim(tmp_path, config_of(**{"base.train.epochs": 2}))
    with pytest.raises(UserError, match=r"study.kind was grid, now one_at_a_time"):
        folder.claim(tmp_path, config_of(**{"study.kind": "one_at_a_time"}))


def test_a_plan_trains_nothing(capsys, digits_dir):
    plan.show(make(digits_dir), measure=False, workers=1)
    out = capsys.readouterr().out
    assert "2 designs, 4 runs" in out and re.search(r"C4 .*│ 4 │ +4-8 │", out)


COMMAND = (
    *(sys.executable, "-m", "cifar_jax.search"),
    *("--config", "configs/search/table_8.py:small"),
    *("--config.base.data.name=digits", "--config.base.data.train_split=train"),
    *("--config.base.data.test_split=test", "--config.base.data.validation=200"),
    '--config.study.space=({"factor":"N","values":(2,3)},{"factor":"B","values":(1,)})',
    *("--config.study.seeds=2", "--config.base.budget.limit=2000"),
)


def start(workdir, digits_dir, *options):
    command = [*COMMAND, f"--workdir={workdir}", f"--config.base.data.dir={digits_dir}"]
    environment = {**os.environ, "XLA_FLAGS": "", "PYTHONPATH": "."}
    return subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def workers_of(process):
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in children.read_text().split()]


@pytest.mark.slow
def test_a_killed_study_goes_on_and_workers_can_share_it(digits_dir, tmp_path):
    """Killed twice, once the worker alone; its table is that of two workers."""
    first = start(tmp_path / "killed", digits_dir)
    journal = tmp_path / "killed" / "journal.log"

    def wait_for(count):  # validations
        deadline = time.monotonic() + 300
        while not journal.exists() or journal.read_text().count('"step"') < count:
            assert time.monotonic() < deadline and first.poll() is None
            time.sleep(0.05)

    wait_for(1)
    (child,) = workers_of(first)
    os.kill(child, signal.SIGKILL)  # it is replaced
    wait_for(4)
    (child,) = workers_of(first)
    for pid in (first.pid, child):
        os.kill(pid, signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "killed" / "table.md").exists()

    again = start(tmp_path / "killed", digits_dir)
    shared = start(tmp_path / "shared", digits_dir, "--workers=2")
    for process in (again, shared):
        out, _ = process.communicate(timeout=600)
        assert process.returncode == 0, out
    tables = [
        (tmp_path / name / "table.md").read_text() for name in ("killed", "shared")
    ]
    assert tables[0] == tables[1]
    columns = ("design", "seed", "state", "accuracy", "loss", "best_epoch")
    runs = [
        [
            [line[name] for name in columns]
            for line in cells(tmp_path / n / "results.csv")
        ]
        for n in ("killed", "shared")
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 4

    winner = tmp_path / "killed" / "winner.json"
    before = winner.read_text()
    winner.unlink()  # as if it had been stopped before that
    done = start(tmp_path / "killed", digits_dir)
    assert done.communicate()[0] and not done.returncode  # nothing else is left to do
    assert winner.read_text() == before


@pytest.mark.slow
def test_a_study_is_stopped_by_a_signal(digits_dir, tmp_path):
    process = start(tmp_path, digits_dir)
    journal = tmp_path / "journal.log"
    deadline = time.monotonic() + 300
    while not journal.exists() or '"step"' not in journal.read_text():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 130, out
    assert "the same command goes on from there" in out
