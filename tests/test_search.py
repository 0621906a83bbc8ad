"""Studies as a user meets them: the command, its runs, tables and interruptions."""

import csv
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from support import commands
from support.studying import Inline, config_of, name_of, write

from cifar_jax.data import sources
from cifar_jax.studies import run
from cifar_jax.studies.driver import run_study
from cifar_jax.training import pretrained

ROOT = pathlib.Path(__file__).parent.parent


def cells(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Mixed(Inline):
    """Trains the designs of a study, except for "wide", which only pretends.

    The first run is asked to stop when its first epoch is written.
    """

    def __init__(self):
        self.states = []  # of the calls that train, in their order

    def call(self, fn, config, workdir, *options):
        if workdir.parent.name == "wide":
            write(workdir, config, lambda config, epoch: 0.0)
            return run.Outcome("done", run.figures(workdir))
        if fn is run.train and not self.states:
            threading.Thread(target=self.leave_stop_file, args=(workdir,)).start()
        outcome = super().call(fn, config, workdir, *options)
        if fn is run.train:
            self.states.append((name_of(workdir), outcome.state))
        return outcome

    @staticmethod
    def leave_stop_file(workdir):
        metrics = workdir / "metrics.jsonl"
        while not metrics.exists() or '"val"' not in metrics.read_text():
            time.sleep(0.01)
        (workdir / run.STOP).touch()


@pytest.fixture(scope="module")
def finished(digits_dir, tmp_path_factory):
    """A study in which one design cannot be trained and one is over the budget."""
    path, executor = tmp_path_factory.mktemp("study"), Mixed()
    items = (
        dict(name="narrow", change={"model.widths": (2, 4)}),
        dict(name="wide", change={"model.widths": (4, 8)}),
        dict(name="broken", change={"optim.name": "none such"}),
        dict(name="huge", change={"model.widths": (40, 80)}),
    )
    keys = {"study.kind": "list", "study.space": items, "base.budget.limit": 20_000}
    keys["base.train.epochs"] = 3
    rows = run_study(config_of(digits_dir, **keys), path, executor=executor)
    return path, {row.candidate.name: row for row in rows}, executor


def test_a_study_continues_past_what_fails(finished):
    path, rows, _ = finished
    states = {name: [run.state for run in row.runs] for name, row in rows.items()}
    assert states["narrow"] == states["wide"] == ["done", "done"]
    assert states["broken"] == ["failed", "failed"] and not states["huge"]
    assert "none such" in rows["broken"].runs[0].error
    assert "the limit is 20,000" in rows["huge"].candidate.skip_reason
    names = {folder.name for folder in (path / "runs").iterdir()}
    assert names == {"narrow", "wide", "broken"}


def test_a_stop_file_ends_a_run_at_an_epochs_end(finished):
    """The driver then resumes it."""
    _, rows, executor = finished
    calls = [state for name, state in executor.states if name == "narrow/seed-0"]
    assert calls == ["stopped", "done"]
    assert [*rows["narrow"].runs[0].values] == [1, 2, 3]


def test_a_stop_file_keeps_a_run_from_starting(tmp_path):
    (tmp_path / run.STOP).touch()
    assert run.train(config_of().base, tmp_path) == run.Outcome("stopped")
    assert [path.name for path in tmp_path.iterdir()] == [run.STOP]


def test_its_runs_are_ordinary_ones_that_leave_the_test_set_alone(finished):
    path, _, _ = finished
    for workdir in path.glob("runs/narrow/*"):
        result = json.loads((workdir / "result.json").read_text())
        assert result["test"] is None and f"seed-{result['seed']}" == workdir.name
        assert result["val"]["num_examples"] == 72
        assert (workdir / "best").exists() and (workdir / "metrics.jsonl").exists()


def test_its_table_is_that_of_its_runs(finished):
    path, _, _ = finished
    states = [line["state"] for line in cells(path / "results.csv")]
    assert states == ["done"] * 4 + ["failed"] * 2 + ["refused"]
    text = (path / "table.md").read_text()
    results = path.glob("runs/narrow/seed-*/result.json")
    a, b = (json.loads(each.read_text())["val"]["accuracy"] for each in results)
    mean, std = (a + b) / 2, abs(a - b) / 2**0.5
    (line,) = (line for line in text.splitlines() if "| narrow |" in line)
    assert f"| 2 | {mean:.4f} ± {std:.4f} |" in line
    assert "Never started:\n\n- huge:" in text and "- broken, seed 1: " in text
    names = {file.name for file in (path / "plots").iterdir()}
    assert names == {"accuracy.png", "pareto_parameters.png", "pareto_macs.png"}


def test_only_the_winner_is_tested(finished, digits_dir):
    path, rows, _ = finished
    record = json.loads((path / "winner.json").read_text())
    assert record["design"] == "narrow"
    assert record["validation"] == rows["narrow"].values("accuracy")
    test = sources.open("digits", digits_dir).read("test")
    assert record["seeds"] == [0, 1]
    for seed, accuracy in zip([0, 1], record["test"], strict=True):
        network = pretrained.load_model(path / f"runs/narrow/seed-{seed}")
        found = np.asarray(jax.jit(network.logits)(test.images)).argmax(-1)
        assert accuracy == (found == test.labels).mean()
    scored = {file.parent.parent.name for file in path.glob("runs/*/*/measured.json")}
    assert scored == {"narrow"}


@pytest.mark.slow
def test_a_plan_trains_nothing(digits_dir, tmp_path):
    options = ("--config=configs/search/table_8.py:small", f"--workdir={tmp_path}/s")
    space = '({"factor":"N","values":(2,)},{"factor":"B","values":(1,2)})'
    digits = (f"--config.study.space={space}", *DIGITS)
    digits += (f"--config.base.data.dir={digits_dir}", "--plan")
    done = commands.call("search", *options, *digits)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\| N2-B2 \| 2 \| 2 \| \d+-\d+ \| 1,\d+ \|", done.stdout)
    assert "2 designs, 6 runs: about" in done.stdout
    assert "measured" in done.stdout and not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("option", "code", "message"),
    [
        ("--part=3/2", 2, "--part is 3/2; use K/N, from 1/N to N/N"),
        ("--merge --part=1/2", 2, "--merge takes neither --part nor --retry_failed"),
        ("--merge --retry_failed", 2, "--merge takes neither --part nor --retry_f"),
        ("--merge", 1, "holds no study; give the --workdir of its parts"),
        ("--executor=slurm", 1, "--executor is 'slurm'; use local, ray or ray=ADDRESS"),
    ],
)
def test_wrong_options_are_named(tmp_path, option, code, message):
    options = ("--config=configs/search/table_8.py:small", f"--workdir={tmp_path}")
    done = commands.call("search", *options, *DIGITS, *option.split())
    assert done.returncode == code and message in done.stderr


