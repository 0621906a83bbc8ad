"""What a path or a name opens, for training, evaluation and prediction alike."""

import dataclasses
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from support.runs import ROOT

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.data import files, sources, transforms
from cifar_jax.data.dataset import from_arrays
from cifar_jax.training import setup

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (9, 4, 4, 3), np.uint8)
LABELS = [0, 1, 2] * 3
ROWS = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)).reshape(9, -1)


def write_pickle(path, **batch):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps({key.encode(): batch[key] for key in batch}))
    return path


def read(name, split, data_dir=None, **options):
    """Opens a data set and reads one of its splits."""
    return sources.open(name, data_dir, **options).read(split)


def refuse(function, *args, match, **options):
    with pytest.raises(UserError, match=match) as refused:
        function(*args, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("data", [ROWS, IMAGES], ids=["rows", "NHWC"])
@pytest.mark.parametrize("labels", [None, "labels", "fine_labels"])
@pytest.mark.parametrize("ids", [None, list(range(5, 14)), np.arange(5, 14)])
@pytest.mark.parametrize("name", ["batch.pkl", "data_batch_1", "x.bin"])
def test_a_pickled_batch(tmp_path, data, labels, ids, name):
    batch = {"data": data}
    batch |= {labels: LABELS} if labels else {}
    batch |= {"ids": ids} if ids is not None else {}
    table = sources.open_split(str(write_pickle(tmp_path / name, **batch)))
    rows = table.read(0, 9)
    np.testing.assert_array_equal(rows.images, IMAGES)
    assert table.image_shape == (4, 4, 3)
    assert table.ids == (None if ids is None else list(range(5, 14)))
    if labels is None:
        assert rows.labels is None and table.label_names is None
    else:
        np.testing.assert_array_equal(rows.labels, LABELS)
        assert table.label_names == ("0", "1", "2")


def test_batches_that_cannot_be_used_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "batch.pkl"
    for batch, match in (
        ({"images": IMAGES}, r"holds the keys \[.images.\]; name its images data"),
        ({}, r"holds the keys \[\]; name its images data"),
        ({"a\nb": 1}, r"batch.pkl holds the keys \['a\\nb'\]; name its images data"),
        ({"data": ROWS, "labels": [1]}, "1 labels for 9 images"),
        ({"data": ROWS, "labels": [2**80] * 9}, "(labels of dtype object|labels run)"),
        ({"data": ROWS, "ids": [None] * 9}, "ids must be strings, or numbers"),
    ):
        refuse(sources.open_split, str(write_pickle(path, **batch)), match=match)
    monkeypatch.setattr(files, "MAX_PICKLE_BYTES", 100)
    refuse(sources.open_split, str(path), match="at most 100 are read: save it as .npy")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("1,2,3")
    match = "x.csv is not a known source of images; give an official archive"
    refuse(sources.open_split, str(tmp_path / "x.csv"), match=match)
    (tmp_path / "empty").touch()
    refuse(sources.open_split, str(tmp_path / "empty"), match="is not a known source")
    for spec in (f"{tmp_path}/none", f"{tmp_path}/none:test", "none.npz", "./none"):
        refuse(sources.open_split, spec, match=f"source {spec} does not exist; give a")


def test_splits_are_files(tmp_path):
    write_pickle(tmp_path / "train.pkl", data=ROWS[:6], labels=LABELS[:6])
    np.savez(tmp_path / "test.npz", x=IMAGES[6:], y=LABELS[6:])
    train, test = (read(str(tmp_path), split) for split in ("train", "test"))
    np.testing.assert_array_equal(train.images, IMAGES[:6])
    np.testing.assert_array_equal(test.images, IMAGES[6:])
    np.testing.assert_array_equal(test.labels, LABELS[6:])
    joined = read(str(tmp_path), "all")
    assert len(joined) == 9
    np.savez(tmp_path / "test.npz", x_test=IMAGES, x_train=IMAGES)
    match = "test.npz has no split 'images'; use train, test"
    refuse(read, str(tmp_path), "test", match=match)


def test_a_part_of_what_has_no_splits(tmp_path):
    path = str(write_pickle(tmp_path / "a:b.pkl", data=ROWS, labels=LABELS))
    found = sources.open(path)
    assert (found.num_classes, found.image_shape) == (3, (4, 4, 3))
    assert str(found.path) == path
    for spec, part in (
        ("images", slice(None)),
        ("images[3:5]", slice(3, 5)),
        ("images[-2:]", slice(7, 9)),
        ("images[:2]+images[8:]", [0, 1, 8]),
    ):
        loaded = read(path, spec)
        np.testing.assert_array_equal(loaded.images, IMAGES[part])
        np.testing.assert_array_equal(loaded.labels, np.array(LABELS)[part])
    match = r"a:b.pkl has no split 'test'; use images, or a part such as images\[:50%"
    refuse(found.check_split, "test", match=match)
    refuse(found.read, "test", match=match)
    for split in ("images[", "images[:3", "images[99:]", "images+train", "images[x:]"):
        refuse(read, path, split, match="has no split .*; use images")
    match = r"b.pkl:images\[4:4\] is empty; choose another split"
    refuse(read, path, "images[4:4]", match=match)


def test_without_labels_nothing_is_trained(tmp_path):
    path = str(write_pickle(tmp_path / "batch", data=ROWS))
    refuse(sources.open, path, match="batch has no labels; image and label are needed")
    table = sources.open_split(path, label_names=("cat", "dog"))
    refuse(table.examples, match="batch has no labels; give a labelled source")


def test_a_part_of_a_table_in_pieces(tmp_path):
    write_pickle(tmp_path / "x", data=ROWS, labels=LABELS, ids=list("abcdefghi"))
    table = sources.open_split(f"{tmp_path}/x:images[5:]+images[:3]")
    order = [5, 6, 7, 8, 0, 1, 2]
    assert table.ids == list("fghiabc") and len(table) == 7
    for size in (1, 2, 3, 7):
        rows = list(table.chunks(size))
        images = np.concatenate([part.images for part in rows])
        np.testing.assert_array_equal(images, IMAGES[order])


def test_data_sets_of_tfds(digits_dir):
    whole = read("digits", "test", digits_dir)
    for spec, part in (
        ("digits", slice(None)),
        ("digits:test", slice(None)),
        ("digits:1.0.0:test[:50%]", slice(180)),
        ("digits:test[10:20]", slice(10, 20)),
    ):
        table = sources.open_split(spec, digits_dir, image_shape=(32, 32, 3))
        assert table.label_names == tuple("0123456789") and table.ids is None
        rows = list(table.chunks(77))
        images = np.concatenate([piece.images for piece in rows])
        labels = np.concatenate([piece.labels for piece in rows])
        np.testing.assert_array_equal(images, whole.images[part])
        np.testing.assert_array_equal(labels, whole.labels[part])
    refuse(sources.open_split, "digits:x", digits_dir, match="no split 'x'; use train")


def test_a_data_set_goes_before_a_folder_of_its_name(digits_dir, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("digits", "photos"):
        pathlib.Path(name).mkdir()
        Image.fromarray(IMAGES[0]).save(f"{name}/x.png")
    assert len(sources.open_split("digits", digits_dir)) == 360
    assert len(sources.open_split("./digits", digits_dir)) == 1
    assert len(sources.open_split("photos", digits_dir)) == 1
    refuse(
        sources.open_split,
        "photographs",
        digits_dir,
        match="photographs is neither a path nor a data set in ",
    )


def test_a_folder_with_a_capital_is_not_a_data_set(digits_dir, tmp_path, monkeypatch):
    (tmp_path / "Digits").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "Digits" / "x.png")
    monkeypatch.chdir(tmp_path)
    assert sources.open_split("Digits", digits_dir).image_shape == (4, 4, 3)


def test_tables_are_utf8_in_any_locale(tmp_path):
    code = (
        "import pathlib, sys; from cifar_jax._files import OutputFolder; "
        "OutputFolder(pathlib.Path(sys.argv[1])).table('x.csv', [chr(0x732b)], [])"
    )
    plain = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    command = [sys.executable, "-c", code, str(tmp_path)]
    subprocess.run(command, check=True, env={**os.environ, **plain}, cwd=ROOT)
    assert (tmp_path / "x.csv").read_text(encoding="utf-8") == chr(0x732B) + "\n"


def test_damage_of_a_data_set_is_found_when_it_is_read(digits_dir, tmp_path):
    folder = shutil.copytree(digits_dir, tmp_path / "tfds")
    path = folder / "digits/1.0.0/digits-test.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[:1000])
    table = sources.open_split("digits", str(folder))
    match = "split 'test' of .* cannot be read .*; check the split, or delete that f"
    refuse(table.read, 0, 10, match=match)


def table_of(label_names, labels):
    images = IMAGES[: len(labels)]
    labels = np.array(labels, np.int32)
    data = from_arrays("x", images, labels)
    return dataclasses.replace(data, label_names=label_names or data.label_names)


@pytest.mark.parametrize(
    ("names", "wanted", "labels"),
    [
        (("cat", "dog"), ("cat", "dog"), [0, 1]),
        (("cat", "dog"), ("dog", "fox", "cat"), [2, 0]),
        (("0", "1"), ("dog", "fox", "cat"), [0, 1]),
        (("cat", "dog"), ("0", "1"), [0, 1]),
        (("1", "7"), tuple("0123456789"), [1, 7]),
        (("cat", "dog"), ("0", "1", "2"), None),
        (("0", "1", "2"), ("cat", "dog"), None),
        (("cat", "cow"), ("cat", "dog"), None),
    ],
)
def test_labels_are_those_of_the_network(names, wanted, labels):
    table = table_of(names, [0, 1])
    if labels is None:
        refuse(
            transforms.relabelled,
            table,
            wanted,
            match="^x has the classes .*, which are",
        )
        return
    table = transforms.relabelled(table, wanted)
    assert table.label_names == wanted
    np.testing.assert_array_equal(table.read(0, 2).labels, labels)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_resized_only_when_that_is_asked_for(channels):
    table = from_arrays("x", IMAGES[..., :channels])
    match = r"x has images of shape \(4, 4, .\), not \(6, 8, .\); use --resize"
    for wanted in ((6, 8, 1), (6, 8, 3)):
        refuse(transforms.resized, table, wanted, match=match)
        rows = transforms.resized(table, wanted, resize=True).read(2, 5)
        assert rows.images.shape == (3, *wanted)
        for image, resized in zip(
            IMAGES[2:5, ..., :channels], rows.images, strict=True
        ):
            picture = Image.fromarray(image[..., 0] if channels == 1 else image)
            picture = picture.convert("L" if wanted[2] == 1 else "RGB")
            expected = picture.resize((8, 6), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(resized, np.reshape(expected, wanted))
    assert transforms.resized(table, (4, 4, channels)) is table


def write_photos(folder, digits_dir):
    """Writes some of the digits as folders of images."""
    for split, count in (("train", 300), ("test", 60)):
        examples = read("digits", split, digits_dir)[:count]
        for k, (image, label) in enumerate(
            zip(examples.images, examples.labels, strict=True)
        ):
            path = folder / split / f"{label}" / f"{k}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)


def test_training_from_folders_of_images(digits_dir, tmp_path):
    write_photos(tmp_path / "photos", digits_dir)
    config = default.get_config()
    config.data.name = str(tmp_path / "photos")
    config.model.widths = (4, 4, 4, 4)
    config.train.batch_size = 16
    made = setup.make(config, None, lambda line: None)
    assert (len(made.train), len(made.val)) == (270, 30)
    assert made.options.num_classes == 10
    test = made.source.read("test")
    digits = read("digits", "test", digits_dir)[:60]
    order = np.argsort(digits.labels, kind="stable")  # classes, then names of files
    np.testing.assert_array_equal(test.labels, digits.labels[order])
    config.data.test_split = "valid"
    refuse(setup.make, config, None, lambda line: None, match="no split 'valid'; use")
    config.data.test_split = "test"
    config.data.image_size = (24, 20)
    made = setup.make(config, None, lambda line: None)
    assert made.source.image_shape == made.train.images.shape[1:] == (24, 20, 3)
    assert made.source.read("test").images.shape == (60, 24, 20, 3)


def test_images_are_resized_for_training(digits_dir, tmp_path):
    path = str(write_pickle(tmp_path / "x", data=ROWS, labels=LABELS))
    for name, split in (("digits", "test[:9]"), (path, "images")):
        size = dict(image_size=(5, 7))
        source = sources.open(name, digits_dir, **size)
        assert source.image_shape == (5, 7, 3)
        source.check_split(split)
        resized = source.read(split).images
        images = read(name, split, digits_dir).images
        for image, small in zip(images, resized, strict=True):
            expected = Image.fromarray(image).resize((7, 5), Image.Resampling.BICUBIC)
            np.testing.assert_array_equal(small, np.asarray(expected))
    for size in ((5,), (0, 5), (5.0, 5.0)):
        match = r"data.image_size is \(.*; use a height and a width such as \(32, 32"
        refuse(sources.open, path, image_size=size, match=match)
