"""Transforms of pixel values, on whole levels 0..255 as in PIL. Images are NHWC."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cifar_jax.data.augment import checks
from cifar_jax.data.augment.warp import gather


def as_levels(images: jax.Array) -> jax.Array:
    """Returns images in [0, 255] as uint8, floats rounded to the nearest level."""
    if images.dtype == jnp.uint8:
        return images
    return jnp.clip(jnp.round(images), 0, 255).astype(jnp.uint8)


def color_jitter(
    key: jax.Array,
    images: jax.Array,
    *,
    brightness: float = 0.0,
    contrast: float = 0.0,
    saturation: float = 0.0,
    hue: float = 0.0,
) -> jax.Array:
    """Changes brightness, contrast, saturation and hue, in an order drawn per image.

    As torchvision's `ColorJitter` on PIL images. Each factor is uniform in
    [max(0, 1 - x), 1 + x], the hue's shift in [-hue, hue] of the colour circle. The
    defaults are the identity.

    Args:
      key: PRNG key.
      images: uint8 or float [B, H, W, C]; floats are rounded to whole levels.
      brightness: Strength of the change; 0: none.
      contrast: Strength of the change; 0: none.
      saturation: Strength of the change; 0: none.
      hue: Largest shift, at most 0.5.
    """
    strengths = dict(
        brightness=brightness, contrast=contrast, saturation=saturation, hue=hue
    )
    for name, strength in strengths.items():
        checks.require(strength >= 0, f"{name} is {strength}", "at least 0")
    checks.require(hue <= 0.5, f"hue is {hue}", "at most 0.5, half the colour circle")
    names = [name for name, strength in strengths.items() if strength > 0]
    if not names:
        return images
    spread = jnp.array([strengths[name] for name in names])[None]
    centre = jnp.array([float(name != "hue") for name in names])[None]
    order_key, factor_key = jax.random.split(key)
    shape = (images.shape[0], len(names))
    order = jnp.argsort(jax.random.uniform(order_key, shape), axis=1)
    low = jnp.where(centre > 0, jnp.maximum(centre - spread, 0), -spread)
    factors = jax.random.uniform(factor_key, shape, minval=low, maxval=centre + spread)
    levels = as_levels(images)
    for kinds in order.T:
        is_kind = kinds[:, None] == jnp.arange(len(names))[None]
        chosen = jnp.where(is_kind, factors, 0).sum(axis=1)
        if "hue" in names:
            is_hue = kinds == names.index("hue")
            shifted = shift_hue(levels, jnp.where(is_hue, chosen, 0.0))
            levels = jnp.where(is_hue[:, None, None, None], shifted, levels)
            chosen = jnp.where(is_hue, 1.0, chosen)
        levels = enhance(levels, kinds, chosen, names=names)
    return levels.astype(images.dtype)


def enhance(
    levels: jax.Array, kinds: jax.Array, factors: jax.Array, *, names: Sequence[str]
) -> jax.Array:
    """Moves each image away from or towards its degenerate, as PIL's ImageEnhance.

    Args:
      levels: uint8 [B, H, W, C].
      kinds: int32 [B], each image's kind of change, a position in `names`.
      factors: float32 [B]; 1 is the identity, 0 the degenerate.
      names: Keys of `DEGENERATES`; any others leave an image of that kind alone.
    """
    degenerate = jnp.zeros_like(levels)
    for kind, name in enumerate(names):
        if name in DEGENERATES:
            changed = jnp.broadcast_to(DEGENERATES[name](levels), levels.shape)
            is_kind = (kinds == kind)[:, None, None, None]
            degenerate = jnp.where(is_kind, changed, degenerate)
    base, top = degenerate.astype(jnp.float32), levels.astype(jnp.float32)
    blended = base + factors[:, None, None, None] * (top - base)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)  # cuts fractions off, as PIL


def shift_hue(levels: jax.Array, shifts: jax.Array) -> jax.Array:
    """Turns each image's hue, as torchvision's `adjust_hue` on PIL images.

    Args:
      levels: uint8 [B, H, W, 3]; a single channel has no hue and stays as it is.
      shifts: float32 [B], in turns of the colour circle; the conversion to PIL's 8-bit
        HSV and back rounds, also where the shift is 0.

    Returns:
      uint8 [B, H, W, 3].
    """
    if levels.shape[-1] != 3:
        return levels
    # To hue, saturation and value (the largest), each [B, H, W] and whole in 0..255.
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
    steps = jnp.trunc(shifts * 255).astype(jnp.int32)[:, None, None]
    hue = (hue.astype(jnp.int32) + steps) % 256
    # And back.
    turn = hue.astype(jnp.float32) * 6.0 / 255
    sector = jnp.floor(turn)
    share, rest = saturation / 255, turn - sector
    low, falling, rising = (
        jnp.floor(largest * (1 - lost) + 0.5)
        for lost in (share, share * rest, share * (1 - rest))
    )
    # Red in each of the six sectors; green lags it by two of them and blue by four.
    curve = [largest, falling, low, low, rising, largest]
    sector = sector.astype(jnp.int32) % 6
    colors = [
        jnp.select([(sector + lag) % 6 == i for i in range(6)], curve)
        for lag in (0, 4, 2)
    ]
    return jnp.stack(colors, axis=-1).astype(jnp.uint8)


def grayscale(levels: jax.Array) -> jax.Array:
    """Returns the luma of ITU-R 601-2 in PIL's fixed point, uint8 [B, H, W, 1]."""
    if levels.shape[-1] == 1:
        return levels
    weights = jnp.array([19595, 38470, 7471])[None, None, None]
    luma = (levels.astype(jnp.int32) * weights).sum(axis=-1, keepdims=True)
    return ((luma + 2**15) >> 16).astype(jnp.uint8)


