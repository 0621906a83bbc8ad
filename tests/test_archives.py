"""Archives that are good, damaged or hostile."""

import io
import os
import pathlib
import pickle
import shutil
import tarfile
import tracemalloc

import numpy as np
import pytest
from support import small_cifar
from support.small_cifar import PYTHON_SPEC, PYTHON_SPEC_100, SPEC, SPEC_100

from cifar_jax import UserError
from cifar_jax.data import archive_spec, archives, sources


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder that holds the unpacked folder and, elsewhere, the archive."""
    root = tmp_path_factory.mktemp("cifar")
    folder = small_cifar.write_folder(root / "unpacked")
    (root / "packed").mkdir()
    small_cifar.pack(folder, root / "packed" / SPEC.archive)
    return root


@pytest.fixture
def folder(good, tmp_path):
    """A copy of the unpacked folder, to be damaged."""
    return shutil.copytree(good / "unpacked" / SPEC.folder, tmp_path / SPEC.folder)


@pytest.fixture
def archive(good, tmp_path):
    """A copy of the archive, to be damaged."""
    return shutil.copy(good / "packed" / SPEC.archive, tmp_path)


def read(source, spec):
    """Reads a copy of an archive, or what a folder holds of it."""
    if not os.path.isfile(source):
        source, _ = archives.locate(source, [spec])
    return archives.read(source, spec)


def check_read(source):
    splits = read(source, SPEC)
    assert splits.keys() == {"train", "test"}
    for split, (images, labels) in splits.items():
        labels = labels["label"]
        true_images, true_labels = small_cifar.examples(split)
        np.testing.assert_array_equal(images, true_images)
        np.testing.assert_array_equal(labels, true_labels)
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)


def check_refused(source, match, spec=SPEC):
    with pytest.raises(UserError, match=match) as refused:
        read(source, spec)
    assert "\n" not in str(refused.value)


OTHERS = pytest.mark.parametrize(
    "spec",
    [SPEC_100, PYTHON_SPEC, PYTHON_SPEC_100],
    ids=lambda spec: spec.folder,
)


@OTHERS
@pytest.mark.parametrize("form", ["folder", "parent", "archive", "tar"])
def test_the_other_archives(tmp_path, spec, form, monkeypatch):
    monkeypatch.setattr(
        archives, "SPECS", (SPEC, SPEC_100, PYTHON_SPEC, PYTHON_SPEC_100)
    )
    folder = small_cifar.write_folder(tmp_path / "copy", spec)
    source = {"folder": folder, "parent": folder.parent}.get(form)
    if source is None:
        mode = "w:gz" if form == "archive" else "w"
        source = small_cifar.pack(folder, tmp_path / "copy.data", mode)
    for split, (images, labels) in read(source, spec).items():
        true_images, true_labels = small_cifar.labelled(split, spec)
        np.testing.assert_array_equal(images, true_images)
        assert labels.keys() == true_labels.keys()
        table = sources.open_split(f"{source}:{split}")
        assert table.label_names == spec.labels["label"]
        assert len(table) == len(true_images)
        rows = table.read(3, 9)
        np.testing.assert_array_equal(rows.images, true_images[3:9])
        np.testing.assert_array_equal(rows.labels, true_labels["label"][3:9])
        for kind, values in labels.items():
            np.testing.assert_array_equal(values, true_labels[kind])
            assert values.dtype == np.int32


def test_label_names():
    names = archive_spec.CIFAR100.labels
    assert (len(names["label"]), len(names["coarse_label"])) == (100, 20)
    for labels in (archive_spec.CIFAR10.labels["label"], *names.values()):
        assert sorted(set(labels)) == list(labels)


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (PYTHON_SPEC, "label"),
        *((SPEC_100, kind) for kind in SPEC_100.labels),
        *((PYTHON_SPEC_100, kind) for kind in SPEC_100.labels),
    ],
)
def test_wrong_labels_are_refused(tmp_path, spec, kind):
    folder = small_cifar.write_folder(tmp_path, spec)
    path, column = folder / spec.files["test"][0], list(spec.labels).index(kind)
    match = f"split test does not hold every {kind} from 0 to .* equally often"
    for label in (255, 0):
        if spec.keys:
            batch = pickle.loads(path.read_bytes())
            old = batch[spec.keys[kind].encode()]
            old[4] = label if old[4] != label else label + 1
            path.write_bytes(pickle.dumps(batch))
        else:
            content = bytearray(path.read_bytes())
            place = 4 * (len(spec.labels) + 3072) + column
            content[place] = label if content[place] != label else label + 1
            path.write_bytes(content)
        check_refused(folder, match, spec)


@pytest.mark.parametrize("spec", [PYTHON_SPEC, PYTHON_SPEC_100])
def test_batches_of_other_content_are_refused(tmp_path, spec):
    folder = small_cifar.write_folder(tmp_path, spec)
    path = folder / spec.files["test"][0]
    good = pickle.loads(path.read_bytes())
    count = spec.records_per_file["test"]
    key = spec.keys["label"].encode()
    for change, match in (
        ({b"data": good[b"data"][1:]}, "holds images .* instead of"),
        ({b"data": good[b"data"][:, :12]}, r"holds images \(.*, 2, 2, 3\) instead of"),
        (
            {b"data": good[b"data"].astype("i2")},
            "the images are int16; give an array of",
        ),
        ({b"data": None}, "the images are NoneType; give an array of uint8"),
        ({key: good[key][1:]}, f"{count - 1} labels for {count} images"),
        ({key: ["cat"] * count}, "labels must be integers; give class numbers"),
        ({b"extra": os.system}, "it names '(posix|nt).system'"),
        ({b"extra": bytes(10_000_000)}, "has .* bytes, far too many; copy it again"),
    ):
        path.write_bytes(pickle.dumps({**good, **change}))
        check_refused(folder, match, spec)
        archive = small_cifar.pack(folder, tmp_path / "a.tar.gz")
        check_refused(archive, match, spec)
    del good[key]
    path.write_bytes(pickle.dumps(good))
    check_refused(folder, f"lacks {key.decode()}; copy it again", spec)


def test_another_archive_is_named(tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x").write_bytes(b"x")
    path = small_cifar.pack(tmp_path / "other", tmp_path / "other.tar.gz")
    with pytest.raises(
        UserError, match="is none of the archives cifar-10-binary.tar.g"
    ):
        sources.open_split(str(path))
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="is damaged or not a tar archive"):
        sources.open_split(str(path))


def test_an_oversized_member_is_not_read(tmp_path):
    """It would inflate to half a gigabyte."""
    path = tmp_path / "archive.tar.gz"
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        member = tarfile.TarInfo(f"{PYTHON_SPEC.folder}/data_batch_1")
        member.size = 500 << 20
        with pathlib.Path("/dev/zero").open("rb") as zeros:
            tar.fileobj.write(member.tobuf())
            for _ in range(64):
                tar.fileobj.write(zeros.read(1 << 20))
    tracemalloc.start()
    check_refused(path, "data_batch_1 has 524,288,000 bytes, far too", PYTHON_SPEC)
    assert tracemalloc.get_traced_memory()[1] < 50e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    "source",
    [
        "unpacked",
        f"unpacked/{SPEC.folder}",
        "packed",
        f"packed/{SPEC.archive}",
    ],
)
def test_every_form_of_the_archive_holds_the_images(good, source):
    check_read(good / source)


@pytest.mark.parametrize("mode", ["w", "w:bz2", "w:xz"])
def test_an_archive_may_be_packed_in_another_way(good, tmp_path, mode):
    folder = good / "unpacked" / SPEC.folder
    check_read(small_cifar.pack(folder, tmp_path / "copy", mode, prefix="./"))


def test_a_source_that_is_not_there_is_refused(tmp_path):
    check_refused(tmp_path / "none", "none does not exist; give a copy of cifar-10-b")
    check_refused(tmp_path, "holds neither cifar-10-binary.tar.gz nor the folder")


def test_missing_files_are_named(folder, tmp_path):
    (folder / "data_batch_2.bin").unlink()
    (folder / "test_batch.bin").unlink()
    match = r"lacks data_batch_2\.bin, test_batch\.bin; copy it again from https"
    check_refused(folder, match)
    check_refused(small_cifar.pack(folder, tmp_path / "a.tar.gz"), match)


@pytest.mark.parametrize("size", [0, 20 * 3073 - 1, 20 * 3073 + 1, 40 * 3073])
def test_files_of_another_size_are_refused(folder, tmp_path, size):
    path = folder / "data_batch_3.bin"
    path.write_bytes((2 * path.read_bytes())[:size])
    match = f"data_batch_3.bin has {size:,} bytes instead of 61,460; copy"
    check_refused(folder, match)
    check_refused(small_cifar.pack(folder, tmp_path / "a.tar.gz"), match)


def test_a_label_out_of_range_is_refused(folder):
    path = folder / "data_batch_4.bin"
    content = bytearray(path.read_bytes())
    content[7 * 3073] = 255
    path.write_bytes(content)
    check_refused(
        folder, "split train does not hold every label from 0 to 9 equally .*; copy"
    )


def test_wrong_class_counts_are_refused(folder):
    path = folder / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[0] = (content[0] + 1) % 10
    path.write_bytes(content)
    check_refused(
        folder, "split test does not hold every label from 0 to 9 equally .*; copy"
    )


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.7, 0.99999])
def test_a_truncated_archive_is_refused(archive, share):
    path = pathlib.Path(archive)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    check_refused(path, "is damaged or not a tar archive .*; copy it again")


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_no_flipped_bit_changes_an_image(good, tmp_path, mode):
    folder = good / "unpacked" / SPEC.folder
    path = small_cifar.pack(folder, tmp_path / "archive", mode)
    content = path.read_bytes()
    random = np.random.default_rng(0)
    for place in random.integers(20, len(content), 20):
        damaged = bytearray(content)
        damaged[place] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            check_read(path)  # bits of the name and time of packing say nothing
        except UserError as error:
            assert "\n" not in str(error)


def test_another_file_is_no_archive(tmp_path):
    (tmp_path / "photo").write_bytes(b"\xff\xd8\xff" * 1000)
    check_refused(tmp_path / "photo", "not a tar archive")


def hostile_members(canary):
    """Members that would write or read elsewhere if they were unpacked."""
    content = b"canary"
    for name in (f"../{canary.name}", str(canary), f"{SPEC.folder}/../../x"):
        member = tarfile.TarInfo(name)
        member.size = len(content)
        yield member, content
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/hostname"
        yield member, b""
    device = tarfile.TarInfo("device")
    device.type = tarfile.CHRTYPE
    yield device, b""


def test_hostile_members_are_passed_over(good, tmp_path, monkeypatch):
    home = tmp_path / "here" / "home"
    home.mkdir(parents=True)
    monkeypatch.chdir(home)
    path = tmp_path / "archive.tar"
    small_cifar.pack(good / "unpacked" / SPEC.folder, path, "w")
    with tarfile.open(path, "a") as tar:
        for member, content in hostile_members(tmp_path / "canary"):
            tar.addfile(member, io.BytesIO(content))
    before = sorted(tmp_path.rglob("*"))
    check_read(path)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_a_link_in_the_place_of_a_file_is_no_file(good, tmp_path, kind):
    target = good / "unpacked" / SPEC.folder / "test_batch.bin"
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted(target.parent.iterdir()):
            member = tar.gettarinfo(file, f"{SPEC.folder}/{file.name}")
            if file == target:
                member.type, member.linkname, member.size = kind, str(target), 0
            tar.addfile(member, io.BytesIO(file.read_bytes()))
    check_refused(path, r"lacks test_batch\.bin")


@pytest.mark.parametrize("name", [f"../{SPEC.folder}", f"/{SPEC.folder}", "other"])
def test_files_elsewhere_in_the_archive_do_not_count(good, tmp_path, name):
    path = tmp_path / "archive.tar"
    with tarfile.open(path, "w") as tar:
        for file in sorted((good / "unpacked" / SPEC.folder).iterdir()):
            member = tar.gettarinfo(file, f"{name}/{file.name}")
            member.name = f"{name}/{file.name}"
            tar.addfile(member, io.BytesIO(file.read_bytes()))
    check_refused(path, "lacks data_batch_1.bin, data_batch_2.bin, .*test_batch.bin")
