"""The draws of the transforms against the distributions that their papers name."""

import functools
import hashlib
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from cifar_jax.data import augment
from cifar_jax.data.augment import color, policies
from cifar_jax.data.augment import policy_tables as tables

pytestmark = pytest.mark.usefixtures("strict_dtypes")

SIDE, WIDTH = 16, 20
BATCH = 4096
KEY = jax.random.key(0)
# Seeds are fixed: a right distribution fails only if the code changes its draws, and
# then in one case of a thousand.
SIGNIFICANCE = 1e-3


def run(name, images, **options):
    transform = functools.partial(augment.TRANSFORMS[name], **options)
    return np.asarray(jax.jit(transform)(KEY, jnp.asarray(images)))


def assert_uniform_counts(values, count):
    """The whole numbers are uniform in 0..count - 1."""
    observed = np.bincount(np.asarray(values).ravel(), minlength=count)
    assert len(observed) == count
    assert stats.chisquare(observed).pvalue > SIGNIFICANCE


def assert_probability(hits, p):
    hits = np.asarray(hits)
    result = stats.binomtest(int(hits.sum()), hits.size, p)
    assert result.pvalue > SIGNIFICANCE, (hits.mean(), p)


def assert_uniform(values, low, high):
    assert low <= values.min() and values.max() <= high
    result = stats.kstest(values, stats.uniform(low, high - low).cdf)
    assert result.pvalue > SIGNIFICANCE


def positions(batch=BATCH):
    """uint8 [batch, 16, 16, 2]: row and column of each pixel, from 1."""
    grid = np.stack(np.mgrid[1 : SIDE + 1, 1 : SIDE + 1], axis=-1).astype(np.uint8)
    return np.broadcast_to(grid, (batch, SIDE, SIDE, 2))


def test_crop_offsets_are_uniform_and_independent():
    corner = run("random_crop", positions(), padding=4)[:, 8, 8].astype(int) - 9 + 4
    assert_uniform_counts(corner[:, 0], 9)
    assert_uniform_counts(corner[:, 1], 9)
    assert_uniform_counts(9 * corner[:, 0] + corner[:, 1], 81)


@pytest.mark.parametrize("p", [0.5, 0.2])
def test_flips_have_their_probability(p):
    flipped = run("random_flip", positions(), p=p)[:, 0, 0, 1] == SIDE
    assert_probability(flipped, p)


def test_flips_alternate_from_a_random_side():
    transform = augment.TRANSFORMS["alternating_flip"]
    flip = jax.jit(functools.partial(transform, run_key=jax.random.key(7)))
    index = jnp.arange(BATCH)
    sides = [
        np.asarray(flip(jax.random.key(i), positions(), epoch=epoch, index=index))
        for i, epoch in enumerate([0, 1, 2, 3])
    ]
    mirrored = [side[:, 0, 0, 1] == SIDE for side in sides]
    assert_probability(mirrored[0], 0.5)
    np.testing.assert_array_equal(mirrored[1], ~mirrored[0])
    np.testing.assert_array_equal(mirrored[2:], mirrored[:2])
    some = index[::-1][:64]  # the side is the image's own, not its place in the batch
    again = np.asarray(flip(KEY, positions(64), epoch=0, index=some))
    np.testing.assert_array_equal(again[:, 0, 0, 1] == SIDE, mirrored[0][::-1][:64])
    # of two views in one batch, each has its own count, so they show both sides
    times = jnp.repeat(jnp.array([6, 7]), 64)
    both = np.asarray(flip(KEY, positions(128), epoch=times, index=jnp.tile(some, 2)))
    np.testing.assert_array_equal(both[:64], again)
    np.testing.assert_array_equal(both[64:], again[:, :, ::-1])


