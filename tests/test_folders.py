"""Folders of images: what they hold, what is wrong with some, and odd files."""

import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from cifar_jax import UserError
from cifar_jax.data import folders, sources

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.integers(0, 256, (6, 8, 10, 3), np.uint8)
SHAPE = (8, 10, 3)


def write(folder, names, images=IMAGES):
    for name, image in zip(names, images, strict=True):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


FLAT = [f"{k}.png" for k in range(6)]
CLASSES = ["cat/0.png", "cat/1.png", "dog/2.png", "dog/3.png", "owl/4.png", "owl/5.png"]


def read(spec, **options):
    table = sources.open_split(str(spec), **options)
    return table, table.read(0, len(table))


def refuse(spec, match, **options):
    with pytest.raises(UserError, match=match) as refused:
        read(spec, **options)
    assert "\n" not in str(refused.value)


def test_a_flat_folder_has_no_labels(tmp_path):
    table, rows = read(write(tmp_path, FLAT))
    np.testing.assert_array_equal(rows.images, IMAGES)
    assert rows.labels is None and table.label_names is None and not rows.errors
    assert table.ids == FLAT and table.image_shape == SHAPE
    chunks = [part.images for part in table.chunks(4)]
    assert [len(part) for part in chunks] == [4, 2]
    np.testing.assert_array_equal(np.concatenate(chunks), IMAGES)
    with pytest.raises(UserError, match="has no labels; give a labelled source"):
        table.examples()


def test_sub_folders_are_classes(tmp_path):
    table, rows = read(write(tmp_path, CLASSES))
    np.testing.assert_array_equal(rows.images, IMAGES)
    np.testing.assert_array_equal(rows.labels, [0, 0, 1, 1, 2, 2])
    assert table.label_names == ("cat", "dog", "owl") and table.ids == CLASSES
    np.testing.assert_array_equal(table.examples().labels, rows.labels)


def test_classes_are_those_of_the_network(tmp_path):
    names = ("owl", "bee", "cat", "dog")
    table, rows = read(write(tmp_path, CLASSES), label_names=names)
    np.testing.assert_array_equal(rows.labels, [2, 2, 3, 3, 0, 0])
    assert table.label_names == names
    match = r"has the classes dog, owl, which are not among ant, cat; rename them"
    refuse(tmp_path, match, label_names=("ant", "cat"))


def test_numbers_are_sorted_as_numbers(tmp_path):
    names = [f"{k}/x.png" for k in (0, 1, 2, 9, 10, 11)]
    table, rows = read(write(tmp_path, names))
    assert table.label_names == ("0", "1", "2", "9", "10", "11")
    _, rows = read(tmp_path, label_names=tuple(map(str, range(12))))
    np.testing.assert_array_equal(rows.labels, [0, 1, 2, 9, 10, 11])


def test_splits_are_folders(tmp_path):
    write(tmp_path / "train", CLASSES)
    write(tmp_path / "test", ["dog/a.png", "owl/b.png"], IMAGES[:2])
    source = sources.open(str(tmp_path))
    assert (source.image_shape, source.label_names) == (SHAPE, ("cat", "dog", "owl"))
    np.testing.assert_array_equal(source.read("train").images, IMAGES)
    test = source.read("test")
    np.testing.assert_array_equal(test.labels, [1, 2])  # as in training
    np.testing.assert_array_equal(source.read("train[50%:]").images, IMAGES[3:])
    source.check_split("test[:1]")
    with pytest.raises(UserError, match="no split 'val'; use .*test, train, or a part"):
        source.check_split("val")
    write(tmp_path / "test", ["fox/a.png"], IMAGES[:1])
    with pytest.raises(UserError, match="has the classes fox, which are not among"):
        sources.open(str(tmp_path)).read("test")


