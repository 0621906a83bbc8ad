"""Data sets of TFDS: prepared here, read by split strings, damaged, or not there."""

import io
import json
import pathlib
import shutil
import sys

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds
from PIL import Image
from sklearn import datasets
from support import runs, small_cifar

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.data import archive_spec, builders, sources, tfds_store
from cifar_jax.training.workdir import RunDirectory


def quiet(line):
    del line


@pytest.fixture
def damaged(digits_dir, tmp_path):
    """A copy of the prepared digits: the folder of its files."""
    shutil.copytree(digits_dir, tmp_path / "tfds")
    return tmp_path / "tfds" / "digits" / "1.0.0"


@pytest.fixture
def small(monkeypatch):
    """Makes the CIFAR-10 of this package one of 120 images."""
    monkeypatch.setattr(builders.BUILDERS["cifar10"], "specs", (small_cifar.SPEC,))


def read(name, split, data_dir=None, **options):
    """Opens a data set and reads one of its splits."""
    return sources.open(name, data_dir, **options).read(split)


def check_refused(function, *args, match, **options):
    with pytest.raises(UserError, match=match) as refused:
        function(*args, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_digits_are_those_of_scikit_learn(digits_dir):
    digits = datasets.load_digits()
    expected = []
    for image, label in zip(digits.images, digits.target, strict=True):
        gray = Image.fromarray(np.rint(image * 255 / 16).astype(np.uint8), "L")
        gray = np.asarray(gray.resize((32, 32), Image.Resampling.BICUBIC))
        expected.append((np.stack([gray] * 3, axis=-1).tobytes(), label))
    train, test = (read("digits", split, digits_dir) for split in ("train", "test"))
    assert (len(train), len(test)) == (1437, 360)
    assert train.images.shape[1:] == (32, 32, 3)
    assert (train.images.dtype, train.labels.dtype) == (np.uint8, np.int32)
    loaded = [
        (image.tobytes(), label)
        for part in (train, test)
        for image, label in zip(part.images, part.labels, strict=True)
    ]
    assert sorted(loaded) == sorted(expected)
    share = np.bincount(test.labels) / np.bincount(digits.target)
    np.testing.assert_allclose(share, 0.2, atol=0.01)


def test_tfds_reads_what_was_prepared_here(tmp_path, small):
    folder = small_cifar.write_folder(tmp_path / "copy")
    lines = []
    path = sources.open(
        "cifar10", str(tmp_path), local=str(folder), report=lines.append
    ).prepare()
    assert path == tmp_path / "cifar10" / "3.0.2"
    assert lines == [f"Preparing cifar10 in {tmp_path}"]
    for split in ("train", "test"):
        images, labels = small_cifar.examples(split)
        ours = read("cifar10", split, str(tmp_path), report=lines.append)
        np.testing.assert_array_equal(ours.images, images)
        np.testing.assert_array_equal(ours.labels, labels)
        theirs = tfds.data_source("cifar10", split=split, data_dir=tmp_path)
        assert len(theirs) == len(labels)
        for k in (0, 1, len(labels) - 1):
            assert theirs[k]["id"] == f"{split}_{k:05d}".encode()
            np.testing.assert_array_equal(theirs[k]["image"], images[k])
            assert theirs[k]["label"] == labels[k]
    names = tfds.builder("cifar10", data_dir=tmp_path).info.features["label"].names
    assert tuple(names) == archive_spec.CIFAR10.labels["label"]
    assert len(lines) == 1, "what is on disk was prepared again"


def test_cifar100(tmp_path, monkeypatch):
    spec = small_cifar.SPEC_100
    monkeypatch.setattr(builders.BUILDERS["cifar100"], "specs", (spec,))
    folder = small_cifar.write_folder(tmp_path / "copy", spec)
    data_dir = str(tmp_path)
    path = sources.open("cifar100", data_dir, local=str(folder), report=quiet).prepare()
    assert path == tmp_path / "cifar100" / "3.0.2"  # the version of TFDS's builder
    theirs = tfds.builder("cifar100", data_dir=data_dir)
    assert theirs.info.features["coarse_label"].num_classes == 20
    source = tfds.data_source("cifar100", split="test", data_dir=data_dir)
    images, labels = small_cifar.labelled("test", spec)
    ours = read("cifar100", "test", data_dir)
    np.testing.assert_array_equal(ours.images, images)
    np.testing.assert_array_equal(ours.labels, labels["label"])
    for k in (0, 1, 99):
        assert source[k]["label"] == labels["label"][k]
        assert source[k]["coarse_label"] == labels["coarse_label"][k]
    assert sources.open("cifar100", data_dir).label_names == spec.labels["label"]
    assert sources.open("cifar100", str(tmp_path / "none")).num_classes == 100


def test_a_data_set_is_known_before_it_is_prepared(digits_dir, tmp_path):
    before = sources.open("digits", str(tmp_path))
    assert before.path is None and not list(tmp_path.iterdir())
    after = sources.open("digits", digits_dir)
    assert before.image_shape == after.image_shape == (32, 32, 3)
    assert before.label_names == after.label_names == tuple("0123456789")
    assert before.num_classes == 10


def test_the_folder_is_that_of_the_environment(digits_dir, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", digits_dir)
    source = sources.open("digits")
    assert str(source.path) == f"{digits_dir}/digits/1.0.0"
    assert len(source.read("test")) == 360


@pytest.mark.parametrize(
    ("split", "part"),
    [
        ("train[:80%]", slice(0, 1150)),
        ("train[80%:]", slice(1150, None)),
        ("train[10:20]", slice(10, 20)),
        ("train[-5:]", slice(-5, None)),
        ("train[:5]+train[7:9]", [0, 1, 2, 3, 4, 7, 8]),
    ],
)
def test_split_strings(digits_dir, split, part):
    whole = read("digits", "train", digits_dir)
    loaded = read("digits", split, digits_dir)
    np.testing.assert_array_equal(loaded.images, whole.images[part])
    np.testing.assert_array_equal(loaded.labels, whole.labels[part])
    np.testing.assert_array_equal(loaded.labels, whole[part].labels)


@pytest.mark.parametrize(
    ("split", "match"),
    [
        ("valid", "digits has no split 'valid'; use train, test, or a part such"),
        ("train[:110%]", r"has no split 'train\[:110%\]'; use train, test"),
        ("train[", "has no split .*; use train, test"),
        ("train[3:3]", r"digits:train\[3:3\] is empty; choose another"),
    ],
)
def test_splits_that_do_not_exist_are_refused(digits_dir, split, match):
    check_refused(read, "digits", split, digits_dir, match=match)


def test_unknown_data_sets_are_refused(tmp_path):
    match = "cifar11 is neither a path nor .* use cifar10, cifar100, digits, a path, or"
    check_refused(sources.open, "cifar11", str(tmp_path), match=match)
    check_refused(sources.open, "a b", str(tmp_path), match="a b does not exist; give")


def test_one_class_is_not_enough_to_train(tmp_path):
    np.savez(
        tmp_path / "x.npz", images=np.zeros((4, 8, 8, 3), np.uint8), labels=[0] * 4
    )
    match = r"x.npz has fewer than two classes \(0\); give two"
    check_refused(sources.open, str(tmp_path / "x.npz"), match=match)
    assert len(sources.open_split(str(tmp_path / "x.npz"))) == 4


class Unlabelled(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set of numbers."""

    name = "unlabelled"
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features.FeaturesDict({"number": np.int64})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": [(0, {"number": 1})]}

    def _generate_examples(self):
        raise NotImplementedError


class Partly(Unlabelled, skip_registration=True):
    """A data set whose second image has no label, with some channels."""

    name, channels = "partly", 3

    def _info(self):
        image = tfds.features.Image(shape=(4, 4, self.channels))
        label = tfds.features.ClassLabel(names=["cat", "dog"])
        features = tfds.features.FeaturesDict({"image": image, "label": label})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        image = Image.fromarray(np.zeros((4, 4, self.channels), np.uint8))
        image.save(content := io.BytesIO(), format="png")
        rows = [{"image": content.getvalue(), "label": label} for label in (0, -1)]
        return {"train": enumerate(rows)}


class Transparent(Partly, skip_registration=True):
    """The same, with four channels."""

    name, channels = "transparent", 4


def test_images_marked_as_unlabelled_have_no_class(tmp_path):
    for builder in (Partly, Transparent):
        with tfds_store.quiet_tfds():
            made = builder(data_dir=str(tmp_path), file_format="array_record")
            made.download_and_prepare()
    source = sources.open("partly", str(tmp_path))
    match = "partly:train has images without labels; use another split"
    check_refused(source.read, "train", match=match)
    options = dict(label_names=("owl", "dog", "cat"))
    data = sources.open_split("partly:train", str(tmp_path), **options)
    assert data.read(0, 2).labels.tolist() == [2, -1]
    match = r"shape \(4, 4, 4\) .* with 1 or 3 channels"
    check_refused(sources.open, "transparent", str(tmp_path), match=match)


def test_a_bucket_is_not_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    match = "data.dir is gs://mine/tfds, in a bucket; use a folder on a disk"
    check_refused(sources.open, "digits", "gs://mine/tfds", match=match)
    for path in ("gs://mine/run", pathlib.Path("gs://mine/run")):
        match = "--workdir is gs://?mine/run, in a bucket; use a folder on a disk"
        check_refused(RunDirectory, path, match=match)
    assert not list(tmp_path.iterdir())


def test_data_without_labels_is_refused(tmp_path):
    builder = Unlabelled(data_dir=str(tmp_path), file_format="array_record")
    with tfds_store.quiet_tfds():
        builder.download_and_prepare()
    match = r"has the features \['number'\]; image and label are needed"
    check_refused(sources.open, "unlabelled", str(tmp_path), match=match)


class Deep(Unlabelled, skip_registration=True):
    """Images of 16 bits, which would be cut to 8."""

    name = "deep"

    def _info(self):
        image = tfds.features.Tensor(shape=(4, 4, 1), dtype=np.uint16)
        features = tfds.features.FeaturesDict({"image": image})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        return {"train": [(0, {"image": np.full((4, 4, 1), 300, np.uint16)})]}


def test_images_of_other_types_are_refused(tmp_path):
    builder = Deep(data_dir=str(tmp_path), file_format="array_record")
    with tfds_store.quiet_tfds():
        builder.download_and_prepare()
    match = "has uint16 images of .*; uint8 images of one size"
    check_refused(sources.open, "deep", str(tmp_path), match=match)


def test_a_home_that_does_not_exist_is_one_line(tmp_path):
    missing = "~nosuchuser/photos"
    check_refused(sources.open_split, missing, match="photos does not exist")
    source = sources.open("cifar10", str(tmp_path), local=missing, report=quiet)
    check_refused(source.prepare, match="photos does not exist")


def test_without_a_network_there_are_three_ways_out(tmp_path, monkeypatch):
    def get(*args, **kwargs):
        raise requests.ConnectionError("Name or service not known")

    monkeypatch.setattr(requests, "get", get)
    message = check_refused(
        read,
        "cifar10",
        "train",
        str(tmp_path),
        report=quiet,
        match="Three ways",
    )
    assert f"data set cifar10 is not in {tmp_path}, and cifar-10-binary" in message
    assert "cannot be downloaded (www.cs.toronto.edu: ConnectionError; " in message
    for way in (
        "(1) connect and run the command again",
        "run `python -m cifar_jax.prepare --dataset cifar10 --source PATH`",
        "(3) copy the folder cifar10/ of a machine that has it",
    ):
        assert way in message
    assert not list(tmp_path.rglob("*.part"))


def test_a_damaged_archive_leaves_no_data_set(tmp_path, small):
    folder = small_cifar.write_folder(tmp_path / "copy")
    target, data_dir = folder / "test_batch.bin", str(tmp_path / "tfds")
    content = target.read_bytes()
    target.write_bytes(b"\xff" + content[1:])
    options = dict(local=str(folder), report=quiet)
    source = sources.open("cifar10", data_dir, **options)
    check_refused(source.prepare, match="does not hold every label from 0 to 9")
    with pytest.raises(UserError):
        read("cifar10", "test", data_dir, local=str(tmp_path / "x"), report=quiet)
    target.write_bytes(content)
    assert len(read("cifar10", "test", data_dir, **options)) == 20


@pytest.mark.parametrize("name", ["cifar10", "digits"])
def test_a_folder_that_cannot_be_made_is_named(tmp_path, monkeypatch, name):
    monkeypatch.setattr(requests, "get", None)  # the folder is made before
    (tmp_path / "file").touch()
    folder = str(tmp_path / "file" / "tfds")
    match = f"{name} cannot be prepared in {folder}"
    source = sources.open(name, folder, report=quiet)
    check_refused(source.prepare, match=match)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "delete"])
def test_damaged_images_are_refused(damaged, damage):
    path = damaged / "digits-train.array_record-00000-of-00001"
    content = bytearray(path.read_bytes())
    if damage == "delete":
        path.unlink()
    else:
        content[len(content) // 3] ^= 4
        end = {"flip": None, "truncate": len(content) // 2, "empty": 0}[damage]
        path.write_bytes(content[:end])
    match = "split 'train' of .*digits/1.0.0 cannot be read .* delete that folder and p"
    check_refused(read, "digits", "train", str(damaged.parents[1]), match=match)


@pytest.mark.parametrize("damage", ["truncate", "empty", "delete"])
@pytest.mark.parametrize("name", ["dataset_info.json", "features.json"])
def test_damaged_metadata_is_refused(damaged, name, damage):
    path = damaged / name
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: 300 if damage == "truncate" else 0])
    folder = str(damaged.parents[1])
    match = "delete (.*digits|that folder) and prepare"
    options = dict(report=quiet, match=match)
    check_refused(read, "digits", "train", folder, **options)


def test_a_format_that_only_tensorflow_reads_is_named(damaged, monkeypatch):
    path = damaged / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    match = r"has the format tfrecord, .* pip install 'cifar-jax\[tf\]', or prepare"
    check_refused(read, "digits", "train", str(damaged.parents[1]), match=match)


def test_a_format_without_random_access_is_read_in_order(damaged, monkeypatch):
    path = damaged / "dataset_info.json"
    info = json.loads(path.read_text())
    path.write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    opened = []

    def as_dataset(builder, split):
        opened.append(split)
        image = np.zeros((32, 32, 3), np.uint8)
        return [{"image": image + k, "label": k % 10} for k in range(50)]

    read_only_builder = tfds.core.read_only_builder.ReadOnlyBuilder
    monkeypatch.setattr(read_only_builder, "as_dataset", as_dataset)
    monkeypatch.setattr(tfds, "as_numpy", iter)
    dataset = sources.open_split("digits:test[:50]", str(damaged.parents[1]))

    def numbers(batch):
        return batch.images[:, 0, 0, 0].tolist()

    assert [numbers(batch) for batch in dataset.chunks(20)] == [
        list(range(20)),
        list(range(20, 40)),
        list(range(40, 50)),
    ]
    assert opened == ["test"], "the file was read again for each batch"
    assert numbers(dataset.read(5, 9)) == [5, 6, 7, 8]
    assert numbers(dataset.read(9, 11)) == [9, 10]
    assert opened == ["test", "test"]


def test_nothing_of_tfds_reaches_the_terminal(tmp_path, capfd):
    read("digits", "test", str(tmp_path), report=quiet)
    assert capfd.readouterr() == ("", "")


def test_what_cannot_be_read_later_is_refused_early(damaged, tmp_path):
    source = sources.open("digits", str(damaged.parents[1]))
    source.check_split("test[:50%]")
    for split, match in (
        (
            "tset",
            "digits has no split 'tset'; use train, test, or a part such as test",
        ),
        ("train[3:3]", r"digits:train\[3:3\] is empty; choose another split"),
    ):
        check_refused(source.check_split, split, match=match)
    (damaged / "digits-test.array_record-00000-of-00001").write_bytes(b"")
    check_refused(source.check_split, "test", match="split 'test' of .* cannot be read")
    (tmp_path / "files").mkdir()
    images = np.zeros((9, 4, 4, 3), np.uint8)
    np.savez(tmp_path / "files" / "train.npz", x=images, y=range(9))
    np.savez(tmp_path / "files" / "test.npz", x=images)
    source = sources.open(str(tmp_path / "files"))
    check_refused(source.check_split, "test", match="test.npz has no labels; give a")


def test_a_run_opens_its_data_set_once(digits_dir, tmp_path, monkeypatch):
    builders, opened = [], []
    read_only_builder = tfds.core.read_only_builder
    find_builder = read_only_builder.builder_from_files
    open_data = read_only_builder.ReadOnlyBuilder.as_data_source

    def count_builder(name, **kwargs):
        builders.append(name)
        return find_builder(name, **kwargs)

    def count_data(builder, split):
        opened.append(split)
        return open_data(builder, split)

    monkeypatch.setattr(read_only_builder, "builder_from_files", count_builder)
    monkeypatch.setattr(read_only_builder.ReadOnlyBuilder, "as_data_source", count_data)
    folder = tmp_path / "tfds"  # without decoded images
    shutil.copytree(digits_dir, folder, ignore=shutil.ignore_patterns("pixels-*"))
    config = default.get_config()
    config.data.update(name="digits", dir=str(folder), validation=20)
    config.data.update(train_split="train[:80]", test_split="test[:10]")
    config.model.update(widths=(4,), stage_sizes=(1,), strides=(1,))
    config.train.update(batch_size=20, epochs=1)
    config.augment = ()
    runs.train(config, tmp_path / "run")
    assert builders == ["digits"]
    assert opened == ["train", "test"]
