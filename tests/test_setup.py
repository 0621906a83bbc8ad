"""From a config to what its run needs: the options of the steps."""

import jax
import numpy as np
import pytest
from support.runs import tiny_config

from cifar_jax import UserError
from cifar_jax.training import dry_run, setup


def make(digits_dir, key, value):
    config = tiny_config(digits_dir, **{key: value})
    return setup.make(config, jax.devices()[:1], lambda line: None)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.label_smoothing", 0.3),
        ("train.ema_decay", 0.7),
        ("train.accumulate", 4),
        ("train.repeats", 2),
        ("optim.sam_rho", 0.2),
        ("optim.sam_adaptive", True),
        ("data.mean", (0.1, 0.2, 0.3)),
        ("data.std", (0.4, 0.5, 0.6)),
    ],
)
def test_the_steps_have_the_options_of_the_config(digits_dir, key, value):
    options = make(digits_dir, key, value).options
    found = getattr(options, key.partition(".")[2])
    np.testing.assert_allclose(found, value, rtol=1e-6)


def test_the_momentum_of_a_run_moves(digits_dir):
    config = tiny_config(digits_dir, optim__name="adam", schedule__name="one_cycle")
    config.schedule.momentum_range = (0.85, 0.95)
    made = setup.make(config, jax.devices()[:1], lambda line: None)
    state = setup.jit_create_state(made)(jax.random.key(0))
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    names = [jax.tree_util.keystr(path) for path, _ in leaves]
    assert any(".hyperparams['b1']" in name for name in names), names


def test_random_weights_are_not_frozen(digits_dir):
    with pytest.raises(UserError, match="init.frozen is '50%', but init.workdir"):
        make(digits_dir, "init.frozen", "50%")


def test_classes_without_images_are_named(tmp_path):
    """As where labels begin with 1."""
    images = np.random.default_rng(0).integers(0, 256, (90, 32, 32, 3), np.uint8)
    for first, number in ((1, 1), (0, 0), (5, 5), (20, 20)):
        labels = first + np.arange(90) % 3
        np.savez(tmp_path / "x.npz", images=images, labels=labels)
        config = tiny_config(None, data__name=str(tmp_path / "x.npz"))
        config.data.update(train_split="images", test_split="images")
        config.train.batch_size, said = 16, []
        setup.make(config, jax.devices()[:1], said.append)
        (empty,) = [line for line in said if "no training im" in line] or [None]
        start = f"{number} of {number + 3} classes have no training images: 0"
        assert empty.startswith(start) if number else empty is None
    assert empty.endswith("8, 9, ...")


def test_noise_may_lack_classes(tmp_path, capsys):
    config = tiny_config(str(tmp_path / "nowhere"), data__name="cifar100")
    with dry_run._rehearsal(config, 1) as (short, _, noise):
        setup.make(short, jax.devices()[:1], print, noise)
    assert "no training images" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("data.mean", (0.5,), "data.mean has 1 values for 3 channels; give 3, or None"),
        ("data.std", (0.5,) * 4, "data.std has 4 values for 3 channels; give 3, or"),
        ("data.std", (0.5, 0.0, 0.5), r"std is \(0.5, 0.0, 0.5\); use .* std above 0"),
        ("data.mean", (125.3, 123.0, 113.9), r"mean is \(125.3, .*pixels from 0 to 1"),
    ],
)
def test_statistics_that_make_no_sense_are_refused(digits_dir, key, value, match):
    with pytest.raises(UserError, match=match):
        make(digits_dir, key, value)
