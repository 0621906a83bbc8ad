"""The usual PyTorch ResNets become runs that predict the same; all else is refused."""

import json
import pathlib

import jax
import numpy as np
import pytest

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.models.presets import PRESETS
from cifar_jax.training import pretrained
from cifar_jax.training.workdir import RunDirectory

torch = pytest.importorskip("torch")
from support.commands import call  # noqa: E402
from support.usual_resnets import ResNet, WideResNet  # noqa: E402

from cifar_jax.formats import pytorch_import  # noqa: E402
from cifar_jax.models import torch_names, torch_resnet  # noqa: E402

ROOT = pathlib.Path(__file__).parent.parent
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SHAPE = (16, 16, 3)
BASIC = dict(stage_sizes=(1, 2), widths=(8, 12))
POOLED = BASIC | dict(downsample="pool", bn_scale=False)
USUAL = {
    "shortcut_linear": (BASIC, lambda: ResNet((1, 2), (8, 12))),
    "downsample_fc": (BASIC, lambda: ResNet((1, 2), (8, 12), "downsample", "fc")),
    "option_a": (
        BASIC | dict(widths=(8, 16), shortcut="padding"),
        lambda: ResNet((1, 2), (8, 16), "A"),
    ),
    "wide": (
        dict(stage_sizes=(2, 2, 2), widths=(16, 20, 24), stem_width=16, block="preact"),
        lambda: WideResNet(2, (16, 20, 24)),
    ),
    "our_names": (POOLED, lambda: torch_resnet.create(POOLED, SHAPE, 10)),
}
WRAPPERS = {
    "plain": lambda state: state,
    "parallel": lambda state: {f"module.{name}": t for name, t in state.items()},
    "checkpoint": lambda state: {"net": state, "acc": 91.5, "epoch": 3},
}


