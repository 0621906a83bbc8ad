"""Labels for any source, as CSV: whatever the images are called or look like."""

import csv
import os
import pathlib
import pickle
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest
from PIL import Image
from support.commands import call

from cifar_jax import UserError
from cifar_jax.data import sources
from cifar_jax.evaluation import predictions
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.training import pretrained

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def workdir(tiny_run):
    return tiny_run


@pytest.fixture(scope="module")
def predictor(workdir):
    return Predictor(pretrained.load_model(workdir), batch_size=16)


@pytest.fixture(scope="module")
def digits(digits_dir):
    return sources.open("digits", digits_dir).read("test[:45]")


@pytest.fixture(scope="module")
def logits(workdir, digits):
    return np.asarray(jax.jit(pretrained.load_model(workdir).logits)(digits.images))


def predicted(predictor, source, path, **options):
    shape = predictor.network.image_shape
    resize = options.pop("resize", False)
    table = sources.open_split(str(source), image_shape=shape, resize=resize)
    summary = predictions.write(predictor, table, path, **options)
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file)), summary


def write_pickle(path, layout, images):
    if layout == "rows":
        batch = {b"data": images.transpose(0, 3, 1, 2).reshape(len(images), -1)}
        ids = range(len(images))
    else:
        ids = [7 * k + 3 for k in range(len(images))]
        batch = {b"data": images, b"ids": ids}
    path.write_bytes(pickle.dumps(batch, protocol=2))
    return [str(k) for k in ids]


@pytest.mark.parametrize("layout", ["rows", "nhwc"])
def test_unlabelled_pickles_give_the_labels_in_order(
    layout, predictor, digits, logits, tmp_path
):
    ids = write_pickle(tmp_path / "batch.pkl", layout, digits.images)
    path = tmp_path / "preds.csv"
    rows, summary = predicted(predictor, tmp_path / "batch.pkl", path)
    labels = logits.argmax(axis=1)
    assert rows == [
        ["ID", "Labels"],
        *([id, str(label)] for id, label in zip(ids, labels, strict=True)),
    ]
    assert path.read_bytes().startswith(b"ID,Labels\n")
    assert summary.counts.tolist() == np.bincount(labels, minlength=10).tolist()
    assert (summary.num_images, summary.errors) == (45, {})


def test_more_columns(predictor, digits, logits, tmp_path):
    np.save(tmp_path / "x.npy", digits.images)
    path = tmp_path / "preds.csv"
    options = dict(top_k=3, probabilities=True)
    (header, *rows), _ = predicted(predictor, tmp_path / "x.npy", path, **options)
    assert header[:4] == ["ID", "Labels", "Top1", "Top1Probability"]
    assert header[8:] == [f"P_{k}" for k in range(10)]
    values = np.array(rows, float)
    shares = np.exp(np.float64(logits))
    shares /= shares.sum(axis=1, keepdims=True)
    best = np.argsort(-logits, axis=1)
    np.testing.assert_array_equal(values[:, 1], best[:, 0])
    np.testing.assert_array_equal(values[:, 2:8:2], best[:, :3])
    expected = np.take_along_axis(shares, best[:, :3], axis=1)
    np.testing.assert_allclose(values[:, 3:8:2], expected, atol=1e-5)
    np.testing.assert_allclose(values[:, 8:], shares, atol=1e-5)
    (header, *_), _ = predicted(predictor, tmp_path / "x.npy", path, top_k=11)
    assert header[-2:] == ["Top10", "Top10Probability"]  # there are no more classes


