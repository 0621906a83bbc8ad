"""The parts of a residual block, each against what its paper says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from cifar_jax.models import blocks
from cifar_jax.models.design import Part

pytestmark = pytest.mark.usefixtures("strict_dtypes")


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def part(width=4, before=4, stride=1, kernel=3, shortcut_kernel=1):
    return Part("stage1_block1", 0, before, width, stride, kernel, shortcut_kernel)


def block(kind="basic", **options):
    sizes = part(**{k: options.pop(k) for k in {*options} & {*Part._fields}})
    defaults = dict(
        part=sizes,
        shortcut="projection",
        conv=blocks.conv,
        norm=functools.partial(nn.BatchNorm, use_running_average=True),
        act=nn.relu,
        excite=None,
        dropout=functools.partial(nn.Dropout, rate=0.0, deterministic=True),
        drop_rate=0.0,
        zero_init=False,
    )
    return blocks.BLOCKS[kind](**(defaults | options))


def init(module, *arguments):
    """Initialises a module in one program: its operations one by one compile longer."""
    return jax.jit(module.init)(*arguments)


def apply(module, variables, x, **options):
    return jax.jit(functools.partial(module.apply, **options))(variables, x)


def zeros(variables):
    return jax.tree.map(jnp.zeros_like, variables["params"])


def test_a_strided_convolution_is_centred_on_even_maps():
    x = normal(0, 1, 8, 8, 1)
    centre = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    y = apply(blocks.conv(1, 3, 2), {"params": {"kernel": centre}}, x)
    # "SAME" would pad the far side only, and take the odd pixels
    np.testing.assert_array_equal(y, x[:, ::2, ::2])


@pytest.mark.parametrize(
    ("before", "after", "kernel"), [(4, 6, 3), (4, 4, 5), (6, 4, 1), (2, 3, 2)]
)
def test_dirac_passes_the_first_channels_on(before, after, kernel):
    x, key = normal(0, 2, 7, 7, before), jax.random.key(1)
    conv, plain = (blocks.conv(after, kernel, dirac=d) for d in (True, False))
    variables = init(conv, key, x)
    y, same = apply(conv, variables, x), min(before, after)
    side = y.shape[1]  # an even kernel starts at its pixel
    np.testing.assert_array_equal(y[..., :same], x[:, :side, :side, :same])
    rest = variables["params"]["kernel"][..., same:]  # as it would be
    np.testing.assert_array_equal(
        rest, init(plain, key, x)["params"]["kernel"][..., same:]
    )


@pytest.mark.parametrize("window", [1, 2, 3])
def test_max_pool(window):
    x = normal(0, 2, 7, 6, 3)
    shape = (window, window)
    expected, pull = jax.vjp(lambda x: nn.max_pool(x, shape, shape), x)
    found, ours = jax.vjp(lambda x: blocks.max_pool(x, window), x)
    np.testing.assert_array_equal(found, expected)
    upstream = normal(1, *found.shape)
    np.testing.assert_array_equal(ours(upstream)[0], pull(upstream)[0])


def test_the_first_of_equal_pixels_gets_the_gradient_as_in_pytorch():
    torch = pytest.importorskip("torch")
    x = np.random.default_rng(0).integers(0, 2, (2, 7, 6, 3)).astype(np.float32)
    tensor = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
    torch.nn.functional.max_pool2d(tensor, 2).sum().backward()
    gradient = jax.grad(lambda x: blocks.max_pool(x, 2).sum())(jnp.asarray(x))
    np.testing.assert_array_equal(gradient, tensor.grad.numpy().transpose(0, 2, 3, 1))


def test_a_pooled_stage_normalises_the_maxima():
    pool = blocks.Pool(
        part(width=5, stride=2),
        conv=blocks.conv,
        norm=functools.partial(nn.BatchNorm, use_running_average=False),
        act=lambda x: x,
    )
    variables = init(pool, jax.random.key(0), normal(0, 6, 8, 8, 4))
    y, _ = apply(pool, variables, normal(0, 6, 8, 8, 4), mutable=["batch_stats"])
    assert y.shape == (6, 4, 4, 5)
    np.testing.assert_allclose(y.mean(axis=(0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.std(axis=(0, 1, 2)), 1.0, rtol=1e-3)


def test_activations():
    x = jnp.linspace(-4.0, 4.0, 9)
    np.testing.assert_allclose(
        blocks.ACTIVATIONS["mish"](x), x * jnp.tanh(jnp.log1p(jnp.exp(x))), rtol=1e-5
    )
    erf = jax.scipy.special.erf(x / jnp.sqrt(2.0))
    np.testing.assert_allclose(
        blocks.ACTIVATIONS["gelu"](x), x * (1 + erf) / 2, rtol=1e-5, atol=1e-6
    )


def test_kernels_start_with_he_variance():
    kernel = blocks.INITS["he"][0](jax.random.key(0), (3, 3, 64, 128), jnp.float32)
    assert jnp.std(kernel) == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.01)


def test_pytorchs_initialisers_draw_from_its_distributions():
    """Uniform with the bounds that PyTorch's own layers show."""
    torch = pytest.importorskip("torch")
    key, x = jax.random.key(0), jnp.zeros((1, 8, 8, 64))
    conv = init(blocks.conv(128, 3, init="pytorch"), key, x)["params"]
    linear = init(blocks.linear(5000, 64, init="pytorch"), key, x[:, 0, 0])["params"]
    theirs = torch.nn.Conv2d(64, 128, 3), torch.nn.Linear(64, 5000)
    for found, expected in (
        (conv["kernel"], theirs[0].weight),
        (linear["kernel"], theirs[1].weight),
        (linear["bias"], theirs[1].bias),
    ):
        bound = float(abs(expected.detach()).max())
        assert float(jnp.abs(found).max()) == pytest.approx(bound, rel=0.01)
        assert float(found.std()) == pytest.approx(bound / 3**0.5, rel=0.03)


