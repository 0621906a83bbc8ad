"""Data sets seen differently: a part of one, other class numbers, another size."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

from cifar_jax import UserError
from cifar_jax.data.dataset import Batch, Dataset, ImageShape, Splits


def select(splits: Splits, selector: str | None, default: str, name: str) -> Dataset:
    """Opens a split, a part of one, or several splits one after another.

    Args:
      splits: Functions that open the splits of a source.
      selector: Name of a split, or split string of TFDS, such as `train[:80%]`; None:
        the only split there is, or the default.
      default: Name of a split.
      name: Name of the source, for errors.
    """
    if selector is None:
        selector = next(iter(splits)) if len(splits) == 1 else default
    if selector in splits:
        return splits[selector]()
    # Only what may be part of it is opened; "all" is TFDS's word for all splits.
    opened = {
        split: open_split()
        for split, open_split in splits.items()
        if split in selector or "all" in selector
    }
    sizes = {
        split: tfds.core.SplitInfo(name=split, shard_lengths=[len(data)], num_bytes=0)
        for split, data in opened.items()
    }
    try:
        ranges = tfds.core.ReadInstruction.from_spec(selector).to_absolute(sizes)
    except (KeyError, ValueError, NotImplementedError) as error:
        names = list(splits)
        example = "test" if "test" in names else names[0]
        raise UserError(
            f"{name} has no split {selector!r}; use {', '.join(names[:20])}, or a part "
            f"such as {example}[:50%]"
        ) from error
    parts = []
    for part in ranges:
        data = opened[part.splitname]
        stop = len(data) if part.to is None else part.to
        parts.append((data, min(part.from_ or 0, stop), stop))
    return concatenate(f"{name}:{selector}", parts)


def concatenate(name: str, parts: list[tuple[Dataset, int, int]]) -> Dataset:
    """Returns parts of data sets, one after another.

    Args:
      name: Name of the result, for errors.
      parts: Data sets of one image shape, each with the start and the stop of its part.
    """
    first = parts[0][0]
    if len({(data.image_shape, data.label_names is None) for data, _, _ in parts}) > 1:
        raise UserError(
            f"{name} joins images of several shapes, or with and without labels; read "
            "one split at a time"
        )
    label_names = first.label_names
    if label_names is not None:
        # A split may lack some classes: all get the numbers of the one with the most.
        label_names = max((data.label_names or () for data, _, _ in parts), key=len)
        parts = [
            (relabelled(data, label_names), start, stop) for data, start, stop in parts
        ]
    offsets = np.cumsum([0] + [stop - start for _, start, stop in parts]).tolist()

    def read(start: int, stop: int) -> Batch:
        batches, errors, count = [], {}, 0
        for (data, low, high), offset in zip(parts, offsets[:-1], strict=True):
            begin, end = low + max(start - offset, 0), min(low + stop - offset, high)
            if begin < end:
                batches.append(batch := data.read(begin, end))
                errors |= {count + k: fault for k, fault in batch.errors.items()}
                count += end - begin
        if len(batches) == 1:  # the usual case, which needs no copy
            return batches[0]
        images = np.concatenate([batch.images for batch in batches])
        labels = [batch.labels for batch in batches if batch.labels is not None]
        return Batch(images, np.concatenate(labels) if labels else None, errors)

    ids = None
    if all(data.ids is not None for data, _, _ in parts):
        ids = [id for data, low, high in parts for id in (data.ids or ())[low:high]]
    return Dataset(name, first.image_shape, offsets[-1], read, label_names, ids)


def relabelled(dataset: Dataset, label_names: tuple[str, ...]) -> Dataset:
    """Returns a data set with its classes numbered as a network knows them.

    Classes are matched by name. Where the names on either side are only numbers, and
    do not match, the labels stay as they are.

    Args:
      dataset: The data set; one without labels is returned as it is.
      label_names: Names of the network's classes, by label.
    """
    ours, label_names = dataset.label_names, tuple(label_names)
    if ours is None or ours == label_names:
        return dataset
    label_of = {name: label for label, name in enumerate(label_names)}
    unknown = [name for name in ours if name not in label_of]
    if unknown:
        ours_are_numbers = ours == tuple(map(str, range(len(ours))))
        theirs_are_numbers = label_names == tuple(map(str, range(len(label_names))))
        if (ours_are_numbers and len(ours) <= len(label_names)) or (
            theirs_are_numbers and len(ours) == len(label_names)
        ):
            return dataclasses.replace(dataset, label_names=label_names)
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        dots = "..." if len(label_names) > 12 else ""
        raise UserError(
            f"{dataset.name} has the classes {', '.join(unknown[:3])}{more}, which are "
            f"not among {', '.join(label_names[:12])}{dots}; rename them"
        )
    # The last is for -1, with which TFDS marks images without a label.
    numbers = np.array([*(label_of[name] for name in ours), -1], np.int32)

    def read(start: int, stop: int) -> Batch:
        batch = dataset.read(start, stop)
        return dataclasses.replace(batch, labels=numbers[batch.labels])

    return dataclasses.replace(dataset, read=read, label_names=label_names)


def resized(
    dataset: Dataset, image_shape: ImageShape, *, resize: bool = False
) -> Dataset:
    """Returns a data set whose images have the shape that a network needs.

    Args:
      dataset: Images of any shape.
      image_shape: Height, width and channels of the result.
      resize: Whether other images are resized (bicubic), and made RGB or gray.
    """
    height, width, channels = image_shape
    if dataset.image_shape == (height, width, channels):
        return dataset
    if not resize:
        raise UserError(
            f"{dataset.name} has images of shape {dataset.image_shape}, not "
            f"{image_shape}; use --resize, resize=True or data.image_size"
        )
    mode = {1: "L", 3: "RGB"}[channels]

    def read(start: int, stop: int) -> Batch:
        batch = dataset.read(start, stop)
        images = np.zeros((len(batch.images), height, width, channels), np.uint8)
        for k, image in enumerate(batch.images):
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            picture = picture.convert(mode)
            picture = picture.resize((width, height), Image.Resampling.BICUBIC)
            images[k] = np.asarray(picture).reshape(images.shape[1:])
        return dataclasses.replace(batch, images=images, histogram=None)

    return dataclasses.replace(
        dataset, read=read, image_shape=(height, width, channels)
    )
