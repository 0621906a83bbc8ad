"""The Python door: networks in a few calls, from whatever they are stored in."""

import concurrent.futures
import doctest
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from PIL import Image
from support.commands import call
from support.runs import tiny_config

import cifar_jax
from cifar_jax import UserError, formats
from cifar_jax.evaluation import api, efficiency
from cifar_jax.formats import export, hub
from cifar_jax.training import pretrained
from cifar_jax.training.workdir import RunDirectory


@pytest.fixture(scope="module")
def model(tiny_run):
    return cifar_jax.load(tiny_run)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def test_jax_is_imported_at_the_first_use():
    code = (
        "import sys, cifar_jax, cifar_jax.evaluate, cifar_jax.predict\n"
        "assert not {'jax', 'numpy', 'optax'} & {*sys.modules}\n"
        "assert 'load' in cifar_jax.__all__\n"
        "cifar_jax.list_models\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    with pytest.raises(AttributeError, match="has no attribute 'lod'"):
        _ = cifar_jax.lod


def test_the_examples_run():
    done = doctest.testmod(api, extraglobs={"cifar_jax": cifar_jax})
    assert done.attempted >= 9 and not done.failed


def test_each_network_is_listed_once():
    names = cifar_jax.list_models()
    assert {"resnet20", "report_004", "quickstart", "records/best"} <= {*names}
    assert len({name.rpartition("/")[2] for name in names}) == len(names)


def test_images_of_all_kinds_are_labelled_alike(model, images, tmp_path):
    expected = model.logits(images)
    assert expected.shape == (5, 10) and expected.dtype == np.float32
    direct = np.asarray(jax.jit(model.network.logits)(images))
    np.testing.assert_allclose(expected, direct, atol=1e-5)
    np.save(tmp_path / "images.npy", images)
    pictures = [Image.fromarray(image) for image in images]
    pictures[1].save(tmp_path / "one.png")
    kinds = [
        tmp_path / "images.npy",
        pictures,
        list(images),
        [pictures[0], tmp_path / "one.png", *images[2:]],
    ]
    for kind in kinds:
        np.testing.assert_allclose(model.logits(kind), expected, atol=1e-5)
    np.testing.assert_allclose(model.logits(pictures[3]), expected[3:4], atol=1e-5)
    turned = Image.fromarray(images[2].transpose(1, 0, 2)[:, ::-1])
    turned.getexif()[0x0112] = 8  # a quarter to the left makes it upright
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    for kind in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        np.testing.assert_allclose(model.logits(kind), expected[2:3], atol=1e-5)
    np.testing.assert_array_equal(model.predict(images), expected.argmax(-1))
    shares = model.predict_proba(images)
    np.testing.assert_allclose(shares.sum(-1), 1, atol=1e-5)


def test_folders_of_other_classes_may_be_listed(model, images, tmp_path):
    for k, name in enumerate(("a/cat", "a/dog", "b/owl")):
        (tmp_path / name).mkdir(parents=True)
        Image.fromarray(images[k]).save(tmp_path / name / "x.png")
    listed = [tmp_path / "a", tmp_path / "b", images[3]]
    np.testing.assert_array_equal(model.predict(listed), model.predict(images[:4]))


def test_labels_may_be_a_list_of_numpys_numbers(model, images):
    labels = np.arange(5)
    assert model.evaluate(images, [*labels]) == model.evaluate(images, labels)


def test_options_that_do_not_exist_are_one_line():
    with pytest.raises(UserError, match="cannot have {'widht': .*; use .*widths"):
        cifar_jax.create_model("resnet20", widht=(3,))
    with pytest.raises(UserError, match="cannot have {'widths': 32}"):
        cifar_jax.create_model("resnet20", widths=32)


def test_batches_of_any_size(tiny_run, images):
    small = api.Model(pretrained.load_model(tiny_run), batch_size=4)
    many = np.concatenate([images, images])[:9]
    np.testing.assert_allclose(
        small.logits(many)[5:], small.logits(many[5:]), atol=1e-5
    )


def test_features_are_what_the_classifier_takes(model, images):
    head = jax.device_get(model.network.variables["params"]["head"])
    logits = model.features(images) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, model.logits(images), atol=1e-4)


def test_a_wrong_image_is_one_line(model):
    with pytest.raises(
        UserError, match="the images are float64; give an array of uint8"
    ):
        model.predict(np.zeros((2, 32, 32, 3)))
    wide = np.zeros((2, 33, 32, 3), np.uint8)
    with pytest.raises(UserError, match="use --resize"):
        model.predict(wide)
    assert model.predict(wide, resize=True).shape == (2,)
    with pytest.raises(UserError, match="the array of images"):
        model.predict([])
    deep = Image.fromarray(np.zeros((32, 32), np.uint16))
    with pytest.raises(UserError, match=r"more than 8 bits a pixel .*convert it to 8"):
        model.predict(deep)
    with pytest.raises(UserError, match="run from 0 to 10; give .* 0 to below 10"):
        model.evaluate(wide, [0, 10], resize=True)


