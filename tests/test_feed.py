"""What the devices are fed with: every image once, in the same order from anywhere."""

import dataclasses
import time

import jax
import numpy as np
import pytest
from support.runs import TINY_RUN, rows, start, tiny_config, train

from cifar_jax import UserError
from cifar_jax.data import augment, sources
from cifar_jax.training import distributed, progress, setup
from cifar_jax.training.feed import Feed, evaluation_call, lower
from cifar_jax.training.state import Metrics, means

BATCH = 64
PLACES = [("device", 1), ("device", 8), ("host", 1), ("host", 8)]
KEY = jax.random.key(3)


@pytest.fixture(scope="module")
def prepared(digits_dir):
    """Setups on any number of devices."""

    def make(placement="device", num_devices=1, steps_per_dispatch=1, **options):
        config = tiny_config(digits_dir)
        config.data.placement = placement
        config.train.steps_per_dispatch = steps_per_dispatch
        for key, value in options.items():
            config[key].update(value)
        devices = jax.devices()[:num_devices]
        return setup.make(config, devices, lambda line: None)

    return make


def fed(prepared, epoch, position=0):
    """Returns the places in the data set of an epoch's batches, [steps, B]."""
    size = prepared.options.images_per_step
    with Feed(prepared, KEY).epoch(epoch, position) as calls:
        calls = list(calls)
    if prepared.placement == "device":
        assert (
            sum(c.num_steps for c, _ in calls) + position == len(prepared.train) // size
        )
        order = np.asarray(calls[0][1].index)[: len(prepared.train) // size * size]
        return order.reshape(-1, size)[position:]
    for _, batch in calls:
        index = np.asarray(batch.index)
        np.testing.assert_array_equal(batch.images, prepared.train.images[index])
        np.testing.assert_array_equal(batch.labels, prepared.train.labels[index])
    return np.stack([np.asarray(batch.index) for _, batch in calls])


def test_an_epoch_has_every_image_at_most_once_and_leaves_out_less_than_a_batch(
    prepared,
):
    setups = [prepared(*place) for place in PLACES]
    num_examples = len(setups[0].train)
    orders = []
    for epoch in (0, 1):
        expected, *others = (fed(setup_, epoch) for setup_ in setups)
        assert expected.size == num_examples // BATCH * BATCH
        assert len(np.unique(expected)) == expected.size
        for other in others:
            np.testing.assert_array_equal(other, expected)
        orders.append(expected)
    assert (orders[0] != orders[1]).any()


def test_a_resumed_epoch_has_the_rest(prepared):
    host = prepared("host")
    np.testing.assert_array_equal(fed(host, 1, position=4), fed(host, 1)[4:])


@pytest.fixture(scope="module")
def variables_and_logits(prepared):
    """Weights, and float64 logits [37, 10] of the first validation images."""
    setup_ = prepared()
    state = setup.jit_create_state(setup_)(jax.random.key(0))
    variables = jax.device_get(state.variables)
    images = setup_.val.images[:37].astype(np.float32) / 255
    images = (images - setup_.options.mean) / setup_.options.std
    logits = jax.jit(lambda x: setup_.model.apply(variables, x, train=False))(images)
    return variables, np.asarray(logits, np.float64)


@pytest.mark.parametrize("place", PLACES)
def test_an_evaluation_has_every_image_exactly_once(
    prepared, variables_and_logits, place
):
    """At any batch size the means are those over all images."""
    setup_, (variables, shifted) = prepared(*place), variables_and_logits
    few = setup_.val[:37]
    losses = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(37), few.labels]
    feed, evaluate = Feed(setup_, KEY), evaluation_call(setup_)
    for batch_size in (7, 1000):
        metrics, seen = Metrics.empty(), []
        for batch, mask in feed.every_example(few, batch_size):
            metrics = evaluate(metrics, variables, batch, mask, augmentation="none")
            seen += np.asarray(batch.index)[np.asarray(mask)].tolist()
        assert sorted(seen) == list(range(37))
        found = means(metrics)
        assert found["loss"] == pytest.approx(losses.mean(), abs=1e-5)
        correct = shifted.argmax(-1) == few.labels
        assert found["accuracy"] == pytest.approx(correct.mean())