def test_a_folder_of_all_sorts(predictor, digits, logits, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    image = Image.fromarray(digits.images[0])
    good = {
        'a, "b".png': image,
        "grün 猫.png": image,
        "rgba.png": image.convert("RGBA"),
    }
    good["gray.png"] = image.convert("L")  # a digit is gray
    for name, picture in good.items():
        picture.save(folder / name)
    for k in range(20):  # the first error comes after a batch is written
        image.save(folder / f"_{k:02}.png")
    image.resize((40, 20)).save(folder / "wide.png")
    (folder / "broken.png").write_bytes((folder / "gray.png").read_bytes()[:60])
    (folder / "notes.txt").write_text("no image")
    path = tmp_path / "preds.csv"
    (header, *rows), summary = predicted(predictor, folder, path)
    assert header == ["ID", "Labels", "Error"]
    found = {id: (label, error) for id, label, error in rows}
    assert set(found) == {*good, "wide.png", "broken.png"} | {
        f"_{k:02}.png" for k in range(20)
    }
    label = str(logits[0].argmax())
    for name in (*good, "_00.png", "_19.png"):
        assert found[name] == (label, ""), name
    assert found["wide.png"][0] == "" and "20x40 pixels" in found["wide.png"][1]
    assert found["broken.png"][0] == "" and "cannot be read" in found["broken.png"][1]
    assert (summary.num_images, len(summary.errors)) == (26, 2)
    assert summary.counts.sum() == 24
    assert (
        list(tmp_path.iterdir()) == [folder, path] or len(list(tmp_path.iterdir())) == 2
    )
    rows, summary = predicted(predictor, folder, path, resize=True)
    assert len(summary.errors) == 1


def test_images_in_classes_of_any_name_are_called_by_their_path(
    predictor, digits, logits, tmp_path
):
    for k, name in enumerate(("spam/x.png", "eggs/ü.png")):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        Image.fromarray(digits.images[k]).save(tmp_path / "images" / name)
    path = tmp_path / "preds.csv"
    rows, _ = predicted(predictor, tmp_path / "images", path)
    best = logits.argmax(axis=1)
    assert rows[1:] == [["eggs/ü.png", str(best[1])], ["spam/x.png", str(best[0])]]


def test_the_command(workdir, digits, tmp_path):
    np.save(tmp_path / "x.npy", digits.images)
    output = tmp_path / "preds.csv"
    arguments = [f"--workdir={workdir}", f"--input={tmp_path}/x.npy"]
    done = call("predict", *arguments, f"--output={output}", "--topk=2")
    assert done.returncode == 0, done.stderr
    assert f"{output}: 45 images" in done.stdout and done.stderr == ""
    counts = [int(line.split()[2]) for line in done.stdout.splitlines()[1:11]]
    assert sum(counts) == 45


def test_an_output_is_never_replaced_unasked(workdir, digits, tmp_path):
    np.save(tmp_path / "x.npy", digits.images)
    output = tmp_path / "preds.csv"
    output.write_text("precious")
    arguments = [f"--workdir={workdir}", f"--input={tmp_path}/x.npy"]
    for options, message in (
        ([f"--output={output}"], "preds.csv exists; give another --output, or --overw"),
        ([f"--output={tmp_path}", "--overwrite"], "exists; give another --output"),
        ([f"--output={tmp_path}/x/preds.csv"], "No such file.*check the path"),
    ):
        done = call("predict", *arguments, *options)
        assert done.returncode == 1 and re.search(message, done.stderr), done.stderr
        assert len(done.stderr.splitlines()) == 1
    assert output.read_text() == "precious"
    done = call("predict", *arguments, f"--output={output}", "--overwrite")
    assert done.returncode == 0 and output.read_text().startswith("ID,Labels")


def test_only_bad_images_are_a_fault(workdir, predictor, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    output = tmp_path / "preds.csv"
    with pytest.raises(UserError, match="holds no images"):
        predicted(predictor, folder, output)
    arguments = [f"--workdir={workdir}", f"--input={folder}", f"--output={output}"]
    (folder / "a.png").write_bytes(b"no image")
    done = call("predict", *arguments)
    assert done.returncode == 1 and "none of the 1 images can be read" in done.stderr
    assert not output.exists()
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", ["predict --input", "evaluate --data"])
def test_a_path_that_is_not_there_is_refused_before_jax_is_imported(command, tmp_path):
    name, flag = command.split()
    code = (
        f"import sys; from cifar_jax import _cli, {name}\n"
        "code = _cli.run_command({0}, sys.argv[1:])\n"
        "print(code, 'jax' in sys.modules)"
    ).format(name)
    arguments = [f"{flag}={tmp_path}/no.png", f"--output={tmp_path}/out"]
    done = subprocess.run(
        [sys.executable, "-c", code, "--workdir=cifar10_cpu", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout.splitlines()[-1] == "1 False", done.stderr
    assert done.stderr.startswith(f"error: source {tmp_path}/no.png does not exist")


def test_an_interrupted_run_leaves_no_file(workdir, tmp_path):
    images = np.lib.format.open_memmap(
        tmp_path / "x.npy", "w+", np.uint8, (3_000_000, 32, 32, 3)
    )  # zeros: the file takes no room
    del images
    output = tmp_path / "out" / "preds.csv"
    output.parent.mkdir()
    command = [sys.executable, "-m", "cifar_jax.predict", f"--workdir={workdir}"]
    process = subprocess.Popen(
        [*command, f"--input={tmp_path}/x.npy", f"--output={output}"],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    end = time.monotonic() + 100
    while not os.listdir(output.parent) and time.monotonic() < end:
        time.sleep(0.05)
    assert os.listdir(output.parent)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert os.listdir(output.parent) == []


def test_names_like_formulas_are_quoted_where_that_is_asked(
    predictor, digits, tmp_path
):
    ids = ["=1+2", "+a", "-1+2", "@A1", "-1.5", "a"]
    quoted = [f"'{name}" for name in ids[:4]] + ids[4:]
    np.savez(tmp_path / "x.npz", images=np.stack([digits.images[0]] * 6), ids=ids)
    for asked, expected in ((False, ids), (True, quoted)):
        rows, _ = predicted(
            predictor, tmp_path / "x.npz", tmp_path / f"{asked}.csv", spreadsheet=asked
        )
        assert [row[0] for row in rows[1:]] == expected
