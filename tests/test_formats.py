"""What is exported gives the network's logits, wherever it is run."""

import dataclasses
import hashlib
import json
import pathlib
import subprocess
import sys
import zipfile

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from safetensors import numpy as safe_numpy
from support.commands import call
from support.designs import NETWORKS, SMALL, VARIANTS, designs, joined

from cifar_jax import UserError, formats
from cifar_jax import config as default
from cifar_jax.config import config_to_dict
from cifar_jax.formats import export, safetensors_file
from cifar_jax.formats.export import Format
from cifar_jax.models.presets import PRESETS
from cifar_jax.training import checkpoint, pretrained
from cifar_jax.training.workdir import RunDirectory

ROOT = pathlib.Path(__file__).parent.parent
SHAPE = (12, 12, 3)


def find(name):
    """Returns a format, or skips the test."""
    try:
        return formats.find(name)
    except UserError as error:
        pytest.skip(str(error))


def available():
    for name in formats.FORMATS:
        if name == "onnx-int8":  # needs images, and has other logits: test_compress.py
            continue
        try:
            yield name, formats.find(name)
        except UserError:
            continue


def make_config(options):
    config = default.get_config()
    config.data.name = "random"
    config.model.update(options)
    return config


def make_dataset(shape, num_classes):
    key = np.random.default_rng(1)
    return {
        "name": "random",
        "image_shape": list(shape),
        "label_names": [f"class {label}" for label in range(num_classes)],
        "mean": key.uniform(0.3, 0.6, shape[2]).tolist(),
        "std": key.uniform(0.1, 0.3, shape[2]).tolist(),
    }


def make(options, shape=SHAPE, num_classes=10):
    """Returns a network with weights and statistics as in training, none at 0 or 1."""
    dataset = make_dataset(shape, num_classes)
    network = pretrained.abstract_model(config_to_dict(make_config(options)), dataset)
    key = np.random.default_rng(0)

    def fill(path, leaf):
        if path[-1].key == "kernel":
            scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
            return np.float32(key.normal(size=leaf.shape) * scale)
        if path[-1].key in ("scale", "var"):
            return np.float32(key.uniform(0.5, 1.5, leaf.shape))
        return np.float32(key.normal(size=leaf.shape) * 0.1)

    variables = jax.tree_util.tree_map_with_path(fill, network.variables)
    return dataclasses.replace(network, variables=variables, epoch=7)


def random_images(batch_size, shape=SHAPE):
    key = np.random.default_rng(batch_size)
    return key.integers(0, 256, (batch_size, *shape), np.uint8)


def write(kind, network, folder):
    """Writes a file and its card, without the comparison that `export` makes."""
    path = folder / f"model{kind.suffix}"
    card = export.describe(network)
    kind.write(network, path, card)
    export.card_path(path).write_text(json.dumps(card))
    return path


def assert_close(found, expected, message=""):
    share = safetensors_file.HALF_TOLERANCE if "16" in message else 2e-5
    tolerance = share * max(1, np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance, err_msg=message)


@pytest.mark.slow  # a minute of compiling
@pytest.mark.parametrize("names", NETWORKS)
def test_every_option_in_every_format(names, tmp_path):
    network = make(joined(names))
    images = random_images(3)
    expected = jax.jit(network.logits)(images)
    for name, kind in available():
        found = kind.read(write(kind, network, tmp_path))(images)
        assert found.dtype == np.float32
        assert_close(found, expected, name)


# Between them most of the options, so that few networks are compiled.
BROAD = {
    "basic": dict(stem_pool=3, se_ratio=4, activation="mish", pool=2),
    "preact": dict(
        block="preact", shortcut="padding", widths=(8, 13), activation="gelu"
    ),
}


@pytest.mark.parametrize(
    "name", ["basic", pytest.param("preact", marks=pytest.mark.slow)]
)
def test_any_batch_size_in_every_format(name, tmp_path):
    network, images = make(SMALL | BROAD[name]), random_images(7)
    expected = np.asarray(jax.jit(network.logits)(images))
    for name, kind in available():
        classify = kind.read(write(kind, network, tmp_path))
        for batch_size in (1, 7):
            found = classify(images[:batch_size])
            assert_close(found, expected[:batch_size], name)


