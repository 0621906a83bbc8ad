import json
import os
import pathlib
import subprocess
import sys

import pytest
from scipy import stats

from cifar_jax import UserError, config
from cifar_jax.evaluation import record_text, records

ROOT = pathlib.Path(__file__).parent.parent
CIFAR = next(iter(records.COPIES))


class FakeWorker:
    """Runs a seed in no time; its accuracy is a tenth of the seed."""

    made = []  # the environments
    calls = []  # the seeds
    stops_at = None
    device = "a chip"

    def __init__(self, kind, config, *, environment):
        assert kind == "records"
        self.made.append(environment)

    def call(self, method, *args):
        return getattr(self, method)(*args)

    def facts(self):
        return {"device": self.device, "num_devices": 2, "versions": {"jax": "1"}}

    def run(self, seed, workdir, max_seconds):
        self.calls.append((seed, max_seconds))
        workdir.mkdir(parents=True, exist_ok=True)
        if seed == self.stops_at:
            return None
        return {
            "num_parameters": 10,
            "flops_per_image": 100,
            "dataset": "cifar10",
            "val": None,
            "test": {"accuracy": seed / 10, "loss": 1.0},
            "test_tta": {"accuracy": seed / 10 + 0.01, "loss": 1.0},
            "best_epoch": 3,
            "epochs": 3,
            "steps": 30,
            "images_per_second": 1000.0,
            "seconds": {"total": 9.0, "compile": 4.0, "train": 2.0, "evaluate": 1.0},
        }

    def peaks(self):
        return {"flops": 1e6, "bytes_per_second": 5.0}

    def data(self):
        return {"name": "cifar10", "sha256": {"train": CIFAR, "test": ""}}

    def stop(self):
        pass


@pytest.fixture
def make(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "Worker", FakeWorker)
    for name, value in {"made": [], "calls": [], "stops_at": None}.items():
        monkeypatch.setattr(FakeWorker, name, value)

    def made(seeds, change=None, **options):
        recipe = config.get_config()
        recipe.update_from_flattened_dict(change or {})
        return records.make(
            recipe,
            seeds,
            recipe="fast",
            command="python scripts/records.py",
            output=tmp_path / "folder" / "fast.json",
            workdir=tmp_path / "runs",
            **options,
        )

    return made


def test_statistics_of_seeds(make):
    record = make([1, 3, 8])
    assert [row["seed"] for row in record["seeds"]] == [1, 3, 8]
    assert record["test"]["n"] == 3
    assert record["test"]["mean"] == pytest.approx(0.4)
    assert record["test"]["std"] == pytest.approx((0.26 / 2) ** 0.5)
    assert record["test_tta"]["mean"] == pytest.approx(0.41)
    assert record["val"] is None
    assert record["clocks"]["train_and_evaluate"]["mean"] == 3.0
    # Of two devices: 3 x 100 FLOPs x 1000 images.
    assert record["share_of_peak"]["mean"] == pytest.approx(0.3 / 2)
    text = record_text.lines(record)
    assert "test accuracy 0.4000 ± 0.3606 (n = 3)" in text
    assert "JPEG renditions" in text and text.endswith("all seeds are done")


def test_summary_agrees_with_scipy():
    values = [0.91, 0.93, 0.92, 0.95]
    found = records.summary([*values, None])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert (found["n"], records.summary([None])) == (4, None)
    assert records.summary([0.5]) == {
        "mean": 0.5,
        "std": None,
        "n": 1,
        "interval": None,
    }


def test_one_process_that_finds_nothing_compiled(make):
    record = make([0, 1, 2])
    assert [row["cold"] for row in record["seeds"]] == [True, False, False]
    assert record["clocks"]["cold_process"]["seed"] == 0
    assert record["clocks"]["train"]["n"] == 2  # not that of the cold process
    assert len(FakeWorker.made) == 1
    assert FakeWorker.made[0]["JAX_COMPILATION_CACHE_DIR"].endswith("compiled")


