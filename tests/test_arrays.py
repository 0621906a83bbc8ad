"""Images in .npy and .npz: mapped, inflated, damaged, or hostile."""

import io
import os
import pathlib
import re
import sys
import zipfile

import numpy as np
import pytest

from cifar_jax import UserError
from cifar_jax.data import arrays, sources

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (10, 8, 6, 3), np.uint8)
LABELS = RANDOM.integers(0, 4, 10)
SAVES = pytest.mark.parametrize("save", [np.savez, np.savez_compressed])


def refuse(spec, match):
    with pytest.raises(UserError, match=match) as refused:
        table = sources.open_split(str(spec))
        table.read(0, len(table))
    assert "\n" not in str(refused.value)


def check(table, images=IMAGES, labels=LABELS):
    for size in (3, 10, 100):
        rows = list(table.chunks(size))
        read = np.concatenate([part.images for part in rows])
        np.testing.assert_array_equal(read, images)
        assert read.dtype == np.uint8
        if labels is None:
            assert table.label_names is None
            assert all(part.labels is None for part in rows)
        else:
            read = np.concatenate([part.labels for part in rows])
            np.testing.assert_array_equal(read, labels)
            assert read.dtype == np.int32
    assert len(table) == len(images) and table.image_shape == images.shape[1:]


SQUARE = IMAGES[:, :6]


@pytest.mark.parametrize(
    ("stored", "images"),
    [
        (IMAGES, IMAGES),
        (np.asfortranarray(IMAGES), IMAGES),
        (np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2)), IMAGES),
        (SQUARE.transpose(0, 3, 1, 2).reshape(10, -1), SQUARE),
        (IMAGES[..., 0], IMAGES[..., :1]),
        (IMAGES[..., :1], IMAGES[..., :1]),
    ],
    ids=["NHWC", "fortran", "NCHW", "rows", "gray", "one channel"],
)
def test_every_layout_of_the_pixels(tmp_path, stored, images):
    np.save(tmp_path / "x.npy", stored)
    check(sources.open_split(str(tmp_path / "x.npy")), images, None)
    np.savez(tmp_path / "x.npz", images=stored, labels=LABELS)
    check(sources.open_split(str(tmp_path / "x.npz")), images)


@pytest.mark.parametrize("shape", [(10, 3, 8, 3), (10, 8, 6, 4), (10, 13), (10,), ()])
def test_layouts_that_are_none_are_refused(tmp_path, shape):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    refuse(tmp_path / "x.npy", r"x\.npy.* ha(s|ve) the shape \(.*; (give|save)")


@pytest.mark.parametrize("dtype", ["f4", "i8", "?", "S3"])
def test_pixels_that_are_no_bytes_are_refused(tmp_path, dtype):
    np.save(tmp_path / "x.npy", IMAGES.astype(dtype))
    refuse(tmp_path / "x.npy", r"x\.npy: the images are .*; give an array of uint8")


@SAVES
@pytest.mark.parametrize("images", arrays.IMAGE_KEYS)
@pytest.mark.parametrize("labels", arrays.LABEL_KEYS)
def test_names_in_an_npz(tmp_path, save, images, labels):
    path = tmp_path / "x.npz"
    save(path, **{images: IMAGES, labels: LABELS[:, None], "ids": np.arange(10)})
    table = sources.open_split(str(path))
    check(table)
    assert table.ids == list(range(10))
    assert table.label_names == ("0", "1", "2", "3")


@SAVES
@pytest.mark.parametrize("names", ["train_images train_labels", "x_train y_train"])
def test_splits_in_an_npz(tmp_path, save, names):
    path, content = tmp_path / "x.npz", {}
    for split, part in (("train", slice(0, 6)), ("test", slice(6, 10))):
        image_name, label_name = names.replace("train", split).split()
        content |= {image_name: IMAGES[part], label_name: LABELS[part]}
    save(path, **content)
    check(sources.open_split(f"{path}:train"), IMAGES[:6], LABELS[:6])
    check(sources.open_split(str(path)), IMAGES[6:], LABELS[6:])
    check(sources.open_split(f"{path}:test[:50%]+train[1:3]"), *_part([6, 7, 1, 2]))
    refuse(f"{path}:val", "x.npz has no split 'val'; use train, test, or a part such")


