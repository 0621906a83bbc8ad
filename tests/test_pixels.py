"""Decoded images beside a data set: read, damaged, outdated, not writable."""

import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support.runs import ROOT

from cifar_jax.data import dataset, pixels, sources, tfds_store
from cifar_jax.data.dataset import Dataset, from_arrays


@pytest.fixture
def folder(digits_dir, tmp_path):
    """A copy of the digits, without decoded images."""
    copy = tmp_path / "tfds"
    shutil.copytree(digits_dir, copy, ignore=shutil.ignore_patterns("pixels-*"))
    return copy


def kept(folder, split="train"):
    """Returns the path of the decoded images."""
    return folder / "digits" / "1.0.0" / f"pixels-{split}.npy"


def read(folder, split="train"):
    return sources.open("digits", str(folder)).read(split)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the rows that are decoded from TFDS's files."""
    rows, reader = [], tfds_store._row_reader

    def counted(builder, split):
        read_rows = reader(builder, split)

        def read(start, stop):
            rows.extend(range(start, stop))
            return read_rows(start, stop)

        return read

    monkeypatch.setattr(tfds_store, "_row_reader", counted)
    return rows


@pytest.fixture(scope="module")
def whole(digits_dir, tmp_path_factory):
    """A folder with decoded test images, which is to be copied, and the examples."""
    folder = tmp_path_factory.mktemp("whole") / "tfds"
    shutil.copytree(digits_dir, folder, ignore=shutil.ignore_patterns("pixels-*"))
    return folder, read(folder, "test")


def check_same(one, other):
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_array_equal(one.histogram, dataset.histogram(one.images))
    assert (one.images.dtype, one.labels.dtype) == (np.uint8, np.int32)


def test_images_are_decoded_once(folder, decoded):
    first = read(folder)
    assert len(decoded) == 1437
    assert first.histogram is not None
    check_same(read(folder), first)
    assert len(decoded) == 1437
    part = sources.open_split("digits:train[100:300]", str(folder))
    np.testing.assert_array_equal(part.read(50, 60).images, first.images[150:160])
    assert part.examples().histogram is None  # not that of the whole split
    assert len(decoded) == 1437


def test_a_part_alone_is_not_kept(folder):
    sources.open("digits", str(folder)).check_split("test")
    sources.open_split("digits:test[:50%]", str(folder)).examples()
    assert not kept(folder, "test").exists()


def damage(path, kind):
    content = path.read_bytes()
    if kind == "truncated":
        content = content[:-1]
    elif kind == "empty":
        content = b""
    elif kind == "text":
        content = b"not an array"
    elif kind == "another array":
        np.save(path, np.zeros(3))
        return
    else:
        place = {"header": 20, "digest": 300, "labels": 7000, "images": -1}[kind]
        content = bytearray(content)
        content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    "kind",
    [
        *("truncated", "empty", "text", "another array"),
        *("header", "digest", "labels", "images"),
    ],
)
def test_a_damaged_file_is_made_anew(whole, tmp_path, decoded, kind):
    folder = shutil.copytree(whole[0], tmp_path / "tfds")
    check_same(read(folder, "test"), whole[1])
    assert not decoded
    good = kept(folder, "test").read_bytes()
    damage(kept(folder, "test"), kind)
    check_same(read(folder, "test"), whole[1])
    assert len(decoded) == 360
    assert kept(folder, "test").read_bytes() == good


def test_an_outdated_file_is_made_anew(folder, decoded):
    read(folder)
    (records,) = kept(folder).parent.glob("*train.array_record*")
    os.utime(records, ns=(0, 0))  # as if the data set were another one
    read(folder)
    read(folder)
    assert len(decoded) == 2 * 1437


def test_a_folder_that_cannot_be_written_is_read_as_before(
    folder, decoded, monkeypatch
):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pixels, "replacing", full)
        first = read(folder)
    assert not list(kept(folder).parent.glob("*pixels*"))
    check_same(read(folder), first)
    assert len(decoded) == 2 * 1437


def test_what_is_too_large_is_not_kept(folder, monkeypatch):
    monkeypatch.setattr(pixels, "MAX_BYTES", 1_000_000)
    assert read(folder).histogram is None
    assert not kept(folder).exists()


def test_more_than_a_record_of_numpy_can_hold_is_not_kept(tmp_path):
    shape, count = (32, 32, 3), 1_281_167
    data = Dataset("x", shape, count, lambda start, stop: None, ("a", "b"))
    assert pixels.kept(data, tmp_path / "x.npy", "1") is data


def test_a_file_of_another_version_is_read_once(tmp_path, monkeypatch):
    data = from_arrays("x", np.zeros((20, 4, 4, 3), np.uint8), [0, 1] * 10)
    pixels.kept(data, tmp_path / "x.npy", "1").read(0, 20)
    calls, load = [], pixels._map
    monkeypatch.setattr(pixels, "_map", lambda *a: calls.append(a) or load(*a))
    assert len([*pixels.kept(data, tmp_path / "x.npy", "2").chunks(4)]) == 5
    assert len(calls) == 1


def test_several_processes_make_it_at_once(folder):
    script = (
        "import sys; from cifar_jax.data import sources; "
        "print(sources.open('digits', sys.argv[1]).read('train').images.sum())"
    )
    command = [sys.executable, "-c", script, str(folder)]
    options = dict(cwd=ROOT, stdout=subprocess.PIPE, text=True)
    processes = [subprocess.Popen(command, **options) for _ in range(2)]
    sums = {process.communicate()[0] for process in processes}
    assert sums == {f"{read(folder).images.sum()}\n"}
    files = [path.name for path in kept(folder).parent.glob("*pixels*")]
    assert files == ["pixels-train.npy"]


def test_a_full_disk_is_not_written_through_a_map(folder, tmp_path):
    """A map of a file on a full disk ends the process with SIGBUS."""
    script = (
        "import resource, sys; from cifar_jax.data import sources; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
        "print(len(sources.open('digits', sys.argv[1]).read('train')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "1437\n"), done.stderr
    assert not list(kept(folder).parent.glob("*pixels*"))


IMPORTS = """
import sys
from cifar_jax.training import distributed, dry_run, interrupt, loop
from cifar_jax.training.workdir import TensorBoard
TensorBoard(sys.argv[1], purge_step=0).close()
unwanted = "torch sklearn scipy matplotlib optuna requests tensorflow onnx jinja2"
print(*[name for name in unwanted.split() if name in sys.modules])
"""


def test_a_run_imports_nothing_that_it_does_not_need(tmp_path):
    command = [sys.executable, "-c", IMPORTS, str(tmp_path / "tb")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "\n", "imported for nothing"
    assert list(pathlib.Path(tmp_path / "tb").iterdir())
