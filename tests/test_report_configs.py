"""The configs of the five reports build what their docstrings say."""

import ast
import math
import pathlib

import pytest
from support.recipes import CIFAR, create, make_schedule

from cifar_jax import _packaged
from cifar_jax.data.augment import make_pipeline
from cifar_jax.models import count

FOLDER = pathlib.Path(__file__).parents[1] / "configs" / "reports"
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
    return _packaged.read_config(str(FOLDER / f"{name}.py"))


def test_every_config_is_known():
    assert {path.stem for path in FOLDER.glob("*.py")} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_config_is_a_record_of_what_it_builds(name):
    config = load(name)
    model = create(config)
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
    schedule = make_schedule(config, steps)
    assert 0 < schedule(0) <= config.optim.learning_rate
    assert schedule(config.train.epochs * steps) <= config.optim.learning_rate


# Learning rates at the start of epochs: reports.md's, or PyTorch's formula at the step.
RATES = {
    # OneCycleLR(3e-3, div_factor=10, pct_start=0.3): half way up; the peak; the end
    "report_000": {0: 3e-4, 26.25: 1.65e-3, 52.5: 3e-3, 175: 3e-8},
    "report_001": {0: 0.01, 99: 0.01},
    # half a cosine, moved once an epoch
    "report_002": {0: 0.05, 50.7: 0.05 * (1 + math.cos(math.pi / 4)) / 2, 100: 0.025},
    "report_002_as_coded": {9.9: 0.05 * (1 + math.cos(0.9 * math.pi)) / 2, 10: 0.05}
    | {20: 0.025, 30: 0.05, 50: 0.025, 70: 0.05, 110: 0.025, 150: 0.05},
    "report_003": {0: 1e-3, 19: 1e-3},
    "report_003_as_coded": {19: 1e-3 * (1 + math.cos(math.pi * 19 / 200)) / 2},
    "report_004": {9.9: 1e-3, 10: 9e-4, 20: 8.1e-4, 499: 1e-3 * 0.9**49},
    "report_004_as_coded": {0: 1e-2, 499: 1e-2 * 0.9**49},
}


@pytest.mark.parametrize("name", RATES)
def test_learning_rates_are_those_of_the_report(name):
    steps = 100
    schedule = make_schedule(load(name), steps)
    for epoch, rate in RATES[name].items():
        found = float(schedule(round(epoch * steps)))
        assert found == pytest.approx(rate, rel=1e-3, abs=1e-7), epoch


def test_policies_are_those_of_the_reports():
    assert load("report_000_as_coded").evaluate.select_on == "test"
    assert load("report_001").train.reload_best
    assert load("report_003").evaluate.best_by == "loss"
    for name in ("report_002", "report_002_as_coded", "report_004"):
        assert load(name).data.validation == 0  # so that the last state is scored


def test_the_smoothing_of_report_002_is_what_it_says():
    """The right class gets 0.9 in the report, and 0.91 in its code."""
    for name, target in (("report_002", 0.9), ("report_002_as_coded", 0.91)):
        smoothing = load(name).train.label_smoothing
        assert 1 - smoothing + smoothing / 10 == pytest.approx(target)