def compare_onnx_with_torch(network, shape, folder):
    """Needs no compilation, and PyTorch's network has its own tests."""
    images = random_images(2, shape)
    onnx, pytorch = find("onnx"), pytest.importorskip("cifar_jax.formats.pytorch")
    expected = pytorch.on_arrays(pytorch.translate(network))(images)
    assert_close(onnx.read(write(onnx, network, folder))(images), expected)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_option(name, tmp_path):
    compare_onnx_with_torch(make(SMALL | VARIANTS[name]), SHAPE, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_every_preset(name, tmp_path):
    shape = (32, 32, 3) if "pool" in PRESETS[name] else (16, 16, 3)
    compare_onnx_with_torch(make(PRESETS[name], shape), shape, tmp_path)


@pytest.mark.slow
@settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
@given(drawn=designs())
def test_any_design(drawn, tmp_path):
    options, shape, num_classes = drawn
    compare_onnx_with_torch(make(options, shape, num_classes), shape, tmp_path)


def test_float32_whatever_it_was_trained_in(tmp_path):
    network = make(SMALL | dict(dtype="bfloat16"))
    images = random_images(16)
    expected = jax.jit(export.in_float32(network).logits)(images)
    for name in ("safetensors", "stablehlo"):
        kind, path = formats.find(name), tmp_path / f"model.{name}"
        export.export(network, kind, path)
        assert_close(kind.read(path)(images), expected)
    exported = jax.export.deserialize(bytearray(path.read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert "bf16" not in exported.mlir_module()


def test_the_card_tells_what_a_user_must_know(tmp_path):
    path = tmp_path / "new" / "model.safetensors"
    card = export.export(make(SMALL), safetensors_file.FORMAT, path)
    assert json.loads(export.card_path(path).read_text()) == card
    assert card["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert card["dataset"]["label_names"][9] == "class 9"
    assert card["input"] == {"dtype": "uint8", "shape": ["batch", *SHAPE]}
    assert card["output"] == {"dtype": "float32", "shape": ["batch", 10]}
    assert card["check"]["max_abs_difference"] <= card["check"]["tolerance"]
    assert {file.name for file in path.parent.iterdir()} == {
        "model.safetensors",
        "model.safetensors.json",
    }


def broken(network, change):
    """A format that loses what `change` changes."""
    logits = jax.jit(network.logits)
    return Format(
        suffix=".broken",
        write=lambda network, path, card: path.write_bytes(b"new"),
        read=lambda path: lambda images: change(np.array(logits(images))),
    )


def swap_two_best(logits):
    first, second = np.argsort(logits[0])[-2:]
    logits[0, [first, second]] = logits[0, [second, first]]
    return logits


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits + 0.01, "differs from the network by 0.01"),
        (lambda logits: logits + 3e-4 * max(1, abs(logits).max()), "differs from"),
        (lambda logits: logits * np.nan, "by nan"),
        (swap_two_best, "differs from the network"),
        (lambda logits: logits[:, :-1], "differs from the network by inf"),
        (lambda logits: logits.astype(np.float64), "differs from the network by inf"),
    ],
)
def test_a_file_that_is_not_the_network_is_not_kept(change, message, tmp_path):
    network, path = make(SMALL), tmp_path / "model.broken"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match=message):
        export.export(network, broken(network, change), path, overwrite=True)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [
        (path.name, b"old")
    ]
    with pytest.raises(UserError, match="exists; use --overwrite"):
        export.export(network, broken(network, np.array), path)
    export.export(network, broken(network, np.array), path, overwrite=True)
    assert path.read_bytes() == b"new"


def test_a_file_is_not_read_with_the_card_of_another(tmp_path):
    network, path = make(SMALL), tmp_path / "model.broken"
    kind = broken(network, np.array)
    export.export(network, kind, path)
    assert export.load_program(path, kind).epoch == 7
    card = json.loads(export.card_path(path).read_text())
    del card["dataset"]["std"]
    export.card_path(path).write_text(json.dumps(card))
    with pytest.raises(UserError, match="model.broken.json.*dataset.std"):
        export.load_program(path, kind)
    path.write_bytes(b"another")
    with pytest.raises(UserError, match="is not the file that model.broken.json be"):
        export.load_program(path, kind)


