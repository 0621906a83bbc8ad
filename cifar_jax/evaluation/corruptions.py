"""Common corruptions of small images, without a download.

Nine of the corruptions of Hendrycks & Dietterich (2019, arXiv:1903.12261) with the five
strengths that they chose for images of 32 x 32. The draws are our own, and results are
rounded where theirs are cut off, so errors are near to those on CIFAR-10-C but not the
same.
"""

import dataclasses
import io
from collections.abc import Callable, Mapping

import numpy as np
from PIL import Image
from scipy import ndimage

from cifar_jax.data.dataset import Batch, Dataset

# (image float64 [H, W, C] in [0, 1], strength, generator) -> the same, of any range
Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _gaussian_noise(image, std, random):
    return image + random.normal(0, std, image.shape)


def _shot_noise(image, photons, random):
    return random.poisson(image * photons) / photons


def _impulse_noise(image, share, random):
    noise = random.integers(0, 2, image.shape)
    return np.where(random.random(image.shape) < share, noise, image)


def _gaussian_blur(image, sigma, random):
    return ndimage.gaussian_filter(image, (sigma, sigma, 0), mode="nearest")


def _defocus_blur(image, lens, random):
    """Convolves with a disk of a radius, its edge smoothed by a 3 x 3 Gaussian."""
    radius, sigma = lens
    reach = int(radius) + 1  # the disk, and a pixel for the Gaussian
    square = np.arange(-reach, reach + 1) ** 2
    disk = (square[:, None] + square <= radius**2).astype(float)
    kernel = ndimage.gaussian_filter(disk / disk.sum(), sigma, radius=1)
    return ndimage.convolve(image, kernel[..., None], mode="mirror")


def _brightness(image, added, random):
    """Adds to the value of HSV, which scales a pixel and keeps hue and saturation."""
    value = image.max(axis=-1, keepdims=True)
    raised = np.minimum(value + added, 1)
    black = np.broadcast_to(raised, image.shape)
    return np.divide(image * raised, value, where=value > 0, out=black.copy())


def _contrast(image, factor, random):
    mean = image.mean(axis=(0, 1))
    return mean + (image - mean) * factor


def _jpeg(image, quality, random):
    file = io.BytesIO()
    _to_pil(image).save(file, "JPEG", quality=quality)
    return _from_pil(Image.open(file), image.shape)


def _pixelate(image, factor, random):
    picture = _to_pil(image)
    small = [max(1, int(side * factor)) for side in picture.size]
    box = Image.Resampling.BOX
    return _from_pil(picture.resize(small, box).resize(picture.size, box), image.shape)


def _to_pil(image: np.ndarray) -> Image.Image:
    pixels = _to_bytes(image)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


def _from_pil(picture: Image.Image, shape: tuple[int, ...]) -> np.ndarray:
    return np.asarray(picture).reshape(shape) / 255


def _to_bytes(image: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


# Each corruption with its strengths at severities 1 to 5.
CORRUPTIONS: Mapping[str, tuple[Corrupt, tuple]] = {
    "gaussian_noise": (_gaussian_noise, (0.04, 0.06, 0.08, 0.09, 0.10)),
    "shot_noise": (_shot_noise, (500, 250, 100, 75, 50)),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (_gaussian_blur, (0.4, 0.6, 0.7, 0.8, 1.0)),
    "defocus_blur": (
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    ),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (_contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "jpeg_compression": (_jpeg, (80, 65, 58, 50, 40)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}


def corrupt(
    images: np.ndarray, name: str, severity: int, *, seed: int = 0, start: int = 0
) -> np.ndarray:
    """Returns corrupted images; each depends on its place, not on the others.

    Args:
      images: uint8 [N, H, W, C], gray or RGB.
      name: Of `CORRUPTIONS`.
      severity: 1 to 5.
      seed: Of the draws.
      start: Place of the first image in its data set.

    Returns:
      uint8 [N, H, W, C].
    """
    function, strengths = CORRUPTIONS[name]
    corrupted = np.empty_like(images)
    for k, image in enumerate(images):
        random = np.random.default_rng((seed, severity, start + k))
        changed = function(image / 255, strengths[severity - 1], random)
        corrupted[k] = _to_bytes(changed)
    return corrupted


def corrupted(table: Dataset, name: str, severity: int, *, seed: int = 0) -> Dataset:
    """Returns a table whose images are corrupted when they are read; see `corrupt`."""

    def read(start: int, stop: int) -> Batch:
        rows = table.read(start, stop)
        images = corrupt(rows.images, name, severity, seed=seed, start=start)
        return dataclasses.replace(rows, images=images)

    return dataclasses.replace(
        table, name=f"{table.name} with {name}/{severity}", read=read
    )
