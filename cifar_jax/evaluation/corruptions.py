"""Common corruptions of small images, without a download, and a network's errors.

Nine of the corruptions of Hendrycks & Dietterich (2019, arXiv:1903.12261) with the five
strengths that they chose for images of 32 x 32. The draws are our own, and results are
rounded where theirs are cut off, so errors are near to those on CIFAR-10-C but not the
same.
"""

import dataclasses
import io
import itertools
from collections.abc import Callable, Collection, Mapping
from typing import NotRequired, TypedDict

import numpy as np
from PIL import Image
from scipy import ndimage

from cifar_jax._files import OutputFolder
from cifar_jax.data.arrays import SEVERITIES
from cifar_jax.data.dataset import Batch, Dataset
from cifar_jax.evaluation.inference import Predictor

# (image float64 [H, W, C] in [0, 1], strength, generator) -> image of any range
Corrupt = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


def _impulse_noise(image, share, random):
    noise = random.integers(0, 2, image.shape)
    return np.where(random.random(image.shape) < share, noise, image)


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


def _jpeg(image, quality, random):
    file = io.BytesIO()
    _to_pil(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file)).reshape(image.shape) / 255


def _pixelate(image, factor, random):
    picture = _to_pil(image)
    small = [max(1, int(side * factor)) for side in picture.size]
    box = Image.Resampling.BOX
    picture = picture.resize(small, box).resize(picture.size, box)
    return np.asarray(picture).reshape(image.shape) / 255


def _to_pil(image: np.ndarray) -> Image.Image:
    pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)


# Each corruption with its strengths at severities 1 to 5.
CORRUPTIONS: Mapping[str, tuple[Corrupt, tuple]] = {
    "gaussian_noise": (  # strength: standard deviation
        lambda image, std, random: image + random.normal(0, std, image.shape),
        (0.04, 0.06, 0.08, 0.09, 0.10),
    ),
    "shot_noise": (  # strength: photons of a white pixel
        lambda image, photons, random: random.poisson(image * photons) / photons,
        (500, 250, 100, 75, 50),
    ),
    "impulse_noise": (_impulse_noise, (0.01, 0.02, 0.03, 0.05, 0.07)),
    "gaussian_blur": (
        lambda image, sigma, random: ndimage.gaussian_filter(
            image, (sigma, sigma, 0), mode="nearest"
        ),
        (0.4, 0.6, 0.7, 0.8, 1.0),
    ),
    "defocus_blur": (
        _defocus_blur,
        ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1.0, 0.2), (1.5, 0.1)),
    ),
    "brightness": (_brightness, (0.05, 0.1, 0.15, 0.2, 0.3)),
    "contrast": (  # strength: factor of the distance from the image's mean colour
        lambda image, factor, random: (
            image.mean((0, 1)) + (image - image.mean((0, 1))) * factor
        ),
        (0.75, 0.5, 0.4, 0.3, 0.15),
    ),
    "jpeg_compression": (_jpeg, (80, 65, 58, 50, 40)),
    "pixelate": (_pixelate, (0.95, 0.9, 0.85, 0.75, 0.65)),
}


def corrupt(
    images: np.ndarray, name: str, severity: int, *, seed: int = 0, start: int = 0
) -> np.ndarray:
    """Returns corrupted images; each depends on its place, not on the others.

    Args:
      images: uint8 [N, H, W, C], gray or RGB.
      name: Key of `CORRUPTIONS`.
      severity: Strength, 1 to 5.
      seed: Seed of the noise.
      start: Place of the first image in its data set.

    Returns:
      uint8 [N, H, W, C].
    """
    function, strengths = CORRUPTIONS[name]
    corrupted = np.empty_like(images)
    for k, image in enumerate(images):
        random = np.random.default_rng((seed, severity, start + k))
        changed = function(image / 255, strengths[severity - 1], random)
        corrupted[k] = np.asarray(_to_pil(changed)).reshape(image.shape)
    return corrupted


def corrupted(dataset: Dataset, name: str, severity: int, *, seed: int = 0) -> Dataset:
    """Returns a data set whose images are corrupted as they are read."""

    def read(start: int, stop: int) -> Batch:
        batch = dataset.read(start, stop)
        images = corrupt(batch.images, name, severity, seed=seed, start=start)
        return dataclasses.replace(batch, images=images)

    title = f"{dataset.name} with {name}/{severity}"
    return dataclasses.replace(dataset, name=title, read=read)


class CorruptionErrors(TypedDict):
    """Errors of a network under corruptions.

    `error` has the share of wrong labels by corruption, at each severity; `mean_error`
    is the mean of them all: mCE without its division by another network's errors.
    """

    num_examples: int  # under each corruption
    error: dict[str, list[float]]
    mean_error: float
    tta_error: NotRequired[dict[str, list[float]]]  # with test-time augmentation
    tta_mean_error: NotRequired[float]


def score(
    predictor: Predictor,
    names: Collection[str],
    open_dataset: Callable[[str, int], Dataset],
    output: OutputFolder,
) -> CorruptionErrors:
    """Scores a network under corruptions, and writes corruptions.csv.

    Args:
      predictor: Network.
      names: Corruptions.
      open_dataset: Opens the images under a corruption of a severity.
      output: Folder for the table.
    """
    shares, num_examples = [], 0
    for name, severity in itertools.product(names, SEVERITIES):
        dataset = open_dataset(name, severity)
        logits, labels = predictor.outputs(dataset, f"{name} {severity}")
        shares.append((logits.argmax(axis=-1) != labels[:, None]).mean(axis=0))
        num_examples = len(labels)
    # Plain ones, and those with test-time augmentation if any.
    tables = [
        np.reshape(column, (len(names), len(SEVERITIES)))
        for column in zip(*shares, strict=True)
    ]
    errors = [dict(zip(names, table.tolist(), strict=True)) for table in tables]
    means = [float(table.mean()) for table in tables]
    rows = [[name, *values, np.mean(values)] for name, values in errors[0].items()]
    output.table("corruptions.csv", ["corruption", *SEVERITIES, "mean"], rows)
    record = CorruptionErrors(
        num_examples=num_examples, error=errors[0], mean_error=means[0]
    )
    if len(errors) > 1:
        record["tta_error"], record["tta_mean_error"] = errors[1], means[1]
    return record


def summary(errors: CorruptionErrors) -> str:
    """Returns the errors in a line."""
    means = {name: float(np.mean(values)) for name, values in errors["error"].items()}
    worst = max(means, key=means.__getitem__)
    line = (
        f"{len(means)} corruptions: mean error {errors['mean_error']:.4f}, worst "
        f"{worst} {means[worst]:.4f}"
    )
    if "tta_mean_error" in errors:
        line += f"; with test-time augmentation {errors['tta_mean_error']:.4f}"
    return line
