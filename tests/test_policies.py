"""Which epoch is selected, and when training ends: by the validations of a run."""

import math

import jax
import numpy as np
import pytest
from support.runs import rows, signal_before, train

from cifar_jax import Stopped, UserError
from cifar_jax import config as default
from cifar_jax.training import loop, pretrained, results, setup

pytestmark = pytest.mark.usefixtures("strict_dtypes")

NUM_EPOCHS = 6


def make_config(digits_dir, **options):
    """Returns the config of a run whose validations go up and down."""
    config = default.get_config()
    config.data.name, config.data.dir = "digits", digits_dir
    config.data.train_split = "train[:50%]"
    config.augment = ()
    config.model.widths, config.model.stage_sizes = (8,), (1,)
    config.model.strides, config.model.stem_stride = (1,), 4
    # The rate rises half-way, by so much that what was learned is lost.
    config.optim.learning_rate, config.schedule.name = 0.1, "piecewise"
    config.schedule.warmup, config.schedule.milestones = "0%", (("50%", 20.0),)
    config.train.epochs, config.train.batch_size = NUM_EPOCHS, 128
    for key, value in options.items():
        section, name = key.split("__")
        config[section][name] = value
    return config


@pytest.fixture(scope="module")
def whole(made_once, digits_dir):
    """The directory of a run to the end, of which the last state counts."""
    config = make_config(digits_dir, evaluate__best_by="last")
    return made_once("policies", lambda folder: train(config, folder))


@pytest.fixture(scope="module")
def validations(whole):
    """The validations of the epochs, in their order."""
    validations = [row for row in rows(whole) if row["split"] == "val"]
    best = by_accuracy(validations)
    assert best not in (1, NUM_EPOCHS), "these tests need a run that gets worse"
    return validations


def by_accuracy(rows):
    """Returns the epoch of the best row: the smaller loss decides between equals."""
    return max(rows, key=lambda row: (row["accuracy"], -row["loss"]))["epoch"]


def params(workdir, **options):
    return pretrained.load_model(workdir, **options).variables["params"]


def same(one, other):
    leaves = zip(*map(jax.tree.leaves, (one, other)), strict=True)
    return all(np.array_equal(a, b) for a, b in leaves)


@pytest.mark.parametrize(
    "best_by", ["accuracy", pytest.param("loss", marks=pytest.mark.slow)]
)
def test_the_best_epoch_is_the_one_that_is_scored(
    validations, whole, digits_dir, tmp_path, best_by
):
    """Its weights outlast the worse epochs after it, also where one state is kept."""
    config = make_config(digits_dir, evaluate__best_by=best_by, checkpoint__keep=1)
    result = train(config, tmp_path)
    assert rows(tmp_path) == rows(whole)  # selecting changes no weights
    losses = [row["loss"] for row in validations]
    by_loss = losses.index(min(losses)) + 1
    expected = by_accuracy(validations) if best_by == "accuracy" else by_loss
    assert result["best_epoch"] == expected
    assert result["val"]["loss"] == validations[expected - 1]["loss"]
    network = pretrained.load_model(tmp_path)
    assert network.epoch == expected < NUM_EPOCHS
    steps = {
        name: [int(path.name) for path in (tmp_path / name).glob("[0-9]*")]
        for name in ("best", "checkpoints")
    }
    assert steps["checkpoints"] == [result["steps"]]
    assert expected * result["steps"] // NUM_EPOCHS in steps["best"]
    source = setup.open_source(config)
    _, val = setup.read_train_and_val(config, source)
    for part, examples in (("val", val), ("test", source.read("test"))):
        predicted = np.asarray(network.logits(examples.images)).argmax(-1)
        accuracy = (predicted == examples.labels).mean()
        assert result[part]["accuracy"] == pytest.approx(accuracy)


