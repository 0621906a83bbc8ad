"""The transforms against PIL, called as torchvision calls it, on natural images."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from support.augment_images import (
    SIDE,
    affine_coefficients,
    natural_images,
    pil_affine,
    pil_hue,
    pil_operation,
)

from cifar_jax.data import augment
from cifar_jax.data.augment import color, policies, warp
from cifar_jax.data.augment import policy_tables as tables

pytestmark = pytest.mark.usefixtures("strict_dtypes")

BATCH = 64
JITTER = dict(brightness=0.4, contrast=0.4, saturation=0.4)
WARP = jax.jit(warp.warp, static_argnames=("interpolation", "fill"))
APPLY = jax.jit(policies.apply_operations)


def run(name, key, images, **options):
    """A transform by its name, jitted."""
    transform = functools.partial(augment.TRANSFORMS[name], **options)
    return jax.jit(transform)(key, jnp.asarray(images))


def mean_error(ours, reference):
    """Mean absolute difference in levels; the limit is 1 of 255."""
    return np.abs(np.asarray(ours).astype(int) - np.asarray(reference)).mean()


def draw(low, high, shape=(BATCH,), seed=0):
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def coordinates():
    """float32 [BATCH, 32, 32, 3]: x and y of the pixel centres, and 1."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    probe = np.stack([x, y, np.ones_like(x)], axis=-1).astype(np.float32)
    return jnp.asarray(np.broadcast_to(probe, (BATCH, SIDE, SIDE, 3)))


def recover_coefficients(name, key, **options):
    """Output-to-input coefficients that a random geometric transform drew.

    Bilinear sampling of coordinates returns the source's coordinates, away from edges.
    """
    images = run(name, key, coordinates(), interpolation="bilinear", **options)
    images = np.asarray(images)
    known = np.asarray(coordinates()[0]).reshape(-1, 3)
    coefficients = []
    for image in images.reshape(BATCH, -1, 3).astype(np.float64):
        inner = ((image[:, :2] > 1) & (image[:, :2] < SIDE - 1)).all(axis=1)
        solution = np.linalg.lstsq(known[inner], image[inner, :2])[0]
        coefficients.append(solution.T.ravel())
    return coefficients


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_warp_is_torchvisions_affine(interpolation):
    images, fill = natural_images(), (7, 8, 9)
    angles, scales = draw(-180, 180), draw(0.8, 1.2, seed=1)
    shifts = np.round(draw(-8, 8, (BATCH, 2), seed=2))
    shears = draw(-20, 20, (BATCH, 2), seed=3)
    matrices = warp.affine_matrices(
        angles, shifts, scales, shears, height=SIDE, width=SIDE
    )
    ours = WARP(jnp.asarray(images), matrices, interpolation=interpolation, fill=fill)
    reference = [
        pil_affine(image, affine_coefficients(*drawn, (16, 16)), interpolation, fill)
        for image, *drawn in zip(images, angles, shifts, scales, shears, strict=True)
    ]
    assert mean_error(ours, reference) < 0.01


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear"])
def test_rotation_is_pils(interpolation):
    images = natural_images()
    angles = np.resize([0, 10, 90, 180, -90, -37.5, 135], BATCH)
    still = jnp.zeros((BATCH, 2))
    matrices = warp.affine_matrices(
        -jnp.asarray(angles), still, jnp.ones(BATCH), still, height=SIDE, width=SIDE
    )
    ours = WARP(jnp.asarray(images), matrices, interpolation=interpolation)
    how = Image.Resampling[interpolation.upper()]
    reference = [
        np.asarray(Image.fromarray(image).rotate(angle, how))
        for image, angle in zip(images, angles, strict=True)
    ]
    assert mean_error(ours, reference) < 0.01


@pytest.mark.parametrize(
    "name, options",
    [
        ("random_rotation", dict(degrees=10.0)),
        ("random_affine", dict(shear=(10.0, 0.0), scale=(0.8, 1.2))),
        ("random_affine", dict(degrees=30.0, translate=(0.1, 0.2), shear=(5.0, 9.0))),
    ],
)
def test_random_geometry_samples_as_pil(name, options):
    images, key = natural_images(), jax.random.key(3)
    ours = run(name, key, images, **options)
    drawn = recover_coefficients(name, key, **options)
    reference = [pil_affine(*pair) for pair in zip(images, drawn, strict=True)]
    assert mean_error(ours, reference) < 0.1
    assert mean_error(images, reference) > 3  # the transform does something


@pytest.mark.parametrize(
    "mode, pad_mode", [("zero", "constant"), ("reflect", "reflect")]
)
def test_crops_are_windows_of_the_padded_image(mode, pad_mode):
    images = natural_images()
    ours = np.asarray(
        augment.TRANSFORMS["random_crop"](
            jax.random.key(0), jnp.asarray(images), padding=4, mode=mode
        )
    )
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)), mode=pad_mode)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), (1, 2))
    windows = windows.transpose(0, 1, 2, 4, 5, 3)  # [B, 9, 9, 32, 32, C]
    same = (windows == ours[:, None, None]).all(axis=(3, 4, 5))
    assert same.any(axis=(1, 2)).all()


