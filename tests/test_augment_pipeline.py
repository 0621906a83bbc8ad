"""The chain of transforms: names, options, order, keys, windows, and devices."""

import functools
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from scipy import stats
from support.augment_images import natural_images

from cifar_jax import UserError
from cifar_jax.data import augment
from cifar_jax.data.augment.pipeline import CONTEXT, make_pipeline

pytestmark = pytest.mark.usefixtures("strict_dtypes")

BATCH = 16
# Options at which each transform leaves the images alone. The alternating flip has no
# strength: it mirrors an image in one of two epochs.
NOTHING = {
    "random_crop": dict(padding=0),
    "random_flip": dict(p=0.0),
    "random_rotation": dict(degrees=0.0),
    "random_affine": dict(),
    "color_jitter": dict(),
    "cutout": dict(size=0),
    "random_erasing": dict(p=0.0),
    "mixup": dict(alpha=0.0),
    "cutmix": dict(alpha=0),
    "ricap": dict(beta=0.0),
    "auto_augment": dict(p=0),
    "rand_augment": dict(num_ops=0),
    "trivial_augment_wide": dict(p=0.0),
}
# Every transform once, mixing last.
EVERYTHING = (
    dict(name="random_crop", mode="reflect"),
    dict(name="alternating_flip"),
    dict(name="random_flip"),
    dict(name="random_affine", shear=(10, 0), scale=(0.8, 1.2)),
    dict(name="random_rotation", interpolation="bilinear"),
    dict(name="color_jitter", brightness=0.2, contrast=0.2, saturation=0.2),
    dict(name="trivial_augment_wide"),
    dict(name="rand_augment", num_ops=1),
    dict(name="auto_augment"),
    dict(name="random_erasing"),
    dict(name="cutout", size=8),
    dict(name="ricap", p=0.5),
    dict(name="cutmix", p=0.5),
    dict(name="mixup", p=0.5),
)

# They share all but their draws with others in the list, and take long to compile.
TWINS = ("random_rotation", "auto_augment", "rand_augment")
SORTED = sorted(EVERYTHING, key=lambda transform: transform["name"] in TWINS)


def for_each(transforms):
    """Tests with each transform, one test after the other of those that share it."""
    name = lambda transform: transform["name"]  # noqa: E731
    return pytest.mark.parametrize("transform", transforms, ids=name, scope="module")


# One transform of each kind, for windows: each changes every image.
CERTAIN = {
    "random_flip": dict(p=1.0),
    "alternating_flip": {},
    "random_crop": {},
    "color_jitter": dict(brightness=0.5, contrast=0.5),
    "mixup": dict(alpha=1.0),
}
KEY = jax.random.key(0)


def batch(count=BATCH):
    images = jnp.asarray(np.resize(natural_images(), (count, 32, 32, 3)))
    return images, jax.nn.one_hot(jnp.arange(count) % 10, 10)


_pipelines = {}  # so that tests of the same chain compile it once


def compiled(transforms):
    text = json.dumps(transforms)
    if text not in _pipelines:
        chain = augment.make_pipeline(transforms)
        _pipelines[text] = chain, jax.jit(chain, static_argnames="active")

    def run(key, images, labels, progress=0.5):
        chain, jitted = _pipelines[text]
        active = tuple(map(bool, chain.active(jnp.float32(progress))))
        context = dict(epoch=1, index=jnp.arange(len(images)), progress=progress)
        return jitted(key, images, labels, active=active, **context)

    return run


def apply(transforms, key, images, labels):
    return compiled(transforms)(key, images, labels)


def test_every_transform_is_tested():
    assert {t["name"] for t in EVERYTHING} == set(augment.TRANSFORMS)
    assert NOTHING.keys() | {"alternating_flip"} == set(augment.TRANSFORMS)