def test_the_rules_compare_two_validations():
    def val(epoch, accuracy, loss):
        return {"epoch": epoch, "accuracy": accuracy, "loss": loss}

    old, equal = val(2, 0.5, 1.4), val(4, 0.5, 1.4)
    closer, surer = val(4, 0.6, 1.5), val(4, 0.5, 1.3)
    better = {"accuracy": [closer, surer], "loss": [surer], "last": [closer, surer]}
    for rule, expected in better.items():
        rank = results.RANKS[rule]
        found = [new for new in (closer, surer) if rank(new) > rank(old)]
        assert found == expected, rule
        assert (rank(equal) > rank(old)) == (rule == "last")
        assert rank(old) > rank(val(1, 0.5, math.nan))


def test_a_validation_that_overflows_is_not_selected(digits_dir, tmp_path, monkeypatch):
    config = make_config(digits_dir, train__epochs=3)
    losses = iter([math.nan, 1.0, math.inf])
    evaluate = loop.Trainer._evaluate

    def overflows(self, *arguments):
        loss = next(losses, 1.5)
        return evaluate(self, *arguments) | {"loss": loss, "accuracy": 0.1}

    monkeypatch.setattr(loop.Trainer, "_evaluate", overflows)
    assert train(config, tmp_path / "run")["best_epoch"] == 2
    losses = iter([math.nan] * 3)
    with pytest.raises(UserError, match="diverged: the loss of the best .* is nan"):
        train(config, tmp_path / "another")
    assert not (tmp_path / "another" / "result.json").exists()


def test_the_last_epoch_can_be_the_one_that_is_scored(whole, validations):
    assert pretrained.load_model(whole).epoch == NUM_EPOCHS
    assert same(params(whole), params(whole, which="last"))


