"""The default config, and what becomes of the config of an older run."""

import copy
import json
import pathlib
import re

import pytest
from support.commands import call

from cifar_jax import UserError, _cli, _packaged
from cifar_jax import config as default
from cifar_jax.studies import study

ROOT = pathlib.Path(__file__).parents[1]
FILE = pathlib.Path("config.json")


def as_dict(config):
    return default.config_to_dict(config)


def older(**renamed):
    """The default config as a version before the renamings wrote it."""
    values = as_dict(default.get_config())
    for old, new in default.RENAMED_KEYS.items():
        section, name = new.split(".")
        if section in values:
            value = values[section].pop(name)
            key = old.split(".")[1]
            values[section][key] = renamed.get(key, value)
    return values


def test_every_key_has_a_comment():
    lines = (ROOT / "cifar_jax" / "config.py").read_text().splitlines()
    section = re.compile(r"    \S+ = (get_config\(\)|ConfigDict\(.*\))$")
    key = re.compile(r"    ((\w+\.)+\w+|\w+: [\w\[\], .|]+) = (?!.*,$)")
    keys = [
        (number, line)
        for number, line in enumerate(lines)
        if key.match(line) and not section.match(line)
    ]
    assert len(keys) > 100
    for number, line in keys:
        above = lines[number - 1].strip()
        # a comment may stand for a pair, such as prune.start and prune.stop
        assert "#" in line or above.startswith("#") or "start" in above, line


def test_a_key_that_does_not_exist_cannot_be_set():
    for config in (default.get_config(), default.get_study_config().base):
        with pytest.raises(AttributeError, match="locked"):
            config.train.epoch = 3


@pytest.mark.parametrize("prefix", ["", "base."])
def test_none_on_the_command_line_is_none(prefix):
    start = default.get_study_config if prefix else default.get_config
    values = {
        "data.image_size": "(32, 24)",
        "model.pool": "4",
        "init.workdir": "runs/x",
        "budget.limit": "10",
    }

    def parsed(key, *texts):
        flags = _cli.Flags([f"--config.{prefix}{key}={text}" for text in texts])
        _cli.define_config(flags, start)
        flags.parse()
        assert not flags.operands
        return default.flatten(as_dict(flags.config))[prefix + key]

    for key in sorted(default.OPTIONAL_KEYS):
        assert parsed(key, "None") is None
    for key, text in values.items():  # of several the last one counts
        assert parsed(key, text) == parsed(key, "None", text) is not None
        assert parsed(key, text, "None") is None
    for key in ("train.epochs", "data.validation"):  # they never are
        with pytest.raises(UserError, match=f"{key} is 'None'; give a value such as"):
            parsed(key, "None")
    with pytest.raises(UserError, match="is 'many'; give a value of type int, or None"):
        parsed("model.stem_width", "many")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("configs/*.py")), ids=lambda path: path.stem
)
def test_the_config_of_a_run_comes_back(path):
    config = _packaged.read_config(str(path))
    config.optim.lr_multipliers = ((".*/bias", 2.0),)
    config.data.image_size = (24, 24)
    config.data.validation = 5000
    written = as_dict(config)
    assert written == json.loads(json.dumps(written))
    again = default.config_from_dict(written, FILE)
    assert as_dict(again) == written
    assert again.optim.lr_multipliers == config.optim.lr_multipliers
    assert again.augment == tuple(dict(transform) for transform in config.augment)


def test_a_younger_key_had_its_default():
    new = as_dict(default.get_config())
    old = copy.deepcopy(new)
    del old["prune"], old["model"]["bn_momentum"]
    assert default.config_diff(old, new) == {}
    new["prune"]["sparsity"] = 0.5
    expected = {"prune.sparsity": "prune.sparsity was 0.0, now 0.5"}
    assert default.config_diff(old, new) == expected
    assert default.config_from_dict(old, FILE).model.bn_momentum == 0.9


def test_a_renamed_key_keeps_its_value():
    old = older(views=2, muon_rest="adamw", decayed="all")
    config = default.config_from_dict(old, FILE)
    assert config.train.repeats == 2
    assert config.optim.muon_fallback == "adamw"
    assert config.optim.weight_decay_mask == "all"
    new = as_dict(default.get_config())
    assert default.config_diff(older(), new) == {}
    assert set(default.config_diff(old, new)) == {
        *("train.repeats", "optim.muon_fallback", "optim.weight_decay_mask")
    }


@pytest.mark.parametrize("old", [k for k in default.RENAMED_KEYS if k[:5] != "study"])
def test_the_command_line_names_a_renamed_key(old):
    done = call("budget", "--config=configs/quickstart.py", f"--config.{old}=1")
    new = default.RENAMED_KEYS[old]
    assert done.returncode == 2
    assert done.stderr == f"error: config has no key {old}; did you mean {new}?\n"


def test_renamed_keys_of_a_study_are_known():
    new = as_dict(default.get_study_config())
    old = copy.deepcopy(new)
    old["base"] = older(views=3)
    old["study"]["reduction"] = old["study"].pop("reduction_factor")
    expected = {"base.train.repeats": "base.train.repeats was 3, now 1"}
    assert default.config_diff(old, new) == expected


def test_a_key_that_is_gone_is_named():
    old = as_dict(default.get_config())
    old["model"]["gone"] = 1
    with pytest.raises(UserError, match="has the key 'model.gone', which this version"):
        default.config_from_dict(old, FILE)
    new = as_dict(default.get_config())
    assert default.config_diff(old, new) == {"model.gone": "model.gone was 1, now None"}


def test_keys_that_only_change_where_a_run_computes_may_differ():
    old, new = (as_dict(default.get_config()) for _ in range(2))
    new["data"]["dir"], new["checkpoint"]["keep"], new["seed"] = "elsewhere", 5, 1
    assert set(default.config_diff(old, new)) == {"seed"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("optim.lr_multipliers", (".*/bias", 2.0), "has '.*/bias'; use a pair such as"),
        ("optim.lr_multipliers", ((".*/bias", "2"),), ".* use a pair such as"),
        ("schedule.milestones", ("50%", 0.1), "has '50%'; use a pair such as"),
        ("schedule.momentum_range", (), ".* use a pair such as"),
        ("schedule.momentum_range", (0.9,), r"has \[0.9\]; use a pair such as"),
    ],
)
def test_what_should_be_pairs_is_checked(key, value, message):
    config = default.get_config()
    config.update_from_flattened_dict({key: value})
    with pytest.raises(UserError, match=f"{key} {message}"):
        default.check(config)


def test_the_config_of_a_study_is_not_taken_for_that_of_a_run():
    with pytest.raises(UserError, match=r"config of a study.*use cifar_jax\.search"):
        default.check(default.get_study_config())
    with pytest.raises(UserError, match=r"config of a run.*use cifar_jax\.main"):
        study.make(default.get_config())
