"""Smaller forms of a network: what they are, and how they are compared."""

import gzip
import json
import pathlib
import types

import jax
import numpy as np
import pytest
from scipy import stats
from support.commands import call
from support.runs import tiny_config, train

from cifar_jax import UserError, formats
from cifar_jax import config as default
from cifar_jax.data.sources import Examples
from cifar_jax.evaluation import compression
from cifar_jax.formats import export
from cifar_jax.training import pretrained, setup

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def run(digits_dir, tmp_path_factory):
    """A run that has learnt something, and its result."""
    workdir = tmp_path_factory.mktemp("run")
    whole = dict(data__train_split="train", train__batch_size=128)
    config = tiny_config(digits_dir, **whole)
    config.augment = ()
    config.optim.name, config.optim.learning_rate = "adam", 0.02
    config.train.epochs, config.evaluate.every_epochs = 6, 6
    return workdir, train(config, workdir)


@pytest.fixture(scope="module")
def int8():
    """The format."""
    pytest.importorskip("onnxruntime")
    return formats.find("onnx-int8")


@pytest.mark.slow
def test_a_runs_images_are_those_it_had(run):
    workdir, _ = run
    config = json.loads((workdir / "config.json").read_text())
    prepared = setup.make(
        default.config_from_dict(config, workdir), None, lambda line: None
    )
    test = prepared.source.read(config["data"]["test_split"])
    source = setup.open_source(config)
    test_again = source.read(config["data"]["test_split"])
    found = *setup.read_train_and_val(config, source), test_again
    for ours, theirs in zip(found, (prepared.train, prepared.val, test), strict=True):
        np.testing.assert_array_equal(ours.images, theirs.images)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
    config["data"]["validation"] = 0
    assert setup.read_train_and_val(config, source)[1] is None


def test_pruning_trains_what_it_prunes():
    """The run may have been fine-tuned, with its first epochs for the classifier."""
    config = default.get_config()
    config.init.update(workdir="another", frozen="3 epochs")
    config.train.max_seconds = 1.0
    dataset = {"mean": [0.5] * 3, "std": [0.2] * 3}
    pruning = compression.pruning_config(config, "run", dataset, sparsity=0.5)
    assert pruning.init.to_dict() == {"workdir": "run", "frozen": "0%"}
    assert pruning.train.max_seconds == 0
    assert pruning.optim.learning_rate == config.optim.learning_rate / 4
    given = dict(sparsity=0.5, learning_rate=0.0)
    pruning = compression.pruning_config(config, "run", dataset, **given)
    assert pruning.optim.learning_rate == 0  # which is refused where it is used


def test_int8_predicts_nearly_the_same(run, int8, tmp_path, monkeypatch):
    import onnx
    from onnxruntime import quantization

    workdir, result = run
    assert result["val"]["accuracy"] > 0.7, "this test needs a better network"
    seen = []
    quantize = quantization.quantize_static

    def spy(source, target, reader, **options):
        batches = list(iter(reader.get_next, None))
        seen.extend(image for batch in batches for image in batch["images"])
        reader.get_next = iter([*batches, None]).__next__
        quantize(source, target, reader, **options)

    monkeypatch.setattr(quantization, "quantize_static", spy)
    network, path = pretrained.load_model(workdir), tmp_path / "model.int8.onnx"
    card = export.export(network, int8, path)
    check = card["check"]
    assert check["agreement"] > 0.95
    assert check["accuracy"] > result["val"]["accuracy"] - 0.03
    assert check["float32_accuracy"] == pytest.approx(result["val"]["accuracy"])
    assert (check["images"], check["num_images"]) == ("validation", 144)
    assert "validation images" in export.summary(check)
    held = onnx.load(path)
    weights = [a for a in held.graph.initializer if a.name.endswith("kernel_quantized")]
    kinds = {a.data_type for a in weights}
    assert len(weights) == 7 and kinds == {onnx.TensorProto.INT8}
    assert not any(node.op_type == "BatchNormalization" for node in held.graph.node)
    (kept,) = (each.value for each in held.metadata_props if each.key == "card")
    assert json.loads(kept)["dataset"] == card["dataset"]
    export.export(network, int8, path, overwrite=True)
    assert export.export(network, int8, path, overwrite=True) == card
    # What the ranges were measured on is held out of nothing but training.
    source = setup.open_source(network.config)
    train_images, held_out = setup.read_train_and_val(network.config, source)
    known = {image.tobytes() for image in train_images.images}
    assert len(seen) == 3 * 512  # three exports
    assert all(image.tobytes() in known for image in seen)
    assert not {image.tobytes() for image in held_out.images} <= known


def test_int8_that_loses_too_much_is_refused(run, int8, monkeypatch):
    network = pretrained.load_model(run[0])
    good = jax.jit(network.logits)
    with pytest.raises(UserError, match="accuracy falls from .* nothing is kept"):
        int8.verify(network, lambda images: np.roll(good(images), 1, axis=-1))
    assert int8.verify(network, good)["agreement"] == 1.0
    monkeypatch.setitem(network.config["data"], "validation", 0)
    found = int8.verify(network, good)
    others = 1437 - 512  # than the ranges are measured on
    assert (found["images"], found["num_images"]) == ("training", others)