@for_each(SORTED)
def test_the_key_alone_decides(transform):
    images, labels = batch()
    chain = compiled([transform])
    first, again, other = (chain(jax.random.key(k), images, labels) for k in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    differs = (np.asarray(first[0]) != np.asarray(other[0])).any()
    assert differs == (transform["name"] != "alternating_flip")  # it takes no key


def choose_branch(monkeypatch, platform):
    """Lets `platform_dependent` take the branch of a platform, on any device."""
    monkeypatch.setattr(
        jax.lax,
        "platform_dependent",
        lambda *arguments, default, **branches: branches.get(platform, default)(
            *arguments
        ),
    )


@for_each(SORTED[: -len(TWINS)])
def test_a_tpu_computes_the_same_bits(monkeypatch, transform):
    """Its forms have products with one-hot matrices instead of gathers."""
    # Floats, with fractions, have a product of their own.
    is_float = transform["name"] in ("random_affine", "cutmix", "ricap")
    images, labels = batch()
    images = images.at[0].set(7).at[1, :16].set(0)  # a flat image, and half of one
    if is_float:
        images = images.astype(jnp.float32) * 0.7
    here = compiled([transform])(KEY, images, labels)
    choose_branch(monkeypatch, "tpu")
    chain = jax.jit(augment.make_pipeline([transform]))
    context = dict(epoch=1, index=jnp.arange(BATCH), progress=0.5)
    there = chain(KEY, images, labels, **context)
    for one, two in zip(here, there, strict=True):
        np.testing.assert_array_equal(one, two)


@for_each(SORTED)
def test_accelerators_neither_wait_for_data_nor_gather_on_a_tpu(transform):
    """Rejection loops make the host wait for a GPU; TPUs gather pixel by pixel."""
    pipeline = augment.make_pipeline([transform])
    context = dict(epoch=1, index=jnp.arange(BATCH), progress=0.5)
    traced = jax.jit(pipeline).trace(KEY, *batch(), **context)
    for platform, banned in (
        ("cuda", "while"),
        ("tpu", "while gather dynamic_gather scatter dynamic_slice"),
    ):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        operations = {
            line.split("stablehlo.")[1].split("(")[0].split()[0].strip('"')
            for line in text.splitlines()
            if "stablehlo." in line
        }
        assert not operations & set(banned.split()), platform


@pytest.mark.parametrize("name", NOTHING)
def test_zero_strength_is_the_identity(name):
    images, labels = batch()
    ours = apply([dict(name=name, **NOTHING[name])], jax.random.key(0), images, labels)
    np.testing.assert_array_equal(ours[0], images)
    np.testing.assert_array_equal(ours[1], labels)


def test_zero_strength_keeps_fractions_where_levels_are_not_needed():
    images, labels = batch()
    images = images / 2 + 0.25
    names = [name for name in NOTHING if "augment" not in name]
    transforms = [dict(name=name, **NOTHING[name]) for name in names]
    ours = apply(transforms, jax.random.key(0), images, labels)
    np.testing.assert_array_equal(ours[0], images)


@for_each(SORTED[: -len(TWINS)])
def test_one_device_and_eight_give_the_same(transform):
    devices = jax.devices()
    assert len(devices) == 8, "conftest.py gives the tests 8 CPU devices"
    key = jax.random.key(7)
    images, labels = apply([transform], key, *batch())
    mesh = jax.make_mesh((8,), ("data",), (AxisType.Auto,), devices=devices)
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    images8, labels8 = apply(
        [transform],
        jax.device_put(key, NamedSharding(mesh, PartitionSpec())),
        *jax.device_put(batch(), sharding),
    )
    np.testing.assert_allclose(images, images8, atol=1e-3)
    np.testing.assert_allclose(labels, labels8, atol=1e-6)
    np.testing.assert_allclose(labels.sum(axis=1), 1, atol=1e-6)


def test_order_is_kept_and_each_transform_has_a_key_of_its_own():
    images, labels = batch()
    images, key = images.at[:].set(255), jax.random.key(0)
    cut, crop = dict(name="cutout", size=64, value=9), dict(name="random_crop")
    cut_first = np.asarray(apply([cut, crop], key, images, labels)[0])
    crop_first = np.asarray(apply([crop, cut], key, images, labels)[0])
    # All is cut before the crop pads it with zeros, or the padding after it.
    assert (cut_first == 0).any() and not (crop_first == 0).any()
    images, labels = batch()
    twice = apply([crop, crop], key, images, labels)[0]
    keys = [jax.random.fold_in(key, position) for position in range(2)]
    expected = augment.TRANSFORMS["random_crop"](
        keys[1], augment.TRANSFORMS["random_crop"](keys[0], images)
    )
    np.testing.assert_array_equal(twice, expected)


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
    always = compiled([transform])(KEY, *data)
    windowed = compiled([dict(transform, start=0.25, stop=0.9)])
    for progress in (0.0, 0.2499, 0.9, 0.999):
        off = windowed(KEY, *data, progress)
        for after, before, on in zip(off, data, always, strict=True):
            np.testing.assert_array_equal(after, before)
            assert after.dtype == on.dtype
    for progress in (0.25, 0.5, 0.8999):
        for on, expected in zip(windowed(KEY, *data, progress), always, strict=True):
            np.testing.assert_array_equal(on, expected)


@pytest.mark.parametrize("name", ["random_flip", "mixup"])
@pytest.mark.usefixtures("op_by_op")
def test_a_ramp_grows_the_share_of_the_images(name):
    images, labels = batch(1024)
    images = images[:, ::4, ::4]
    transform = dict(name=name, **CERTAIN[name])
    full, full_labels = compiled([transform])(KEY, images, labels)
    ramped = compiled([dict(transform, start=0.2, ramp=0.4)])
    for progress, share in ((0.3, 0.25), (0.5, 0.75)):
        made, made_labels = ramped(KEY, images, labels, progress)
        acted = (np.asarray(made) != np.asarray(images)).any(axis=(1, 2, 3))
        result = stats.binomtest(int(acted.sum()), len(acted), share)
        assert result.pvalue > 1e-3, acted.mean()
        np.testing.assert_array_equal(made[acted], full[acted])
        np.testing.assert_array_equal(made_labels[acted], full_labels[acted])
        np.testing.assert_array_equal(made_labels[~acted], labels[~acted])
    for progress, expected in ((0.2, images), (0.6, full), (0.7, full)):
        made, _ = ramped(KEY, images, labels, progress)
        np.testing.assert_array_equal(made, expected)


def test_windows_one_after_another_change_a_strength_by_stages():
    images, labels = batch()
    weak, strong = (dict(name="cutout", size=size) for size in (4, 16))
    stages = compiled([dict(weak, stop=0.5), dict(strong, start=0.5)])
    plain = augment.TRANSFORMS["cutout"](jax.random.fold_in(KEY, 0), images, size=4)
    np.testing.assert_array_equal(stages(KEY, images, labels, 0.4)[0], plain)
    plain = augment.TRANSFORMS["cutout"](jax.random.fold_in(KEY, 1), images, size=16)
    np.testing.assert_array_equal(stages(KEY, images, labels, 0.6)[0], plain)


def test_a_transform_that_is_off_is_not_computed():
    """Nor is there a branch: on accelerators it would gather the batch."""
    pipeline = augment.make_pipeline([dict(name="mixup", stop=0.9)])

    def primitives(active):
        run = functools.partial(pipeline, active=active, epoch=0)
        return {e.primitive.name for e in jax.make_jaxpr(run)(KEY, *batch()).eqns}

    assert primitives([False]) <= {"random_fold_in", "convert_element_type"}
    assert "gather" not in primitives([False]) and len(primitives([True])) > 4


@pytest.mark.parametrize("name", sorted(augment.TRANSFORMS))
def test_functions_keep_the_conventions(name):
    function = augment.TRANSFORMS[name]
    assert function.__name__ == name
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional in (["key", "images"], ["key", "images", "labels"])
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert len(options) + len(positional) == len(parameters)
    for option in options:
        if option.name not in CONTEXT:
            assert option.default is not option.empty, option.name


@pytest.mark.parametrize(
    "transform, parts",
    [
        (dict(name="random_corp"), ["'random_corp'", "did you mean random_crop?"]),
        (dict(name="zoom"), ["'zoom'", "trivial_augment_wide"]),
        (dict(padding=4), ["None", "random_crop"]),
        ("random_crop", ["'random_crop'", '--config.augment=\'({"name":']),
        (dict(name="random_crop", pading=4), ["'pading'", "did you mean padding?"]),
        (dict(name="random_crop", padding=4.0), ["4.0", "whole number"]),
        (dict(name="random_crop", padding=-1), ["-1", "0 to 32"]),
        (dict(name="random_crop", padding=32, mode="reflect"), ["32", "0 to 31"]),
        (dict(name="random_crop", mode="mirror"), ["'mirror'", "'zero' or 'reflect'"]),
        (dict(name="random_flip", p=1.5), ["1.5", "[0, 1]"]),
        (dict(name="random_flip", p=True), ["True", "a number"]),
        (dict(name="alternating_flip", index=3), ["'index'", "known: ramp"]),
        (dict(name="random_rotation", degrees=-1), ["-1"]),
        (dict(name="random_rotation", fill=(1, 2)), ["(1, 2)", "3 channels"]),
        (dict(name="random_rotation", fill=256), ["256", "[0, 255]"]),
        (dict(name="random_affine", scale=(1.2, 0.8)), ["(1.2, 0.8)", "low <= high"]),
        (dict(name="random_affine", scale=1.2), ["1.2", "2 numbers"]),
        (dict(name="random_affine", shear=(90, 0)), ["(90, 0)", "[0, 90)"]),
        (dict(name="random_affine", translate=(2, 0)), ["(2, 0)", "[0, 1]"]),
        (dict(name="color_jitter", contrast=-0.1), ["-0.1", "at least 0"]),
        (dict(name="color_jitter", hue=0.6), ["0.6", "0.5"]),
        (dict(name="cutout", size=-2), ["-2"]),
        (dict(name="random_erasing", ratio=(0, 1)), ["(0, 1)"]),
        (dict(name="mixup", alpha=-1), ["-1"]),
        (dict(name="auto_augment", policy="svhn"), ["'svhn'", "'cifar10'"]),
        (dict(name="rand_augment", magnitude=31), ["31", "0 to 30"]),
        (dict(name="mixup", stop=1.1), ["stop is 1.1", "a fraction of the run"]),
        (dict(name="mixup", start=-0.1), ["(-0.1, 1.0)"]),
        (dict(name="mixup", start=0.9, stop=0.1), ["(0.9, 0.1)", "low <= high"]),
        (dict(name="mixup", start=0.5, stop=0.5), ["start is 0.5", "less than stop"]),
        (dict(name="mixup", start=0.5, ramp=0.6), ["ramp is 0.6", "0.5"]),
        (dict(name="mixup", ramp=-0.1), ["ramp is -0.1"]),
        (dict(name="mixup", stop="late"), ["stop is 'late'", "a number"]),
        (dict(name="mixup", end=0.9), ["'end'", "stop"]),
    ],
)
def test_mistakes_are_refused_in_one_line(transform, parts):
    with pytest.raises(UserError) as error:
        augment.make_pipeline([dict(name="random_flip"), transform])
    message = str(error.value)
    assert "\n" not in message and "augment" in message
    for part in parts:
        assert part in message


def test_whole_number_options_stand_for_fractions():
    images, labels = batch()
    pipeline = augment.make_pipeline(
        [
            dict(name="random_erasing", p=1, scale=(1, 1)),
            dict(name="random_affine", degrees=10, scale=[1, 2], fill=[1, 2, 3]),
            dict(name="mixup", alpha=1, p=1),
        ]
    )
    jax.eval_shape(pipeline, jax.random.key(0), images, labels, epoch=0)


def test_the_alternating_flip_follows_the_seed_of_the_run():
    images = jnp.arange(64 * 4 * 4 * 1, dtype=jnp.float32).reshape(64, 4, 4, 1)
    labels, index = jnp.zeros((64, 2)), jnp.arange(64)

    def flipped(key, run_seed):
        transforms = [dict(name="alternating_flip")]
        pipeline = augment.make_pipeline(transforms, image_shape=(4, 4, 1))
        context = dict(epoch=0, index=index, run_key=jax.random.key(run_seed))
        found, _ = pipeline(jax.random.key(key), images, labels, **context)
        return (found != images).any((1, 2, 3)).tolist()

    assert flipped(9, 0) == flipped(8, 0) != flipped(9, 5)


@pytest.mark.parametrize("given", [{"index": np.arange(4)}, {"progress": 0.5}])
def test_a_chain_that_lacks_what_it_needs_is_refused(given):
    transforms = ({"name": "cutout", "ramp": 0.5}, {"name": "alternating_flip"})
    chain = make_pipeline(transforms, image_shape=(8, 8, 3))
    images, labels = np.zeros((4, 8, 8, 3), np.uint8), np.zeros((4, 10), np.float32)
    keys = jax.random.split(jax.random.key(0))
    with pytest.raises(ValueError, match="None"):
        chain(keys[0], images, labels, epoch=0, run_key=keys[1], **given)
