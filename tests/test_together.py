"""Runs that train together are the runs that each would be alone."""

import os
import signal

import jax
import pytest
from test_end_to_end import StopAfter, rows, tiny_config, train

from cifar_jax import UserError
from cifar_jax.training import alike, interrupt
from cifar_jax.training.joined import Joined
from cifar_jax.training.together import train_together
from cifar_jax.training.tracking import RunDirectory

# In which the runs differ: of each key the values of all of them.
VALUES = {
    "seed": (0, 1, 1),
    "optim.learning_rate": (0.02, 0.02, 0.05),
    "optim.weight_decay": (5e-4, 5e-4, 0.01),
    "optim.momentum": (0.9, 0.9, 0.7),
    "train.label_smoothing": (0.0, 0.0, 0.2),
}


@pytest.fixture(scope="module", autouse=True)
def compile_fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def make_configs(digits_dir, **changes):
    configs = [tiny_config(digits_dir) for _ in range(3)]
    for number, config in enumerate(configs):
        # Smooth: a ReLU makes more of a rounding error than 1e-5 within an epoch.
        config.model.activation = "mish"
        config.update_from_flattened_dict({k: v[number] for k, v in VALUES.items()})
        config.update_from_flattened_dict(changes)
    return configs


@pytest.fixture(scope="module")
def apart(digits_dir, tmp_path_factory):
    """The directories and results of the runs, each alone."""
    folders = [tmp_path_factory.mktemp("apart") for _ in range(3)]
    configs = make_configs(digits_dir)
    return folders, [train(*each) for each in zip(configs, folders, strict=True)]


def folders(path, count=3):
    return [path / str(number) for number in range(count)]


def together(configs, path, num_devices=1, **options):
    devices = jax.devices()[:num_devices]
    return train_together(
        configs, folders(path, len(configs)), devices=devices, **options
    )


def check_equal(apart, path, results):
    for old, whole, new, result in zip(*apart, folders(path), results, strict=False):
        for one, other in zip(rows(old), rows(new), strict=True):
            assert other == pytest.approx(one, abs=1e-5)
        for key in ("best_epoch", "steps", "val", "test", "seed"):
            assert result[key] == pytest.approx(whole[key], abs=1e-5)


@pytest.mark.parametrize(
    "form", ["each", "vmap", pytest.param("unrolled", marks=pytest.mark.slow)]
)
def test_runs_together_are_the_runs_apart(apart, digits_dir, tmp_path, form):
    results = together(make_configs(digits_dir), tmp_path, form=form)
    check_equal(apart, tmp_path, results)
    losses = {result["test"]["loss"] for result in results}
    assert len(losses) == 3, "the runs do not differ"
    for result in results:
        assert result["together"] == 3
        clocks = result["seconds"]
        parts = clocks["compile"] + clocks["train"] + clocks["evaluate"]
        assert 0 < parts <= clocks["total"]


@pytest.mark.slow
def test_runs_spread_over_the_devices(apart, digits_dir, tmp_path):
    results = together(make_configs(digits_dir), tmp_path, num_devices=2)
    check_equal(apart, tmp_path, results)
    assert [result["num_devices"] for result in results] == [1, 1, 1]


@pytest.mark.slow
def test_batches_from_the_host(apart, digits_dir, tmp_path):
    configs = make_configs(digits_dir, **{"data.placement": "host"})
    check_equal(apart, tmp_path, together(configs, tmp_path, form="vmap"))


def test_a_run_that_diverges_leaves_the_others(apart, digits_dir, tmp_path):
    configs = make_configs(digits_dir)
    bad = configs[0].copy_and_resolve_references()
    bad.optim.learning_rate = 1e30
    *results, error = together([*configs, bad], tmp_path)
    check_equal(apart, tmp_path, results)
    assert isinstance(error, UserError) and "training diverged" in str(error)


def stopped_after(polls, monkeypatch, call):
    """Stops a call when it asks for the nth time whether it is to."""
    request = StopAfter(polls)
    with monkeypatch.context() as patch, pytest.raises(interrupt.Stopped) as stopped:
        patch.setattr(interrupt.StopRequest, "__bool__", lambda self: bool(request))
        patch.setattr(interrupt.StopRequest, "signal", signal.SIGTERM, raising=False)
        patch.setattr(interrupt.StopRequest, "__init__", lambda self: None)
        call()
    assert stopped.value.exit_code == 143


def test_what_was_stopped_goes_on_together_and_alone(
    apart, digits_dir, tmp_path, monkeypatch
):
    configs = make_configs(digits_dir)
    # The second run is the first to be told, in the fourth round of steps.
    stopped_after(11, monkeypatch, lambda: together(configs, tmp_path))
    alone = configs[1], folders(tmp_path)[1]
    stopped_after(4, monkeypatch, lambda: train(*alone))  # now it is ahead
    stopped_after(20, monkeypatch, lambda: together(configs, tmp_path))
    train(*alone)
    results = together(configs, tmp_path)
    check_equal(apart, tmp_path, results)
    assert together(configs, tmp_path) == results  # nothing is left to do


def test_a_signal_stops_all(digits_dir, tmp_path, monkeypatch):
    calls, train_all = [], Joined.train

    def signalled(self, requests):
        calls.append(sorted(requests))
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return train_all(self, requests)

    monkeypatch.setattr(Joined, "train", signalled)
    with pytest.raises(interrupt.Stopped) as stopped:
        together(make_configs(digits_dir), tmp_path)
    assert stopped.value.exit_code == 143
    assert calls == [[0, 1, 2]] * 3
    for folder in folders(tmp_path):
        assert (folder / "checkpoints" / "3").is_dir()


def test_other_differences_are_refused(digits_dir, tmp_path):
    configs = make_configs(digits_dir)
    configs[2].model.widths = (8, 24)
    with pytest.raises(UserError, match=r"differ in model.widths \(\[8, 16\] and"):
        together(configs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_directory_in_use_is_no_run_of_the_group(digits_dir, tmp_path):
    configs = make_configs(digits_dir)[:1]
    with RunDirectory(folders(tmp_path)[0]).lock():
        (error,) = together(configs, tmp_path)
    assert isinstance(error, UserError) and "another run works in" in str(error)


def test_names_tell_runs_apart(digits_dir):
    configs = make_configs(digits_dir)
    assert alike.names(configs[:2]) == ["seed 0", "seed 1"]
    assert alike.names([configs[0]] * 2) == ["run 1", "run 2"]
