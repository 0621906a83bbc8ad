"""Every parser of foreign files, on hundreds of damaged ones.

When slow, on FUZZ_INPUTS of them, by default 1,000; 10,000 of each have been tried by
hand, of PyTorch's files 3,000.
"""

import dataclasses
import io
import json
import os
import pickle
import shutil
import tarfile

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image
from support import fuzzing
from support.runs import tiny_config

from cifar_jax.config import config_to_dict
from cifar_jax.data import archive_spec, archives
from cifar_jax.models import resnet
from cifar_jax.training import pretrained
from cifar_jax.training.workdir import RunDirectory

MANY = int(os.environ.get("FUZZ_INPUTS", "1000"))
RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (4, 4, 4, 3), np.uint8)
LABELS = np.array([0, 1, 1, 0])
ROWS = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)).reshape(4, -1)
RECORDS = b"".join(
    bytes([label]) + row.tobytes() for label, row in zip(LABELS, ROWS, strict=True)
)
SPEC = dataclasses.replace(
    archive_spec.CIFAR10,
    files={"test": ("test_batch.bin",)},
    records_per_file={"test": 4},
    labels={"label": ("cat", "dog")},
    image_shape=(4, 4, 3),
)
PYTHON_SPEC = dataclasses.replace(
    SPEC,
    url=archive_spec.CIFAR10_PYTHON.url,
    folder="cifar-10-batches-py",
    files={"test": ("test_batch",)},
    keys={"label": "labels"},
)


class Obeyed:
    """A pickle that makes a file when it is obeyed."""

    def __init__(self, canary):
        self._canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self._canary}",)


def saved(save, *args, **options):
    file = io.BytesIO()
    save(file, *args, **options)
    return file.getvalue()


def batches(canary):
    batch = {b"data": ROWS, b"labels": LABELS.tolist(), b"ids": LABELS}
    for protocol in range(6):
        yield pickle.dumps(batch, protocol)
        yield pickle.dumps({**batch, "more": Obeyed(canary)}, protocol)
    yield pickle.dumps({"data": IMAGES, "labels": list(LABELS)})


def archive(mode, spec, content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as tar:
        for name in (f"{spec.folder}/{spec.files['test'][0]}", "../other"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def tar_files(canary):
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        yield archive(mode, SPEC, RECORDS)
        yield archive(mode, PYTHON_SPEC, next(batches(canary)))


def npy_files(canary):
    yield saved(np.save, IMAGES)
    yield saved(np.save, np.asfortranarray(IMAGES))
    yield saved(np.save, ROWS)
    yield saved(np.save, np.array([Obeyed(canary)], object), allow_pickle=True)


def npz_files(canary):
    for save in (np.savez, np.savez_compressed):
        yield saved(save, images=IMAGES, labels=LABELS, ids=LABELS.astype(str))
        yield saved(save, x_test=ROWS, y_test=LABELS[:, None])
        yield saved(save, images=np.array([Obeyed(canary)], object))


def image_files(canary):
    del canary
    picture = Image.fromarray(IMAGES[0])
    for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "PPM"):
        yield saved(picture.save, kind)
    yield saved(picture.convert("P").save, "PNG", transparency=0)
    yield saved(picture.convert("RGBA").save, "PNG")
    exif = Image.Exif()
    exif[0x0112] = 6
    yield saved(picture.save, "JPEG", exif=exif)


# For each parser: what is opened, the file in it that is damaged, and what is in it.
PARSERS = {
    "records": (SPEC.folder, f"{SPEC.folder}/test_batch.bin", lambda _: [RECORDS]),
    "tar": ("archive.tar.gz", "archive.tar.gz", tar_files),
    "pickle": ("batch.pkl", "batch.pkl", batches),
    "npy": ("images.npy", "images.npy", npy_files),
    "npz": ("images.npz", "images.npz", npz_files),
    "image": ("photos", "photos/photo.png", image_files),
}


@pytest.mark.parametrize(
    "count", [300, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize("parser", PARSERS)
def test_damaged_files_are_read_or_refused(parser, count, tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "SPECS", (SPEC, PYTHON_SPEC))
    opened, written, files = PARSERS[parser]
    canary = tmp_path / "canary"
    (tmp_path / written).parent.mkdir(exist_ok=True)
    outcomes = fuzzing.check(
        tmp_path / opened,
        written=tmp_path / written,
        files=list(files(canary)),
        count=count,
        canary=canary,
    )
    assert min(outcomes.values()) > 0.01 * count, outcomes


def read_run(run):
    """Reads all the JSON of a run directory, and makes its network of it."""
    directory = RunDirectory(run)
    dataset, config = directory.dataset(), directory.config()
    directory.result(), directory.rows()
    options = {
        k: tuple(v) if isinstance(v, list) else v for k, v in config["model"].items()
    }
    shape, num_classes = tuple(dataset["image_shape"]), len(dataset["label_names"])
    if len(shape) == 3:
        resnet.create(num_classes=num_classes, image_shape=shape, **options)


def safetensors_file():
    config = config_to_dict(tiny_config(None))
    dataset = {"name": "x", "image_shape": [8, 8, 1], "label_names": ["a", "b"]}
    dataset |= {"mean": [0.5], "std": [0.2]}
    card = json.dumps({"config": config, "dataset": dataset, "epoch": 3})
    return safetensors.numpy.save({"x": LABELS}, metadata={"card": card})


@pytest.mark.parametrize(
    "count", [50, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
@pytest.mark.parametrize(
    "name", ["config.json", "dataset.json", "result.json", "metrics.jsonl"]
)
def test_damaged_files_of_a_run_are_read_or_refused(name, count, tiny_run, tmp_path):
    run = shutil.copytree(
        tiny_run,
        tmp_path / "run",
        ignore=shutil.ignore_patterns("best", "tb", "check*"),
    )
    files = [(run / name).read_bytes()]
    outcomes = fuzzing.check(
        run,
        written=run / name,
        files=files,
        count=count,
        canary=tmp_path / "canary",
        read=read_run,
    )
    assert outcomes["refused"] > 0.3 * count, outcomes


@pytest.mark.parametrize(
    "count", [50, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damaged_safetensors_are_refused(count, tmp_path):
    """Its arrays are not the network's, so that none is read."""
    path = tmp_path / "x.safetensors"
    outcomes = fuzzing.check(
        path,
        written=path,
        files=[safetensors_file()],
        count=count,
        canary=tmp_path / "canary",
        read=pretrained.load_model,
    )
    assert outcomes["refused"] == sum(outcomes.values())


@pytest.mark.parametrize(
    "count", [50, pytest.param(MANY, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_damaged_files_of_pytorch_are_read_or_refused(count, tmp_path):
    torch = pytest.importorskip("torch")
    from cifar_jax.formats import pytorch_import

    canary, path = tmp_path / "canary", tmp_path / "x.pt"
    state = {"a.weight": torch.tensor(ROWS), "a.bias": torch.ones(4)}
    files = []
    for content in (state, {"net": state, "epoch": 3}, {"a": Obeyed(canary)}):
        for zipped in (True, False):
            options = dict(_use_new_zipfile_serialization=zipped)
            files.append(
                saved(
                    lambda file, *a, **o: torch.save(*a, file, **o), content, **options
                )
            )
    outcomes = fuzzing.check(
        path,
        written=path,
        files=files,
        count=count,
        canary=canary,
        read=pytorch_import.read,
    )
    assert min(outcomes.values()) > 0.01 * count, outcomes
