"""The chain of transforms: names, options, order, keys, and devices."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from support.augment_images import natural_images

from cifar_jax import UserError
from cifar_jax.data import augment

pytestmark = pytest.mark.usefixtures("compile_fast")
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


def batch(count=BATCH):
    images = jnp.asarray(natural_images()[:count])
    return images, jax.nn.one_hot(jnp.arange(count) % 10, 10)


def compiled(transforms):
    pipeline = jax.jit(augment.make_pipeline(transforms))

    def run(key, images, labels):
        index = jnp.arange(len(images))
        return pipeline(key, images, labels, epoch=jnp.int32(1), index=index)

    return run


def apply(transforms, key, images, labels):
    return compiled(transforms)(key, images, labels)


def test_every_transform_is_tested():
    assert {t["name"] for t in EVERYTHING} == set(augment.TRANSFORMS)
    assert NOTHING.keys() | {"alternating_flip"} == set(augment.TRANSFORMS)


@pytest.mark.parametrize("transform", EVERYTHING, ids=lambda t: t["name"])
def test_the_key_alone_decides(transform):
    images, labels = batch()
    chain = compiled([transform])
    first, again, other = (chain(jax.random.key(k), images, labels) for k in (0, 0, 1))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    differs = (np.asarray(first[0]) != np.asarray(other[0])).any()
    assert differs == (transform["name"] != "alternating_flip")  # it takes no key


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


def test_one_device_and_eight_give_the_same():
    devices = jax.devices()
    assert len(devices) == 8, "conftest.py gives the tests 8 CPU devices"
    key = jax.random.key(7)
    results = []
    for num_devices in (1, 8):
        mesh = jax.make_mesh(
            (num_devices,), ("data",), (AxisType.Auto,), devices=devices[:num_devices]
        )
        sharding = NamedSharding(mesh, PartitionSpec("data"))
        everywhere = NamedSharding(mesh, PartitionSpec())
        results.append(
            apply(
                [t for t in EVERYTHING if t["name"] not in TWINS],
                jax.device_put(key, everywhere),
                *jax.device_put(batch(), sharding),
            )
        )
    (images, labels), (images8, labels8) = results
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
    expected = augment.random_crop(keys[1], augment.random_crop(keys[0], images))
    np.testing.assert_array_equal(twice, expected)


@pytest.mark.parametrize("name", sorted(augment.TRANSFORMS))
def test_functions_keep_the_conventions(name):
    function = augment.TRANSFORMS[name]
    assert getattr(augment, name) is function and function.__name__ == name
    parameters = list(inspect.signature(function).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional in (["key", "images"], ["key", "images", "labels"])
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    assert len(options) + len(positional) == len(parameters)
    for option in options:
        if option.name not in ("epoch", "index"):
            assert option.default is not option.empty, option.name


@pytest.mark.parametrize(
    "transform, parts",
    [
        (dict(name="random_corp"), ["'random_corp'", "did you mean random_crop?"]),
        (dict(name="zoom"), ["'zoom'", "trivial_augment_wide"]),
        (dict(padding=4), ["None", "random_crop"]),
        ("random_crop", ["'random_crop'", "dict(name="]),
        (dict(name="random_crop", pading=4), ["'pading'", "did you mean padding?"]),
        (dict(name="random_crop", padding=4.0), ["4.0", "whole number"]),
        (dict(name="random_crop", padding=-1), ["-1", "0 to 32"]),
        (dict(name="random_crop", padding=32, mode="reflect"), ["32", "0 to 31"]),
        (dict(name="random_crop", mode="mirror"), ["'mirror'", "'zero' or 'reflect'"]),
        (dict(name="random_flip", p=1.5), ["1.5", "[0, 1]"]),
        (dict(name="random_flip", p=True), ["True", "a number"]),
        (dict(name="alternating_flip", index=3), ["'index'", "seed"]),
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
    ],
)
def test_mistakes_are_refused_in_one_line(transform, parts):
    with pytest.raises(UserError) as error:
        augment.make_pipeline([dict(name="random_flip"), transform])
    message = str(error.value)
    assert "\n" not in message and "augment" in message
    for part in parts:
        assert part in message


def test_a_missing_index_is_named():
    pipeline = augment.make_pipeline([dict(name="alternating_flip")])
    with pytest.raises(ValueError, match="alternating_flip needs the epoch and index"):
        pipeline(jax.random.key(0), *batch(), epoch=0)


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