def test_two_threads_share_a_network(model, images):
    batches = [images[: 1 + k % 5] for k in range(20)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        found = list(pool.map(model.logits, batches))
    expected = model.logits(images)
    for batch, logits in zip(batches, found, strict=True):
        np.testing.assert_allclose(logits, expected[: len(batch)], atol=1e-5)


def test_a_run_is_trained_in_a_thread(digits_dir, tmp_path):
    config, told = tiny_config(digits_dir), []
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        result = pool.submit(
            cifar_jax.train, config, tmp_path / "run", on_epoch=told.append
        ).result()
    assert [row["epoch"] for row in told] == [1, 2]
    best = told[result["best_epoch"] - 1]
    assert best["val"]["accuracy"] == result["val"]["accuracy"]
    assert cifar_jax.load(tmp_path / "run").result == result


@pytest.mark.parametrize(
    "name",
    [
        *("safetensors", "safetensors-float16", "hub", "stablehlo", "onnx"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("torch", "pt2")),
    ],
)
def test_what_is_exported_is_read_back(name, tiny_run, model, images, tmp_path):
    try:
        suffix = formats.find(name).suffix
    except UserError as error:
        pytest.skip(str(error))
    path = tmp_path / f"network{suffix}"
    done = call(
        "export", f"--workdir={tiny_run}", f"--format={name}", f"--output={path}"
    )
    assert done.returncode == 0, done.stderr
    loaded, expected = cifar_jax.load(path), model.logits(images)
    share = 1e-2 if "16" in name else 1e-4
    atol = share * abs(expected).max()
    np.testing.assert_allclose(loaded.logits(images), expected, atol=atol)
    assert loaded.class_names == model.class_names
    assert loaded.result["test"] == model.result["test"]
    assert loaded.config["data"]["dir"] is None  # a folder of this machine
    costs = (efficiency.measure(m.network, tiny_run) for m in (loaded, model))
    one, other = (cost["weights_bytes"] for cost in costs)
    assert one == other > 4 * model.num_parameters
    np.save(tmp_path / "x.npy", images)
    output = tmp_path / "predictions.csv"
    arguments = [f"--workdir={path}", f"--input={tmp_path}/x.npy", f"--output={output}"]
    assert call("predict", *arguments, "--tta=flip").returncode == 0
    assert len(output.read_text().splitlines()) == 6


def test_a_hub_folder_has_its_card(tiny_run, tmp_path):
    path = tmp_path / "shared"
    (tmp_path / "shared.json").write_text("of something else")
    arguments = ["--format=hub", f"--workdir={tiny_run}", f"--output={path}"]
    assert call("export", *arguments).returncode == 0
    text, card = ((path / n).read_text() for n in ("README.md", "config.json"))
    test = json.loads((tiny_run / "result.json").read_text())["test"]
    assert "datasets:\n- digits\n" in text
    assert f"test accuracy {test['accuracy']:.4f} (95% interval " in text
    assert text.startswith("---\nlibrary_name: cifar_jax\n")
    assert json.loads(card)["sha256"]
    assert call("export", *arguments).returncode == 1  # it exists
    (path / "LICENSE").write_text("mine")
    (path / "README.md").write_text("old")
    assert call("export", *arguments, "--overwrite").returncode == 0
    assert (path / "LICENSE").exists() and (path / "README.md").read_text() == text
    arguments[-1] = f"--output={tiny_run}"
    done = call("export", *arguments, "--overwrite")
    assert done.returncode == 1 and "exists" in done.stderr


def test_a_hub_page_does_not_tell_where_the_images_lie(tiny_run, tmp_path):
    network = formats.load(tiny_run)
    card = export.describe(network)
    (tmp_path / "photos").mkdir()
    card["dataset"] = {**card["dataset"], "name": str(tmp_path / "photos")}
    hub.write(network, tmp_path / "shared", card)
    text = (tmp_path / "shared" / "README.md").read_text()
    assert "datasets:\n- photos\n" in text and str(tmp_path) not in text


def test_a_home_is_where_a_run_is_made_and_found(tiny_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").symlink_to(tiny_run)
    assert RunDirectory("~/run").path == tmp_path / "run"
    assert cifar_jax.load("~/run").num_parameters
    with pytest.raises(
        UserError, match="the network is gs://x/run, in a bucket; use a"
    ):
        cifar_jax.load("gs://x/run")


def test_a_run_is_loaded_without_a_word(tiny_run):
    code = f"import cifar_jax; cifar_jax.load({str(tiny_run)!r})"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_nothing_is_written_beside_packaged_weights():
    for command in ("evaluate", "export", "compress"):
        extra = {"export": ["--format=hub"], "compress": ["--int8"]}.get(command, [])
        done = call(command, "--workdir=cifar10_cpu", *extra)
        assert done.returncode == 2, done.stderr
        assert "is not a run directory; give --output as well" in done.stderr


def test_a_path_wins_over_a_name(tiny_run, tmp_path, monkeypatch):
    (tmp_path / "cifar10_cpu").symlink_to(tiny_run)
    monkeypatch.chdir(tmp_path)
    assert cifar_jax.load("cifar10_cpu").num_parameters < 10_000
    with pytest.raises(UserError, match=r"cifar10_cp is .*did you mean cifar10_cpu\?"):
        cifar_jax.load("cifar10_cp")
