"""The configs of the five reports build what their docstrings say."""

import ast
import pathlib

import pytest

from cifar_jax.data.augment import make_pipeline
from cifar_jax.models import count, resnet
from cifar_jax.training import optim

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "reports"
CIFAR = (32, 32, 3)
PARAMETERS = {
    "report_000": 4_964_266,
    "report_000_as_coded": 4_964_266,
    "report_000_baseline": 855_770,
    "report_001": 4_903_242,
    "report_002": 4_570_934,
    "report_002_as_coded": 4_570_934,
    "report_003": 4_977_226,
    "report_003_as_coded": 4_977_226,
    "report_004": 4_895_755,
    "report_004_as_coded": 4_895_755,
}


def load(name):
    scope = {}
    exec(compile((FOLDER / f"{name}.py").read_text(), name, "exec"), scope)
    return scope["get_config"]()


def test_every_config_is_known():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_config_is_a_record_of_what_it_builds(name):
    config = load(name)
    model = resnet.create(num_classes=10, image_shape=CIFAR, **config.model.to_dict())
    assert count.num_parameters(model, CIFAR) == PARAMETERS[name]
    count.check_budget(PARAMETERS[name], config.budget.limit, model, CIFAR)
    record = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    for part in (f"{PARAMETERS[name]:,}", "Claims", "correct", "Measured:"):
        assert part in record
    assert f"configs/reports/{name}.py" in record


@pytest.mark.parametrize("name", PARAMETERS)
def test_config_has_a_recipe(name):
    config = load(name)
    make_pipeline(config.augment)
    steps = 100  # of an epoch
    schedule = optim.make_schedule(
        config.schedule.name,
        config.optim.learning_rate,
        warmup_steps=int(config.schedule.warmup_fraction * steps),
        total_steps=config.train.epochs * steps,
        initial_factor=config.schedule.initial_factor,
        final_factor=config.schedule.final_factor,
    )
    assert schedule(0) > 0
    assert schedule(config.train.epochs * steps) <= config.optim.learning_rate
    options = config.optim.to_dict()
    del options["learning_rate"]
    optim.make_optimizer(schedule=schedule, **options)