@pytest.mark.parametrize("kind", blocks.BLOCKS)
def test_stochastic_depth_drops_the_branch_of_whole_images(kind):
    x, rate = normal(0, 400, 2, 2, 4), 0.25
    rng = {"dropout": jax.random.key(1)}
    dropout = functools.partial(nn.Dropout, rate=0.0, deterministic=False)
    shaky = block(kind, drop_rate=rate, dropout=dropout)
    variables = init(shaky, {"params": jax.random.key(0), **rng}, x)
    act = nn.relu if kind == "basic" else lambda y: y
    full = apply(block(kind), variables, x)
    found = apply(shaky, variables, x, rngs=rng)
    dropped = (found == act(x)).all(axis=(1, 2, 3))
    assert 0.17 < dropped.mean() < 0.33  # four standard deviations of 400 draws
    # What stays is scaled up, so that the expectation is the branch's.
    if kind == "preact":
        expected = x + (full - x) / (1 - rate)
        np.testing.assert_allclose(found[~dropped], expected[~dropped], atol=1e-5)
    still = apply(block(kind, drop_rate=rate), variables, x)  # in evaluation
    np.testing.assert_array_equal(still, full)


@pytest.mark.parametrize("bias", [True, False])
def test_excite_gates_each_channel(bias):
    excite = blocks.SqueezeExcite(
        2, nn.relu, functools.partial(blocks.linear, init="he", use_bias=bias)
    )
    x = normal(0, 3, 5, 7, 6)
    variables = init(excite, jax.random.key(1), x)
    params = variables["params"]
    assert params["reduce"]["kernel"].shape == (6, 3)
    assert ("bias" in params["reduce"]) == ("bias" in params["expand"]) == bias
    hidden = jnp.maximum(x.mean(axis=(1, 2)) @ params["reduce"]["kernel"], 0)
    gate = 1 / (1 + jnp.exp(-hidden @ params["expand"]["kernel"]))
    expected = np.einsum("bhwc,bc->bhwc", x, gate)
    np.testing.assert_allclose(apply(excite, variables, x), expected, rtol=1e-4)


