import json
import pathlib
import subprocess
import sys

import pytest

from cifar_jax import UserError, config
from cifar_jax.evaluation import study_speed

ROOT = pathlib.Path(__file__).parent.parent


def test_arrangements_of_a_cpu_and_of_an_accelerator():
    assert set(study_speed.arrangements(0)) == {"apart", "each", "unrolled", "vmap"}
    assert set(study_speed.arrangements(1)) == set(study_speed.arrangements(0))
    two = study_speed.arrangements(2)
    assert two["processes"].num_processes == 2
    assert two["each_spread"].spread and not two["each_divided"].spread
    assert two["each_spread"].cpu_devices == two["apart_divided"].cpu_devices == 2


def test_record(monkeypatch):
    """Medians over the rounds, and of the ratios within a round."""
    seconds = iter([8.0, 2.0, 4.0, 16.0, 12.0, 3.0])  # every other round backwards

    def turn(arrangement, configs):
        assert [each.seed for each in configs] == [0, 1]
        wall, is_apart = next(seconds), arrangement.form is None
        losses = [[2.0, 1.0], [2.0, 1.0 if is_apart else 1.25]]
        clocks = {"compile": wall / 4, "train": wall / 2, "evaluate": wall / 8}
        return study_speed.Turn(100.0, 100.0 + wall, 2 * wall, clocks, losses)

    monkeypatch.setattr(study_speed, "_turn", turn)
    monkeypatch.setattr(study_speed, "num_cores", lambda: 1)
    record = study_speed.compare(config.get_config(), ["each"], num_runs=2, rounds=3)
    apart, each = (record["arrangements"][name] for name in ("apart", "each"))
    assert each["seconds"]["total"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    assert each["seconds"]["cpu"]["median"] == 6.0
    assert each["seconds"]["train"]["median"] == 1.5
    assert each["times_as_fast"]["total"] == {"median": 4.0, "min": 4.0, "max": 4.0}
    assert apart["times_as_fast"]["train"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert apart["largest_distance_of_losses"] == 0
    assert each["largest_distance_of_losses"] == 0.25
    lines = study_speed.table(record).splitlines()
    assert lines[2].split()[:2] == ["each", "3.0"] and "4.00x" in lines[2]
    with pytest.raises(UserError, match="'processes' is not here; use apart, each, un"):
        study_speed.compare(config.get_config(), ["processes"], num_runs=2, rounds=1)


@pytest.mark.slow
def test_tiny_run(tmp_path, digits_dir):
    path = tmp_path / "record.json"
    command = [sys.executable, "scripts/benchmark_together.py", "--runs=2"]
    command += ["--config=configs/quickstart.py", f"--config.data.dir={digits_dir}"]
    command += ["--config.model.widths=(4,8,8)", "--config.train.epochs=1"]
    command += ["--config.schedule.warmup=1 step", "--rounds=1", f"--json={path}"]
    command.append("--arrangements=each")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    assert list(record["arrangements"]) == ["apart", "each"]
    for name, each in record["arrangements"].items():
        assert f"\n{name} " in done.stdout
        seconds = {clock: value["median"] for clock, value in each["seconds"].items()}
        parts = seconds["compile"] + seconds["train"] + seconds["evaluate"]
        assert 0 < parts < seconds["total"]
        assert each["largest_distance_of_losses"] < 1e-5


def test_a_design_of_a_study(digits_dir):
    command = [sys.executable, "scripts/benchmark_together.py", "--design=N9-B9"]
    command += ["--config=configs/search/table_8.py:small", "--runs=1"]
    command += [
        "--config.base.data.name=digits",
        f"--config.base.data.dir={digits_dir}",
    ]
    command += ["--config.base.data.train_split=train"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "--design is 'N9-B9'; use N2-B1, N2-B2" in done.stderr
    command[1:3] = ["scripts/benchmark_together.py", "--design=x"]
    command[3] = "--config=configs/quickstart.py"
    done = subprocess.run(command[:4], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode and "--design is for a study" in done.stderr