def seen(network, seed=0):
    """Returns a network with statistics of a few images, in evaluation mode."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim == 1:  # BatchNorm's start at 0 and 1, which hides mistakes
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    network.train()
    for _ in range(2):
        network(torch.randn(4, 3, 16, 16) * 2 + 1)
    return network.eval()


def run_import(path, workdir, options=None):
    config = default.get_config()
    config.model.update(options or BASIC)
    dataset = {
        "name": "cifar10",
        "image_shape": list(SHAPE),
        "label_names": list("0123456789"),
        "mean": list(MEAN),
        "std": list(STD),
    }
    return pytorch_import.import_weights(path, config, dataset, workdir)


@pytest.mark.parametrize(
    ("name", "wrapper"),
    [
        ("shortcut_linear", "checkpoint"),
        ("downsample_fc", "plain"),
        ("option_a", "parallel"),
        ("wide", "parallel"),
        ("our_names", "checkpoint"),
    ],
)
def test_a_usual_network_predicts_the_same(name, wrapper, tmp_path):
    options, create = USUAL[name]
    network = seen(create())
    path = tmp_path / "weights.pt"
    torch.save(WRAPPERS[wrapper](network.state_dict()), path)
    run_import(path, tmp_path / "run", options)
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE), np.uint8)
    normal = (images / 255 - MEAN) / STD
    with torch.no_grad():
        expected = network(torch.tensor(np.float32(normal.transpose(0, 3, 1, 2))))
    found = pretrained.load_model(tmp_path / "run")
    np.testing.assert_allclose(
        jax.jit(found.logits)(images), expected, rtol=0, atol=1e-4
    )
    var = found.variables["batch_stats"]["stage2_block1"]["bn2"]["var"]
    theirs = {key.removeprefix("module."): t for key, t in network.state_dict().items()}
    key = {"wide": "block2.layer.0", "our_names": "stage2_block1"}.get(name, "layer2.0")
    np.testing.assert_array_equal(var, theirs[f"{key}.bn2.running_var"])
    assert RunDirectory(tmp_path / "run").dataset()["mean"] == list(MEAN)
    assert {p.name for p in tmp_path.iterdir()} == {"weights.pt", "run"}


class Bomb:
    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path("exploded"),)


def without(name):
    def change(state):
        del state[name]
        return state

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("bn1.running_var"), r"lack stem_bn.running_var \(of 1 "),
        (
            lambda state: state | {"layer3.0.conv1.weight": torch.zeros(4)},
            r"hold layer3.0.conv1.weight \[4\], for which the network has no place",
        ),
        (
            lambda state: state | {"module.conv1.weight": state["conv1.weight"]},
            "hold module.conv1.weight .* no place",
        ),
        (
            lambda state: state | {"linear.weight": torch.zeros(100, 12)},
            r"linear.weight has the shape \[100, 12\], and in the network \[10, 12\]",
        ),
        (
            lambda state: state | {"bn1.running_var": -state["bn1.running_var"]},
            "differs from the network by nan",
        ),
        (
            lambda state: state | {"bn1.bias": state["bn1.bias"] * torch.nan},
            "params/stem_bn/bias is not finite",
        ),
        (lambda state: state | {"bn1.bias": "text"}, "cannot be read as plain weights"),
        (lambda state: state | {"bn1.bias": Bomb()}, "cannot be read as plain weights"),
        (lambda state: [1, 2], "cannot be read as plain weights"),
        (lambda state: {}, "the weights lack "),
    ],
)
def test_what_does_not_fit_is_refused(change, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "weights.pt"
    torch.save(change(dict(seen(ResNet((1, 2), (8, 12))).state_dict())), path)
    with pytest.raises(UserError, match=message) as error:
        run_import(path, tmp_path / "run")
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ["weights.pt"]


def test_a_network_without_blocks_is_none_of_the_usual_ones():
    lenet = {"conv1.weight": np.zeros((6, 3, 5, 5)), "fc1.weight": np.zeros((10, 16))}
    assert torch_names.detect(lenet) == {}


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_file_is_refused(content, tmp_path):
    path = tmp_path / "weights.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match="cannot be read as plain weights"):
        run_import(path, tmp_path / "run")


def test_a_run_directory_is_never_overwritten(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="run exists; choose another --workdir"):
        run_import(tmp_path / "weights.pt", tmp_path / "run")


PRESET = {
    "resnet18": lambda: ResNet((2, 2, 2, 2), (64, 128, 256, 512)),
    "resnet20": lambda: ResNet((3, 3, 3), (16, 32, 64), "A"),
    "wrn_16_4": lambda: WideResNet(2, (64, 128, 256)),
}


@pytest.mark.parametrize("name", PRESET)
def test_a_preset_takes_the_usual_weights(name):
    theirs = seen(PRESET[name]())
    ours = torch_resnet.create(PRESETS[name], SHAPE, 10).eval()
    state = {key: tensor.numpy() for key, tensor in theirs.state_dict().items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in ours.state_dict().items()}
    preact = ours.design.block == "preact"
    found = torch_names.match(state, shapes, preact=preact)
    tensors = {key: torch.tensor(value) for key, value in found.items()}
    ours.load_state_dict(ours.state_dict() | tensors)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = theirs(images)
        difference = (ours(images) - expected).abs().max()
    assert difference <= 1e-4 * expected.abs().max()


@pytest.mark.slow
def test_the_command(tmp_path):
    preset = PRESET["resnet20"]()
    path = tmp_path / "weights.pt"
    torch.save(seen(preset).state_dict(), path)
    flags = [f"--weights={path}", "--preset=resnet20"]
    flags += [f"--workdir={tmp_path / 'run'}", f"--mean={','.join(map(str, MEAN))}"]
    done = call("import_torch", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--std is missing" in done.stderr
    for wrong in ("0,0,0", "58.4,57.1,57.4", "0.2,nan,0.2"):
        done = call("import_torch", *flags, f"--std={wrong}")
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert f"--std is {wrong}; give 3 numbers" in done.stderr
    done = call("import_torch", *flags, f"--std={','.join(map(str, STD))}")
    assert done.returncode == 0, done.stderr
    assert "run: resnet20 with stage_sizes=(3, 3, 3), widths=(16, " in done.stdout
    assert "PyTorch: on 17 random images it predicts the same" in done.stdout
    assert "not verified: that the options are the original's" in done.stdout
    network = pretrained.load_model(tmp_path / "run")
    assert network.label_names[0] == "airplane"


class Pooled(ResNet):
    """A ResNet that keeps the max-pool of torchvision's."""

    def forward(self, x):
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.nn.functional.max_pool2d(x, 3, 2, 1)
        for stage in range(self.stages):
            x = getattr(self, f"layer{stage + 1}")(x)
        return getattr(self, self.head)(x.mean((2, 3)))


