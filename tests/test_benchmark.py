"""The script `scripts/benchmark.py`: one network in several ways, side by side."""

import importlib.util
import json

import numpy as np
import pytest
from support import scripts

benchmark = scripts.load("benchmark")
contenders = scripts.load("_contenders")
TINY = (
    "--config=configs/quickstart.py",
    "--config.model.widths=(4, 4, 8)",
    "--config.train.batch_size=16",
    "--rounds=2",
    "--seconds=0",
)
NAMES = ["ours_float32", "plain_flax"] + ["torch"] * (
    importlib.util.find_spec("torch") is not None
)


@pytest.mark.slow
def test_contenders_agree_and_take_turns(digits_dir, tmp_path):
    output = tmp_path / "folder" / "speed.json"
    data = f"--config.data.dir={digits_dir}"
    names = f"--contenders={','.join(NAMES)}"
    cache = tmp_path / "cache"
    code, text, message = scripts.call(
        "benchmark", *TINY, data, names, f"--output={output}", f"--cache={cache}"
    )
    assert code == 0, message
    record = json.loads(output.read_text())
    assert record["compiled_before"] and list(cache.glob("jit_*"))
    assert list(record["contenders"]) == ["ours", *NAMES]
    assert not record["faults"] and record["peak_flops"] > 0
    distances = record["checks"]["distance_of_logits"]
    assert max(distances.values()) < 1e-5 and len(distances) == len(NAMES) + 1
    for name, contender in record["contenders"].items():
        for kind, passes in (("train", 3), ("infer", 1)):
            speed = contender[kind]
            rate = speed["images_per_second"]["median"]
            flops = rate * passes * record["flops_per_image"]
            assert speed["flops"] == pytest.approx(flops)
            assert speed["share_of_peak"] == pytest.approx(flops / record["peak_flops"])
            assert speed["ours_is_faster"]["min"] > 0
            assert f"{kind} {name}" in text
    ours = record["contenders"]["ours"]
    assert ours["train"]["ours_is_faster"] == {"median": 1, "min": 1, "max": 1}
    assert ours["versions"]["jax"] and ours["peak_memory_bytes"] > 0


def test_networks_that_differ_are_not_compared():
    class Fake:
        def __init__(self, name, logits):
            self.name, self._logits = name, logits

        def call(self, method, *arguments):
            return np.full((8, 2), self._logits, np.float32)

    task = contenders.Task(
        *(None, (4, 4, 1), 2, 9, 8, (), (), 0.0, {"name": "sgd"}, 1, {})
    )
    facts = {"num_parameters": 3, "batch_size": 8, "dtype": "float32"}
    facts["conv_precision"] = "float32"
    workers = [Fake("ours", 1.0), Fake("other", 1.01)]
    both = {worker.name: facts for worker in workers}
    with pytest.raises(benchmark.UserError, match="the networks differ"):
        benchmark.check_fairness(workers, both, task)
    rounding = dict.fromkeys(both, facts | {"conv_precision": "bfloat16"})
    agreed = benchmark.check_fairness(workers, rounding, task)
    assert agreed["conv_precision"] == "bfloat16"
    both["other"] = facts | {"num_parameters": 4}
    with pytest.raises(benchmark.UserError, match="differ in their num_parameters"):
        benchmark.check_fairness(workers, both, task)


def test_a_contender_that_fails_after_its_first_step_is_left_out():
    class Fake:
        def __init__(self, name, most):
            self.name, self._left = name, most

        def timed(self, kind, steps, limit=None):
            self._left -= 1
            if self._left < 0:
                raise benchmark.UserError(f"{self.name} is out of memory")
            return 1, 2.0 * steps, 0.0

    faults = {}
    workers = [Fake("ours", 9), Fake("other", 1)]
    firsts, steps = benchmark._warm_up(workers, ["train"], 3, None, faults)
    assert firsts == steps == {"ours": {"train": 2.0}}
    assert faults == {"other": "other is out of memory"}
    lengths = benchmark._turn_lengths(steps, 2, 10.0, None)
    assert lengths == {"train": {"ours": 5}}
    with pytest.raises(benchmark.UserError, match="ours is out of memory"):
        benchmark._warm_up([Fake("ours", 1)], ["train"], 3, None, {})


def test_clocks_are_those_of_the_gpu_that_is_used(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "$1"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    for visible, used in (("3,1", "3"), ("", "0"), ("GPU-5ab", "GPU-5ab")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert scripts.load("_measure")._query(("name",)) == {"name": f"--id={used}"}


def test_a_mistake_is_one_line():
    code, _, message = scripts.call("benchmark", *TINY, "--contenders=keras")
    assert code == 2 and message.count("\n") == 1
    assert "--contenders has 'keras'; use ours, ours_float32, plain_flax" in message


def test_turns_alternate_and_ratios_are_within_a_round():
    class Fake:
        def __init__(self, name, seconds):
            self.name, self._seconds = name, seconds

        def timed(self, kind, steps):
            order.append(self.name)
            return steps * 10, self._seconds.pop(0), 0.5

    order = []
    workers = [Fake("ours", [1.0, 2.0, 4.0]), Fake("other", [2.0, 4.0, 4.0])]
    lengths = {"train": {"ours": 1, "other": 1}}
    turns = benchmark.take_turns(workers, lengths, 3)
    assert order == ["ours", "other", "other", "ours", "ours", "other"]
    speed = benchmark.summary(turns["train"], "other", 7, 100.0)
    assert speed["ours_is_faster"] == {"median": 2.0, "min": 1.0, "max": 2.0}
    assert speed["images_per_second"]["median"] == 2.5
    assert speed["share_of_peak"] == pytest.approx(2.5 * 7 / 100)
