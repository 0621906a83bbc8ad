"""The convolutions of a CPU: gradients, and how a batch is divided."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from cifar_jax.models import cpu, gemm
from cifar_jax.models.resnet import create
from cifar_jax.training import distributed

SMALL = dict(stage_sizes=(1,), widths=(4,))
convolve = functools.partial(cpu.convolve, num_devices=jax.device_count())
rounding = functools.partial(gemm.convolve, num_devices=jax.device_count())


def layer(convolve, kernel_size, stride):
    pad = ((kernel_size - 1) // 2,) * 2
    return lambda x, kernel: convolve(
        x,
        kernel,
        (stride, stride),
        (pad, pad),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


@pytest.fixture
def divided(monkeypatch):
    """Returns the list of numbers of devices that batches are divided by."""
    seen, chunks = [], cpu.chunks

    def record(batch, num_devices):
        seen.append(num_devices)
        return chunks(batch, num_devices)

    monkeypatch.setattr(cpu, "chunks", record)
    return seen


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel_size", [1, 3, 5, 7])
def test_gradients_are_those_of_lax(kernel_size, stride, monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 4)
    random = np.random.default_rng(0)
    batch = 6 * jax.device_count()
    x = jnp.float32(random.normal(size=(batch, 9, 8, 3)))
    kernel = jnp.float32(random.normal(size=(kernel_size, kernel_size, 3, 5)))
    assert len(cpu.chunks(x, jax.device_count())) == 2
    theirs, to_theirs = jax.vjp(
        layer(lax.conv_general_dilated, kernel_size, stride), x, kernel
    )
    ours, to_ours = jax.vjp(layer(convolve, kernel_size, stride), x, kernel)
    np.testing.assert_array_equal(ours, theirs)
    gradient = jnp.float32(random.normal(size=ours.shape))
    for a, b in zip(to_ours(gradient), to_theirs(gradient), strict=True):
        assert jnp.linalg.norm(a - b) <= 1e-6 * jnp.linalg.norm(b)


def rounded(x):
    """Returns float32 numbers that bfloat16 can hold."""
    return jnp.asarray(x, jnp.bfloat16).astype(jnp.float32)


@pytest.mark.parametrize(
    ("kernel_size", "stride", "batch"),
    [(1, 1, 1), (1, 2, 1), (2, 1, 1), (2, 3, 1), (5, 2, 1), (7, 3, 1)]
    + [(3, stride, batch) for stride in (1, 2, 3) for batch in (1, jax.device_count())],
)
def test_rounding_convolutions_are_those_of_lax_on_rounded_numbers(
    kernel_size, stride, batch
):
    random = np.random.default_rng(0)
    channels = gemm.MIN_CHANNELS
    shapes = (batch, 9, 8, channels), (kernel_size, kernel_size, channels, 5)
    x, kernel = (jnp.float32(random.normal(size=shape)) for shape in shapes)
    exact = layer(lax.conv_general_dilated, kernel_size, stride)
    theirs, to_theirs = jax.vjp(exact, rounded(x), rounded(kernel))
    ours, to_ours = jax.vjp(layer(rounding, kernel_size, stride), x, kernel)
    gradient = jnp.float32(random.normal(size=ours.shape))
    pairs = zip(
        (ours, *to_ours(gradient)), (theirs, *to_theirs(rounded(gradient))), strict=True
    )
    for a, b in pairs:
        assert a.dtype == jnp.float32
        assert jnp.linalg.norm(a - b) <= 1e-6 * jnp.linalg.norm(b)
    unrounded = exact(x, kernel)
    distance = jnp.linalg.norm(ours - unrounded) / jnp.linalg.norm(unrounded)
    assert 1e-4 < distance < 1e-2


def test_a_network_in_bfloat16_keeps_its_dtype():
    x = jnp.ones((2, 8, 8, gemm.MIN_CHANNELS), jnp.bfloat16)
    kernel = jnp.ones((3, 3, gemm.MIN_CHANNELS, 4), jnp.bfloat16)
    y, pull = jax.vjp(layer(rounding, 3, 2), x, kernel)
    assert {a.dtype for a in (y, *pull(y))} == {jnp.dtype("bfloat16")}


def test_few_channels_are_not_rounded():
    random = np.random.default_rng(0)
    x = jnp.float32(random.normal(size=(2, 8, 8, 3)))
    kernel = jnp.float32(random.normal(size=(3, 3, 3, 8)))
    np.testing.assert_array_equal(
        layer(rounding, 3, 1)(x, kernel), layer(convolve, 3, 1)(x, kernel)
    )


@pytest.mark.parametrize(
    ("per_device", "count"), [(1, 1), (4, 1), (5, 2), (8, 2), (11, 3), (256, 32)]
)
def test_chunks_hold_every_image_once(per_device, count, monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 4)
    batch = jnp.arange(per_device * jax.device_count())
    parts = cpu.chunks(batch, jax.device_count())
    assert len(parts) == count
    most = max(4, per_device // cpu.MAX_CHUNKS)  # images of a device
    assert max(map(len, parts)) <= most * jax.device_count()
    assert sorted(np.concatenate(parts)) == list(batch)


def test_devices_that_are_not_used_do_not_count():
    batch = jnp.arange(256)
    assert len(cpu.chunks(batch, num_devices=2)) == 4
    assert len(cpu.chunks(batch, num_devices=8)) == 1  # 32 images of each
    assert len(cpu.chunks(batch, num_devices=3)) == 1  # cannot be divided evenly


def test_the_network_divides_by_the_devices_that_it_runs_on(divided):
    images = jnp.zeros((2, 8, 8, 3))
    devices = jax.devices()[:2]
    model = create(num_classes=10, image_shape=(8, 8, 3), devices=devices, **SMALL)
    variables = model.init(jax.random.key(0), images, train=False)
    gradient = jax.grad(lambda v: model.apply(v, images, train=False).sum())
    jax.eval_shape(gradient, variables)
    assert divided == [2] * 6  # three convolutions, inputs and gradients


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("convolve", [convolve, rounding])
def test_no_image_goes_to_another_device(convolve, stride, monkeypatch):
    monkeypatch.setattr(cpu, "CHUNK", 2)
    monkeypatch.setattr(gemm, "MIN_CHANNELS", 3)
    mesh = distributed.make_mesh()
    split, whole = distributed.split(mesh), distributed.replicated(mesh)
    conv = layer(convolve, 3, stride)
    gradient = jax.jit(
        jax.grad(lambda kernel, x: (conv(x, kernel) ** 2).sum(), (0, 1)),
        in_shardings=(whole, split),
        out_shardings=(whole, split),
    )
    x = jnp.ones((4 * mesh.size, 8, 8, 3))
    text = gradient.lower(jnp.ones((3, 3, 3, 5)), x).compile().as_text()
    assert "all-reduce" in text  # of the kernel's gradient
    for collective in ("all-gather", "all-to-all", "collective-permute"):
        assert collective not in text


@pytest.mark.parametrize("amx", [True, False])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "auto"])
def test_a_cpu_with_amx_rounds_where_it_is_left_to_it(precision, amx, monkeypatch):
    flags = f"flags : fpu sse{' amx_bf16' * amx} amx_tile"
    monkeypatch.setattr(gemm.pathlib.Path, "exists", lambda path: True)
    monkeypatch.setattr(gemm.pathlib.Path, "read_text", lambda path: flags)
    gemm.rounds.cache_clear()
    model = create(
        num_classes=10,
        image_shape=(8, 8, 3),
        devices=jax.devices(),
        conv_precision=precision,
        **SMALL,
    )
    gemm.rounds.cache_clear()
    rounds = precision == "bfloat16" or (precision == "auto" and amx)
    assert model.convolve.func is (gemm.convolve if rounds else cpu.convolve)


def test_only_training_has_it():
    assert create(num_classes=10, image_shape=(8, 8, 3)).convolve is None


def test_the_network_uses_it():
    calls = []

    def recording(*args, **options):
        calls.append(args)
        return convolve(*args, **options)

    model = create(num_classes=10, image_shape=(8, 8, 3), **SMALL)
    images = jnp.zeros((1, 8, 8, 3))
    key = jax.random.key(0)
    jax.eval_shape(
        lambda: model.clone(convolve=recording).init(key, images, train=True)
    )
    assert len(calls) == 3  # the stem and the block's two
