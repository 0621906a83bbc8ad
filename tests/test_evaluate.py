"""Evaluation of a run: each image once, at any batch size, on data of any kind."""

import csv
import json
import shutil
from unittest import mock

import jax
import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax
from sklearn.metrics import log_loss
from support.commands import call

from cifar_jax import UserError
from cifar_jax._files import OutputFolder, replacing
from cifar_jax.data import sources
from cifar_jax.data.dataset import from_arrays
from cifar_jax.evaluation import corruptions, efficiency
from cifar_jax.evaluation.evaluate import Request, evaluate, summary
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.training import distributed, pretrained


@pytest.fixture(scope="module")
def run(tiny_run):
    return tiny_run, json.loads((tiny_run / "result.json").read_text())


@pytest.fixture(scope="module")
def digits(digits_dir):
    return sources.open("digits", digits_dir).read("test[:50]")


def evaluated(workdir, folder, **options):
    return evaluate(Request(workdir=workdir, **options), OutputFolder(folder))


def logits(workdir, images):
    network = pretrained.load_model(workdir, which="last")
    return np.asarray(jax.jit(network.logits)(images), np.float64)


def test_an_older_state_is_evaluated(run, tmp_path):
    workdir, _ = run
    step = min(int(path.name) for path in workdir.glob("checkpoints/[0-9]*"))
    flag = f"--checkpoint={workdir}/checkpoints/{step}"
    done = call("evaluate", flag, f"--output={tmp_path}")
    assert done.returncode == 0, done.stderr
    record = json.loads((tmp_path / "evaluation.json").read_text())
    epoch = pretrained.load_model(workdir, which="last", step=step).epoch
    assert (record["weights"], record["epoch"]) == ("last", epoch) and epoch < 2


