"""CIFAR-10 in the official binary layout, with 20 images in each file."""

import dataclasses
import tarfile

import numpy as np

from cifar_jax.data.layouts import CIFAR10

LAYOUT = dataclasses.replace(CIFAR10, records_per_file={"train": 20, "test": 20})


def examples(split):
    """Returns images uint8 [N, 32, 32, 3] and labels int32 [N]."""
    random = np.random.default_rng(len(split))
    labels = random.permutation(20 * len(LAYOUT.files[split])) % 10
    images = random.integers(0, 256, (len(labels), 32, 32, 3), dtype=np.uint8)
    return images, labels.astype(np.int32)


def write_folder(parent):
    """Writes the unpacked folder, one plane after the other, and returns its path."""
    folder = parent / LAYOUT.folder
    folder.mkdir(parents=True)
    for split, files in LAYOUT.files.items():
        images, labels = examples(split)
        for number, name in enumerate(files):
            with (folder / name).open("wb") as file:
                for k in range(20 * number, 20 * number + 20):
                    file.write(bytes([labels[k]]))
                    for channel in range(3):
                        file.write(images[k, :, :, channel].tobytes())
    return folder


def pack(folder, archive, mode="w:gz", prefix=""):
    """Packs a folder and returns the path of the archive."""
    with tarfile.open(archive, mode) as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=f"{prefix}{LAYOUT.folder}/{path.name}")
    return archive
