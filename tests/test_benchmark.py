import json
import pathlib
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from cifar_jax import UserError, config
from cifar_jax.evaluation import benchmark, contenders, task
from cifar_jax.evaluation.workers import Seconds
from cifar_jax.models.resnet import create

ROOT = pathlib.Path(__file__).parent.parent


@pytest.mark.slow
def test_tiny_run(tmp_path, digits_dir):
    # torch.compile takes a minute
    names = [name for name in benchmark.available() if name != "torch_compiled"]
    path = tmp_path / "record.json"
    command = [sys.executable, "scripts/peers.py", "--tiny", f"--output={path}"]
    command += ["--config=configs/quickstart.py", f"--config.data.dir={digits_dir}"]
    command.append(f"--contenders={','.join(names)}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    record = json.loads(path.read_text())
    assert list(record["contenders"]) == names
    for name, each in record["contenders"].items():
        assert f"train {name} " in done.stdout
        assert each["peak_memory_bytes"] > 2**26
        for kind, passes in (("train", 3), ("infer", 1)):
            result = each[kind]
            rate = result["images_per_second"]
            assert 0 < rate["min"] <= rate["median"] <= rate["max"]
            flops = rate["median"] * record["flops_per_image"] * passes
            assert result["flops"] == pytest.approx(flops)
            assert 0 < result["share_of_peak"] == flops / record["peak_flops"] < 1
            assert 0 < result["host_share"] < 1.1
            assert result["cpu_seconds_per_image"] > 0
            assert 0 < each["first_call_seconds"][kind]
    assert record["checks"]["num_parameters"] < 10_000
    assert list(record["checks"]["distance_of_logits"]) == names


def fake(name, logits):
    def call(method, variables, images):
        assert method == "logits"
        assert variables[("conv", "kernel")].shape == (3, 3, 3, 4)
        return logits * np.ones((len(images), 10))

    return SimpleNamespace(name=name, call=call)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({}, None),
        ({"num_parameters": 6}, "differ in their num_parameters"),
        ({"batch_size": 6}, "differ in their batch_size"),
        ({"dtype": "bfloat16"}, "differ in their dtype"),
        ({"logits": 1.01}, "the networks differ"),
        ({"logits": np.nan}, "the networks differ"),
    ],
)
def test_an_unfair_comparison_is_refused(change, message):
    same = {"num_parameters": 5, "batch_size": 5, "dtype": "float32"}
    logits = change.pop("logits", 1.0)
    facts = {"ours": same, "torch": same | change}
    workers = [fake("ours", 1.0), fake("torch", logits)]
    described = SimpleNamespace(
        shapes={("conv", "kernel"): (3, 3, 3, 4)},
        image_shape=(8, 8, 3),
        batch_size=5,
        optimizer={"name": "sgd"},
    )
    if message is None:
        checks = benchmark._check_fairness(workers, facts, described)
        assert checks["distance_of_logits"] == {"ours": 0.0, "torch": 0.0}
        return
    with pytest.raises(UserError, match=message):
        benchmark._check_fairness(workers, facts, described)


def test_ratios_are_taken_within_a_round():
    # The machine was ten times as slow in the second round.
    turns = {
        "ours": [(200, Seconds(wall, 0.1, 2.0)) for wall in (1.0, 10.0, 0.5)],
        "torch": [(100, Seconds(wall, 0.1, 2.0)) for wall in (1.0, 10.0, 0.5)],
    }
    result = benchmark._summary({"train": turns}, "torch", "train", 1000, 1e6)
    assert result["ours_is_faster"] == {"median": 2.0, "min": 2.0, "max": 2.0}
    assert result["images_per_second"] == {"median": 100.0, "min": 10.0, "max": 200.0}
    assert result["cpu_seconds_per_image"] == 0.02
    assert result["host_share"] == 0.1
    assert result["flops"] == 300_000
    assert result["share_of_peak"] == pytest.approx(0.3)


def test_what_contenders_share():
    ours = config.get_config()
    ours.optim.name, ours.model.dropout = "muon", 0.5
    shared = task.comparable(ours)
    assert (shared.optim.name, shared.model.dropout) == ("sgd", 0.0)
    assert (ours.optim.name, ours.model.dropout) == ("muon", 0.5)


def crops(image):
    """Returns all that crop and flip can make of an image, by bytes."""
    pad = task.CROP_PADDING
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    height, width, _ = image.shape
    found = {}
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[top : top + height, left : left + width]
            found[window.tobytes()] = (top, left, 0)
            found[window[:, ::-1].tobytes()] = (top, left, 1)
    return found


def check_crops(crop_and_flip):
    """Every window is possible, and none is much likelier than another."""
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    made = np.asarray(crop_and_flip(np.stack([image] * 8100)))
    assert made.shape == (8100, 6, 7, 3)
    expected = crops(image)
    counts = dict.fromkeys(expected.values(), 0)
    for each in made:
        counts[expected[each.tobytes()]] += 1
    assert len(counts) == 162
    assert 15 < min(counts.values()) and max(counts.values()) < 100  # 50 on average


def test_crop_and_flip_of_numpy():
    random = np.random.default_rng(0)
    check_crops(lambda images: contenders.crop_and_flip(random, images))


def test_crop_and_flip_of_torch():
    torch = pytest.importorskip("torch")
    from cifar_jax.evaluation import torch_contender

    torch.manual_seed(0)
    check_crops(lambda images: torch_contender.crop_and_flip(torch.tensor(images)))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_torch_decays_kernels_alone(name):
    pytest.importorskip("torch")
    from cifar_jax.evaluation import torch_contender
    from cifar_jax.models.torch_resnet import TorchResNet

    options = dict(stage_sizes=(1,), widths=(64,))
    design = create(num_classes=10, image_shape=(8, 8, 3), **options).design
    network = TorchResNet(design, 3, 10, 64)
    options = config.get_config().optim.to_dict() | {"name": name}
    optimizer = torch_contender._make_optimizer(network, options)
    decay = {
        id(p): group["weight_decay"]
        for group in optimizer.param_groups
        for p in group["params"]
    }
    for parameter in network.parameters():
        expected = options["weight_decay"] if parameter.ndim > 1 else 0.0
        assert decay[id(parameter)] == expected


def test_pytorch_runs_without_jax():
    pytest.importorskip("torch")
    code = "import sys, cifar_jax.evaluation.torch_contender; assert 'jax' not in "
    subprocess.run([sys.executable, "-c", f"{code}sys.modules"], cwd=ROOT, check=True)
