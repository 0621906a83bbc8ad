"""Which epoch is selected, and when training ends, with made-up validations."""

import os
import signal
import types

import jax
import numpy as np
import pytest

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.training import interrupt, loop, setup
from cifar_jax.training.workdir import RunDirectory

ACCURACIES = (0.2, 0.5, 0.4, 0.5, 0.3, 0.1)
LOSSES = (1.5, 1.6, 1.2, 1.4, 1.3, 1.9)
NUM_EPOCHS = len(LOSSES)


@pytest.fixture
def pretend(monkeypatch):
    """Returns a function that has others take the place of evaluations.

    It takes a function of a network's variables, which returns the metrics.
    """
    means = loop.means
    monkeypatch.setattr(
        loop, "means", lambda values: values if type(values) is dict else means(values)
    )

    def replace(evaluate):
        def evaluate_batch(metrics, variables, batch, mask, *, augmentation):
            if type(metrics) is dict:  # not the first batch of this evaluation
                return metrics
            return evaluate(variables)

        monkeypatch.setattr(loop, "evaluation_call", lambda prepared: evaluate_batch)

    return replace


@pytest.fixture
def validations(pretend):
    """Pretends evaluations; returns the list of the weights that each was given."""
    seen = []

    def evaluate(variables):
        seen.append(jax.device_get(variables))
        number = (len(seen) - 1) % NUM_EPOCHS
        return {"accuracy": ACCURACIES[number], "loss": LOSSES[number]}

    pretend(evaluate)
    return seen


def make_config(digits_dir, **options):
    config = default.get_config()
    config.data.name, config.data.dir = "digits", digits_dir
    config.augment = ()
    config.model.widths, config.model.stage_sizes = (8,), (1,)
    config.model.strides, config.model.stem_stride = (1,), 4
    config.optim.learning_rate = 0.01
    config.train.epochs, config.train.batch_size = NUM_EPOCHS, 512
    for key, value in options.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


def train(config, workdir):
    return loop.train_and_evaluate(config, workdir, devices=jax.devices()[:1])


def same(one, other):
    leaves = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


@pytest.mark.parametrize(
    ("best_by", "epoch"), [("accuracy", 4), ("loss", 3), ("last", NUM_EPOCHS)]
)
def test_the_best_epoch_is_the_one_that_is_scored(
    validations, digits_dir, tmp_path, best_by, epoch
):
    """By accuracy the later of two, as its loss is less."""
    result = train(make_config(digits_dir, evaluate__best_by=best_by), tmp_path)
    assert result["best_epoch"] == epoch
    assert result["val"]["loss"] == LOSSES[epoch - 1]
    assert same(validations[-1], validations[epoch - 1])
    others = (v for i, v in enumerate(validations[:-1], 1) if i != epoch)
    assert not any(same(validations[-1], other) for other in others)


def test_the_best_outlasts_ten_worse_epochs(digits_dir, tmp_path, pretend):
    """Both the best state, of epoch 1, and the latest are there at the end."""
    losses = iter(range(1, 13))
    pretend(lambda variables: {"accuracy": 0.5, "loss": float(next(losses))})
    result = train(make_config(digits_dir, train__epochs=11), tmp_path)
    assert (result["best_epoch"], result["epochs"]) == (1, 11)
    kept = {
        name: {int(path.name) for path in (tmp_path / name).glob("[0-9]*")}
        for name in ("best", "checkpoints")
    }
    assert kept == {"best": {2}, "checkpoints": {20, 22}}


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (9, NUM_EPOCHS)])
def test_training_ends_when_validation_gets_no_better(
    validations, digits_dir, tmp_path, patience, epochs
):
    result = train(make_config(digits_dir, train__patience=patience), tmp_path)
    assert (result["epochs"], len(validations)) == (epochs, epochs + 1)
    assert result["steps"] == epochs * 2
    assert train(make_config(digits_dir, train__patience=patience), tmp_path) == result


def test_an_early_stop_survives_a_crash(validations, digits_dir, tmp_path, monkeypatch):
    """Killed between the last checkpoint and the result: no epoch is trained again."""
    config = make_config(digits_dir, train__patience=1)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_result", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(config, tmp_path)
    before = len(validations)
    result = train(config, tmp_path)
    assert (result["epochs"], len(validations)) == (3, before + 1)


def test_an_epoch_starts_from_the_best_weights(validations, digits_dir, tmp_path):
    """At a rate of zero after epoch 2, weights move by reloading alone."""
    config = make_config(digits_dir, train__reload_best=True)
    config.schedule.name = "piecewise"
    config.schedule.warmup = "0%"
    config.schedule.milestones = (("2 epochs", 0.0),)
    train(config, tmp_path)
    params = [variables["params"] for variables in validations]
    # Epoch 2 is best from then on, until epoch 4 is, with the same weights.
    assert not same(params[0], params[1])
    for later in params[2:]:
        assert same(later, params[1])