def test_repeated_images_are_the_same_from_the_host(prepared):
    options = dict(repeats=2, epochs=3)
    on_device, on_host = (prepared(p, train=options) for p in ("device", "host"))
    steps_per_epoch = on_device.options.steps_per_epoch
    assert steps_per_epoch == len(on_device.train) // (BATCH // 2)
    assert on_device.options.total_steps == 3 * steps_per_epoch
    with Feed(on_host, KEY).epoch(1, 2) as calls:
        _, batch = next(calls)
    half = fed(on_device, 1)[2]
    np.testing.assert_array_equal(batch.index, np.tile(half, 2))
    np.testing.assert_array_equal(batch.images, on_host.train.images[np.tile(half, 2)])


def test_a_call_does_not_go_past_the_start_of_sam(prepared):
    def sizes(position, **options):
        setup_ = prepared(steps_per_dispatch=3, optim=options)
        with Feed(setup_, KEY).epoch(0, position) as calls:
            return [tuple(call) for call, _ in calls]

    late = dict(sam_rho=0.5, sam_start="4 steps")
    assert sizes(0, **late) == [(0, 3), (0, 1), (4, 3), (4, 3)]
    assert sizes(3, **late) == [(0, 1), (4, 3), (4, 3)]
    # Where a run that was not interrupted ends a call, a resumed one does.
    assert sizes(5, **late) == [(4, 2), (4, 3)]
    # Without SAM nothing starts.
    assert sizes(0, sam_start="4 steps") == [(0, 3), (0, 3), (0, 3), (0, 1)]


def test_a_window_is_a_part_of_the_run_with_a_program_of_its_own(prepared):
    """The transforms that act at a step are those whose window contains it."""
    crop, early = dict(name="random_crop"), dict(name="mixup", stop=0.45)
    late, ramp = dict(name="cutmix", start=0.7), dict(name="ricap", start=0.2, ramp=0.1)
    setup_ = prepared()
    chain = augment.make_pipeline((crop, early, late, ramp))
    options = dataclasses.replace(setup_.options, augment=chain, sam_rho=0.1)
    setup_ = dataclasses.replace(setup_, options=options, sam_start=18)
    assert options.total_steps == 20
    active = {k: o.augment.keywords["active"] for k, o in setup_.segments.items()}
    assert active == {
        0: (True, True, False, False),
        4: (True, True, False, True),
        9: (True, False, False, True),
        14: (True, False, True, True),
        18: (True, False, True, True),
    }
    rhos = [options.sam_rho for options in setup_.segments.values()]
    assert rhos == [0, 0, 0, 0, 0.1]