def write_check(path, network, size=32):
    """Writes images and a network's logits for them, as a user of PyTorch would."""
    images = np.random.default_rng(1).integers(0, 256, (20, size, size, 3), np.uint8)
    normal = np.float32((images / 255 - MEAN) / STD).transpose(0, 3, 1, 2)
    with torch.no_grad():
        logits = network(torch.tensor(normal)).numpy()
    np.savez(path, images=images, logits=logits)


def test_what_names_do_not_tell_is_checked_against_the_original(tmp_path):
    """A max-pool leaves no trace in the weights; projections do."""
    network = seen(Pooled((1, 1, 1), (16, 32, 64), "downsample", "fc"))
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    write_check(tmp_path / "check.npz", network)
    flags = [f"--weights={tmp_path}/weights.pt", f"--check={tmp_path}/check.npz"]
    flags += [f"--mean={','.join(map(str, MEAN))}", f"--std={','.join(map(str, STD))}"]
    flags += [f"--workdir={tmp_path}/run", "--preset=resnet20"]
    done = call("import_torch", *flags)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "the network is not the original: its logits differ" in done.stderr
    assert not (tmp_path / "run").exists()
    done = call("import_torch", *flags, "--config.model.stem_pool=3")
    assert done.returncode == 0, done.stderr
    assert "stage_sizes=(1, 1, 1)" in done.stdout
    assert "shortcut=projection, block=basic" in done.stdout
    assert "it gives the original's logits for the 20 images" in done.stdout
    assert RunDirectory(tmp_path / "run").config()["model"]["stem_pool"] == 3
    # No images count as held out from a training that is not known.
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["validation"] == 0
    stored = dict(np.load(tmp_path / "check.npz"))
    np.savez(tmp_path / "check.npz", **stored | {"images": stored["images"] / 255})
    done = call("import_torch", *flags, "--workdir=gs://mine/run")
    assert "--workdir is gs://mine/run, in a bucket; use a folder on a" in done.stderr
    options = ("--config.model.stem_pool=3", f"--workdir={tmp_path}/other")
    done = call("import_torch", *flags, *options)
    assert "holds float64 images (20, 32, 32, 3) and float32" in done.stderr
    flags[0] = f"--weights={tmp_path}/nothing.pt"
    done = call("import_torch", *flags, "--data=mine", f"--config.data.dir={tmp_path}")
    assert f"mine is neither a path nor a data set in {tmp_path}" in done.stderr


def negative(tensor):
    return torch.view_as_complex(tensor.reshape(-1, 2)).conj().imag


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.empty(8, device="meta"),
        lambda: torch.nested.nested_tensor([torch.ones(2)]),
        lambda: torch.ones((1,) * 70),
        lambda: torch.ones(1).expand(1 << 40),
        lambda: torch.ones(1, dtype=torch.float16).expand(1 << 40),
        lambda: torch.ones(8, dtype=torch.complex64),
        lambda: torch.ones(8).to_sparse(),
    ],
)
def test_odd_tensors_are_one_line(make, tmp_path):
    torch.save({"x": make()}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="cannot be read as plain weights") as refused:
        pytorch_import.read(tmp_path / "weights.pt")
    assert "\n" not in str(refused.value)


def test_a_view_of_negative_numbers_is_read(tmp_path):
    torch.save({"x": negative(torch.ones(16))}, tmp_path / "weights.pt")
    assert (pytorch_import.read(tmp_path / "weights.pt")["x"] == -1).all()


@pytest.mark.parametrize("name", PRESET)
def test_names_and_shapes_tell_the_network(name):
    state = PRESET[name]().state_dict()
    told = torch_names.detect({key: tensor.numpy() for key, tensor in state.items()})
    options = PRESETS[name]
    for key in ("stage_sizes", "widths"):
        assert told[key] == options[key]
    assert told["block"] == options.get("block", "basic")
    assert told["stem_kernel"] == 3 and told["kernel_sizes"][0] == 3
    if name != "wrn_16_4":
        assert told["shortcut"] == options.get("shortcut", "projection")
