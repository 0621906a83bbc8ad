"""A picture of what augmentation does to a few images and their labels.

Rows are stages of it, columns images. A pixel of an image is a square of whole pixels.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cifar_jax.data import augment
from cifar_jax.data.augment import Window
from cifar_jax.data.augment.color import as_levels
from cifar_jax.data.sources import Examples

CELL = 128  # pixels of an image's longer side, or a little less
GAP = 12
FONT_SIZE = 13
LINE = 16  # from one line of text to the next
LEAST_SHARE = 0.005  # smaller shares of a label are not written
WINDOW = [field.name for field in dataclasses.fields(Window)]


@dataclasses.dataclass(frozen=True)
class Row:
    """One stage.

    Attributes:
      title: Lines at the left.
      images: uint8 [B, H, W, C].
      labels: float [B, K], each row's sum 1.
    """

    title: str
    images: np.ndarray
    labels: np.ndarray


def choose(examples: Examples, count: int) -> np.ndarray:
    """Returns places of `count` images: the first of each class, then of all others."""
    first = np.sort(np.unique(examples.labels, return_index=True)[1])
    others = np.setdiff1d(np.arange(len(examples)), first)
    return np.concatenate([first, others])[:count]


def stages(
    transforms: Sequence[Mapping[str, Any]],
    examples: Examples,
    *,
    num_classes: int,
    seed: int,
    progress: float,
) -> list[Row]:
    """Returns the images as they are, after each transform alone, and after them all.

    Args:
      transforms: Transforms, as `make_pipeline` takes them. Alone, each acts whatever
        its window.
      examples: Images; mixing mixes each with those that follow it.
      num_classes: Length of a label.
      seed: Seed of the random draws.
      progress: Share of the run, in [0, 1), at which they act together.
    """
    shape = examples.images.shape[1:]
    together = augment.make_pipeline(transforms, image_shape=shape)
    labels = jax.nn.one_hot(examples.labels, num_classes)
    rows = [Row("original", examples.images, np.asarray(labels))]

    def add(title, pipeline):
        active = tuple(map(bool, pipeline.active(jnp.float32(progress))))
        images, mixed = jax.jit(pipeline, static_argnames="active")(
            jax.random.key(seed),
            jnp.asarray(examples.images),
            labels,
            epoch=0,
            index=jnp.arange(len(examples)),
            progress=progress,
            active=active,
            run_key=jax.random.key(seed),
        )
        images = np.asarray(as_levels(images))
        rows.append(Row(title, images, np.asarray(mixed)))

    for transform in transforms:
        always = {k: v for k, v in transform.items() if k not in WINDOW}
        add(_title(transform), augment.make_pipeline([always], image_shape=shape))
    if len(transforms) > 1:
        when = any(k in WINDOW for transform in transforms for k in transform)
        add("all of them" + f"\nat {progress:g} of the run" * when, together)
    return rows


def draw(rows: Sequence[Row], label_names: Sequence[str]) -> Image.Image:
    """Returns the rows as an RGB picture."""
    font = ImageFont.load_default(FONT_SIZE)
    num_images, height, width, _ = rows[0].images.shape
    scale = max(1, CELL // max(height, width))
    texts = [[caption(label, label_names) for label in row.labels] for row in rows]
    margin = GAP + round(max(_width(font, row.title) for row in rows))
    widest = max(_width(font, text) for line in texts for text in line)
    step = GAP + max(width * scale, round(widest))
    tops = _tops(rows, texts, height * scale)
    size = (margin + GAP + num_images * step, tops[-1])
    picture = Image.new("RGB", size, "white")
    brush = ImageDraw.Draw(picture)
    brush.fontmode = "L"

    def write(left, top, text):
        for number, line in enumerate(text.split("\n")):
            brush.text((left, top + number * LINE), line, "black", font)

    for row, captions, top in zip(rows, texts, tops, strict=False):
        write(GAP, top, row.title)
        for column, (image, text) in enumerate(zip(row.images, captions, strict=True)):
            left = margin + GAP + column * step
            picture.paste(enlarge(image, scale), (left, top))
            write(left, top + height * scale + 2, text)
    return picture


def caption(label: np.ndarray, label_names: Sequence[str]) -> str:
    """Returns a label's classes, the largest share first, one a line."""
    order = [k for k in np.argsort(-label, kind="stable") if label[k] >= LEAST_SHARE]
    if len(order) == 1:
        return label_names[order[0]]
    return "\n".join(f"{label_names[k]} {label[k]:.2f}" for k in order)


def enlarge(image: np.ndarray, scale: int) -> Image.Image:
    """Returns uint8 [H, W, 1 or 3], each pixel a square of `scale` pixels."""
    pixels = image.repeat(scale, axis=0).repeat(scale, axis=1)
    return Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)


def _title(transform: Mapping[str, Any]) -> str:
    options = (f"{k}={v}" for k, v in transform.items() if k != "name")
    return "\n".join([transform["name"], *options])


def _width(font, text: str) -> float:
    return max(font.getlength(line) for line in text.split("\n"))


def _tops(rows, texts, image_height: int) -> list[int]:
    """Returns where each row starts, and at last the height of the picture."""
    tops = [GAP]
    for row, captions in zip(rows, texts, strict=True):
        under = LINE * max(1 + text.count("\n") for text in captions)
        title = LINE * (1 + row.title.count("\n"))
        tops.append(tops[-1] + max(image_height + 2 + under, title) + GAP)
    return tops
