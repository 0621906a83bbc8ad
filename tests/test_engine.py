"""What the devices are fed with: every image once, in the same order from anywhere."""

import dataclasses

import jax
import numpy as np
import pytest
from cifar_jax.training.engine import Engine
from support.runs import tiny_config

from cifar_jax import UserError
from cifar_jax.data import sources
from cifar_jax.training import setup

BATCH = 128
PLACES = [("device", 1), ("device", 8), ("host", 1), ("host", 8)]


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


class Never:
    """A request to stop that never comes."""

    def __bool__(self):
        return False


def fed(prepared, epoch, position=0):
    """Returns the places in the data set of an epoch's batches, [steps, B]."""
    engine, steps = Engine(prepared, seed=3), prepared.options.steps_per_epoch
    with engine.epoch(epoch, position) as feed:
        if prepared.placement == "device":
            order = np.asarray(feed(1)[2])
            return order[position * BATCH : steps * BATCH].reshape(-1, BATCH)
        batches = [feed(1) for _ in range(position, steps)]
    for images, labels, index, _ in batches:
        np.testing.assert_array_equal(images, prepared.train.images[index])
        np.testing.assert_array_equal(labels, prepared.train.labels[index])
    return np.stack([np.asarray(index) for _, _, index, _ in batches])


def test_an_epoch_has_every_image_at_most_once_and_leaves_out_less_than_a_batch(
    prepared,
):
    num_examples = len(prepared().train)
    for epoch in (0, 1):
        expected = fed(prepared(), epoch)
        assert expected.size == num_examples // BATCH * BATCH
        assert len(np.unique(expected)) == expected.size
        for place in PLACES:
            np.testing.assert_array_equal(fed(prepared(*place), epoch), expected)
    assert (fed(prepared(), 0) != fed(prepared(), 1)).any()


def test_a_resumed_epoch_goes_on_with_the_rest(prepared):
    whole = fed(prepared("host"), 1)
    np.testing.assert_array_equal(fed(prepared("host"), 1, position=4), whole[4:])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("batch_size", [7, 16, 1000])
def test_an_evaluation_has_every_image_exactly_once(prepared, place, batch_size):
    """Labels tell it: the accuracy on each image alone adds up to that on all."""
    setup_ = prepared(*place)
    engine, few = Engine(setup_, seed=3), setup_.val[:37]
    variables = engine.first_state().variables

    def evaluate(examples, batch_size):
        return engine.evaluate(examples, variables, batch_size=batch_size, stop=Never())

    images = (few.images.astype(np.float32) / 255 - setup_.options.mean) / (
        setup_.options.std
    )
    logits = setup_.model.apply(jax.device_get(variables), images, train=False)
    shifted = np.asarray(logits, np.float64)
    losses = np.log(np.exp(shifted).sum(-1)) - shifted[np.arange(37), few.labels]
    found = evaluate(few, batch_size)
    assert found["loss"] == pytest.approx(losses.mean(), abs=1e-5)
    assert found["accuracy"] == pytest.approx((shifted.argmax(-1) == few.labels).mean())


def states(prepared, num_steps):
    """Yields weights and metrics after each step."""
    engine = Engine(prepared, seed=3)
    state, metrics = engine.first_state(), engine.empty_metrics()
    engine.compile(state)
    with engine.epoch(0, 0) as feed:
        for step in range(num_steps):
            state, metrics = engine.train(state, metrics, feed, step=step, num_steps=1)
            yield jax.device_get((state.params, metrics.compute()))


def train(prepared, num_steps):
    *_, last = states(prepared, num_steps)
    return last


def test_views_are_the_same_from_the_host(prepared):
    train = dict(repeats=2, epochs=3)
    on_device, on_host = (prepared(p, train=train) for p in ("device", "host"))
    num_examples = len(on_device.train)
    assert on_device.options.steps_per_epoch == num_examples // (BATCH // 2)
    assert on_device.total_steps == 3 * on_device.options.steps_per_epoch
    with Engine(on_host, seed=3).epoch(1, 2) as feed:
        images, _, index, _ = feed(1)
    with Engine(on_device, seed=3).epoch(1, 2) as feed:
        order = np.asarray(feed(1)[2])
    half = order[BATCH : BATCH + BATCH // 2]
    np.testing.assert_array_equal(index, np.tile(half, 2))
    np.testing.assert_array_equal(images, on_host.train.images[np.tile(half, 2)])


@pytest.mark.usefixtures("compile_fast")
def test_sam_starts_where_it_is_told_to(prepared):
    """And the steps before it are bit for bit those of a run without it."""
    late = dict(sam_rho=0.5, sam_start="2 steps")
    runs = (states(prepared(optim=options), 3) for options in ({}, late))
    same = [
        all(jax.tree.leaves(jax.tree.map(np.array_equal, plain, sam)))
        for (plain, _), (sam, _) in zip(*runs, strict=True)
    ]
    assert same == [True, True, False]


def test_a_call_does_not_go_past_the_start_of_sam(prepared):
    late = dict(sam_rho=0.5, sam_start="4 steps")
    engine = Engine(prepared(steps_per_dispatch=3, optim=late), seed=3)
    assert [engine.num_steps(step, 10) for step in (0, 3, 4, 8)] == [3, 1, 3, 2]
    engine = Engine(prepared(steps_per_dispatch=3, optim=dict(sam_start="4 steps")), 3)
    assert engine.num_steps(3, 10) == 3  # without SAM nothing starts


def test_images_on_the_host_give_the_same_weights(prepared):
    """Bit for bit on one CPU device."""
    on_device, on_host = (train(prepared(p), 10) for p in ("device", "host"))
    jax.tree.map(np.testing.assert_array_equal, on_device, on_host)


def test_a_fault_of_the_thread_reaches_the_loop(prepared):
    whole = prepared("host")
    train = sources.Examples(whole.train.images[:5], whole.train.labels)
    engine = Engine(dataclasses.replace(whole, train=train), seed=3)
    with engine.epoch(0, 0) as feed, pytest.raises(IndexError):
        feed(1)


@pytest.mark.parametrize(
    ("memory", "placement"), [(None, "device"), (4e8, "device"), (1e6, "host")]
)
def test_what_fits_lies_on_the_device(prepared, digits_dir, memory, placement):
    """A CPU does not tell its memory, and holds the images in any case."""

    class Device:
        def memory_stats(self):
            return memory and {"bytes_limit": memory}

    class Mesh:
        local_devices = (Device(),)

    config = tiny_config(digits_dir)
    assert setup._placement(config, Mesh(), prepared().train) == placement


def test_an_unknown_placement_is_refused(prepared):
    with pytest.raises(UserError, match="'disk'; use 'auto', 'device' or 'host'"):
        prepared("disk")
