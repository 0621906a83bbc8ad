"""The script `scripts/records.py`: seeds of a recipe, as one file."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
from scipy import stats
from support import scripts

from cifar_jax import UserError
from cifar_jax import config as default

records = scripts.load("records")
CACHE = "JAX_COMPILATION_CACHE_DIR"
TINY = (
    "--config=configs/quickstart.py",
    "--config.model.widths=(4, 4, 8)",
    "--config.train.epochs=1",
    "--config.data.train_split=train[:20%]",
)


@pytest.fixture(scope="module")
def made(digits_dir, tmp_path_factory):
    """A record of one seed of two, and how to call the script for it."""
    folder = tmp_path_factory.mktemp("record")

    def call(*arguments, cache=None):
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv(CACHE, raising=False)
            if cache:
                patch.setenv(CACHE, str(cache))
            return scripts.call(
                "records",
                *TINY,
                f"--config.data.dir={digits_dir}",
                f"--output={folder}/r.json",
                f"--workdir={folder}/runs",
                *arguments,
            )

    code, text, message = call("--seeds=4")
    assert code == 0, message
    return folder / "r.json", call, text


@pytest.mark.slow
def test_a_seed_is_recorded_with_all_that_it_depends_on(made):
    path, _, text = made
    record = json.loads(path.read_text())
    (row,) = record["seeds"]
    result = json.loads((path.parent / "runs/seed4/result.json").read_text())
    assert row["seed"] == 4 and row["cold"] and not row["resumed"]
    assert row["test"] == record["test"]["mean"] == result["test"]["accuracy"]
    assert row["clocks"]["train"] == result["seconds"]["train"]
    assert record["clocks"]["cold_process"]["seconds"] > result["seconds"]["total"]
    flops = 3 * result["flops_per_image"] * result["images_per_second"]
    assert record["num_devices"] > 1  # a CPU's devices share its cores
    share = flops / record["peak"]["flops"]
    assert record["share_of_peak"]["mean"] == pytest.approx(share)
    assert record["versions"]["jax"] and "cpu" in record["device"]
    assert record["data"]["note"] == "scikit-learn's own"
    assert len(record["data"]["sha256"]["train"]) == 64
    assert f"test accuracy {row['test']:.4f} (n = 1)" in text
    assert "all seeds are done" in text


@pytest.mark.slow
def test_a_resumed_record_keeps_its_seeds(made):
    path, call, _ = made
    before = json.loads(path.read_text())["seeds"]
    code, text, message = call("--seeds=4,7", "--data_note=mine")
    assert code == 0, message
    record = json.loads(path.read_text())
    assert record["seeds"][0] == before[0]
    assert [row["seed"] for row in record["seeds"]] == [4, 7]
    assert not record["seeds"][1]["cold"]
    assert record["clocks"]["train"]["n"] == 1  # the cold process loads libraries
    assert record["test"]["n"] == 2 and record["data"]["note"] == "mine"
    # out of time: nothing begins
    code, text, _ = call("--seeds=4,7,8", "--minutes=0.01")
    assert code == 0 and "seeds 8 are left; run the same command to resume" in text


@pytest.mark.slow
def test_with_a_cache_no_process_is_cold(made, tmp_path):
    path, call, _ = made
    arguments = (f"--output={tmp_path}/r.json", f"--workdir={tmp_path}/runs")
    cache = path.parent / "runs" / "compiled"
    code, _, message = call("--seeds=4", *arguments, cache=cache)
    assert code == 0, message
    record = json.loads((tmp_path / "r.json").read_text())
    assert record["clocks"]["cold_process"] is None and not record["seeds"][0]["cold"]
    assert cache.exists() and not (tmp_path / "runs" / "compiled").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["--seeds=1,1"], 2, "give each seed once"),
        (["--seeds=a"], 2, "give whole numbers, such as 0,1,2"),
        (["--config.optim.learning_rate=7"], 1, "was made with another config"),
    ],
)
def test_a_mistake_is_one_line(made, arguments, code, message):
    _, call, _ = made
    found, _, text = call(*arguments)
    assert found == code and message in text and text.count("\n") == 1


@pytest.mark.slow
@pytest.mark.parametrize("is_cold", [False, True])
def test_another_device_is_refused_before_it_trains(
    made, tmp_path, monkeypatch, is_cold
):
    path, call, _ = made
    record = json.loads(path.read_text())
    if is_cold:
        monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
        record["clocks"]["cold_process"] = None
    other = tmp_path / "r.json"
    other.write_text(json.dumps(record | {"device": "TPU v5"}))
    arguments = (f"--output={other}", f"--workdir={tmp_path}/runs")
    code, _, message = call("--seeds=4,5", *arguments)
    assert code == 1 and "was begun with device TPU v5, and here it is" in message
    assert not (tmp_path / "runs" / "seed5").exists()


DRIVER = """
import os, time
from support import scripts
if __name__ == "__main__":
    with scripts.load("records")._process("cache") as pool:
        print(pool.submit(os.getpid).result(), flush=True)
        time.sleep(100)
