"""Configs and weights are found by name, from any folder, and wrong keys are named."""

import json
import pathlib
import re
import sys
import tomllib

import pytest
from support.commands import ROOT, call

from cifar_jax import UserError, _packaged
from cifar_jax import config as default
from cifar_jax.training import results


@pytest.mark.parametrize("name", _packaged.config_names())
def test_every_config_is_found_by_its_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The checkout, which pytest puts there, is not on the path of a user.
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p != str(ROOT)])
    for module in [name for name in sys.modules if re.match(r"configs\b", name)]:
        monkeypatch.delitem(sys.modules, module)
    path = _packaged.find_config(name)
    assert path == _packaged.find_config(f"configs/{name}.py")
    if "def get_config" in path.read_text():
        assert _packaged.read_config(name).is_locked


def test_a_path_wins_over_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "from . import other\ndef get_config():\n    return other.config()\n"
    (tmp_path / "quickstart").write_text(text)
    assert _packaged.find_config("quickstart") == pathlib.Path("quickstart")
    (tmp_path / "mine.py").write_text(text)
    base = "from cifar_jax.config import get_config\ndef config():\n"
    (tmp_path / "other.py").write_text(
        f"{base}    config = get_config()\n    config.seed = 9\n    return config\n"
    )
    assert _packaged.read_config("mine.py").seed == 9
    with pytest.raises(UserError, match=r"quickstrt does not .*mean quickstart\?"):
        _packaged.find_config("quickstrt")


@pytest.mark.parametrize(
    ("typed", "key"),
    [
        ("optim.lr", "optim.learning_rate"),
        ("lr", "optim.learning_rate"),
        ("epochs", "train.epochs"),
        ("train.epoch", "train.epochs"),
        ("model.epochs", "train.epochs"),
        ("batchsize", "train.batch_size"),
        ("model.width", "model.widths"),
        ("qqq", None),
    ],
)
def test_the_nearest_key_is_named_in_full(typed, key):
    assert _packaged.nearest_key(typed, default.get_config()) == key
    study = default.get_study_config()
    assert _packaged.nearest_key(typed, study) == (key and f"base.{key}")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--epochs=3", "unknown flag --epochs; did you mean --config.train.epochs?"),
        ("--config.optim.lr=3", "no key optim.lr; did you mean optim.learning_rate?"),
        ("--config.train.epochs=abc", "epochs is 'abc'; give a value such as 15"),
        ("--config.optim.name=adamax", "optim.name is 'adamax'; use adam, adamw"),
        ("--config.model.widths=512,1024,2048", "over the budget"),
    ],
)
def test_a_refused_run_leaves_nothing(argument, message, tmp_path):
    arguments = ["--config=quickstart", f"--workdir={tmp_path}/runs/new", argument]
    done = call("main", *arguments)
    assert done.returncode in (1, 2) and message in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_wheel_has_every_folder():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = set(project["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(path.relative_to(root).parent.parts)
        for root, start in ((ROOT, "cifar_jax"), (ROOT, "configs"))
        for path in (root / start).rglob("*.py")
    }
    assert listed == {
        name if name.startswith("cifar_jax") else f"cifar_jax.{name}"
        for name in folders
    }


def test_the_wheel_has_every_data_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    carried = {
        path
        for package, patterns in project["tool"]["setuptools"]["package-data"].items()
        for pattern in patterns
        for path in ROOT.joinpath(*package.split(".")).glob(pattern)
    }
    # Of the weights and their cards only some are packaged.
    others = (".py", ".pyc", ".json", ".safetensors")
    files = (path for path in (ROOT / "cifar_jax").rglob("*") if path.is_file())
    assert {path for path in files if path.suffix not in others} <= carried


@pytest.mark.parametrize("name", _packaged.network_names())
def test_packaged_weights_have_their_card(name):
    path = _packaged.WEIGHTS / f"{name}.safetensors"
    card = json.loads(path.with_name(f"{path.name}.json").read_text())
    assert path.stat().st_size < 12e6
    text = (_packaged.WEIGHTS / "README.md").read_text()
    assert f"`{name}`" in text and card["sha256"] in text
    if card["result"]:
        test = card["result"]["test"]
        correct = round(test["accuracy"] * test["num_examples"])
        low, high = results.wilson_interval(correct, test["num_examples"])
        assert f"{test['accuracy']:.4f} ({low:.4f} to {high:.4f})" in text


def test_the_commands_are_listed(capsys):
    done = call("__main__")
    assert done.returncode == 0
    for name in ("main", "predict", "export"):
        assert f"python -m cifar_jax.{name} " in done.stdout
    assert call("__main__", "--version").stdout == "cifar_jax 0.1.0\n"
    assert call("main", "--version").stdout == "cifar_jax 0.1.0\n"
    assert call("__main__", "train").returncode == 2