def test_what_a_mac_adds_to_a_zip_is_not_a_split(tmp_path):
    for name in ("train/cat", "train/dog", "test/cat", "test/dog", "__MACOSX/train"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        Image.new("RGB", (4, 4)).save(tmp_path / name / "x.png")
    source = sources.open(str(tmp_path))
    assert source.label_names == ("cat", "dog") and len(source.read("test")) == 2


def test_a_class_may_be_called_train(tmp_path):
    table, _ = read(
        write(tmp_path, [f"{c}/x.png" for c in ("bus", "train")], IMAGES[:2])
    )
    assert table.label_names == ("bus", "train")


def test_one_image_is_a_source(tmp_path):
    write(tmp_path, ["a.webp.png"], IMAGES[:1])
    table, rows = read(tmp_path / "a.webp.png")
    assert table.ids == ["a.webp.png"]
    np.testing.assert_array_equal(rows.images, IMAGES[:1])


def convert(mode):
    return np.asarray(Image.fromarray(IMAGES[0]).convert(mode).convert("RGB"))


def test_transparent_is_white(tmp_path):
    alpha = np.random.default_rng(1).integers(0, 256, SHAPE[:2], np.uint8)
    picture = Image.fromarray(np.dstack([IMAGES[0], alpha]))
    picture.save(tmp_path / "x.png")
    _, rows = read(tmp_path)
    share = alpha[..., None] / 255
    wanted = share * IMAGES[0] + (1 - share) * 255
    np.testing.assert_allclose(rows.images[0], wanted, atol=1)
    found = np.asarray(folders.upright(picture).convert("RGB"))  # for the Python door
    np.testing.assert_array_equal(found, rows.images[0])


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA", "CMYK", "YCbCr"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    kind = "tiff" if mode in ("CMYK", "YCbCr") else "png"
    Image.fromarray(IMAGES[0]).convert(mode).save(tmp_path / f"x.{kind}")
    _, rows = read(tmp_path)
    assert rows.images.shape == (1, *SHAPE)
    np.testing.assert_array_equal(rows.images[0], convert(mode))


def test_a_palette_with_transparency_becomes_rgb(tmp_path):
    picture = Image.fromarray(IMAGES[0]).convert("P")
    picture.save(tmp_path / "x.png", transparency=bytes(range(256)))
    _, rows = read(tmp_path)
    share = np.asarray(picture)[..., None] / 255  # its index is its opacity
    wanted = share * np.asarray(picture.convert("RGB")) + (1 - share) * 255
    np.testing.assert_allclose(rows.images[0], wanted, atol=1)


@pytest.mark.parametrize("suffix", sorted(folders.SUFFIXES - {".pgm", ".pbm"}))
def test_every_kind_of_file(tmp_path, suffix):
    (tmp_path / "X").mkdir()
    path = tmp_path / "X" / f"a{suffix.upper()}"
    Image.fromarray(np.full(SHAPE, 90, np.uint8)).save(path)
    _, rows = read(path.parent)
    assert not rows.errors and abs(rows.images.astype(int) - 90).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_upright(tmp_path, orientation):
    turn = {
        1: lambda x: x,
        2: lambda x: x[:, ::-1],
        3: lambda x: x[::-1, ::-1],
        4: lambda x: x[::-1],
        5: lambda x: x.transpose(1, 0, 2),
        6: lambda x: x[::-1].transpose(1, 0, 2),
        7: lambda x: x[::-1, ::-1].transpose(1, 0, 2),
        8: lambda x: x[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(IMAGES[0]).save(tmp_path / "x.png", exif=exif)
    _, rows = read(tmp_path)
    np.testing.assert_array_equal(rows.images[0], turn(IMAGES[0]))


def png(width, height, bits=8):
    """A PNG file that claims a size and has no pixels."""

    def chunk(kind, content):
        length, crc = struct.pack(">I", len(content)), zlib.crc32(kind + content)
        return length + kind + content + struct.pack(">I", crc)

    size = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IEND", b"")


def bad_files(folder):
    good = (folder / "0.png").read_bytes()
    (folder / "empty.png").write_bytes(b"")
    (folder / "truncated.png").write_bytes(good[: len(good) // 2])
    (folder / "flipped.png").write_bytes(good[:100] + b"\x55" + good[101:])
    (folder / "text.jpg").write_bytes(b"not an image")
    (folder / "script.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8"
    )
    (folder / "bomb.png").write_bytes(png(100_000, 100_000))
    (folder / "large.png").write_bytes(png(10_000, 6_000))
    Image.fromarray(IMAGES[0, :5]).save(folder / "small.png")
    Image.fromarray(IMAGES[0, ..., 0].astype(np.uint16)).save(folder / "deep.png")
    Image.fromarray(IMAGES[0]).save(folder / "rare.png", "SGI")
    os.mkfifo(folder / "pipe.png")
    (folder / "broken.png").symlink_to(folder / "nowhere")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    (folder / "null.png").symlink_to("/dev/zero")


ERRORS = {
    "empty.png": r"cannot be read \(cannot identify image file\); replace or remove it",
    "truncated.png": "cannot be read",
    "flipped.png": "cannot be read",
    "text.jpg": "cannot be read",
    "script.png": "cannot be read",
    "rare.png": "cannot be read",  # fewer decoders, fewer holes
    "bomb.png": "cannot be read .*exceeds limit",
    "large.png": "has 10000x6000 pixels; at most 50,000,000 are read",
    "small.png": r"has 5x10 pixels \(height x width\) instead of 8x10; use --resize",
    "deep.png": r"has more than 8 bits a pixel \(I;16\); save it with 8",
    "pipe.png": "is not a regular file; give an image",
    "null.png": "is not a regular file; give an image",
    "broken.png": "cannot be read",
    "loop.png": "cannot be read",
}


def test_a_bad_image_is_an_error_and_the_others_are_read(tmp_path):
    bad_files(write(tmp_path, FLAT))
    table, rows = read(tmp_path, image_shape=SHAPE)
    errors = {table.ids[k]: message for k, message in rows.errors.items()}
    assert errors.keys() == ERRORS.keys()
    for name, match in ERRORS.items():
        pytest.raises(UserError, _raise, errors[name]).match(f"{name} {match}")
        assert "\n" not in errors[name]
        assert errors[name].startswith(str(tmp_path / name))
    good = [k for k in range(len(table)) if k not in rows.errors]
    np.testing.assert_array_equal(rows.images[good], IMAGES)
    assert not rows.images[list(rows.errors)].any()
    for start in range(0, len(table), 5):  # the place is that in the piece
        part = table.read(start, start + 5)
        expected = {k - start for k in rows.errors if start <= k < start + 5}
        assert part.errors.keys() == expected


def test_errors_keep_their_places_in_joined_parts(tmp_path):
    write(tmp_path, FLAT)
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "4.png").write_bytes(b"")
    table, rows = read(f"{tmp_path}:images[3:]+images[:3]")
    assert [table.ids[k] for k in sorted(rows.errors)] == ["4.png", "1.png"]
    assert sorted(rows.errors) == [1, 4]
    for k, message in rows.errors.items():
        assert table.ids[k] in message


def _raise(message):
    raise UserError(message)


def test_for_training_a_bad_image_is_an_error_of_all(tmp_path):
    write(tmp_path, CLASSES)
    (tmp_path / "dog" / "2.png").write_bytes(b"")
    (tmp_path / "owl" / "4.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"dog/2.png cannot be read .*\(and 1 more\)"):
        sources.open(str(tmp_path)).read("images")


def test_images_are_resized_only_when_that_is_asked_for(tmp_path):
    write(tmp_path, FLAT[:1], IMAGES[:1])
    wanted = (4, 5, 3)
    _, rows = read(tmp_path, image_shape=wanted)
    assert "has 8x10 pixels (height x width) instead of 4x5" in rows.errors[0]
    _, rows = read(tmp_path, image_shape=wanted, resize=True)
    expected = Image.fromarray(IMAGES[0]).resize((5, 4), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(rows.images[0], np.asarray(expected))
    refuse(tmp_path, "read as RGB, but 1 channels are wanted", image_shape=(8, 10, 1))


def test_what_is_no_image_is_passed_over(tmp_path):
    write(tmp_path, CLASSES)
    for name in ("cat/labels.csv", "cat/.hidden.png", ".git/x.png", "__MACOSX/x.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    table, rows = read(tmp_path)
    assert table.ids == CLASSES and not rows.errors


def test_odd_names(tmp_path):
    odd = os.fsdecode(b"caf\xe9 \xff.png")  # no Unicode
    names = ["a b,c\"'.png", "caf\u00e9 \U0001f600.png", odd, "a\nb.png"]
    write(tmp_path, names, IMAGES[:4])
    table, rows = read(tmp_path)
    assert not rows.errors and len(table) == 4
    escaped = ["caf\\udce9 \\udcff.png", "a\\nb.png"]
    assert sorted(table.ids) == sorted([*names[:2], *escaped])
    "".join(table.ids).encode()


def test_other_trees_are_refused(tmp_path):
    refuse(tmp_path, "holds no images; give a folder of .bmp")
    (tmp_path / "cat").mkdir()
    refuse(tmp_path, "holds no images; give a folder of .bmp")
    write(tmp_path, ["x.png"], IMAGES[:1])
    refuse(tmp_path, r"holds images \(x.png\) beside folders \(cat\); put all")
    (tmp_path / "x.png").rename(tmp_path / "cat" / "x.png")
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    refuse(tmp_path, r"cat holds the folder again; put the images of a class right")
    (tmp_path / "cat" / "again").unlink()
    (tmp_path / "cat" / "x.png").write_bytes(b"")
    refuse(tmp_path, "none of the 1 images in .* can be read")


def test_special_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    refuse(tmp_path / "pipe", "pipe is not a regular file; give a file or a folder")
    refuse("/dev/zero", "is not a regular file; give a file or a folder")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refuse(tmp_path / "loop", "does not exist|no regular file")
