"""Residual blocks and their parts. Maps are NHWC, in the compute dtype.

Convolutions pad (kernel - 1) // 2 on both sides, as PyTorch does: Flax's "SAME" pads
only the far side of an even map where the stride is 2, which would shift every later
map by half a pixel against published weights.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from cifar_jax.models.design import Part

ACTIVATIONS = {
    "relu": nn.relu,
    "mish": jax.nn.mish,  # x tanh(softplus(x)) (Misra, 2019, arXiv:1908.08681)
    "elu": nn.elu,
    "silu": nn.silu,
    "gelu": functools.partial(nn.gelu, approximate=False),  # PyTorch's default
}

_scaled = nn.initializers.variance_scaling

# The initialisers of kernels, for convolutions and for linear layers.
INITS = {
    # Kaiming normal over fan-out keeps the gradient's scale from layer to layer
    # (He et al., 2015, arXiv:1502.01852; torchvision's ResNets).
    "he": (_scaled(2.0, "fan_out", "normal"), nn.initializers.lecun_normal()),
    # PyTorch's layers: uniform up to 1 / sqrt(fan-in), a third of that in variance.
    "pytorch": (_scaled(1 / 3, "fan_in", "uniform"),) * 2,
}

Activation = Callable[[jax.Array], jax.Array]
Layer = Callable[..., Any]  # makes a module: a function or class with options filled in


def conv(
    width: int,
    kernel: int,
    stride: int = 1,
    *,
    init: str = "he",
    dirac: bool = False,
    use_bias: bool = False,
    **options,
) -> nn.Conv:
    """Makes a square convolution, without bias where a BatchNorm after it has one."""
    kernel_init = INITS[init][0]
    if dirac:
        kernel_init = functools.partial(partial_identity, init=kernel_init)
    return nn.Conv(
        width,
        (kernel, kernel),
        strides=(stride, stride),
        padding=(((kernel - 1) // 2,) * 2,) * 2,
        use_bias=use_bias,
        kernel_init=kernel_init,
        **options,
    )


def partial_identity(key, shape, dtype, *, init: Callable) -> jax.Array:
    """Initialises a kernel whose first filters pass the channels on unchanged.

    There are as many of them as there are input channels; the filters after those are
    drawn by `init` (Jordan, 2024, arXiv:2404.00498).
    """
    centre, channels = (shape[0] - 1) // 2, shape[2]
    kernel = init(key, shape, dtype).at[..., :channels].set(0)
    return kernel.at[centre, centre, :, :channels].set(
        jnp.eye(channels, shape[3])[:, :channels]
    )


def linear(width: int, fan_in: int, *, init: str, **options) -> nn.Dense:
    """Makes a linear layer; with init="pytorch" its bias is drawn as its kernel."""

    def draw_bias(key, shape, dtype):
        return jax.random.uniform(key, shape, dtype, -1, 1) / fan_in**0.5

    return nn.Dense(
        width,
        kernel_init=INITS[init][1],
        bias_init=draw_bias if init == "pytorch" else nn.initializers.zeros,
        **options,
    )


class SqueezeExcite(nn.Module):
    """Scales each channel by a gate in (0, 1) (Hu et al., 2018, arXiv:1709.01507)."""

    ratio: int
    act: Activation
    dense: Layer

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns x [B, H, W, C], gated."""
        width = x.shape[-1]
        gate = x.mean(axis=(1, 2))  # [B, C]
        hidden = width // self.ratio
        gate = self.act(self.dense(hidden, fan_in=width, name="reduce")(gate))
        gate = nn.sigmoid(self.dense(width, fan_in=hidden, name="expand")(gate))
        return x * gate[:, None, None, :]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, window: int) -> jax.Array:
    """Non-overlapping max-pooling; incomplete windows are dropped.

    As in PyTorch, the gradient is that of the first of equal maxima. The gradient of
    `nn.max_pool` scatters (12 times as slow on a CPU, jaxlib 0.10.2), and that of
    `jnp.maximum` reads the large map again; this one keeps a byte for each maximum.
    """
    return _max_pool_forward(x, window)[0]


