"""The recipes: each is below the budget, says so, and runs in its tiny form."""

import ast
import copy
import importlib
import pathlib

import jax
import pytest
from support.recipes import CIFAR, create, make_schedule

from cifar_jax.data.augment import make_pipeline
from cifar_jax.models import count
from cifar_jax.training import dry_run

ROOT = pathlib.Path(__file__).parents[1]
PARAMETERS = {
    "records.seconds": 4_846_658,
    "records.minute": 4_846_658,
    "records.best": 4_309_674,
    "resnet_4p9m": 4_903_242,
}


def load(name, form=None):
    return importlib.import_module(f"configs.{name}").get_config(form)


def test_every_record_is_known():
    files = (ROOT / "configs" / "records").glob("*.py")
    names = {f"records.{path.stem}" for path in files} - {"records.forms"}
    assert names == set(PARAMETERS) - {"resnet_4p9m"}


@pytest.mark.parametrize("name", PARAMETERS)
def test_config_is_a_record_of_what_it_builds(name):
    config, path = load(name), f"configs/{name.replace('.', '/')}.py"
    model = create(config)
    assert count.num_parameters(model, CIFAR) == PARAMETERS[name]
    count.check_budget(PARAMETERS[name], config.budget.limit, model, CIFAR)
    assert not any(width % 32 for width in config.model.widths)
    record = " ".join(ast.get_docstring(ast.parse((ROOT / path).read_text())).split())
    flops = f"{2 * count.macs(model, CIFAR) / 1e9:.3g} GFLOPs an image"
    for part in (f"{PARAMETERS[name]:,}", flops, "Measured:", f"--config {path}"):
        assert part in record


FORMS = [(name, form) for name in PARAMETERS for form in (None, "full", "tiny")]


@pytest.mark.parametrize(("name", "form"), [*FORMS, ("resnet_4p9m", "cpu")])
def test_every_form_has_a_recipe(name, form):
    config = load(name, form)
    make_pipeline(config.augment)
    steps = 10  # of an epoch
    schedule = make_schedule(config, steps)
    assert 0 <= schedule(0) < schedule(steps) <= config.optim.learning_rate
    assert schedule(config.train.epochs * steps) < 0.01 * config.optim.learning_rate
    assert config.evaluate.best_by == "last"  # the test's score is of no choice
    assert (config.data.validation == 0) == (form in ("full", "cpu"))


def test_an_unknown_form_is_refused_with_the_names_of_all():
    with pytest.raises(ValueError, match="'cup' is unknown; use one of .*, cpu$"):
        load("resnet_4p9m", "cup")


def test_each_component_changes_the_base_and_what_it_makes_is_sound():
    config = importlib.import_module("configs.search.components").get_config()
    for item in config.study.space:
        changed = copy.deepcopy(config.base)
        changed.update_from_flattened_dict(item["change"])
        assert (changed.to_dict() == config.base.to_dict()) == (item["name"] == "base")
        make_pipeline(changed.augment)
        make_schedule(changed, 10)


# Each compiles for ten seconds.
@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_the_tiny_form_runs_on_made_up_images(name, capsys):
    dry_run.dry_run(load(name, "tiny"), jax.devices()[:1])
    assert "resuming at step 2" in capsys.readouterr().out
