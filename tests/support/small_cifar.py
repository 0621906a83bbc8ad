"""The official archives of CIFAR-10 and CIFAR-100, with few images in each file."""

import dataclasses
import pickle
import tarfile

import numpy as np

from cifar_jax.data.archive_spec import (
    CIFAR10,
    CIFAR10_PYTHON,
    CIFAR100,
    CIFAR100_PYTHON,
)

SPEC = dataclasses.replace(CIFAR10, records_per_file={"train": 20, "test": 20})


PYTHON_SPEC = dataclasses.replace(
    CIFAR10_PYTHON, records_per_file=SPEC.records_per_file
)
SPEC_100 = dataclasses.replace(CIFAR100, records_per_file={"train": 200, "test": 100})
PYTHON_SPEC_100 = dataclasses.replace(
    CIFAR100_PYTHON, records_per_file=SPEC_100.records_per_file
)


def labelled(split, spec=SPEC):
    """Returns images uint8 [N, 32, 32, 3] and labels int32 [N] of each kind."""
    random = np.random.default_rng(len(split))
    num_records = spec.num_records(split)
    order = random.permutation(num_records)
    labels = {
        kind: (order % len(names)).astype(np.int32)
        for kind, names in spec.labels.items()
    }
    images = random.integers(0, 256, (num_records, 32, 32, 3), dtype=np.uint8)
    return images, labels


def examples(split):
    """Returns images uint8 [N, 32, 32, 3] and labels int32 [N]."""
    images, labels = labelled(split)
    return images, labels["label"]


def write_folder(parent, spec=SPEC):
    """Writes the unpacked folder and returns its path."""
    folder = parent / spec.folder
    folder.mkdir(parents=True)
    for split, files in spec.files.items():
        images, labels = labelled(split, spec)
        size = spec.records_per_file[split]
        for number, name in enumerate(files):
            part = slice(size * number, size * number + size)
            columns = {kind: labels[kind][part] for kind in labels}
            write = _write_pickle if spec.keys else _write_binary
            write(folder / name, images[part], columns, spec)
    return folder


def _write_binary(path, images, labels, spec):
    """Writes one plane after the other."""
    with path.open("wb") as file:
        for k, image in enumerate(images):
            file.write(bytes([labels[kind][k] for kind in spec.labels]))
            for channel in range(3):
                file.write(image[:, :, channel].tobytes())


def _write_pickle(path, images, labels, spec):
    rows = [[image[:, :, channel].ravel() for channel in range(3)] for image in images]
    batch = {
        b"batch_label": b"a batch",
        b"data": np.array([np.concatenate(row) for row in rows]),
        b"filenames": [f"{k}.png".encode() for k in range(len(images))],
    }
    for kind, key in spec.keys.items():
        batch[key.encode()] = labels[kind].tolist()
    path.write_bytes(pickle.dumps(batch, protocol=2))


def pack(folder, archive, mode="w:gz", prefix=""):
    """Packs a folder and returns the path of the archive."""
    with tarfile.open(archive, mode) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=f"{prefix}{folder.name}/{path.name}")
    return archive