def test_padding_shortcut_subsamples_and_adds_zero_channels():
    x = jnp.abs(normal(0, 2, 5, 4, 3))
    padded = block(shortcut="padding", before=3, width=8, stride=2)
    variables = init(padded, jax.random.key(1), x)
    y = apply(padded, variables | {"params": zeros(variables)}, x)
    assert y.shape == (2, 3, 2, 8)
    np.testing.assert_array_equal(y[..., 2:5], x[:, ::2, ::2])
    assert not y[..., :2].any()
    assert not y[..., 5:].any()


@pytest.mark.parametrize("kind", blocks.BLOCKS)
@pytest.mark.parametrize("shortcut", ["projection", "padding"])
def test_a_block_without_weights_is_its_shortcut(kind, shortcut):
    x = jnp.abs(normal(0, 2, 6, 6, 4))
    same = block(kind, shortcut=shortcut)
    variables = init(same, jax.random.key(1), x)
    assert not any("shortcut" in name for name in variables["params"])
    y = apply(same, variables | {"params": zeros(variables)}, x)
    np.testing.assert_array_equal(y, x)


def test_a_basic_block_projects_its_input_and_normalises():
    changed = block(stride=2, width=6, shortcut_kernel=3)
    x = normal(0, 2, 6, 6, 4)
    variables = init(changed, jax.random.key(1), x)
    params = zeros(variables)
    assert {"shortcut_conv", "shortcut_bn"} <= set(params)
    params["shortcut_conv"] = variables["params"]["shortcut_conv"]
    params["shortcut_bn"] = {"scale": jnp.full(6, 2.0), "bias": jnp.full(6, 0.5)}
    y = apply(changed, variables | {"params": params}, x)
    projected = apply(blocks.conv(6, 3, 2), {"params": params["shortcut_conv"]}, x)
    expected = jnp.maximum(2 * projected / jnp.sqrt(1 + 1e-5) + 0.5, 0)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("change", [dict(stride=2), dict(width=6)])
def test_a_preact_block_projects_the_activated_input_without_norm(change):
    changed = block("preact", **change)
    x = normal(0, 2, 6, 6, 4)
    variables = init(changed, jax.random.key(1), x)
    params = zeros(variables)
    assert "shortcut_bn" not in params
    params["shortcut_conv"] = variables["params"]["shortcut_conv"]
    params["bn1"] = {"scale": jnp.ones(4), "bias": jnp.zeros(4)}
    y = apply(changed, variables | {"params": params}, x)
    conv = blocks.conv(changed.part.width, 1, changed.part.stride)
    activated = jnp.maximum(x / jnp.sqrt(1 + 1e-5), 0)
    expected = apply(conv, {"params": params["shortcut_conv"]}, activated)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_zero_init_starts_as_the_shortcut():
    x = jnp.abs(normal(0, 2, 6, 6, 4))
    for zero_init in (True, False):
        started = block(zero_init=zero_init)
        variables = init(started, jax.random.key(1), x)
        is_shortcut = bool((apply(started, variables, x) == x).all())
        assert is_shortcut == zero_init
    # it learns: the gradient of the scale is not zero, as that of the convolutions is
    started = block(zero_init=True)
    variables = init(started, jax.random.key(1), x)
    gradient = jax.grad(lambda v: apply(started, v, x).sum())(variables)["params"]
    assert jnp.abs(gradient["bn2"]["scale"]).min() > 0
    assert not gradient["conv1"]["kernel"].any()


@pytest.mark.parametrize("kind", blocks.BLOCKS)
def test_dropout_is_between_the_convolutions(kind):
    seen = []

    class Spy(nn.Module):
        @nn.compact
        def __call__(self, x):
            seen.append(x)
            return jnp.zeros_like(x)

    x = jnp.abs(normal(0, 2, 6, 6, 4))
    dropped = block(kind, dropout=Spy)
    variables = dropped.init(jax.random.key(1), x)
    seen.clear()
    y = dropped.apply(variables, x)
    assert len(seen) == 1
    assert seen[0].min() == 0  # after the activation
    np.testing.assert_allclose(y, x, rtol=1e-5)  # so conv2 sees nothing