def coefficients(**options):
    """Linear parts and offsets [BATCH, 2, 3] that `random_affine` drew."""
    y, x = np.mgrid[:SIDE, :SIDE] + 0.5
    probe = np.stack([x, y, np.ones_like(x)], axis=-1)
    probe = np.broadcast_to(probe, (BATCH, SIDE, SIDE, 3)).astype(np.float32)
    images = run("random_affine", probe, interpolation="bilinear", **options)
    # Differences over the inner pixels, where bilinear sampling is exact.
    a = (images[:, 8, 10, :2] - images[:, 8, 6, :2]) / 4
    b = (images[:, 10, 8, :2] - images[:, 6, 8, :2]) / 4
    offset = images[:, 8, 8, :2] - 8.5 * (a + b)
    return np.stack([a, b, offset], axis=-1)


def test_angles_are_uniform():
    matrices = coefficients(degrees=10.0)
    angles = np.degrees(np.arctan2(matrices[:, 1, 0], matrices[:, 0, 0]))
    assert_uniform(angles, -10.001, 10.001)


def test_scales_and_shears_are_uniform_and_shear_is_along_x():
    matrices = coefficients(shear=(10.0, 0.0), scale=(0.8, 1.2))
    assert_uniform(1 / matrices[:, 0, 0], 0.7999, 1.2001)
    slope = matrices[:, 0, 1] / matrices[:, 0, 0]
    assert_uniform(np.degrees(np.arctan(slope)), -10.001, 10.001)
    assert abs(matrices[:, 1, 0]).max() < 1e-4


def test_translations_are_whole_pixels_of_a_uniform_share():
    offsets = coefficients(translate=(0.2, 0.25))[:, :, 2]
    shifts = np.round(offsets)
    assert abs(offsets - shifts).max() < 1e-3
    for axis, limit in enumerate([3.2, 4.0]):
        whole = np.arange(-int(limit), int(limit) + 1)
        edges = np.clip([whole - 0.5, whole + 0.5], -limit, limit)
        expected = BATCH * (edges[1] - edges[0]) / (2 * limit)
        observed = [(shifts[:, axis] == value).sum() for value in whole]
        assert sum(observed) == BATCH
        assert stats.chisquare(observed, expected).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("p", [0.5, 1.0])
def test_erased_boxes_are_torchvisions(p):
    """Against a plain loop of the rule, box by box."""
    images = np.full((BATCH, SIDE, SIDE, 3), 200, np.uint8)
    erased = run("random_erasing", images, p=p)
    assert set(np.unique(erased)) == {0, 200}
    ours = boxes_of(erased[..., 0] == 0)
    if p < 1:
        assert_probability(ours[:, 2] > 0, p)
    rng = np.random.default_rng(0)
    reference = np.array([erasing_box(rng) for _ in range(BATCH)])
    ours, reference = ours[ours[:, 2] > 0], reference[reference[:, 2] > 0]
    areas = ours[:, 2] * ours[:, 3], reference[:, 2] * reference[:, 3]
    for pair in (areas, *zip(ours.T, reference.T, strict=True)):
        assert stats.ks_2samp(*pair).pvalue > SIGNIFICANCE


def erasing_box(rng):
    for _ in range(10):
        area = SIDE**2 * rng.uniform(0.02, 0.33)
        aspect = math.exp(rng.uniform(math.log(0.3), math.log(3.3)))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h < SIDE and w < SIDE:
            return rng.integers(SIDE - h + 1), rng.integers(SIDE - w + 1), h, w
    return 0, 0, 0, 0


def boxes_of(masks):
    """Top, left, height and width of the one full box of each mask, or zeros."""
    rows, columns = masks.any(axis=2), masks.any(axis=1)
    box = [rows.argmax(1), columns.argmax(1), rows.sum(1), columns.sum(1)]
    box = np.stack(box, axis=1)
    np.testing.assert_array_equal(box[:, 2] * box[:, 3], masks.sum(axis=(1, 2)))
    return box


def test_cutout_squares_are_centred_on_a_uniform_pixel():
    images = np.full((BATCH, SIDE, SIDE, 3), 200, np.uint8)
    cut = run("cutout", images, size=8, value=(1, 2, 3))
    mask = cut[..., 0] != 200
    assert (cut[mask] == [1, 2, 3]).all()
    boxes = boxes_of(mask)
    for axis in (0, 1):
        start, length = boxes[:, axis], boxes[:, axis + 2]
        centre = np.where(start > 0, start + 4, length - 4)
        assert_uniform_counts(centre, SIDE)
        expected = np.minimum(centre + 4, SIDE) - np.maximum(centre - 4, 0)
        np.testing.assert_array_equal(length, expected)