def test_seeds_that_are_done_are_kept(make, monkeypatch):
    monkeypatch.setattr(FakeWorker, "stops_at", 1)
    record = make([0, 1, 2])
    assert record["missing_seeds"] == [1, 2]
    assert "seeds 1, 2 are left" in record_text.lines(record)
    monkeypatch.setattr(FakeWorker, "stops_at", None)
    record = make([0, 1, 2])
    assert [seed for seed, _ in FakeWorker.calls] == [0, 1, 1, 2]
    assert [row["resumed"] for row in record["seeds"]] == [False, True, False]
    assert record["missing_seeds"] == []
    assert make([0, 1, 2]) == record and len(FakeWorker.calls) == 4


def test_a_run_that_was_begun_is_not_the_cold_one(make, monkeypatch):
    monkeypatch.setattr(FakeWorker, "stops_at", 0)
    assert make([0, 1])["seeds"] == []
    monkeypatch.setattr(FakeWorker, "stops_at", None)
    record = make([0, 1])
    assert record["clocks"]["cold_process"]["seed"] == 1
    assert len(FakeWorker.made) == 3  # the second command has one for the cold seed


def test_runs_end_within_the_time_limit(make, monkeypatch):
    make([0], minutes=2.0)
    ((_, max_seconds),) = FakeWorker.calls
    assert 60 < max_seconds < 120 - records.RESERVE_SECONDS + 0.1
    monkeypatch.setattr(records, "RESERVE_SECONDS", 1.0)
    for seconds, number in ((9, 1), (20, 2)):  # a run takes 9 seconds
        make([0, 1], minutes=seconds / 60)
        assert len(FakeWorker.calls) == number


def test_the_note_on_the_data_may_be_given_later(make, tmp_path):
    make([0])
    make([0], note="other files")
    found = json.loads((tmp_path / "folder" / "fast.json").read_text())
    assert found["data"]["note"] == "other files"


def test_another_recipe_or_device_is_refused(make, monkeypatch, tmp_path):
    make([0])
    with pytest.raises(UserError, match="train.epochs was 100, now 3"):
        make([0, 1], {"train.epochs": 3})
    make([0], {"seed": 7, "data.dir": str(tmp_path)})  # a record is not of one seed
    monkeypatch.setattr(FakeWorker, "device", "another chip")
    with pytest.raises(UserError, match="begun with device a chip, and here it is ano"):
        make([0, 1])
    (tmp_path / "folder" / "fast.json").write_text("[]")
    with pytest.raises(UserError, match="is no record"):
        make([0])


@pytest.mark.slow
def test_command(tmp_path, digits_dir):
    command = [sys.executable, "scripts/records.py", "--config=configs/quickstart.py"]
    command += [f"--output={tmp_path}/record.json", f"--workdir={tmp_path}/runs"]
    command += ["--config.train.epochs=1", "--config.model.widths=(8,)"]
    command += ["--config.model.stage_sizes=(1,)", "--config.model.strides=(2,)"]
    command.append(f"--config.data.dir={digits_dir}")
    found = []
    for seeds in ("3", "3,5"):
        done = subprocess.run(
            [*command, f"--seeds={seeds}"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            env=os.environ | {"XLA_FLAGS": ""},  # one device
        )
        assert done.returncode == 0, done.stderr
        found.append(json.loads((tmp_path / "record.json").read_text()))
    first, second = found
    assert second["seeds"][0] == first["seeds"][0]
    assert [row["seed"] for row in second["seeds"]] == [3, 5]
    assert first["clocks"]["cold_process"] == second["clocks"]["cold_process"]
    row = json.loads((tmp_path / "runs" / "seed5" / "result.json").read_text())
    assert second["seeds"][1]["test"] == row["test"]["accuracy"]
    assert row["config"]["seed"] == 5
    clocks = second["seeds"][1]["clocks"]
    assert clocks["train"] < clocks["train_and_evaluate"] < clocks["run"]
    cold = first["clocks"]["cold_process"]["seconds"]
    assert cold > first["seeds"][0]["clocks"]["run"]