def test_reloading_goes_back(digits_dir, tmp_path, validations, monkeypatch):
    """With weights that move, training does not continue from those of a bad epoch."""
    starts, training_call = [], loop.training_call

    def record(program):
        def train(state, *arguments):
            starts.append((int(state.step), jax.device_get(state.variables)))
            return program(state, *arguments)

        return train

    def recorded_call(prepared, step):
        lower = training_call(prepared, step).lower
        return types.SimpleNamespace(
            lower=lambda *arguments: types.SimpleNamespace(
                compile=lambda: record(lower(*arguments).compile())
            )
        )

    monkeypatch.setattr(loop, "training_call", recorded_call)
    train(make_config(digits_dir, train__reload_best=True), tmp_path)
    begun = {step // 2 + 1: variables for step, variables in starts if step % 2 == 0}
    assert same(begun[3], validations[1])  # the end of epoch 2: the best so far
    assert same(begun[4], validations[1])  # again: epoch 3 was worse
    assert not same(begun[4], validations[2])
    assert same(begun[5], validations[3])


def test_a_stop_in_validation_does_not_reload(
    digits_dir, tmp_path, validations, pretend
):
    """The epoch is trained, but not closed: its own weights are validated again."""
    config = make_config(
        digits_dir, train__reload_best=True, evaluate__batch_size=100
    )  # so that the signal arrives between two batches
    whole = train(config, tmp_path / "whole")
    expected = validations.copy()
    validations.clear()
    calls = []

    def stop_in_the_third(variables):
        calls.append(None)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            validations.append(jax.device_get(variables))
        number = (len(validations) - 1) % NUM_EPOCHS
        return {"accuracy": ACCURACIES[number], "loss": LOSSES[number]}

    pretend(stop_in_the_third)
    with pytest.raises(interrupt.Stopped):
        train(config, tmp_path / "run")
    assert train(config, tmp_path / "run")["best_epoch"] == whole["best_epoch"]
    for seen, there in zip(validations, expected, strict=True):
        assert same(seen, there)


def test_choosing_on_the_test_set_is_said(digits_dir, tmp_path, capsys):
    config = make_config(digits_dir, data__validation=0, evaluate__select_on="test")
    result = train(config, tmp_path)
    assert result["val"] is None
    rows = RunDirectory(tmp_path).rows()
    tests = {row["epoch"]: row for row in rows if row["split"] == "test"}
    assert len(tests) == NUM_EPOCHS
    best = max(tests.values(), key=lambda row: (row["accuracy"], -row["loss"]))
    assert result["best_epoch"] == best["epoch"]
    assert result["test"]["accuracy"] == best["accuracy"]
    output = capsys.readouterr().out
    assert "selected on these images: not an honest accuracy" in output
    assert "scored once" not in output


def test_a_time_limit_saves_and_the_same_command_resumes(digits_dir, tmp_path):
    config = make_config(digits_dir)
    whole = train(config, tmp_path / "whole")
    config.train.max_seconds = 1e-3
    with pytest.raises(
        interrupt.Stopped, match="stopped by train.max_seconds=0.001 at"
    ):
        train(config, tmp_path / "run")
    config.train.max_seconds = 1e3
    resumed = train(config, tmp_path / "run")
    for key in ("val", "test", "steps", "best_epoch"):
        assert resumed[key] == whole[key], key


def test_a_time_limit_is_not_a_fault(digits_dir, tmp_path):
    config = make_config(digits_dir, train__max_seconds=1e-3)
    with pytest.raises(interrupt.Stopped) as stopped:
        train(config, tmp_path)
    assert stopped.value.exit_code == 0


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (dict(evaluate__best_by="f1"), "best_by is 'f1'; use accuracy, loss, last"),
        (dict(evaluate__select_on="train"), "select_on is 'train'; use val, test"),
        (dict(evaluate__select_on="test"), "select_on is 'test', but data.validation"),
        (dict(data__validation=0, train__patience=2), "patience is 2, but data.val"),
        (dict(data__validation=0, train__reload_best=True), "reload_best is True, but"),
        (
            dict(train__reload_best=True, train__ema_decay=0.9),
            "needs train.ema_decay=0",
        ),
        (dict(train__accumulate=3), "accumulate is 3, but 1 devices cannot share"),
        (dict(train__accumulate=0), "train.accumulate is 0; use at least 1"),
        (dict(train__repeats=3), "a multiple of train.repeats, 3"),
        (dict(train__repeats=0), "train.repeats is 0; use at least 1"),
        (dict(evaluate__tta="crop"), "tta is 'crop'; use none, flip, multicrop"),
        (dict(optim__sam_rho=0.1, optim__sam_start="0.8"), "sam_start is '0.8'"),
    ],
)
def test_policies_that_make_no_sense_are_refused(digits_dir, options, match):
    with pytest.raises(UserError, match=match):
        setup.make(make_config(digits_dir, **options), jax.devices()[:1], print)