def test_cutout_cuts_a_share_of_the_images():
    images = np.full((BATCH, SIDE, SIDE, 1), 200, np.uint8)
    cut = run("cutout", images, p=0.3)
    assert_probability((cut == 0).any(axis=(1, 2, 3)), 0.3)


@pytest.fixture
def draws(monkeypatch):
    """Returns what a transform hands to the function that does its work."""

    def run(module, function, name, **options):
        calls = []

        def record(*arguments, **keywords):
            *_, levels, kinds, values = arguments
            calls.append((kinds, values))
            return levels

        def traced(key, images):
            augment.TRANSFORMS[name](key, images, **options)
            return calls

        with monkeypatch.context() as patch:
            patch.setattr(module, function, record)
            images = jnp.zeros((BATCH, SIDE, WIDTH, 3), jnp.uint8)
            drawn = jax.jit(traced)(KEY, images)
        return np.moveaxis(np.array(drawn), 1, 0)  # [kinds or values, layers, B]

    return run


def test_jitter_orders_and_factors_are_uniform(draws):
    options = dict(brightness=0.2, contrast=0.4, saturation=1.5)
    kinds, factors = draws(color, "enhance", "color_jitter", **options)
    kinds = kinds.astype(int)
    assert (np.sort(kinds, axis=0) == np.arange(3)[:, None]).all()
    orders = np.unique(kinds, axis=1, return_counts=True)[1]
    assert len(orders) == 6 and stats.chisquare(orders).pvalue > SIGNIFICANCE
    for kind, strength in enumerate(options.values()):
        drawn = factors[kinds == kind]
        assert_uniform(drawn, max(0, 1 - strength) - 1e-6, 1 + strength + 1e-6)


def test_hues_are_turned_by_a_uniform_share_of_the_circle(monkeypatch):
    def note(levels, shifts):
        return levels.astype(jnp.float32) + shifts[:, None, None, None]

    monkeypatch.setattr(color, "shift_hue", note)
    monkeypatch.setattr(color, "as_levels", lambda images: images)
    monkeypatch.setattr(color, "enhance", lambda levels, *_, **options: levels)
    images = jnp.zeros((BATCH, 1, 1, 3))
    shifts = jax.jit(functools.partial(color.color_jitter, hue=0.3))(KEY, images)
    assert_uniform(np.asarray(shifts)[:, 0, 0, 0], -0.3001, 0.3001)


def test_trivial_augment_is_uniform_over_operations_levels_and_signs(draws):
    operations, magnitudes = draws(policies, "apply_operations", "trivial_augment_wide")
    operations = operations.astype(int)
    assert_uniform_counts(operations, 14)
    turns = magnitudes[operations == tables.OPERATIONS.index("rotate")]
    assert_uniform_counts(np.round(np.abs(turns) * 30 / 135).astype(int), 31)
    assert_probability(turns[turns != 0] > 0, 0.5)
    bits = magnitudes[operations == tables.OPERATIONS.index("posterize")]
    assert set(bits) == {2, 3, 4, 5, 6, 7, 8}


def test_rand_augment_is_uniform_at_one_level(draws):
    operations, magnitudes = draws(
        policies, "apply_operations", "rand_augment", num_ops=3, magnitude=10
    )
    operations = operations.astype(int)
    assert operations.shape == (3, BATCH)
    assert_uniform_counts(14 * operations[0] + operations[1], 14 * 14)
    turns = magnitudes[operations == tables.OPERATIONS.index("rotate")]
    np.testing.assert_allclose(np.abs(turns), 10.0)


# SHA-256 of the sub-policies in torchvision 0.29.2, transforms/autoaugment.py, with our
# names of the operations: a line "name p level, name p level" each, level 0 for none.
TORCHVISION_DIGESTS = {
    "cifar10": "6497058a99ba29fb40e291479b1cddc4b5aa717d2252aec413bc39fa384aac1c",
    "imagenet": "caea7774a3ecc782884af0254cb0566aa5f4ec75698f72d98df2d80c062ab2e4",
}


