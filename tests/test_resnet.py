"""The network as a whole: precision, statistics, dropout, pooling and start."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax import traverse_util

from cifar_jax import UserError
from cifar_jax.config import get_config
from cifar_jax.models.resnet import abstract_variables, create

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SMALL = dict(stage_sizes=(1, 1), widths=(8,))
SHAPE = (16, 16, 3)


@functools.cache
def initialised(**options):
    model = create(num_classes=10, image_shape=SHAPE, **(SMALL | options))
    images = jnp.zeros((1, *SHAPE))
    init = jax.jit(lambda key: model.init(key, images, train=False))
    return model, init(jax.random.key(0))


def start(**options):
    """Returns a network and variables of it that a test may change."""
    model, variables = initialised(**options)
    return model, jax.tree.map(lambda leaf: leaf, variables)


@functools.cache
def program(model, **options):
    """Returns a network as one program: its operations one by one compile longer."""
    return jax.jit(functools.partial(model.apply, **options))


def apply(model, variables, images, *, rngs=None, **options):
    return program(model, **options)(variables, images, rngs=rngs or {})


def batch(num_images=4):
    return jax.random.normal(jax.random.key(9), (num_images, *SHAPE))


def test_the_default_config_makes_a_network():
    options = get_config().model.to_dict()
    model = create(num_classes=10, image_shape=(32, 32, 3), **options)
    assert model.design.widths == (64, 128, 256, 512)


def test_odd_designs_are_refused():
    with pytest.raises(UserError, match="pool"):
        start(pool=9)


@pytest.mark.parametrize(
    "dtype", [("float32", jnp.float32), ("bfloat16", jnp.bfloat16)]
)
@pytest.mark.parametrize("block", ["basic", "preact"])
@pytest.mark.usefixtures("mixed_dtypes")
def test_only_the_computation_is_in_the_compute_dtype(block, dtype):
    name, kind = dtype
    model, variables = start(block=block, dtype=name, se_ratio=4)
    logits, updates = apply(model, variables, batch(), train=True, mutable=True)
    assert logits.shape == (4, 10)
    assert logits.dtype == jnp.float32
    leaves = jax.tree.leaves((variables, updates))
    assert all(leaf.dtype == jnp.float32 for leaf in leaves)
    _, state = apply(model, variables, batch(), train=False, capture_intermediates=True)
    inner = dict(state["intermediates"])
    inner.pop("head"), inner.pop("__call__")
    convolutions = [x for x in jax.tree.leaves(inner) if x.ndim == 4]
    assert convolutions
    assert all(x.dtype == kind for x in convolutions)


@pytest.mark.usefixtures("mixed_dtypes")
def test_the_head_is_float32():
    model, variables = start(dtype="bfloat16")
    logits, state = apply(
        model, variables, batch(), train=False, capture_intermediates=True
    )
    maps = state["intermediates"]["stage2_block1"]["__call__"][0]
    pooled = np.asarray(maps.astype(jnp.float32)).mean(axis=(1, 2))
    head = variables["params"]["head"]
    # the mean rounded to bfloat16 is off in the third digit
    np.testing.assert_allclose(logits, pooled @ head["kernel"], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("mixed_dtypes")
def test_accelerators_do_not_round_what_the_head_multiplies():
    model, variables = start(dtype="bfloat16")

    def loss(params):
        logits = model.apply({**variables, "params": params}, batch(), train=False)
        return logits.sum()

    program = jax.jit(jax.grad(loss)).lower(variables["params"]).as_text()
    products = [line for line in program.splitlines() if "stablehlo.dot" in line]
    assert len(products) == 2  # gradients of the kernel and of what it multiplies
    assert all("precision = [HIGHEST, HIGHEST]" in line for line in products)


def test_auto_is_float32_on_cpu_and_bfloat16_on_accelerators(monkeypatch):
    for backend, dtype in [
        ("cpu", jnp.float32),
        ("gpu", jnp.bfloat16),
        ("tpu", jnp.bfloat16),
    ]:
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        model = create(num_classes=10, image_shape=SHAPE, **SMALL)
        assert model.dtype == dtype


@pytest.mark.usefixtures("mixed_dtypes")
def test_bfloat16_computes_the_same_network():
    model, variables = start(dtype="float32")
    short, _ = start(dtype="bfloat16")
    logits = apply(model, variables, batch(), train=False)
    rough = apply(short, variables, batch(), train=False)
    np.testing.assert_allclose(logits, rough, atol=0.05 * jnp.abs(logits).max())
    assert not (logits == rough).all()


def test_statistics_move_in_training_and_stay_in_evaluation():
    model, variables = start(bn_momentum=0.8)
    images = batch()
    _, updates = apply(model, variables, images, train=True, mutable="batch_stats")
    stem = variables["params"]["stem_conv"]["kernel"]
    maps = jax.lax.conv_general_dilated(
        images, stem, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    moved = updates["batch_stats"]["stem_bn"]
    mean, var = maps.mean(axis=(0, 1, 2)), maps.var(axis=(0, 1, 2))  # biased
    np.testing.assert_allclose(moved["mean"], 0.2 * mean, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(moved["var"], 0.8 + 0.2 * var, rtol=1e-4)
    _, kept = apply(model, variables, images, train=False, mutable="batch_stats")
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(kept), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_in_evaluation_images_do_not_see_each_other():
    model, variables = start()
    together = apply(model, variables, batch(), train=False)
    alone = apply(model, variables, batch()[1:2], train=False)
    np.testing.assert_allclose(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_dropout_of_logits_drops_logits():
    model, variables = start(logits_dropout=0.5)
    key = {"dropout": jax.random.key(3)}
    plain = model.clone(design=start()[0].design)
    arguments = dict(train=True, mutable="batch_stats")
    kept, _ = apply(plain, variables, batch(64), **arguments)
    dropped, _ = apply(model, variables, batch(64), rngs=key, **arguments)
    zero = dropped == 0
    assert 0.4 < zero.mean() < 0.6
    np.testing.assert_allclose(dropped[~zero], 2 * kept[~zero], rtol=1e-5)
    evaluated = apply(model, variables, batch(64), train=False)
    assert (evaluated != 0).all()


def test_dropout_before_the_classifier_drops_features():
    model, variables = start(dropout=0.5)
    head = variables["params"]["head"]
    head["kernel"], head["bias"] = jnp.eye(16, 10), jnp.ones(10)
    arguments = dict(train=True, mutable="batch_stats")
    plain, _ = apply(start()[0], variables, batch(64), **arguments)
    logits, _ = apply(
        model, variables, batch(64), rngs={"dropout": jax.random.key(3)}, **arguments
    )
    zero = logits == 1  # the bias stays
    assert 0.4 < zero.mean() < 0.6
    np.testing.assert_allclose(logits[~zero] - 1, 2 * (plain[~zero] - 1), rtol=1e-4)


@pytest.mark.parametrize("block", ["basic", "preact"])
def test_dropout_in_blocks_needs_a_key_and_only_in_training(block):
    model, variables = start(block_dropout=0.3, block=block)
    apply(model, variables, batch(), train=False)
    logits = [
        apply(
            model,
            variables,
            batch(),
            train=True,
            mutable="batch_stats",
            rngs={"dropout": jax.random.key(seed)},
        )[0]
        for seed in (0, 0, 1)
    ]
    assert (logits[0] == logits[1]).all()
    assert not (logits[0] == logits[2]).any()


def test_stochastic_depth_rises_in_a_line_to_the_last_block():
    options = SMALL | dict(stage_sizes=(1, 3), stochastic_depth=0.4)
    model, rates = create(num_classes=10, image_shape=SHAPE, **options), []

    def note(call, args, kwargs, context):
        if context.method_name == "__call__" and hasattr(context.module, "drop_rate"):
            rates.append(context.module.drop_rate)
        return call(*args, **kwargs)

    with nn.intercept_methods(note):
        abstract_variables(model, SHAPE)
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4])


@pytest.mark.usefixtures("mixed_dtypes")
def test_pooling_drops_what_is_over_and_flattens_the_rest():
    model, variables = start(pool=3)  # of an 8x8 map
    assert variables["params"]["head"]["kernel"].shape == (2 * 2 * 16, 10)
    whole, wide = start(pool=8), start()
    assert whole[1]["params"]["head"]["kernel"].shape == (16, 10)
    np.testing.assert_allclose(
        apply(whole[0], whole[1], batch(), train=False),
        apply(wide[0], whole[1], batch(), train=False),
        rtol=1e-5,
        atol=1e-6,
    )
    assert apply(model, variables, batch(), train=False).shape == (4, 10)


def test_zero_init_makes_only_the_last_scale_zero():
    _, variables = start(zero_init=True)
    scales = {
        f"{block}/{name}": float(layer["scale"].max())
        for block, layers in variables["params"].items()
        if block.startswith("stage")
        for name, layer in layers.items()
        if "scale" in layer
    }
    assert scales == {
        "stage1_block1/bn1": 1.0,
        "stage1_block1/bn2": 0.0,
        "stage2_block1/bn1": 1.0,
        "stage2_block1/bn2": 0.0,
        "stage2_block1/shortcut_bn": 1.0,
    }


def test_dirac_init_is_of_every_convolution():
    _, variables = start(dirac_init=True, downsample="pool", widths=(8, 12))
    leaves = traverse_util.flatten_dict(variables["params"], sep="/")
    kernels = {name: leaf for name, leaf in leaves.items() if leaf.ndim == 4}
    assert len(kernels) == 1 + 2 * 3
    for kernel in kernels.values():
        before = kernel.shape[2]
        identity = jnp.zeros((3, 3, before, before)).at[1, 1].set(jnp.eye(before))
        np.testing.assert_array_equal(kernel[..., :before], identity)


def test_batch_norm_without_scales_has_biases():
    _, variables = start(bn_scale=False)
    leaves = traverse_util.flatten_dict(variables["params"], sep="/")
    assert not any(name.endswith("scale") for name in leaves)
    assert {"stem_bn/bias", "stage2_block1/bn2/bias"} <= set(leaves)


@pytest.mark.slow
@pytest.mark.usefixtures("optimised")
def test_a_network_learns_a_batch_by_heart():
    model, variables = start()
    images, labels = batch(16), jnp.arange(16) % 10
    optimizer = optax.sgd(0.05, momentum=0.9)

    def loss_fn(params, batch_stats):
        logits, updates = model.apply(
            {"params": params, "batch_stats": batch_stats},
            images,
            train=True,
            mutable="batch_stats",
        )
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return losses.mean(), updates["batch_stats"]

    @jax.jit
    def step(carry, _):
        params, batch_stats, state = carry
        (loss, batch_stats), gradients = jax.value_and_grad(loss_fn, has_aux=True)(
            params, batch_stats
        )
        updates, state = optimizer.update(gradients, state)
        return (optax.apply_updates(params, updates), batch_stats, state), loss

    params = variables["params"]
    carry = (params, variables["batch_stats"], optimizer.init(params))
    carry, losses = jax.lax.scan(step, carry, length=60)
    assert losses[0] > 2
    assert losses[-1] < 0.1
