"""Transforms with a window: off outside it bit for bit, on inside, and ramps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from support.augment_images import natural_images

from cifar_jax import UserError
from cifar_jax.data import augment

KEY = jax.random.key(0)
# One transform of each kind.
CERTAIN = {
    "random_flip": dict(p=1.0),
    "alternating_flip": {},
    "random_crop": {},
    "color_jitter": dict(brightness=0.5, contrast=0.5),
    "trivial_augment_wide": {},
    "mixup": dict(alpha=1.0),
}


def batch(count=16):
    images = jnp.asarray(np.resize(natural_images(), (count, 32, 32, 3)))
    return images, jax.nn.one_hot(jnp.arange(count) % 10, 10)


def compiled(*transforms):
    """The chain, as a function of the progress and a batch."""
    pipeline = jax.jit(augment.make_pipeline(transforms))

    def run(progress, images, labels):
        context = dict(epoch=1, index=jnp.arange(len(images)), progress=progress)
        return pipeline(KEY, images, labels, **context)

    return run


@pytest.mark.parametrize("name", augment.TRANSFORMS)
def test_every_transform_may_have_a_window(name):
    pipeline = augment.make_pipeline([dict(name=name, start=0.1, stop=0.9, ramp=0.2)])
    images, labels = batch()
    index = jnp.arange(len(images))
    context = dict(epoch=1, index=index, progress=0.5)
    made, mixed = jax.eval_shape(pipeline, KEY, images, labels, **context)
    assert (made.shape, mixed.shape) == (images.shape, labels.shape)


@pytest.mark.parametrize("name", CERTAIN)
def test_off_outside_its_window_and_on_inside(name):
    data = batch()
    transform = dict(name=name, **CERTAIN[name])
    always = compiled(transform)(0.5, *data)
    windowed = compiled(dict(transform, start=0.25, stop=0.9))
    for progress in (0.0, 0.2499, 0.9, 0.999):
        off = windowed(progress, *data)
        for after, before, on in zip(off, data, always, strict=True):
            np.testing.assert_array_equal(after, before)
            assert after.dtype == on.dtype
    for progress in (0.25, 0.5, 0.8999):
        for on, expected in zip(windowed(progress, *data), always, strict=True):
            np.testing.assert_array_equal(on, expected)


def test_a_step_decides_by_its_share_of_the_run():
    """The first step of the last tenth is the first one without."""
    images, labels = batch(2)
    windowed = compiled(dict(name="random_flip", p=1.0, stop=0.9))
    for total in (10, 70, 1000, 19_500):
        for step, is_on in ((total * 9 // 10 - 1, True), (total * 9 // 10, False)):
            made, _ = windowed(jnp.int32(step) / total, images, labels)
            assert bool((made != images).any()) == is_on


@pytest.mark.parametrize("name", ["random_flip", "mixup"])
def test_a_ramp_grows_the_share_of_the_images(name):
    images, labels = batch(2048)
    transform = dict(name=name, **CERTAIN[name])
    full, full_labels = compiled(transform)(0.5, images, labels)
    ramped = compiled(dict(transform, start=0.2, ramp=0.4))
    for progress, share in ((0.3, 0.25), (0.5, 0.75)):
        made, made_labels = ramped(progress, images, labels)
        acted = (np.asarray(made) != np.asarray(images)).any(axis=(1, 2, 3))
        result = stats.binomtest(int(acted.sum()), len(acted), share)
        assert result.pvalue > 1e-3, acted.mean()
        np.testing.assert_array_equal(made[acted], full[acted])
        np.testing.assert_array_equal(made_labels[acted], full_labels[acted])
        np.testing.assert_array_equal(made_labels[~acted], labels[~acted])
    for progress, expected in ((0.2, images), (0.6, full), (0.7, full)):
        made, _ = ramped(progress, images, labels)
        np.testing.assert_array_equal(made, expected)


def test_windows_one_after_another_change_a_strength_by_stages():
    images, labels = batch()
    weak, strong = (dict(name="cutout", size=size) for size in (4, 16))
    stages = compiled(dict(weak, stop=0.5), dict(strong, start=0.5))
    plain = augment.cutout(jax.random.fold_in(KEY, 0), images, size=4)
    np.testing.assert_array_equal(stages(0.4, images, labels)[0], plain)
    plain = augment.cutout(jax.random.fold_in(KEY, 1), images, size=16)
    np.testing.assert_array_equal(stages(0.6, images, labels)[0], plain)


def test_a_transform_that_is_off_is_not_worked_out():
    pipeline = augment.make_pipeline([dict(name="mixup", stop=0.9)])
    images, labels = batch()
    program = jax.make_jaxpr(pipeline)(KEY, images, labels, epoch=0, progress=0.5)
    mixed = [
        equation.primitive.name
        for equation in program.eqns
        if (images.shape, jnp.float32)
        in [(out.aval.shape, out.aval.dtype) for out in equation.outvars]
    ]
    assert mixed == ["cond"]


@pytest.mark.parametrize(
    "window, parts",
    [
        (dict(stop=1.1), ["stop is 1.1", "a share of the run"]),
        (dict(start=-0.1), ["(-0.1, 1.0)"]),
        (dict(start=0.9, stop=0.1), ["(0.9, 0.1)", "low <= high"]),
        (dict(start=0.5, stop=0.5), ["start is 0.5", "less than stop"]),
        (dict(start=0.5, ramp=0.6), ["ramp is 0.6", "0.5"]),
        (dict(ramp=-0.1), ["ramp is -0.1"]),
        (dict(stop="late"), ["stop is 'late'", "a number"]),
        (dict(end=0.9), ["'end'", "stop"]),
    ],
)
def test_mistakes_are_refused_in_one_line(window, parts):
    with pytest.raises(UserError) as error:
        augment.make_pipeline([dict(name="mixup", **window)])
    message = str(error.value)
    assert "\n" not in message and message.startswith("augment, mixup: ")
    for part in parts:
        assert part in message


def test_a_missing_progress_is_named():
    pipeline = augment.make_pipeline([dict(name="mixup", stop=0.9)])
    with pytest.raises(ValueError, match=r"stop=0.9.*needs the progress of the run"):
        pipeline(KEY, *batch(), epoch=0)