def variant(folder, name, right, labels, num_classes=4):
    """A network that labels the images of these places right."""

    def classify(images):
        places = images[:, 0, 0, 0].astype(int)
        found = np.where(right[places], labels[places], (labels[places] + 1) % 4)
        return np.eye(num_classes)[found]

    path = folder / name
    path.write_bytes(bytes(1000) + name.encode())
    return compression.Variant(
        path, classify, {"num_parameters": 10, "num_nonzero": 5, "check": {}}
    )


def test_the_comparison_is_mcnemars_on_the_same_images(tmp_path, monkeypatch):
    monkeypatch.setattr(compression, "SECONDS", 0.0)
    monkeypatch.setattr(compression, "BATCH_SIZE", 64)
    random = np.random.default_rng(0)
    images = np.zeros((200, 2, 2, 1), np.uint8) + np.arange(200)[:, None, None, None]
    examples = Examples(images.astype(np.uint8), random.integers(0, 4, 200))
    first, second = random.random(200) < 0.9, random.random(200) < 0.8
    variants = [
        variant(tmp_path, name, right, examples.labels)
        for name, right in (("a.onnx", first), ("b.int8.onnx", second))
    ]
    compared = compression.compare(variants, val=examples[:50], test=examples)
    one, other = compared
    assert one["test"]["accuracy"] == first.mean()
    assert other["test"]["accuracy"] == second.mean()
    assert other["val"]["accuracy"] == second[:50].mean()
    assert other["test"]["difference"] == pytest.approx(second.mean() - first.mean())
    alone, both = (first & ~second).sum(), (first != second).sum()
    p_value = stats.binomtest(int(alone), int(both)).pvalue
    assert other["test"]["p_value"] == pytest.approx(p_value)
    assert one["test"]["p_value"] == 1.0
    content = variants[1].path.read_bytes()
    assert other["bytes"] == len(content)
    assert other["gzip_bytes"] == len(gzip.compress(content, 9)) < len(content)
    for each in compared:
        for spread in (each["latency_ms"], each["images_per_second"]):
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
    record = {"batch_size": 64, "rounds": 15, "variants": compared}
    record |= {"device": "cpu", "versions": {"onnxruntime": "1"}}
    lines = compression.table(record).splitlines()
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert lines[3].startswith("| b.int8.onnx | 10 ")
    assert f"{100 * (second.mean() - first.mean()):+.2f} ({p_value:.2g})" in lines[3]
    assert json.loads(json.dumps(record)) == record


def test_rounds_go_both_ways(monkeypatch):
    monkeypatch.setattr(compression, "SECONDS", 0.0)
    monkeypatch.setattr(compression, "ROUNDS", 3)
    calls = []
    variants = [
        types.SimpleNamespace(classify=lambda images, name=name: calls.append(name))
        for name in "abc"
    ]
    turns = compression.take_turns(variants, np.zeros(1))
    assert "".join(calls) == "abc" + "abc" + "cba" + "abc"
    assert [len(each) for each in turns] == [3, 3, 3]


def test_wrong_usage_is_one_line(tmp_path):
    for arguments, message in (
        ([], "--workdir RUN is missing"),
        ([f"--workdir={tmp_path}"], "nothing to do; give --prune, --int8, or both"),
        ([f"--workdir={tmp_path}", "--int8", "--epochs=3"], "--epochs and --learning_"),
    ):
        done = call("compress", *arguments)
        assert done.returncode == 2 and done.stderr.startswith(f"error: {message}")
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_the_command(run, int8, tmp_path):
    workdir, result = run
    arguments = [f"--workdir={workdir}", f"--output={tmp_path}"]
    arguments += ["--prune=0.5", "--int8"]
    done = call("compress", *arguments)
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "compression.json").read_text())
    names = ["original.onnx", "original.int8.onnx", "pruned.onnx", "pruned.int8.onnx"]
    found = {each["file"]: each for each in record["variants"]}
    assert list(found) == names
    original, quantised, pruned, _ = found.values()
    for split in ("val", "test"):
        expected = result[split]["accuracy"]
        assert original[split]["accuracy"] == pytest.approx(expected)
    expected = record["pruned"]["val"]["accuracy"]
    assert pruned["val"]["accuracy"] == pytest.approx(expected)
    assert record["pruned"]["test"] is None  # only the table has it
    assert record["pruned"]["sparsity"] == pytest.approx(0.5, abs=1e-3)
    assert record["pruned"]["epochs"] == 2
    assert pruned["num_nonzero"] == record["pruned"]["num_nonzero"]
    assert pruned["bytes"] == pytest.approx(original["bytes"], rel=0.02)
    assert pruned["gzip_bytes"] < 0.8 * original["gzip_bytes"]
    assert quantised["bytes"] < original["bytes"]
    table = (tmp_path / "compression.md").read_text()
    assert table in done.stdout
    done = call("compress", *arguments, "--prune=0.6")
    assert done.returncode == 1 and done.stderr.rstrip().endswith("another --output")