@pytest.mark.slow  # torch.export compiles for a while
def test_a_program_for_pytorch_executes_nothing_else(tmp_path, monkeypatch):
    """Not even if its file pickles something, and its card is made for that."""
    kind, network = find("pt2"), make({"stage_sizes": (1,), "widths": (4,)})
    path = write(kind, network, tmp_path)
    monkeypatch.chdir(tmp_path)
    import torch

    class Bomb:
        def __reduce__(self):
            return pathlib.Path.touch, (pathlib.Path("exploded"),)

    torch.save({"a": Bomb()}, "bomb.pt")
    other, num_changed = tmp_path / "other.pt2", 0
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(other, "w") as target:
        for info in source.infolist():
            content = source.read(info)
            if "sample_inputs" in info.filename and info.filename.endswith(".pt"):
                content, num_changed = pathlib.Path("bomb.pt").read_bytes(), 1
            target.writestr(info.filename, content)
    assert num_changed and callable(kind.read(path))
    with pytest.raises(UserError, match="other.pt2 holds more than a program"):
        kind.read(other)
    assert not pathlib.Path("exploded").exists()


def test_safetensors_come_back_as_the_network(tmp_path):
    network = make(SMALL)
    path = write(safetensors_file.FORMAT, network, tmp_path)
    loaded = pretrained.load_model(path)
    assert loaded.epoch == 7
    assert loaded.label_names == network.label_names
    assert loaded.model == network.model
    jax.tree.map(np.testing.assert_array_equal, loaded.variables, network.variables)
    tensors = safe_numpy.load_file(path)
    assert tensors["params/stem_conv/kernel"].shape == (3, 3, 3, 8)
    assert "batch_stats/stem_bn/mean" in tensors


def test_safetensors_of_others_are_refused(tmp_path):
    network = make(SMALL)
    path = write(safetensors_file.FORMAT, network, tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(UserError, match="is not a network of.*SafetensorError"):
        pretrained.load_model(path)
    safe_numpy.save_file({"a": np.zeros(3)}, path)
    with pytest.raises(UserError, match="is not a network of.*KeyError: 'card'"):
        pretrained.load_model(path)
    for strange in ("1", "{}", '{"config": {"model": 1}, "dataset": {}}', "["):
        safe_numpy.save_file({"a": np.zeros(3)}, path, metadata={"card": strange})
        with pytest.raises(UserError, match="is not a network of|has the wrong type"):
            pretrained.load_model(path)
    card = {"card": json.dumps(export.describe(network))}
    safe_numpy.save_file({"a": np.zeros(3)}, path, metadata=card)
    with pytest.raises(UserError, match=r"holds float64 \[3\] as a, and.* nothing"):
        pretrained.load_model(path)


def save_run(network, dataset, workdir):
    """Writes a run directory, as training does."""
    run = RunDirectory(workdir)
    workdir.mkdir()
    run.claim(make_config(SMALL), dataset)
    checkpoints = checkpoint.CheckpointFolder(run.best, keep=1)
    checkpoints.save(5, network.variables, {"epoch": 7})
    checkpoints.close()


def python(code, *arguments, without):
    """Runs code in a new process, where some packages cannot be imported."""
    block = f"import sys; sys.modules.update(dict.fromkeys({without}))\n"
    return subprocess.run(
        [sys.executable, "-c", block + code, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    ).stdout


def test_the_command_and_a_process_without_this_package(tmp_path):
    network, images = make(SMALL), random_images(5)
    save_run(network, make_dataset(SHAPE, 10), tmp_path / "run")
    done = call("export", "--format=stablehlo", f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "run" / "export" / "model.stablehlo"
    assert f"{path}: {path.stat().st_size:,} bytes; on 17" in done.stdout
    np.save(tmp_path / "images.npy", images)
    printed = python(
        "import runpy; runpy.run_path('scripts/run_stablehlo.py', {}, '__main__')",
        path,
        tmp_path / "images.npy",
        without=["cifar_jax", "flax", "orbax", "ml_collections"],
    )
    labels = np.argmax(network.logits(images), axis=-1)
    assert printed.splitlines() == [f"class {label}" for label in labels]


def test_pytorch_needs_no_jax(tmp_path):
    network = make(SMALL)
    path = write(find("torch"), network, tmp_path)
    images = random_images(3)
    np.save(tmp_path / "images.npy", images)
    code = """
import numpy as np, torch
from cifar_jax.models.torch_resnet import load
with torch.inference_mode():
    logits = load(sys.argv[1])(torch.tensor(np.load(sys.argv[2])))
np.save(sys.argv[3], logits.numpy())
"""
    files = path, tmp_path / "images.npy", tmp_path / "logits.npy"
    python(code, *files, without=["jax", "flax", "jaxlib"])
    assert_close(np.load(files[-1]), network.logits(images))


def test_a_missing_package_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "cifar_jax.formats.pytorch", raising=False)
    with pytest.raises(UserError, match=r"torch is not.*pip install 'cifar-jax\[torch"):
        formats.find("torch")