def _part(rows):
    return IMAGES[rows], LABELS[rows]


def test_cifar10_1_is_labelled_by_the_file_beside_it(tmp_path):
    np.save(tmp_path / "cifar10.1_v6_data.npy", IMAGES)
    np.save(tmp_path / "cifar10.1_v6_labels.npy", LABELS.astype(np.int32))
    check(sources.open_split(str(tmp_path / "cifar10.1_v6_data.npy")))


def test_cifar10_c(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)
    for name in ("fog", "gaussian_noise"):
        np.save(tmp_path / f"{name}.npy", IMAGES if name == "fog" else ~IMAGES)
    (tmp_path / "._fog.npy").write_bytes(b"of a Mac")
    found = sources.corruptions(str(tmp_path))
    assert list(found) == ["fog", "gaussian_noise"]
    for name, images in (("fog", IMAGES), ("gaussian_noise", ~IMAGES)):
        check(sources.open_split(f"{tmp_path}:{name}"), images)
        for severity, spec in zip(range(1, 6), found[name], strict=True):
            assert spec == f"{tmp_path}:{name}/{severity}"
            part = slice(2 * severity - 2, 2 * severity)
            check(sources.open_split(spec), images[part], LABELS[part])
    check(sources.open_split(f"{tmp_path}:fog[:3]"), IMAGES[:3], LABELS[:3])
    refuse(tmp_path, "has no split 'test'; use fog, fog/1")
    refuse(f"{tmp_path}:snow/1", "has no split 'snow/1'; use fog, fog/1")
    assert sources.corruptions("cifar10") == {}
    np.save(tmp_path / "fog.npy", IMAGES[:9])
    refuse(f"{tmp_path}:fog", r"fog.npy: 10 labels for 9 images")


@pytest.mark.parametrize(
    ("labels", "match"),
    [
        (LABELS[:9], "9 labels for 10 images; give one for each"),
        (LABELS - 4, "labels run from -4 to .*; give class numbers from 0"),
        (LABELS + 70_000, ".*; give class numbers from 0 to below 65,536"),
        (LABELS.astype(float), r"labels of dtype float64 and shape \(10,\) are not un"),
        (np.eye(4, dtype=int)[LABELS], r"labels of dtype int64 and shape \(10, 4\)"),
        (LABELS.astype(str), "labels of dtype <U.* are not understood; give one integ"),
    ],
)
def test_labels_that_are_none_are_refused(tmp_path, labels, match):
    np.savez(tmp_path / "x.npz", images=IMAGES, labels=labels)
    refuse(tmp_path / "x.npz", rf"x\.npz: {match}")


def test_ids_that_are_none_are_refused(tmp_path):
    for ids, match in (
        (np.arange(9), "ids must be strings, or numbers .*, and 10 of them"),
        (IMAGES, "ids must be strings, or numbers"),
    ):
        np.savez(tmp_path / "x.npz", images=IMAGES, ids=ids)
        refuse(tmp_path / "x.npz", rf"x\.npz: {match}")


class Obeyed:
    """A pickle that makes a file when it is obeyed."""

    def __reduce__(self):
        return os.system, ("touch canary",)


def test_objects_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([Obeyed()] * 10, object)
    for save in (np.savez, np.savez_compressed):
        save("x.npz", images=objects, labels=LABELS)
        refuse(
            "x.npz", "images.npy is damaged or not an array of numbers .*dtype object"
        )
        save("x.npz", images=IMAGES, labels=objects)
        refuse(
            "x.npz", "labels.npy is damaged or not an array of numbers .*dtype object"
        )
    np.save("x.npy", objects, allow_pickle=True)
    refuse("x.npy", "x.npy is damaged or not an array of numbers .*dtype object")
    np.save("y_data.npy", IMAGES)
    np.save("y_labels.npy", objects, allow_pickle=True)
    refuse("y_data.npy", "y_labels.npy is damaged or not an array of numbers")
    assert not (tmp_path / "canary").exists()


