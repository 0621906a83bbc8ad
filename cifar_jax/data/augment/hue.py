"""Turning of colours, through the 8-bit HSV space of PIL."""

import jax
import jax.numpy as jnp


def shift_hue(levels: jax.Array, shifts: jax.Array) -> jax.Array:
    """Turns each image's hue, as torchvision's `adjust_hue` on PIL images.

    Args:
        levels: uint8 [B, H, W, 3]; a single channel has no hue and stays as it is.
        shifts: float32 [B], in turns of the colour circle; the way to HSV and back
            rounds, also where the shift is 0.

    Returns:
        uint8 [B, H, W, 3].
    """
    if levels.shape[-1] != 3:
        return levels
    hue, saturation, value = _rgb_to_hsv(levels)
    steps = jnp.trunc(shifts * 255).astype(jnp.int32)[:, None, None]
    return _hsv_to_rgb((hue + steps) % 256, saturation, value)


def _rgb_to_hsv(levels: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns int32 [B, H, W] hue, saturation and value, each in 0..255."""
    red, green, blue = (levels[..., i].astype(jnp.float32) for i in range(3))
    largest = jnp.maximum(jnp.maximum(red, green), blue)
    extent = largest - jnp.minimum(jnp.minimum(red, green), blue)
    scale = jnp.where(extent > 0, extent, 1)
    r, g, b = ((largest - x) / scale for x in (red, green, blue))
    sector = jnp.where(green == largest, 2 + r - b, 4 + g - r)
    sector = jnp.where(red == largest, b - g, sector)
    hue = jnp.floor((sector / 6 + 1) % 1 * 255)
    hue = jnp.where(extent > 0, hue, 0)  # gray has no hue
    saturation = jnp.floor(extent / jnp.maximum(largest, 1) * 255)
    return tuple(x.astype(jnp.int32) for x in (hue, saturation, largest))


def _hsv_to_rgb(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    turn = hue * 6.0 / 255
    sector = jnp.floor(turn)
    share = saturation / 255
    rest = turn - sector

    def fade(x):
        return jnp.floor(value * (1 - x) + 0.5).astype(jnp.int32)

    low, falling, rising = fade(share), fade(share * rest), fade(share * (1 - rest))
    # Red of the six sectors; green lags it by two of them and blue by four.
    curve = [value, falling, low, low, rising, value]
    sector = sector.astype(jnp.int32) % 6

    def channel(lag):
        return jnp.select([(sector + lag) % 6 == i for i in range(6)], curve)

    colors = [channel(lag) for lag in (0, 4, 2)]
    return jnp.stack(colors, axis=-1).astype(jnp.uint8)
