"""The same weights in PyTorch give the same logits, loss, gradients and statistics.

In float64, so that a difference is one of meaning and not of rounding: it allows the
deep networks the tolerance of a single layer.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from support.designs import NETWORKS, SMALL, VARIANTS, joined

from cifar_jax.models.count import macs
from cifar_jax.models.presets import PRESETS
from cifar_jax.models.resnet import create

torch = pytest.importorskip("torch")
from torch.utils import flop_counter  # noqa: E402

from cifar_jax.models.torch_resnet import TorchResNet, to_torch  # noqa: E402

TOLERANCE = 1e-9

NO_DROPOUT = dict(dropout=0.0, logits_dropout=0.0, block_dropout=0.0)


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def random_variables(model, side, key):
    """Weights and statistics like those of a network in training, none at 0 or 1."""
    images = jnp.zeros((1, side, side, 3))
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))

    def fill(path, leaf):
        if path[-1].key == "kernel":
            fan_in = np.prod(leaf.shape[:-1])
            return key.normal(size=leaf.shape) * np.sqrt(2 / fan_in)
        if path[-1].key in ("scale", "var"):
            return key.uniform(0.5, 1.5, leaf.shape)
        return key.normal(size=leaf.shape) * 0.1

    return jax.tree_util.tree_map_with_path(fill, shapes)


def run_flax(model, variables, images, labels):
    """Returns logits in eval mode, and of one training step loss, gradients, stats."""

    def loss_fn(params, batch_stats):
        variables = {"params": params, "batch_stats": batch_stats}
        logits, updates = model.apply(
            variables, images, train=True, mutable=["batch_stats"]
        )
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, updates["batch_stats"]

    def run(variables):
        logits = model.apply(variables, images, train=False)
        return logits, jax.value_and_grad(loss_fn, has_aux=True)(
            variables["params"], variables["batch_stats"]
        )

    # a deep network compiles longer than it runs
    if sum(model.design.stage_sizes) < 15:
        run = jax.jit(run)
    logits, ((loss, batch_stats), gradients) = run(variables)
    return logits, loss, gradients, batch_stats


def assert_close(name, ours, theirs):
    """Compares two arrays by the norm of their difference."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, name
    difference = np.linalg.norm(ours - theirs)
    assert difference <= TOLERANCE * np.linalg.norm(theirs) + 1e-12, name


def compare(options, side, batch_size=3):
    key = np.random.default_rng(0)
    shape = (side, side, 3)
    model = create(num_classes=10, image_shape=shape, **(options | NO_DROPOUT))
    model = model.clone(dtype=jnp.float64, param_dtype=jnp.float64)
    variables = random_variables(model, side, key)
    images = key.normal(size=(batch_size, *shape))
    labels = key.integers(0, 10, batch_size)
    logits, loss, gradients, statistics = run_flax(model, variables, images, labels)

    head_map = model.design.head_map(shape)
    network = TorchResNet(model.design, shape, 10).double()
    names = network.state_dict()

    def translate(*trees):
        flat = {}
        for tree in trees:
            flat |= traverse_util.flatten_dict(tree)
        return to_torch(flat, names, head_map)

    before = translate(variables["params"], variables["batch_stats"])
    missing, unexpected = network.load_state_dict(before, strict=False)
    assert not unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing)

    inputs = torch.tensor(images.transpose(0, 3, 1, 2)).contiguous()
    network.eval()
    with torch.no_grad():
        assert_close("logits", logits, network(inputs))

    counts = count_values(network)
    network.train()
    theirs = torch.nn.functional.cross_entropy(network(inputs), torch.tensor(labels))
    theirs.backward()
    assert_close("loss", loss, theirs.detach())
    ours = translate(gradients)
    assert ours.keys() == dict(network.named_parameters()).keys()
    for name, parameter in network.named_parameters():
        assert_close(name, ours[name], parameter.grad)
    compare_statistics(model, translate(statistics), before, network, counts)


def count_values(network):
    """Has each BatchNorm note how many values of a channel it normalised."""
    counts = {}
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):

            def note(module, inputs, output, name=name):
                counts[name] = inputs[0].numel() // inputs[0].shape[1]

            module.register_forward_hook(note)
    return counts


def compare_statistics(model, ours, before, network, counts):
    """The means agree; PyTorch's variance moves n / (n - 1) times as far as ours.

    Both add (1 - momentum) times the batch's variance to the running one. Flax adds the
    biased variance, by which both normalise, and PyTorch the unbiased one.
    """
    momentum, after = model.design.bn_momentum, network.state_dict()
    assert 2 * len(counts) == len(ours)
    for name, count in counts.items():
        mean, var = f"{name}.running_mean", f"{name}.running_var"
        assert_close(mean, ours[mean], after[mean])
        added = ours[var] - momentum * before[var]
        unbiased = momentum * before[var] + added * count / (count - 1)
        assert_close(var, unbiased, after[var])


def test_every_variant_is_compared():
    """The basic network is that of `test_odd_maps`; the other differs as it starts."""
    names = [name for network in NETWORKS for name in network.split()]
    assert sorted([*names, "basic", "zero_init"]) == sorted(VARIANTS)


@pytest.mark.parametrize("names", NETWORKS)
def test_variants(names):
    compare(joined(names), side=12)


@pytest.mark.parametrize(
    "name", ["pooled_stages", "stem_kernel_2", "padding", "kernels", "se"]
)
def test_multiply_adds_are_those_that_pytorch_counts(name):
    shape = (12, 12, 3)
    model = create(num_classes=10, image_shape=shape, **(SMALL | VARIANTS[name]))
    network = TorchResNet(model.design, shape, 10).eval()
    with flop_counter.FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, 12, 12))
    assert counter.get_total_flops() == 2 * macs(model, shape)


def test_odd_maps():
    compare(SMALL | dict(stage_sizes=(1, 1, 1), widths=(4,)), side=13)


# The others take minutes to compile.
QUICK = ("report_001", "resnet20")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in PRESETS
    ],
)
def test_preset(name):
    # Small images keep the deep networks quick, but a pooling window needs its map.
    if "pool" in PRESETS[name]:
        compare(PRESETS[name], side=32, batch_size=2)
    else:
        compare(PRESETS[name], side=8)


def test_float32_stays_within_the_fourth_digit():
    with jax.enable_x64(False):
        key = np.random.default_rng(0)
        model = create(num_classes=10, image_shape=(32, 32, 3), dtype="float32")
        variables = random_variables(model, 32, key)
        variables = jax.tree.map(jnp.float32, variables)
        images = jnp.float32(key.normal(size=(2, 32, 32, 3)))
        logits = model.apply(variables, images, train=False)
    flat = traverse_util.flatten_dict(variables["params"])
    flat |= traverse_util.flatten_dict(variables["batch_stats"])
    network = TorchResNet(model.design, (32, 32, 3), 10)
    tensors = to_torch(flat, network.state_dict(), (512, 1, 1))
    network.load_state_dict(tensors, strict=False)
    network.eval()
    with torch.no_grad():
        theirs = network(torch.tensor(np.asarray(images).transpose(0, 3, 1, 2).copy()))
    np.testing.assert_allclose(logits, theirs, rtol=1e-4, atol=1e-4)