def header(text, version=b"\x01\x00"):
    text = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    "text",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000000, 3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-4, -3)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (3,)}",
        "{'descr': '|u1', 'fortran_order': 7, 'shape': (12,)}",
        "{'descr': '|u1', 'fortran_order': False, 'shape': 12}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (12,)}",
        "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (12,)}",
        "{'descr': '|V1', 'fortran_order': False, 'shape': (12,)}",
        "{'descr': ('|u1', (3,)), 'fortran_order': False, 'shape': (4,)}",
        "{'descr': '|u1', 'fortran_order': False}",
        "__import__('os').system('touch canary')",
        "[" * 5000,
        "(" * 90,
        "",
    ],
)
@pytest.mark.parametrize("kind", ["npy", "stored", "deflated"])
def test_headers_that_lie_are_refused(tmp_path, monkeypatch, text, kind):
    monkeypatch.chdir(tmp_path)
    content = header(text) + bytes(12)
    if kind == "npy":
        (tmp_path / "x").write_bytes(content)
    else:
        how = zipfile.ZIP_STORED if kind == "stored" else zipfile.ZIP_DEFLATED
        with zipfile.ZipFile("x", "w", how) as archive:
            archive.writestr("images.npy", content)
    refuse(tmp_path / "x", "is damaged or not an array of numbers .*; save it again")
    assert not (tmp_path / "canary").exists()


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path, monkeypatch):
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=np.zeros((400, 50, 50, 3), np.uint8))
    monkeypatch.setattr(arrays, "MAX_INFLATED", 2_000_000)
    refuse(path, "bytes are said to inflate to 3,000,128; at most 2,000,000")
    monkeypatch.undo()
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")  # the directory claims 4 GB
    content[start + 24 : start + 28] = (0xFFFF_0000).to_bytes(4, "little")
    path.write_bytes(content)
    refuse(path, "are said to inflate to 4,294,901,760; at most")


def test_an_npz_of_other_things_is_refused(tmp_path):
    np.savez(tmp_path / "x.npz", weights=IMAGES)
    refuse(
        tmp_path / "x.npz", r"x.npz holds the arrays \['weights'\]; name them images"
    )
    with zipfile.ZipFile(tmp_path / "y.npz", "w"):
        pass
    refuse(tmp_path / "y.npz", r"y.npz holds the arrays \[\]; name them")


@SAVES
def test_no_flipped_bit_changes_what_an_npz_holds(tmp_path, save):
    images, labels = np.tile(IMAGES, (50, 1, 1, 1)), np.tile(LABELS, 50)
    file = io.BytesIO()
    save(file, images=images, labels=labels)
    content, path = file.getvalue(), tmp_path / "x.npz"
    for place in RANDOM.integers(0, len(content), 150):
        damaged = bytearray(content)
        damaged[place] ^= 1 << RANDOM.integers(8)
        path.write_bytes(damaged)
        try:
            table = sources.open_split(str(path))
            if table.label_names is not None:  # no name says which array has them
                np.testing.assert_array_equal(table.read(0, 500).images, images)
                np.testing.assert_array_equal(table.read(0, 500).labels, labels)
        except UserError as error:
            assert "\n" not in str(error)


@pytest.mark.parametrize("share", [0, 0.01, 0.5, 0.999])
@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_truncated_files_are_refused(tmp_path, name, share):
    path = tmp_path / name
    np.save(path, IMAGES) if name == "x.npy" else np.savez(path, images=IMAGES)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    refuse(path, "is damaged or not an array|is not a known source of images")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_mapped_file_does_not_fill_the_memory(tmp_path):
    shape = (30_000, 32, 32, 3)  # 92 MB; a hole, so it takes no room on disk
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, shape)

    def memory():
        """Returns the bytes that the system cannot take back by dropping its cache."""
        status = pathlib.Path("/proc/self/status").read_text()
        return int(re.search(r"RssAnon:\s+(\d+) kB", status)[1]) * 1024

    before = memory()
    dataset = sources.open_split(str(tmp_path / "x.npy"))
    for batch in dataset.chunks(500):
        assert batch.images.shape == (500, 32, 32, 3)
    assert memory() - before < 30e6