def test_a_flip_is_the_mirror_image():
    images = natural_images()
    ours = run("random_flip", jax.random.key(0), images, p=1)
    reference = [np.asarray(Image.fromarray(image[:, ::-1])) for image in images]
    np.testing.assert_array_equal(ours, reference)


@pytest.mark.parametrize("name", tables.OPERATIONS)
@pytest.mark.parametrize("limits", [tables.AUTO_AUGMENT, tables.TRIVIAL_AUGMENT_WIDE])
def test_operations_are_pils(name, limits):
    images = natural_images().copy()
    images[0], images[1, ..., 0] = 7, 9  # a flat image, and a flat channel
    position = tables.OPERATIONS.index(name)
    table = tables.magnitudes(limits, height=SIDE, width=SIDE)[position]
    magnitudes = np.resize(table, BATCH)
    if name in tables.SIGNED:
        magnitudes = magnitudes * np.resize([1, -1, -1], BATCH)
    ours = APPLY(
        jnp.asarray(images),
        jnp.full(BATCH, position),
        jnp.asarray(magnitudes, jnp.float32),
    )
    reference = [
        pil_operation(name, *pair) for pair in zip(images, magnitudes, strict=True)
    ]
    assert mean_error(ours, reference) < 0.01
    assert (name == "identity") == (mean_error(images, reference) == 0)


def test_hue_is_turned_as_in_torchvision():
    images, shifts = natural_images(), draw(-0.5, 0.5)
    ours = jax.jit(color.shift_hue)(jnp.asarray(images), jnp.asarray(shifts))
    reference = [pil_hue(*pair) for pair in zip(images, shifts, strict=True)]
    assert mean_error(ours, reference) < 0.1


@pytest.fixture
def spy(monkeypatch):
    """Returns a function that runs a transform and returns what it drew."""

    def draws(module, function, transform, key, **options):
        calls, real = [], getattr(module, function)

        def record(*arguments, **keywords):
            levels, *drawn = arguments
            calls.append(drawn)
            return levels

        def traced(key, images):
            transform(key, images, **options)
            return list(calls)

        monkeypatch.setattr(module, function, record)
        drawn = jax.jit(traced)(key, jnp.zeros((BATCH, SIDE, SIDE, 3), jnp.uint8))
        monkeypatch.setattr(module, function, real)
        return [tuple(np.asarray(x) for x in call) for call in drawn]

    return draws


def test_color_jitter_is_a_chain_of_pils_enhancements(spy):
    images, key = natural_images(), jax.random.key(1)
    options = JITTER | dict(hue=0.2)
    names = list(options)
    ours = run("color_jitter", key, images, **options)
    reference = images
    calls, turns = (
        spy(color, function, color.color_jitter, key, **options)
        for function in ("enhance", "shift_hue")
    )
    for drawn in zip(calls, turns, strict=True):
        (kinds, factors), (shifts,) = drawn
        reference = [
            pil_hue(image, shift)
            if names[kind] == "hue"
            else pil_operation(names[kind], image, factor - 1)
            for image, kind, factor, shift in zip(
                reference, kinds, factors, shifts, strict=True
            )
        ]
    assert mean_error(ours, reference) < 0.1
    orders = np.stack([kinds for kinds, _ in calls], axis=1)
    assert (np.sort(orders, axis=1) == np.arange(4)).all()


@pytest.mark.parametrize(
    "name, options",
    [
        ("auto_augment", dict(policy="cifar10")),
        ("rand_augment", dict(num_ops=2, magnitude=9)),
        ("trivial_augment_wide", {}),
    ],
)
def test_policies_are_chains_of_pils_operations(spy, name, options):
    images, key = natural_images(), jax.random.key(2)
    transform = augment.TRANSFORMS[name]
    ours = run(name, key, images, **options)
    reference = images
    for operations, magnitudes in spy(
        policies, "apply_operations", transform, key, **options
    ):
        reference = [
            pil_operation(tables.OPERATIONS[operation], image, magnitude)
            for image, operation, magnitude in zip(
                reference, operations, magnitudes, strict=True
            )
        ]
    assert mean_error(ours, reference) < 0.1


def test_floats_are_rounded_to_whole_levels():
    images = jnp.asarray(natural_images())
    shaken = images.astype(jnp.float32) + jnp.array([0.3, -0.3, 0.0])[None, None, None]
    for name, options in (("trivial_augment_wide", {}), ("color_jitter", JITTER)):
        whole = run(name, jax.random.key(2), images, **options)
        floats = run(name, jax.random.key(2), shaken, **options)
        assert floats.dtype == jnp.float32
        np.testing.assert_array_equal(floats, whole)