def _mean_gray(levels: jax.Array) -> jax.Array:
    """Returns each image's mean luma, halves rounded up, uint8 [B, 1, 1, 1]."""
    gray = grayscale(levels).astype(jnp.int32)
    total, size = gray.sum(axis=(1, 2, 3), keepdims=True), gray[0].size
    return ((2 * total + size) // (2 * size)).astype(jnp.uint8)


def _smooth(levels: jax.Array) -> jax.Array:
    """Returns the mean of 3x3 pixels, the centre weighing 5; the border is kept."""
    x = levels.astype(jnp.int32)
    rows = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    smooth = (2 * (box + 4 * x[:, 1:-1, 1:-1]) + 13) // 26  # rounded to the nearest
    corner = (0, 1, 1, 0)
    return jax.lax.dynamic_update_slice(levels, smooth.astype(jnp.uint8), corner)


# What an image becomes at factor 0.
DEGENERATES = {
    "brightness": jnp.zeros_like,
    "saturation": grayscale,
    "contrast": _mean_gray,
    "sharpness": _smooth,
}


def posterize(levels: jax.Array, bits: jax.Array) -> jax.Array:
    """Keeps the highest `bits` of each level, [B]; 8 is the identity."""
    mask = (0xFF << (8 - bits.astype(jnp.int32))).astype(jnp.uint8)
    return levels & mask[:, None, None, None]


def solarize(levels: jax.Array, thresholds: jax.Array) -> jax.Array:
    """Inverts levels from the threshold up, float32 [B]; 256 is the identity."""
    bright = levels.astype(jnp.float32) >= thresholds[:, None, None, None]
    return jnp.where(bright, 255 - levels, levels)


def autocontrast(levels: jax.Array) -> jax.Array:
    """Stretches each channel to 0..255; one of a single level stays as it is."""
    low = levels.min(axis=(1, 2), keepdims=True)
    extent = (levels.max(axis=(1, 2), keepdims=True) - low).astype(jnp.float32)
    stretched = (levels - low).astype(jnp.float32) * (255 / jnp.maximum(extent, 1))
    # PIL cuts fractions off; 1e-3 keeps those that float32's rounding made.
    return jnp.where(extent > 0, (stretched + 1e-3).astype(jnp.uint8), levels)


def equalize(levels: jax.Array) -> jax.Array:
    """Flattens each channel's histogram, as PIL's ImageOps.equalize."""
    batch, height, width, num_channels = levels.shape
    pixels = levels.reshape(batch, -1, num_channels)
    histogram = jax.lax.platform_dependent(
        pixels, tpu=_count_by_products, default=_count_by_index
    )
    # Whole numbers below 2^24, which float32 holds; a half keeps quotients off borders.
    histogram = histogram.astype(jnp.float32)
    up_to, size = jnp.cumsum(histogram, axis=-1), height * width
    largest = jnp.where(up_to == size, histogram, 0).max(axis=-1, keepdims=True)
    step = jnp.floor((size - largest + 0.5) / 255)  # pixels of one output level
    below = up_to - histogram
    table = (below + jnp.floor(step / 2) + 0.5) * (1 / jnp.maximum(step, 1))
    table = jnp.minimum(table, 255).astype(jnp.uint8)
    table = jnp.where(step > 0, table, jnp.arange(256, dtype=jnp.uint8)[None, None])
    # A level is two digits in base 16, a row and a column of its channel's table.
    tables = table.reshape(-1, 16, 16, 1)
    index = pixels.swapaxes(1, 2).reshape(-1, 1, size).astype(jnp.int32)
    equalized = gather(tables, index >> 4, index & 15)
    equalized = equalized.reshape(batch, num_channels, size).swapaxes(1, 2)
    return equalized.reshape(levels.shape)


def _count_by_index(pixels: jax.Array) -> jax.Array:
    """Returns the histogram of each channel, [B, C, 256]."""
    batch, _, num_channels = pixels.shape
    # Each image's row holds a table of 256 entries for each channel.
    index = pixels.astype(jnp.int32) + 256 * jnp.arange(num_channels)[None, None]
    tables = jnp.zeros((batch, 256 * num_channels))
    count = jax.vmap(lambda row, i: row.at[i].add(1, mode="promise_in_bounds"))
    counts = count(tables, index.reshape(batch, -1))
    return counts.reshape(batch, num_channels, 256)


def _count_by_products(pixels: jax.Array) -> jax.Array:
    """Returns the histograms on a TPU, which is slow at scatters: pairs of digits."""
    digits = jnp.arange(16, dtype=jnp.uint8)[None, None, None]
    both = (pixels >> 4, pixels & 15)
    high, low = ((x[..., None] == digits).astype(jnp.bfloat16) for x in both)
    found = jnp.einsum("bpci,bpcj->bcij", high, low, preferred_element_type=jnp.float32)
    return found.reshape(*found.shape[:2], 256)