DIGITS = (
    *("--config.base.data.name=digits", "--config.base.data.train_split=train"),
    *("--config.base.data.test_split=test", "--config.base.data.validation=200"),
    *("--config.base.budget.limit=2000",),
)
COMMAND = (
    *(sys.executable, "-m", "cifar_jax.search"),
    *("--config", "configs/search/table_8.py:small", *DIGITS),
    '--config.study.space=({"factor":"N","values":(2,3)},{"factor":"B","values":(1,)})',
    "--config.study.seeds=2",
)


def start(workdir, digits_dir, *options):
    command = [*COMMAND, f"--workdir={workdir}", f"--config.base.data.dir={digits_dir}"]
    return subprocess.Popen(
        [*command, *options],
        cwd=ROOT,
        env=commands.environment(PYTHONPATH="."),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def num_validations(workdir):
    return sum(p.read_text().count('"val"') for p in workdir.glob("runs/*/*/*.jsonl"))


def wait_for(process, condition):
    deadline = time.monotonic() + 300
    while not condition():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)


def workers_of(process):
    """Returns the local workers: children that have a session of their own."""
    lists = pathlib.Path(f"/proc/{process.pid}/task").glob("*/children")  # by thread
    pids = [int(number) for path in lists for number in path.read_text().split()]
    return [pid for pid in pids if os.getsid(pid) == pid]


@pytest.mark.slow
def test_a_killed_study_resumes_to_the_same_table(digits_dir, tmp_path):
    """Its worker is killed once, and the driver at random."""
    whole = start(tmp_path / "whole", digits_dir, "--workers=2")
    out, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, out
    killed, draw = tmp_path / "killed", random.Random(0)
    process = start(killed, digits_dir)
    wait_for(process, lambda: num_validations(killed) >= 1)
    (worker,) = workers_of(process)
    os.kill(worker, signal.SIGKILL)  # it is replaced
    for count in (2, 4, 6):
        wait_for(process, lambda count=count: num_validations(killed) >= count)
        time.sleep(draw.random())
        process.kill()
        process.communicate()
        process = start(killed, digits_dir)
    out, _ = process.communicate(timeout=600)
    assert process.returncode == 0 and "resuming" in out, out
    columns = ("design", "seed", "state", "accuracy", "loss", "best_epoch")
    for name in ("table.md", "winner.json"):
        assert (killed / name).read_text() == (tmp_path / "whole" / name).read_text()
    runs = [
        [[line[key] for key in columns] for line in cells(folder / "results.csv")]
        for folder in (killed, tmp_path / "whole")
    ]
    assert runs[0] == runs[1] and len(runs[0]) == 4


@pytest.mark.slow
def test_a_study_is_stopped_by_a_signal(digits_dir, tmp_path):
    process = start(tmp_path, digits_dir)
    wait_for(process, lambda: num_validations(tmp_path) >= 1)
    (worker,) = workers_of(process)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 130, out
    assert "stopped by SIGINT; the same command resumes" in out
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
