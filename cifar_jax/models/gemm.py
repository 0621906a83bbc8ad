"""A convolution as products of bfloat16 matrices. Skip this; read `resnet` first.

XLA:CPU turns a convolution in bfloat16 into one in float32, but not a matrix product
(jaxlib 0.10.2). A CPU whose matrix unit (AMX) takes bfloat16 multiplies it several
times as fast. Products are rounded as on a TPU, which multiplies float32 so by default:
operands are bfloat16, sums float32.

The pixels under a filter's row are put side by side, as channels, so that the maps of
a 3x3 filter are stored three times, not nine times as in im2col (Chellapilla et al.,
2006). One product then gives the shares of all rows of the filters; they are added,
each moved by its row. The gradient of the maps is such a correlation too. That of the
filters is one product of what the forward pass stored with the output's gradient,
moved by a row for each row of the filters.
"""

import functools
import pathlib

import jax
import jax.numpy as jnp
from jax import lax

from cifar_jax.models import cpu

# With fewer input channels a product is too narrow to be worth its operands.
MIN_CHANNELS = 16

KEEP = 0, 0  # no padding
_total = functools.partial(functools.reduce, jnp.add)
Padding = tuple[tuple[int, int], ...]  # of rows and of columns: before, after


@functools.cache
def rounds(precision: str) -> bool:
    """Returns whether a CPU rounds operands, for a value of model.conv_precision.

    "auto" does where the CPU has a matrix unit for bfloat16; Linux alone tells.
    """
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    has_unit = cpuinfo.exists() and " amx_bf16" in cpuinfo.read_text()
    return precision == "bfloat16" or (precision == "auto" and has_unit)


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
      x: [B, H, W, C], maps of a batch.
      kernel: [K, K, C, width], filters.
      window_strides: Strides, as `lax.conv_general_dilated` takes them.
      padding: Numbers of rows and of columns before and after the map.
      num_devices: Number of devices that share the batch.
      **options: Its other arguments; the batch is the first axis on both sides.

    Returns:
      [B, H', W', width], of the dtype of x.
    """
    if x.shape[-1] < MIN_CHANNELS:
        return cpu.convolve(
            x, kernel, window_strides, padding, num_devices=num_devices, **options
        )
    padding: Padding = tuple((before, after) for before, after in padding)
    dtype, stride = x.dtype, window_strides[0]
    x, kernel = x.astype(jnp.float32), kernel.astype(jnp.float32)
    if stride > 1:
        x, kernel = space_to_depth(x, kernel, stride, padding)
        padding = KEEP, KEEP
    return _correlate(x, kernel, padding, num_devices).astype(dtype)


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
    amounts = (
        (before, count * stride - length - before)
        for count, length, (before, _) in zip(blocks, sizes, padding, strict=True)
    )
    x = _pad(x, KEEP, *amounts, KEEP)
    x = x.reshape(batch, blocks[0], stride, blocks[1], stride, channels)
    x = x[:, :, :phases, :, :phases].transpose(0, 1, 3, 2, 4, 5)
    more = 0, taps * phases - size
    kernel = _pad(kernel, more, more, KEEP, KEEP)
    kernel = kernel.reshape(taps, phases, taps, phases, channels, width)
    kernel = kernel.transpose(0, 2, 1, 3, 4, 5)
    kernel = kernel.reshape(taps, taps, -1, width)
    return x.reshape(batch, *blocks, -1), kernel


def _forward(x, kernel, padding: Padding, num_devices: int):
    """Returns the correlation without a stride, and what its gradients need."""
    columns = _columns(x, kernel.shape[1], padding)
    return _multiply(columns, kernel), (columns, kernel)


def _backward(padding, num_devices, saved, gradient):
    """Returns the gradients of the maps and of the filters."""
    columns, kernel = saved
    size, _, channels, width = kernel.shape
    last = size - 1
    over = tuple((last - before, last - after) for before, after in padding)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    x_gradient = _multiply(_columns(gradient, size, over), turned)

    # Rows of zeros take what a filter's rows move beyond the end of a map.
    batch, height, line, _ = gradient.shape
    below = 0, columns.shape[1] - height
    gradient = _pad(gradient, KEEP, below, KEEP, KEEP).reshape(-1, width)
    # A product with the identity transposes: XLA:CPU fuses transposing with what
    # follows, and takes three times as long.
    gradient = _product(jnp.eye(width), gradient, 1)
    parts = num_devices if batch % num_devices == 0 else 1
    gradient = gradient.reshape(width, parts, -1)  # no image moves between devices
    moved = _total(
        _pad(gradient, (i * width, (last - i) * width), KEEP, (i * line, -i * line))
        for i in range(size)
    )
    columns = columns.reshape(-1, size * channels)
    gradient = _product(moved.reshape(size * width, -1), columns, 0)
    gradient = gradient.reshape(size, width, size, channels)
    return x_gradient, gradient.transpose(0, 2, 3, 1)


_correlate = jax.custom_vjp(lambda *args: _forward(*args)[0], nondiff_argnums=(2, 3))
_correlate.defvjp(_forward, _backward)


def _columns(x: jax.Array, taps: int, padding: Padding) -> jax.Array:
    """Returns bfloat16 [B, H + pad, W', taps * C]: the pixels of a filter's row.

    They are a sum of padded maps, as XLA:CPU concatenates six times as slowly, and of
    float32 maps, as it fuses bfloat16 ones as slowly.
    """
    rows, (left, right) = padding
    n, last = x.shape[-1], taps - 1
    x = _pad(x, KEEP, rows, KEEP, KEEP)  # once, as it is slower within each term
    columns = _total(
        _pad(x, KEEP, KEEP, (left - i, right - last + i), (i * n, (last - i) * n))
        for i in range(taps)
    )
    return columns.astype(jnp.bfloat16)


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


def _pad(x: jax.Array, *amounts: tuple[int, int]) -> jax.Array:
    """Returns x with zeros before and after it, by axis; less of it where below 0."""
    zero = jnp.zeros((), x.dtype)
    return lax.pad(x, zero, [(before, after, 0) for before, after in amounts])