"""


def test_its_process_ends_with_it(tmp_path):
    """Else it keeps the memory of the accelerator."""
    (tmp_path / "driver.py").write_text(DRIVER)
    path = os.pathsep.join(map(str, (scripts.ROOT, *sys.path)))
    driver = subprocess.Popen(
        [sys.executable, str(tmp_path / "driver.py")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": path},
    )
    worker = pathlib.Path("/proc", driver.stdout.readline().decode().strip())
    assert worker.exists()
    driver.kill()
    driver.wait()
    driver.stdout.close()
    end = time.monotonic() + 60
    while worker.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert not worker.exists()


def test_a_run_of_another_device_is_not_added():
    """It may lie in --workdir: it had ended, so nothing trains."""
    facts = {"device": "NVIDIA H200", "num_devices": 1}
    result = {"device": "NVIDIA H100", "num_devices": 1}
    with pytest.raises(UserError, match="begun with device NVIDIA H100, and here"):
        records._add({"device": None}, result, facts, {}, seed=0)


def test_a_record_goes_on_where_the_data_lie_elsewhere(tmp_path):
    config = default.get_config()
    path = tmp_path / "record.json"
    config.data.dir = "/there"
    begun = {"config": default.config_to_dict(config), "seeds": [], "device": None}
    path.write_text(json.dumps(begun))
    config.data.dir = "/here"
    assert records.read(path, config, "") == begun
    config.train.epochs = 7
    with pytest.raises(UserError, match="train.epochs was"):
        records.read(path, config, "")


@pytest.mark.parametrize(
    "script", ["records", "benchmark", "compile_for", "show_augmentation"]
)
def test_the_config_of_a_study_is_one_line(script):
    code, _, message = scripts.call(script, "--config=configs/search/table_8.py")
    assert code == 1 and "this is the config of a study" in message


def test_summary_agrees_with_scipy():
    values = [0.91, 0.93, 0.92, 0.95]
    found = records.summary([*values, None])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert found["interval"] == pytest.approx([expected.low, expected.high])
    assert (found["n"], records.summary([None])) == (4, None)
    one = {"mean": 0.5, "std": None, "n": 1, "interval": None}
    assert records.summary([0.5]) == one


def test_clocks_are_those_of_warm_seeds_that_were_not_resumed():
    def seed(train, cold=False, resumed=False):
        clocks = {"train": train, "train_and_evaluate": train}
        figures = dict.fromkeys((*records.SCORES, "images_per_second", "flops"), 1.0)
        row = {"seed": train, "cold": cold, "resumed": resumed, "clocks": clocks}
        return row | figures | {"share_of_peak": 1.0, "peak": {"flops": 1.0}}

    for rows, expected in (
        ([seed(1, cold=True), seed(2), seed(3, resumed=True)], 2),
        ([seed(1, cold=True), seed(3, resumed=True)], 1),
        ([seed(3, resumed=True), seed(5, resumed=True)], 4),
    ):
        record = {"seeds": rows, "planned_seeds": [], "clocks": {}}
        records.summarize(record)
        assert record["clocks"]["train"]["mean"] == expected


def test_the_command_of_a_record_makes_it_anywhere():
    argv = ["--config", "c.py:full", "--workdir", "w", "--seeds=0,1", "--minutes=9"]
    assert records.command([*argv, "--output", "o", "--config.seed=1"]) == (
        "python scripts/records.py --config c.py:full --seeds=0,1 --config.seed=1"
    )
