"""Batch and learning rate for many chips, and programs that repeat bit for bit."""

import jax
import pytest
from support.runs import tiny_config

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.training import feed, setup


@pytest.mark.parametrize(
    ("chips", "batch", "factor"),
    [(0, 512, 1), (1, 512, 1), (8, 512, 1), (9, 1024, 2), (32, 2048, 4)]
    + [(256, 4096, 8), (4096, 4096, 8)],
)
@pytest.mark.parametrize("name", ["sgd", "sgdw", "adamw", "lion", "muon"])
def test_each_chip_has_enough_to_do(chips, batch, factor, name):
    config = default.get_config()
    config.optim.name, config.train.chips = name, chips
    lines = []
    scaled = setup.for_chips(config, lines.append)
    assert scaled.train.batch_size == batch
    expected = 0.1 * (factor if name.startswith("sgd") else factor**0.5)
    assert scaled.optim.learning_rate == pytest.approx(expected)
    assert scaled.schedule.warmup == "5%"  # of 100 epochs
    assert len(lines) == (factor > 1)
    again = setup.for_chips(scaled, lines.append)
    assert again.train.batch_size == batch and len(lines) == (factor > 1)
    assert config.train.batch_size == 512  # the config of the run stays as it is


@pytest.mark.parametrize(
    ("warmup", "expected"),
    [
        ("5%", "5 epochs"),
        ("20%", "20%"),
        ("3 epochs", "5 epochs"),
        ("9 epochs", "9 epochs"),
    ],
)
def test_a_larger_batch_is_warmed_up(warmup, expected):
    config = default.get_config()
    config.train.update(epochs=50, chips=32)
    config.schedule.warmup = warmup
    assert setup.for_chips(config).schedule.warmup == expected


def test_a_large_batch_stays_as_it_is():
    config = default.get_config()
    config.train.update(batch_size=3000, chips=256)
    assert setup.for_chips(config).train.batch_size == 3000


def made(digits_dir, **keys):
    config = tiny_config(digits_dir, **keys)
    return setup.make(config, jax.devices()[:1], lambda line: None)


def test_a_run_uses_the_rule(digits_dir):
    prepared = made(digits_dir, data__train_split="train", train__chips=16)
    assert prepared.options.batch_size == 1024
    assert prepared.options.steps_per_epoch == 1
    with pytest.raises(UserError, match="train.chips is -1; use at least 0"):
        made(digits_dir, train__chips=-1)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_deterministic_run_says_so_to_xla(digits_dir, monkeypatch, deterministic):
    prepared = made(digits_dir, train__deterministic=deterministic)
    options, jit = [], jax.jit

    def watched(function, **settings):
        if "compiler_options" in settings:
            options.append(settings["compiler_options"])
        return jit(function, **settings)

    monkeypatch.setattr(feed.jax, "jit", watched)
    feed.lower(prepared, feed.Call(0, 1)).compile()
    feed.evaluation_call(prepared)
    asked = {"xla_gpu_exclude_nondeterministic_ops": True} if deterministic else {}
    assert options == [asked] * 2