def _max_pool_forward(x: jax.Array, window: int):
    height, width = (side // window * window for side in x.shape[1:3])
    largest = x[:, :height:window, :width:window]
    place = jnp.zeros_like(largest, jnp.uint8)
    for number in range(1, window**2):
        row, column = divmod(number, window)
        other = x[:, row:height:window, column:width:window]
        place = jnp.where(other > largest, jnp.uint8(number), place)
        largest = jnp.maximum(largest, other)
    return largest, (place, x.shape)


def _max_pool_backward(window: int, saved, gradient: jax.Array):
    place, (batch, height, width, channels) = saved
    places = jnp.arange(window**2, dtype=jnp.uint8).reshape(window, 1, window, 1)
    # Incomplete windows get a gradient of 0. Padding the small maps is cheaper.
    rest = [(0, -(-side // window) - side // window) for side in (height, width)]
    place, gradient = (jnp.pad(x, ((0, 0), *rest, (0, 0))) for x in (place, gradient))
    is_largest = place[:, :, None, :, None] == places[None, None]
    spread = jnp.where(is_largest, gradient[:, :, None, :, None], 0)
    rows, columns = (side * window for side in gradient.shape[1:3])
    return (spread.reshape(batch, rows, columns, channels)[:, :height, :width],)


max_pool.defvjp(_max_pool_forward, _max_pool_backward)


class Pool(nn.Module):
    """Convolution, max-pool, BatchNorm, activation: an optional start of a stage.

    Its convolution sees the large map and its BatchNorm the small one, as in the
    networks of Page (2019, "How to train your ResNet") and Jordan (2024,
    arXiv:2404.00498).
    """

    part: Part  # its sizes
    conv: Layer  # makes a convolution, as `conv` does
    norm: Layer  # makes a BatchNorm
    act: Activation

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, H / stride, W / stride, width]."""
        x = self.conv(self.part.width, self.part.kernel, name="conv")(x)
        return self.act(self.norm(name="bn")(max_pool(x, self.part.stride)))


class Block(nn.Module):
    """What the two residual blocks share."""

    part: Part  # its sizes
    shortcut: str  # "projection" or "padding", where the block changes the map's shape
    conv: Layer  # makes a convolution, as `conv` does
    norm: Layer  # makes a BatchNorm
    act: Activation
    excite: Layer | None  # makes a squeeze-and-excitation, or None
    dropout: Layer  # makes the dropout between the convolutions
    # probability of dropping all that the block adds to its shortcut, image by image
    # (stochastic depth: Huang et al., 2016, arXiv:1603.09382)
    drop_rate: float
    zero_init: bool  # whether the last BatchNorm's scale starts at zero

    normalises_shortcut = False  # whether a BatchNorm follows the projection

    def skip(self, block_input: jax.Array, x: jax.Array) -> jax.Array:
        """Returns the shortcut: the block's input, or x in another shape."""
        part = self.part
        if not part.reshapes:
            return block_input
        if self.shortcut == "padding":
            # Option A of He et al. (2016, arXiv:1512.03385): subsample, and add zero
            # channels on both sides, as the common PyTorch code does.
            extra = part.width - part.before
            x = x[:, :: part.stride, :: part.stride, :]
            zeros = (extra // 2, extra - extra // 2)
            return jnp.pad(x, ((0, 0), (0, 0), (0, 0), zeros))
        kernel = part.shortcut_kernel
        x = self.conv(part.width, kernel, part.stride, name="shortcut_conv")(x)
        return self.norm(name="shortcut_bn")(x) if self.normalises_shortcut else x

    def branch(self, y: jax.Array) -> jax.Array:
        """Returns what is added to the shortcut: y, gated, or nothing."""
        if self.excite:
            y = self.excite(name="se")(y)
        if self.drop_rate:
            y = self.dropout(rate=self.drop_rate, broadcast_dims=(1, 2, 3))(y)
        return y


class BasicBlock(Block):
    """conv, BN, act, conv, BN, SE, add, act (He et al., 2016, arXiv:1512.03385)."""

    normalises_shortcut = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, H / stride, W / stride, width]."""
        # Zero: the block starts as its shortcut (Goyal et al., 2017, arXiv:1706.02677).
        last_scale = nn.initializers.constant(0.0 if self.zero_init else 1.0)
        part = self.part
        y = self.conv(part.width, part.kernel, part.stride, name="conv1")(x)
        y = self.dropout()(self.act(self.norm(name="bn1")(y)))
        y = self.conv(part.width, part.kernel, name="conv2")(y)
        y = self.norm(name="bn2", scale_init=last_scale)(y)
        return self.act(self.branch(y) + self.skip(x, x))


class PreActBlock(Block):
    """BN, act, conv, BN, act, dropout, conv, SE, add (arXiv:1603.05027, 1605.07146).

    Where the block changes the map's shape, the shortcut starts from the activated
    input and a projection has no BatchNorm, as in Zagoruyko and Komodakis's code.
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns [B, H / stride, W / stride, width]."""
        y = self.act(self.norm(name="bn1")(x))
        shortcut = self.skip(x, y)
        part = self.part
        y = self.conv(part.width, part.kernel, part.stride, name="conv1")(y)
        y = self.dropout()(self.act(self.norm(name="bn2")(y)))
        y = self.conv(part.width, part.kernel, name="conv2")(y)
        return self.branch(y) + shortcut


BLOCKS = {"basic": BasicBlock, "preact": PreActBlock}