def test_an_evaluation_that_fails_leaves_no_older_scores(run, tmp_path, monkeypatch):
    """They would stand beside the newer pictures."""
    evaluated(run[0], tmp_path)
    monkeypatch.setattr(efficiency, "measure", mock.Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        evaluated(run[0], tmp_path, validation=True)
    assert not (tmp_path / "evaluation.json").exists()


@pytest.mark.parametrize("batch_size", [1, 100, 1000])
def test_every_image_counts_once_at_any_batch_size(run, batch_size, tmp_path):
    workdir, result = run
    data = "digits:test" if batch_size > 1 else "digits:test[:21]"
    record = evaluated(workdir, tmp_path, data=data, batch_size=batch_size)
    scores = record["scores"]
    with (tmp_path / "confusion.csv").open() as file:
        rows = [list(map(int, row[1:])) for row in list(csv.reader(file))[1:]]
    matrix = np.array(rows)
    assert matrix.sum() == scores["num_examples"]
    assert matrix.trace() == scores["num_correct"]
    assert sum(each["num_examples"] for each in record["classes"]) == matrix.sum()
    if batch_size > 1:
        assert scores["accuracy"] == pytest.approx(result["test"]["accuracy"])
        assert scores["loss"] == pytest.approx(result["test"]["loss"], rel=1e-5)
        assert scores["num_examples"] == result["test"]["num_examples"]


def test_the_record_and_its_pictures(run, digits_dir, tmp_path):
    workdir, result = run
    record = evaluated(
        workdir,
        tmp_path,
        which="last",
        tta="flip",
        temperature=True,
        compare=[str(workdir)],
        batch_size=200,
    )
    saved = json.loads((tmp_path / "evaluation.json").read_text())
    assert saved["scores"]["accuracy"] == record["scores"]["accuracy"]
    assert set(saved["files"]) | {"evaluation.json"} == {
        path.name for path in tmp_path.iterdir()
    }
    for name in saved["files"]:
        if name.endswith(".png"):
            assert np.asarray(Image.open(tmp_path / name)).std() > 5
    errors = np.load(tmp_path / "errors.npz")
    assert (errors["predictions"] != errors["labels"]).all()
    assert (np.diff(errors["confidence"]) <= 0).all() and len(errors["places"]) == 24
    (other,) = record["comparisons"]
    assert other["only_this_right"] == other["only_other_right"] == 0
    assert other["p_value"] == 1.0
    fitted = record["calibration"]["temperature"]
    assert fitted["num_validation"] == result["val"]["num_examples"]
    test = sources.open("digits", digits_dir).read("test")
    shares = softmax(logits(workdir, test.images) / fitted["value"], axis=-1)
    assert fitted["loss"] == pytest.approx(log_loss(test.labels, shares), rel=1e-4)
    confidence, right = shares.max(-1), shares.argmax(-1) == test.labels
    bins = np.ceil(15 * confidence).astype(int)
    error = abs(np.bincount(bins, confidence - right)).sum() / len(right)
    assert fitted["ece"] == pytest.approx(error, rel=1e-4)
    assert record["efficiency"]["parameters"] == result["num_parameters"]
    assert 2 * record["efficiency"]["macs_per_image"] == result["flops_per_image"]
    lines = summary(record)
    for part in ("with flip: 0.", "McNemar p = 1", "at temperature", "ECE"):
        assert part in lines


def test_another_run_is_compared_image_by_image(run, digits_dir, tmp_path):
    test = sources.open("digits", digits_dir).read("test")
    other = shutil.copytree(run[0], tmp_path / "other")
    shutil.rmtree(other / "checkpoints" / "20")  # what is left is of epoch 1
    options = dict(which="last", compare=[str(other)])
    (found,) = evaluated(run[0], tmp_path / "out", **options)["comparisons"]
    outputs = [logits(workdir, test.images) for workdir in (run[0], other)]
    this, that = (each.argmax(-1) == test.labels for each in outputs)
    assert found["accuracy"] == that.mean()
    loss = log_loss(test.labels, softmax(outputs[1], axis=-1))
    assert found["loss"] == pytest.approx(loss, rel=1e-4)
    alone = found["only_this_right"], found["only_other_right"]
    assert alone == ((this & ~that).sum(), (that & ~this).sum())
    assert alone[0] != alone[1]


def test_views_are_averaged_as_they_are_called(run, digits):
    table = from_arrays("digits", digits.images, digits.labels)
    shifted = np.pad(digits.images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    views = [digits.images, shifted[:, :-2, :-2], shifted[:, 2:, 2:]]
    views += [view[:, :, ::-1] for view in views]
    for tta, weights in (
        ("flip", (1 / 2, 0, 0, 1 / 2, 0, 0)),
        ("multicrop", (1 / 4, 1 / 8, 1 / 8, 1 / 4, 1 / 8, 1 / 8)),
    ):
        network = pretrained.load_model(run[0])
        predictor = Predictor(network, batch_size=16, tta=tta)
        logits, labels = predictor.outputs(table)
        forward = jax.jit(predictor.network.logits)
        expected = [np.asarray(forward(view)) for view in views]
        np.testing.assert_allclose(logits[:, 0], expected[0], atol=1e-4)
        mean = np.tensordot(weights, expected, 1)
        np.testing.assert_allclose(logits[:, 1], mean, atol=1e-4)
        np.testing.assert_array_equal(labels, digits.labels)


def test_corruptions_made_here_and_read_from_a_folder_score_alike(
    run, digits, tmp_path
):
    folder = tmp_path / "corrupted"
    folder.mkdir()
    names = ("contrast", "gaussian_noise")
    for name in names:
        images = [
            corruptions.corrupt(digits.images, name, k, seed=3) for k in range(6)[1:]
        ]
        np.save(folder / f"{name}.npy", np.concatenate(images))
    np.save(folder / "labels.npy", np.tile(digits.labels, 5))
    read = evaluated(run[0], tmp_path / "a", data=str(folder))["corruptions"]
    made = evaluated(
        run[0], tmp_path / "b", data="digits:test[:50]", corruptions=True, seed=3
    )["corruptions"]
    assert read["error"] == {name: made["error"][name] for name in names}
    assert read["num_examples"] == made["num_examples"] == 50
    assert set(made["error"]) == set(corruptions.CORRUPTIONS)
    assert read["mean_error"] == pytest.approx(np.mean(list(read["error"].values())))
    with (tmp_path / "b" / "corruptions.csv").open() as file:
        header, *rows = csv.reader(file)
    assert header == ["corruption", "1", "2", "3", "4", "5", "mean"]
    assert [float(v) for v in rows[0][1:6]] == made["error"]["gaussian_noise"]
    with pytest.raises(UserError, match="--compare needs one set of images"):
        evaluated(run[0], tmp_path / "a", data=str(folder), compare=[str(run[0])])


def test_latency_is_measured(run, tmp_path, monkeypatch):
    monkeypatch.setattr(efficiency, "BATCH_SIZES", (16, 64))
    monkeypatch.setattr(efficiency, "SECONDS", 0.01)
    record = evaluated(run[0], tmp_path, data="digits:test[:20]", latency=True)
    cost = record["efficiency"]
    assert cost["latency_ms"] > 0
    rates = cost["images_per_second_by_batch_size"]
    assert cost["images_per_second"] == max(rates.values())
    assert cost["peak_memory_bytes"] > cost["weights_bytes"] > 4 * cost["parameters"]
    assert cost["disk_bytes"] > 0
    # Three devices share each batch evenly, too.
    three = distributed.make_mesh(jax.devices()[:3])
    monkeypatch.setattr(distributed, "make_mesh", lambda _: three)
    predictor = Predictor(pretrained.load_model(run[0]), batch_size=1)
    assert [*efficiency._speed(predictor)["images_per_second_by_batch_size"]][0] == 18


def test_unlabelled_and_unreadable_images_are_refused(run, digits, tmp_path):
    np.save(tmp_path / "images.npy", digits.images)
    with pytest.raises(UserError, match="has no labels; give a labelled source"):
        evaluated(run[0], tmp_path, data=str(tmp_path / "images.npy"))
    (tmp_path / "x" / "3").mkdir(parents=True)
    Image.fromarray(digits.images[0]).save(tmp_path / "x" / "3" / "a.png")
    (tmp_path / "x" / "3" / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="b.png cannot be read"):
        evaluated(run[0], tmp_path, data=str(tmp_path / "x"))


@pytest.mark.parametrize(
    "options", [{"data": "digits:test"}, {"temperature": True}, {"compare": ["x"]}]
)
def test_validation_images_are_scored_alone(run, options, tmp_path):
    (name,) = options
    with pytest.raises(UserError, match=f"--validation and --{name}"):
        evaluated(run[0], tmp_path / "out", validation=True, **options)
    assert not (tmp_path / "out").exists()


def test_runs_of_other_classes_are_not_compared(run, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(run[0], other)
    dataset = json.loads((other / "dataset.json").read_text())
    dataset["label_names"][0] = "nought"
    (other / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(UserError, match="has other label_names .*compare runs of one"):
        evaluated(run[0], tmp_path / "out", compare=[str(other)])
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_not_there_is_not_made(tmp_path):
    missing = tmp_path / "run"
    with pytest.raises(UserError, match="is not a run directory"):
        evaluated(missing, missing / "evaluation")
    assert not missing.exists()


def test_a_file_that_fails_half_way_does_not_appear(tmp_path):
    path = tmp_path / "x.csv"
    with pytest.raises(KeyboardInterrupt):
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["gone/x", "file/x", f"{'x' * 300}", "folder"])
def test_an_error_of_writing_names_the_file_that_was_asked_for(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError) as refused, replacing(tmp_path / name) as temporary:
        temporary.write_text("whole")
    assert str(refused.value).endswith(f": '{tmp_path / name}'")


def test_the_command_prints_the_figures_and_mistakes_in_one_line(run, tmp_path):
    workdir, result = run
    done = call("evaluate", f"--workdir={workdir}", f"--output={tmp_path}", "--ema")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "ema weights, on digits:test" in done.stdout
    for arguments, code, message in (
        ([], 2, "--workdir RUN is missing"),
        (
            [f"--workdir={workdir}", "--best", "--ema"],
            2,
            "give one of --best and --ema",
        ),
    ):
        done = call("evaluate", *arguments)
        assert done.returncode == code
        assert message in done.stderr and len(done.stderr.splitlines()) == 1
