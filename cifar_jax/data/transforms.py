"""Splits seen in another way: a part, other numbers of the classes, another size."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cifar_jax import UserError
from cifar_jax.data.dataset import Batch, Dataset, Splits


def select(tables: Splits, selector: str | None, default: str, name: str) -> Dataset:
    """Returns the split of a file or folder that a selector names.

    Args:
      tables: What opens each split.
      selector: A split, or a split string of TFDS; None: the only one there is, or the
        default.
      default: A split.
      name: Of the file or folder.

    Raises:
      UserError: names the splits that there are.
    """
    if selector is None:
        selector = next(iter(tables)) if len(tables) == 1 else default
    if selector in tables:
        return tables[selector]()
    opened = {
        part: open_part()
        for part, open_part in tables.items()
        if part in selector or "all" in selector  # TFDS: the splits one after another
    }
    sizes = {
        part: tfds.core.SplitInfo(name=part, shard_lengths=[len(table)], num_bytes=0)
        for part, table in opened.items()
    }
    try:
        ranges = tfds.core.ReadInstruction.from_spec(selector).to_absolute(sizes)
    except (ValueError, NotImplementedError) as error:
        names = list(tables)
        raise UserError(
            f"{name} has no split {selector!r}; use {', '.join(names[:20])}, or a part "
            f"such as {names[0]}[:50%]"
        ) from error
    parts = []
    for part in ranges:
        table = opened[part.splitname]
        stop = len(table) if part.to is None else part.to
        parts.append((table, min(part.from_ or 0, stop), stop))
    return concatenate(f"{name}:{selector}", parts)


def concatenate(name: str, parts: list[tuple[Dataset, int, int]]) -> Dataset:
    """Returns the rows of some tables, each from a start to an end.

    Args:
      name: Of the whole, for errors.
      parts: Splits of images of one shape, each with start and end.
    """
    tables = [table for table, _, _ in parts]
    if len({(t.image_shape, t.label_names is None) for t in tables}) > 1:
        raise UserError(
            f"{name} joins images of several shapes, or with and without labels; read "
            "one split at a time"
        )
    if tables[0].label_names is not None:
        most = max((t.label_names for t in tables), key=len)
        tables = [relabelled(table, most) for table in tables]
        parts = [(t, *part[1:]) for t, part in zip(tables, parts, strict=True)]
    offsets = np.cumsum([0] + [stop - start for _, start, stop in parts])

    def read(start: int, stop: int) -> Batch:
        pieces = []
        for (table, low, high), offset in zip(parts, offsets[:-1], strict=True):
            begin, end = low + max(start - offset, 0), min(low + stop - offset, high)
            if begin < end:
                pieces.append(table.read(int(begin), int(end)))
        return _joined(pieces) if pieces else tables[0].read(0, 0)

    ids = None
    if all(table.ids is not None for table in tables):
        ids = [id for table, low, high in parts for id in table.ids[low:high]]
    size = int(offsets[-1])
    return dataclasses.replace(
        tables[0], name=name, num_images=size, read=read, ids=ids
    )


def _joined(pieces: list[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    images, labels, errors, count = [], [], {}, 0
    for piece in pieces:
        errors |= {count + k: message for k, message in piece.errors.items()}
        count += len(piece.images)
        images.append(piece.images)
        labels.append(piece.labels)
    labelled = labels[0] is not None
    return Batch(
        np.concatenate(images), np.concatenate(labels) if labelled else None, errors
    )


def relabelled(table: Dataset, label_names: tuple[str, ...]) -> Dataset:
    """Returns a table with the classes numbered as a network knows them.

    Classes are matched by their names. Where either side has only numbers for names,
    and the names do not match, the numbers count.

    Raises:
      UserError: If the table has classes that the network does not know.
    """
    label_names = tuple(label_names)
    if table.label_names in (None, label_names):
        return table
    known = {name: label for label, name in enumerate(label_names)}
    strange = [name for name in table.label_names if name not in known]
    count = len(table.label_names)
    if strange and (
        (_are_numbers(table.label_names) and count <= len(label_names))
        or (_are_numbers(label_names) and count == len(label_names))
    ):
        return dataclasses.replace(table, label_names=label_names)
    if strange:
        more = f" and {len(strange) - 3} more" if len(strange) > 3 else ""
        raise UserError(
            f"{table.name} has the classes {', '.join(strange[:3])}{more}, which are "
            f"not among {', '.join(label_names[:12])}{'...' * (len(label_names) > 12)}"
            "; rename them, or leave them out"
        )
    numbers = np.array([known[name] for name in table.label_names], np.int32)

    def read(start: int, stop: int) -> Batch:
        rows = table.read(start, stop)
        return dataclasses.replace(rows, labels=numbers[rows.labels])

    return dataclasses.replace(table, read=read, label_names=label_names)


def _are_numbers(names: tuple[str, ...]) -> bool:
    return names == tuple(str(k) for k in range(len(names)))


def resized(
    table: Dataset, image_shape: tuple[int, int, int], *, resize: bool = False
) -> Dataset:
    """Returns a table with the images of a network's shape.

    Args:
      table: Images of any shape.
      image_shape: Height, width and channels that are wanted.
      resize: Whether others are resized (bicubic), and made RGB or gray.

    Raises:
      UserError: If the shape is another one and `resize` is False.
    """
    image_shape = tuple(image_shape)
    if table.image_shape == image_shape:
        return table
    if not resize:
        raise UserError(
            f"{table.name} has images of shape {table.image_shape} instead of "
            f"{image_shape}; resize them, or ask for resizing"
        )
    height, width, channels = image_shape
    mode = {1: "L", 3: "RGB"}[channels]

    def convert(image):
        pil = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
        pil = pil.convert(mode).resize((width, height), Image.Resampling.BICUBIC)
        return np.asarray(pil).reshape(image_shape)

    def read(start: int, stop: int) -> Batch:
        rows = table.read(start, stop)
        images = np.zeros((len(rows.images), *image_shape), np.uint8)
        for k, image in enumerate(rows.images):
            images[k] = convert(image)
        return dataclasses.replace(rows, images=images)

    return dataclasses.replace(table, read=read, image_shape=image_shape)