@pytest.mark.parametrize("total", [10, 70, 1000, 19_500])
def test_the_first_step_of_the_last_tenth_is_the_first_one_without(prepared, total):
    setup_ = prepared()
    chain = augment.make_pipeline([dict(name="random_flip", stop=0.9)])
    options = dataclasses.replace(setup_.options, augment=chain, total_steps=total)
    segments = dataclasses.replace(setup_, options=options).segments
    assert list(segments) == [0, total * 9 // 10]


def test_seeds_share_a_program(digits_dir):
    """So that only the first of them waits for the compiler."""
    config = tiny_config(digits_dir)
    config.augment = (dict(name="alternating_flip"),)
    texts = set()
    for config.seed in (0, 1):
        prepared = setup.make(config, jax.devices()[:1], lambda line: None)
        texts.add(lower(prepared, next(prepared.calls(0, 1))).as_text())
    assert len(texts) == 1


def test_calls_on_an_accelerator_divide_an_epoch(prepared, monkeypatch):
    monkeypatch.setattr(distributed, "is_on_cpu", lambda sharding: False)
    lengths = {}
    for batch_size in (7, 9, 15, 100, 6):
        setup_ = prepared(steps_per_dispatch=0, train=dict(batch_size=batch_size))
        lengths[setup_.options.steps_per_epoch] = setup_.steps_per_dispatch
    assert lengths == {92: 46, 71: 71, 43: 43, 6: 50, 107: 50}


@pytest.mark.slow
def test_sam_starts_where_it_is_told_to(tiny_run, digits_dir, tmp_path):
    """And the steps before it are bit for bit those of a run without it."""
    late = dict(optim__sam_rho=0.5, optim__sam_start="1 epochs")
    train(tiny_config(digits_dir, **late), tmp_path)
    same = [a == b for a, b in zip(rows(tmp_path), rows(tiny_run), strict=True)]
    assert same == [True, True, False, False]


def test_images_on_the_host_give_the_same_weights(tiny_run, digits_dir, tmp_path):
    """But for rounding: see below."""
    train(tiny_config(digits_dir, data__placement="host"), tmp_path)
    for one, other in zip(rows(tmp_path), rows(tiny_run), strict=True):
        assert one.keys() == other.keys()
        for key, value in one.items():
            same = value == other[key]
            assert same or value == pytest.approx(other[key], rel=1e-5), key


@pytest.mark.slow
def test_images_on_the_host_give_the_same_bits(digits_dir, tmp_path):
    """On one CPU device, with the code generator that users have."""
    for name in ("device", "host"):
        placement = f"--config.data.placement={name}"
        options = dict(config=TINY_RUN, XLA_FLAGS="")
        process = start(tmp_path / name, digits_dir, placement, **options)
        output = process.communicate(timeout=300)[0]
        assert process.returncode == 0, output
    assert rows(tmp_path / "device") == rows(tmp_path / "host")


def test_the_speed_counts_what_is_done_and_waits_for_images(
    digits_dir, tmp_path, monkeypatch
):
    """From the first line on, although calls return before the devices are done."""
    rows_of, speeds, steps = Feed._rows, [], []
    count = progress.Progress.count

    def slow(self, *args):
        time.sleep(0.05)
        return rows_of(self, *args)

    def show(self, *args):
        speeds.append(self.images_per_second)

    def counted(self, num_steps, seconds):
        steps.append(num_steps)
        count(self, num_steps, seconds)

    monkeypatch.setattr(Feed, "_rows", slow)
    monkeypatch.setattr(progress.Progress, "count", counted)
    monkeypatch.setattr(progress.Progress, "show", show)
    result = train(tiny_config(digits_dir, data__placement="host"), tmp_path)
    assert steps == [0, *[1] * 8, 2] * 2  # of ten calls the last one is waited for
    assert len(speeds) == 20
    assert max(*speeds, result["images_per_second"]) <= BATCH / 0.05


def test_a_fault_of_the_thread_reaches_the_loop(prepared):
    whole = prepared("host")
    few = sources.Examples(whole.train.images[:5], whole.train.labels)
    feed = Feed(dataclasses.replace(whole, train=few), KEY)
    with feed.epoch(0) as calls, pytest.raises(IndexError):
        next(calls)


def test_an_unknown_placement_is_refused(prepared):
    with pytest.raises(UserError, match="'disk'; use auto, device, host"):
        prepared("disk")


@pytest.mark.parametrize(
    ("memory", "placement"), [(None, "device"), (8.0e6, "device"), (7.9e6, "host")]
)
def test_what_fits_lies_on_the_device(prepared, monkeypatch, memory, placement):
    """In a quarter of it. A CPU does not tell it, and holds the images in any case."""
    stats = memory and {"bytes_limit": memory}
    monkeypatch.setattr(jax.Device, "memory_stats", lambda self: stats)
    assert prepared("auto").placement == placement
