"""Decoded images kept beside their data set, so that a start decodes no PNG."""

import contextlib
import dataclasses
import functools
import hashlib
import math
import pathlib
from typing import Any

import numpy as np

from cifar_jax._files import replacing
from cifar_jax.data.dataset import Batch, Dataset, histogram

# Larger data sets are decoded each time, rather than kept on disk twice.
# NumPy's records end at 2 GiB.
MAX_BYTES = 2 * 10**9


def kept(dataset: Dataset, path: pathlib.Path, version: str) -> Dataset:
    """Returns a data set that keeps its images in a file, decoded, once all are read.

    The file is an array in NumPy's format, of one record, whose images are mapped, not
    read. A file that is damaged or of another version is made anew, perhaps by several
    processes at once. Where it cannot be written, all works as it does without it.

    Args:
      dataset: Labelled images that are slow to decode.
      path: The file.
      version: What changes with the files that the images come from.
    """
    count = len(dataset)
    size = count * (4 + math.prod(dataset.image_shape))
    if dataset.label_names is None or not count or size > MAX_BYTES:
        return dataset
    fields: list[Any] = [
        ("sha256", "S64"),
        ("histogram", "<i8", (dataset.image_shape[-1], 256)),
        ("labels", "<i4", (count,)),
        ("images", "u1", (count, *dataset.image_shape)),
    ]
    dtype = np.dtype(fields)
    # Once, even if it is of another version: its digest takes long.
    mapped = functools.cache(lambda: _map(path, dtype, version))

    def read(start: int, stop: int) -> Batch:
        is_whole = stop - start == count
        if (record := mapped()) is not None:
            # Copies, since a batch may outlive the map.
            images = np.array(record["images"][0, start:stop])
            labels = np.array(record["labels"][0, start:stop])
            counts = record["histogram"][0] if is_whole else None
            return Batch(images, labels, histogram=counts)
        batch = dataset.read(start, stop)
        if not is_whole:
            return batch
        batch = dataclasses.replace(batch, histogram=histogram(batch.images))
        new = np.zeros(1, dtype)
        for key in ("histogram", "labels", "images"):
            new[key] = getattr(batch, key)
        new["sha256"] = _sha256(new, version)
        with contextlib.suppress(OSError), replacing(path) as temporary:
            # Not through a map, which a full disk would turn into a fatal signal.
            with temporary.open("wb") as file:
                np.save(file, new)
            mapped.cache_clear()
        return batch

    return dataclasses.replace(dataset, read=read)


def _map(path: pathlib.Path, dtype: np.dtype, version: str) -> np.ndarray | None:
    """Returns a file's record, as an array of one; None: it is not there or bad."""
    try:
        record = np.load(path, mmap_mode="r")
    except Exception:  # a damaged header raises many kinds
        return None
    if record.dtype != dtype or record.shape != (1,):
        return None
    return record if record["sha256"][0] == _sha256(record, version) else None


def _sha256(record: Any, version: str) -> bytes:
    """Returns the SHA-256 of a record's content, in hexadecimal digits."""
    digest = hashlib.sha256(version.encode())
    for key in ("histogram", "labels", "images"):
        digest.update(record[key])
    return digest.hexdigest().encode()
