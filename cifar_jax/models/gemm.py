"""A convolution as products of bfloat16 matrices. Skip this; read `resnet` first.

XLA:CPU turns a convolution in bfloat16 into one in float32, but not a matrix product
(jaxlib 0.10.2). A CPU whose matrix unit (AMX) takes bfloat16 multiplies it several
times as fast. Products are rounded as on a TPU, which multiplies float32 so by default:
operands are bfloat16, sums float32.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.models import cpu

# With fewer input channels a product is too narrow to be worth its operands.
MIN_CHANNELS = 16

_total = functools.partial(functools.reduce, jnp.add)
Padding = tuple[tuple[int, int], ...]  # of rows and of columns: before, after


def rounds(precision: str) -> bool:
    """Returns whether a CPU rounds operands, for a value of model.conv_precision."""
    return precision == "bfloat16" or (precision == "auto" and is_fast())


@functools.cache
def is_fast() -> bool:
    """Returns whether this CPU has a matrix unit for bfloat16 (Linux alone tells)."""
    facts = pathlib.Path("/proc/cpuinfo")
    return facts.exists() and " amx_bf16" in facts.read_text()


def convolve(
    x: jax.Array,
    kernel: jax.Array,
    window_strides,
    padding,
    *,
    num_devices: int,
    **options,
) -> jax.Array:
    """As `cpu.convolve`, but for how products are rounded, in both directions.

    Args:
      x: float32 [B, H, W, C], maps of a batch.
      kernel: float32 [K, K, C, width], filters.
      window_strides: Strides, as `lax.conv_general_dilated` takes them.
      padding: Numbers of rows and of columns before and after the map.
      num_devices: Number of devices that share the batch.
      **options: Its other arguments; the batch is the first axis on both sides.

    Returns:
      float32 [B, H', W', width].
    """
    if x.shape[-1] < MIN_CHANNELS:
        return cpu.convolve(
            x, kernel, window_strides, padding, num_devices=num_devices, **options
        )
    padding: Padding = tuple((before, after) for before, after in padding)
    stride = window_strides[0]
    if stride > 1:
        x, kernel = space_to_depth(x, kernel, stride, padding)
        padding = ((0, 0), (0, 0))
    return _correlate(x, kernel, padding, num_devices)


def space_to_depth(
    x: jax.Array, kernel: jax.Array, stride: int, padding: Padding
) -> tuple[jax.Array, jax.Array]:
    """Returns maps and filters whose plain correlation is the one with a stride.

    Args:
      x: [B, H, W, C], maps.
      kernel: [K, K, C, width], filters.
      stride: Stride in both directions.
      padding: Padding of the maps.

    Returns:
      Maps [B, H'', W'', P * P * C] with the P = min(K, stride) pixels of a stride as
      channels, and filters [ceil(K / P), ceil(K / P), P * P * C, width].
    """
    batch, *sizes, channels = x.shape
    size, width = kernel.shape[0], kernel.shape[-1]
    phases = min(size, stride)
    taps = -(-size // phases)
    blocks = [
        (length + sum(pad) - size) // stride + taps
        for length, pad in zip(sizes, padding, strict=True)
    ]
    for axis, (count, (before, _)) in enumerate(zip(blocks, padding, strict=True), 1):
        after = count * stride - x.shape[axis] - before
        x = _pad(x, axis, before, after)
    x = x.reshape(batch, blocks[0], stride, blocks[1], stride, channels)
    x = x[:, :, :phases, :, :phases].transpose(0, 1, 3, 2, 4, 5)
    for axis in (0, 1):
        kernel = _pad(kernel, axis, 0, taps * phases - size)
    kernel = kernel.reshape(taps, phases, taps, phases, channels, width)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    return (
        x.reshape(batch, *blocks, phases**2 * channels),
        kernel.reshape(taps, taps, phases**2 * channels, width),
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _correlate(x, kernel, padding: Padding, num_devices: int) -> jax.Array:
    """Returns the correlation without a stride, [B, H', W', width]."""
    return _forward(x, kernel, padding, num_devices)[0]


def _forward(x, kernel, padding, num_devices):
    """Returns the correlation, and what its gradients need."""
    columns = _columns(x, kernel.shape[1], padding)
    return _multiply(columns, kernel), (columns, kernel)


def _backward(padding, num_devices, saved, gradient):
    """Returns the gradients of the maps and of the filters."""
    columns, kernel = saved
    size, _, channels, width = kernel.shape
    over = tuple((size - 1 - before, size - 1 - after) for before, after in padding)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    x_gradient = _multiply(_columns(gradient, size, over), turned)

    # Rows of zeros take what a filter's rows move beyond the end of a map.
    batch, height, line, _ = gradient.shape
    gradient = _pad(gradient, 1, 0, columns.shape[1] - height).reshape(-1, width)
    # A product with the identity transposes: XLA:CPU fuses transposing with what
    # follows, and takes three times as long.
    gradient = _product(jnp.eye(width), gradient, 1)
    parts = num_devices if batch % num_devices == 0 else 1
    gradient = gradient.reshape(width, parts, -1)  # no image moves between devices
    moved = _total(
        _place(_pad(gradient, 2, i * line, -i * line), 0, i, size) for i in range(size)
    )
    columns = columns.reshape(-1, size * channels)
    kernel_gradient = _product(moved.reshape(size * width, -1), columns, 0)
    kernel_gradient = kernel_gradient.reshape(size, width, size, channels)
    return x_gradient, kernel_gradient.transpose(0, 2, 3, 1)


_correlate.defvjp(_forward, _backward)


def _columns(x: jax.Array, taps: int, padding: Padding) -> jax.Array:
    """Returns bfloat16 [B, H + pad, W', taps * C]: the pixels of a filter's row.

    They are a sum of padded maps, as XLA:CPU concatenates six times as slowly, and of
    float32 maps, as it fuses bfloat16 ones as slowly.
    """
    rows, (left, right) = padding
    x = _pad(x, 1, *rows)
    moved = (_pad(x, 2, left - i, right - (taps - 1 - i)) for i in range(taps))
    beside = (_place(x, 3, i, taps) for i, x in enumerate(moved))
    return _total(beside).astype(jnp.bfloat16)


def _multiply(columns: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns [B, H', W', width]: columns times the filters, summed over their rows."""
    rows, taps, channels, width = kernel.shape
    matrix = kernel.transpose(1, 2, 0, 3).reshape(taps * channels, rows * width)
    product = _product(columns, matrix, 0)
    product = product.reshape(*product.shape[:-1], rows, width)
    height = product.shape[1] - rows + 1
    return _total(product[:, i : i + height, :, i] for i in range(rows))


def _product(a: jax.Array, b: jax.Array, axis: int) -> jax.Array:
    """Returns the float32 product over the last axis of `a` and this one of `b`."""
    a, b = a.astype(jnp.bfloat16), b.astype(jnp.bfloat16)
    contracted = (((a.ndim - 1,), (axis,)), ((), ()))
    return lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _place(x: jax.Array, axis: int, index: int, count: int) -> jax.Array:
    """Returns zeros with x as the part of this index among so many of its size."""
    size = x.shape[axis]
    return _pad(x, axis, index * size, (count - 1 - index) * size)


def _pad(x: jax.Array, axis: int, before: int, after: int) -> jax.Array:
    """Returns x with zeros before and after it, or less of it where these are < 0."""
    padding = [(0, 0, 0)] * x.ndim
    padding[axis] = (before, after, 0)
    return lax.pad(x, jnp.zeros((), x.dtype), padding)