@pytest.mark.parametrize("patience", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_training_ends_when_validation_gets_no_better(
    validations, whole, digits_dir, tmp_path, patience
):
    """A run that was killed before its result ends there too, without training."""
    epochs = next(
        n
        for n in range(1, NUM_EPOCHS + 1)
        if n - by_accuracy(validations[:n]) >= patience or n == NUM_EPOCHS
    )
    config = make_config(digits_dir, train__patience=patience)
    result = train(config, tmp_path / "run")
    assert result["epochs"] == epochs
    assert rows(tmp_path / "run") == rows(whole)[: 2 * epochs]
    if patience == 1:
        assert epochs < NUM_EPOCHS
        (tmp_path / "run" / "result.json").unlink()
        again = train(config, tmp_path / "run")
        for key in ("epochs", "best_epoch", "val", "test"):
            assert again[key] == result[key]
        assert rows(tmp_path / "run") == rows(whole)[: 2 * epochs]


def test_only_a_validation_ends_a_run(digits_dir, tmp_path, monkeypatch):
    config = make_config(digits_dir, train__patience=3, evaluate__every_epochs=2)
    config.train.epochs, config.optim.learning_rate = 8, 1e-9  # it stays as it is
    result = train(config, tmp_path / "run")
    validated = [
        row["epoch"] for row in rows(tmp_path / "run") if row["split"] == "val"
    ]
    assert result["epochs"] == validated[-1] < 8
    assert result["epochs"] - result["best_epoch"] == 4


def test_the_last_epoch_is_validated_too(digits_dir, tmp_path):
    options = dict(evaluate__every_epochs=2, train__epochs=5)
    train(make_config(digits_dir, **options), tmp_path)
    validated = [row["epoch"] for row in rows(tmp_path) if row["split"] == "val"]
    assert validated == [2, 4, 5]


@pytest.mark.slow
def test_an_epoch_starts_from_the_best_weights(digits_dir, tmp_path):
    """After a ruinous second epoch the rate is zero: reloading alone moves weights.

    And a stop in a validation does not reload: the epoch's own weights are validated.
    """
    runs = {}
    for reload in (True, False):
        config = make_config(digits_dir, train__reload_best=reload, train__epochs=4)
        config.evaluate.best_by = "loss"
        config.optim.learning_rate, config.optim.momentum = 0.05, 0.0
        config.schedule.name, config.schedule.warmup = "piecewise", "0%"
        config.schedule.milestones = (("1 epochs", 100.0), ("2 epochs", 0.0))
        runs[reload] = tmp_path / str(reload)
        train(config, runs[reload])
        val = [row for row in rows(runs[reload]) if row["split"] == "val"]
        assert val[1]["loss"] > val[0]["loss"], "the epoch was not ruinous"
        if reload:
            with pytest.MonkeyPatch.context() as patch:
                signal_before(patch, "every_example", 2)  # the second validation
                with pytest.raises(Stopped):
                    train(config, tmp_path / "stopped")
            train(config, tmp_path / "stopped")
            assert rows(tmp_path / "stopped") == rows(runs[True])
    assert same(params(runs[True], which="last"), params(runs[True]))
    # Without reloading, the weights stay those of the second epoch.
    first, second = (params(runs[reload], which="last") for reload in (True, False))
    assert not same(first, second)


def test_selecting_on_the_test_set_is_said(digits_dir, tmp_path, capsys):
    options = dict(data__validation=0, evaluate__select_on="test", train__epochs=3)
    result = train(make_config(digits_dir, **options), tmp_path)
    assert result["val"] is None
    tests = [row for row in rows(tmp_path) if row["split"] == "test"]
    assert len(tests) == 3
    assert result["best_epoch"] == by_accuracy(tests)
    assert result["test"]["accuracy"] == max(row["accuracy"] for row in tests)
    output = capsys.readouterr().out
    assert "not an honest accuracy" in output
    assert "scored once" not in output


def test_a_time_limit_saves_and_the_same_command_resumes(whole, digits_dir, tmp_path):
    """And it is not a fault."""
    options = dict(evaluate__best_by="last", train__max_seconds=1e-3)
    config = make_config(digits_dir, **options)
    with pytest.raises(
        Stopped, match="stopped by train.max_seconds=0.001 at"
    ) as stopped:
        train(config, tmp_path)
    assert stopped.value.exit_code == 0
    config.train.max_seconds = 1e3
    train(config, tmp_path)
    assert rows(tmp_path) == rows(whole)


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
        (
            dict(train__patience=2, evaluate__best_by="last"),
            "best_by is 'last', by whi",
        ),
        (  # epochs between validations would be thrown away
            dict(train__reload_best=True, evaluate__every_epochs=2),
            "needs .*, not 0.0, 2 and accuracy",
        ),
        (
            dict(train__reload_best=True, evaluate__best_by="last"),
            "needs .*, not 0.0, 1 and last",
        ),
        (dict(optim__b1=1.0), "optim.b1 is 1.0; use at least 0 and below 1"),
        (dict(optim__muon_steps=0), "optim.muon_steps is 0; use at least 1"),
        (
            dict(train__batch_size=66, train__repeats=3, train__accumulate=4),
            "evenly in 4 parts.*; use 60 or 72",
        ),
        (dict(train__batch_size=0, train__chips=8), "batch_size is 0; use at least 1"),
        (dict(train__chips=64), "training images; use .*, or fewer train.chips"),
        (dict(train__accumulate=3), "cannot share evenly in 3 parts.*; use 126 or 129"),
        (dict(train__accumulate=0), "train.accumulate is 0; use at least 1"),
        (dict(train__repeats=3), "is 128, which is not a multiple of train.repeats, 3"),
        (dict(train__repeats=0), "train.repeats is 0; use at least 1"),
        (dict(evaluate__tta="crop"), "tta is 'crop'; use none, flip, multicrop"),
        (dict(optim__sam_rho=0.1, optim__sam_start="0.8"), "sam_start is '0.8'"),
    ],
)
def test_policies_that_make_no_sense_are_refused(digits_dir, tmp_path, options, match):
    with pytest.raises(UserError, match=match):
        train(make_config(digits_dir, **options), tmp_path)