@pytest.mark.parametrize("policy", tables.SUB_POLICIES)
def test_sub_policies_are_torchvisions(policy):
    steps = np.stack(tables.SUB_POLICIES[policy], axis=-1)  # [policies, 2, 3]
    lines = [
        ", ".join(
            f"{tables.OPERATIONS[int(k)]} {p:.1f} {level:.0f}" for k, p, level in row
        )
        for row in steps
    ]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == TORCHVISION_DIGESTS[policy]


@pytest.mark.parametrize("policy", ["cifar10", "imagenet"])
def test_auto_augment_uses_its_sub_policies_by_their_probabilities(draws, policy):
    operations, _ = draws(policies, "apply_operations", "auto_augment", policy=policy)
    table, probabilities, _ = tables.SUB_POLICIES[policy]
    assert table.shape == (25, 2)
    for layer in (0, 1):
        drawn = np.bincount(operations[layer].astype(int), minlength=15)
        shares = np.zeros(15)
        np.add.at(shares, table[:, layer], probabilities[:, layer] / 25)
        shares[0] = 1 - shares.sum()
        possible = shares > 0
        assert drawn[~possible].sum() == 0
        fit = stats.chisquare(drawn[possible], BATCH * shares[possible])
        assert fit.pvalue > SIGNIFICANCE


def augmentation_space(num_bins, shear, translate_x, translate_y, rotate, change, bits):
    """Magnitudes by level, as torchvision's `_augmentation_space` has them."""
    signed = {
        **dict.fromkeys(["shear_x", "shear_y"], np.linspace(0, shear, num_bins)),
        "translate_x": np.trunc(np.linspace(0, translate_x, num_bins)),
        "translate_y": np.trunc(np.linspace(0, translate_y, num_bins)),
        "rotate": np.linspace(0, rotate, num_bins),
    }
    for name in ("brightness", "saturation", "contrast", "sharpness"):
        signed[name] = np.linspace(0, change, num_bins)
    unsigned = {
        "posterize": 8 - np.round(np.arange(num_bins) / ((num_bins - 1) / bits)),
        "solarize": np.linspace(255, 0, num_bins),
        **dict.fromkeys(["autocontrast", "equalize", "invert"], np.zeros(num_bins)),
    }
    return signed, unsigned


TRANSLATE = 150 / 331 * WIDTH, 150 / 331 * SIDE


@pytest.mark.parametrize(
    ("name", "levels", "limits"),
    [
        ("auto_augment", None, (10, 0.3, *TRANSLATE, 30, 0.9, 4)),
        ("rand_augment", [9], (31, 0.3, *TRANSLATE, 30, 0.9, 4)),
        ("trivial_augment_wide", range(31), (31, 0.99, 32, 32, 135, 0.99, 6)),
    ],
)
def test_magnitudes_are_torchvisions(draws, name, levels, limits):
    drawn, magnitudes = draws(policies, "apply_operations", name)
    signed, unsigned = augmentation_space(*limits)
    for operation in np.unique(drawn[drawn > 0].astype(int)):
        kind, used = tables.OPERATIONS[operation], levels
        if name == "auto_augment":
            kinds, _, steps = tables.SUB_POLICIES["cifar10"]
            used = steps[kinds == operation]
        found = magnitudes[drawn == operation]
        expected = np.unique((signed | unsigned)[kind][used])
        np.testing.assert_allclose(np.unique(abs(found)), expected, rtol=1e-6)
        assert (found.min() < 0 < found.max()) == (kind in signed and found.any())


@pytest.mark.parametrize(
    "name", ["auto_augment", "rand_augment", "trivial_augment_wide"]
)
def test_policies_act_on_a_share_of_the_images(draws, name):
    operations, _ = draws(policies, "apply_operations", name, p=0.0)
    assert not operations.any()
    everywhere, _ = draws(policies, "apply_operations", name, p=1.0)
    some, _ = draws(policies, "apply_operations", name, p=0.3)
    acted = everywhere.any(axis=0)
    assert_probability(some.any(axis=0)[acted], 0.3)
