"""Schedules against PyTorch's at every step, and against their formulas."""

import math

import jax
import numpy as np
import pytest

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.training import schedules

pytestmark = pytest.mark.usefixtures("strict_dtypes")

PEAK, EPOCH = 0.4, 5


def make_both(name, *, total=40, peak=PEAK, **options):
    defaults = default.get_config().schedule.to_dict()
    return schedules.make(
        peak=peak,
        steps_per_epoch=EPOCH,
        total_steps=total,
        **defaults | {"name": name} | options,
    )


def make(name, **options):
    return make_both(name, **options)[0]


def values(schedule, num_steps):
    return np.asarray(jax.jit(jax.vmap(schedule))(np.arange(num_steps)))


def torch_values(num_steps, make, key="lr", per_epoch=False):
    torch = pytest.importorskip("torch")
    weights = [torch.zeros(1, requires_grad=True)]
    if key == "betas":
        optimizer = torch.optim.Adam(weights, lr=PEAK)
    else:
        optimizer = torch.optim.SGD(weights, lr=PEAK)
    schedule, seen = make(optimizer, torch.optim.lr_scheduler), []
    for step in range(num_steps):
        value = optimizer.param_groups[0][key]
        seen.append(value[0] if key == "betas" else value)
        optimizer.step()
        if not per_epoch or (step + 1) % EPOCH == 0:
            schedule.step()
    return seen


def torch_warmed_up(name, warmup, total):
    """The schedules with a warm-up in PyTorch's parts."""

    def make(optimizer, lib):
        rise = lib.LinearLR(optimizer, 0.25, 1.0, warmup)
        left = total - warmup
        fall = {
            "constant": lambda: lib.ConstantLR(optimizer, 1.0),
            "linear": lambda: lib.LinearLR(optimizer, 1.0, 0.01, left),
            "warmup_cosine": lambda: lib.CosineAnnealingLR(
                optimizer, left, eta_min=PEAK * 0.01
            ),
            "cosine_restarts": lambda: lib.CosineAnnealingWarmRestarts(
                optimizer, 3, 2, eta_min=PEAK * 0.01
            ),
            "step": lambda: lib.StepLR(optimizer, 4, 0.9),
            "piecewise": lambda: lib.MultiStepLR(
                optimizer, [total - 4 - warmup, total - 2 - warmup], 0.1
            ),
        }[name]()
        return lib.SequentialLR(optimizer, [rise, fall], [warmup])

    return make


# SequentialLR itself calls step(0), which PyTorch warns of.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("name", schedules.DECAYS)
@pytest.mark.parametrize(("warmup", "total"), [(6, 40), (1, 30), (9, 15)])
def test_schedules_are_those_of_pytorch(name, warmup, total):
    schedule = make(
        name,
        total=total,
        warmup=f"{warmup} steps",
        initial_factor=0.25,
        final_factor=0.01,
        period="3 steps",
        decay_every="4 steps",
        milestones=((f"{total - 4} steps", 0.1), (f"{total - 2} steps", 0.01)),
    )
    expected = torch_values(total, torch_warmed_up(name, warmup, total))
    np.testing.assert_allclose(values(schedule, total), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("share", "length", "total"),
    [(0.3, 40, 40), (0.5, 10, 10), (0.5, 4, 4), (0.3, 40, 50)],
)
def test_one_cycle_is_that_of_pytorch_with_its_momentum(share, length, total):
    def theirs(optimizer, lib):
        return lib.OneCycleLR(
            optimizer,
            max_lr=PEAK,
            total_steps=length,
            pct_start=share,
            div_factor=10,
            final_div_factor=1e4,
        )

    rate, momentum = make_both(
        "one_cycle",
        total=total,
        warmup=f"{share * length} steps",
        length=f"{length} steps",
        initial_factor=0.1,
        final_factor=1e-5,
        momentum_range=(0.85, 0.95),
    )
    rest = (0, total - length)  # in which the last value stays
    expected = np.pad(torch_values(length, theirs), rest, "edge")
    np.testing.assert_allclose(values(rate, total), expected, rtol=1e-5, atol=1e-8)
    expected = np.pad(torch_values(length, theirs, key="betas"), rest, "edge")
    np.testing.assert_allclose(values(momentum, total), expected, rtol=1e-5)


def test_reports_step_their_schedules_once_an_epoch():
    """Reports 002 (warm restarts), 003 (a cosine that is cut off) and 004 (steps)."""
    cases = (
        (
            dict(name="cosine_restarts", period="10 epochs"),
            lambda opt, lib: lib.CosineAnnealingWarmRestarts(opt, 10, 2),
        ),
        (
            dict(name="warmup_cosine", length="200 epochs"),
            lambda opt, lib: lib.CosineAnnealingLR(opt, 200),
        ),
        (
            dict(name="step", decay_every="10 epochs", decay_factor=0.9),
            lambda opt, lib: lib.StepLR(opt, 10, 0.9),
        ),
    )
    total = 80 * EPOCH
    for options, theirs in cases:
        schedule = make(total=total, warmup="0%", per_epoch=True, **options)
        expected = torch_values(total, theirs, per_epoch=True)
        np.testing.assert_allclose(
            values(schedule, total), expected, rtol=2e-5, atol=1e-7
        )


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("first", [0.0, 0.5])
def test_schedules_follow_their_formulas(warmup, first):
    total, last = 12, 0.1
    falls = {
        "constant": lambda share: 1.0,
        "linear": lambda share: 1 + share * (last - 1),
        "warmup_cosine": lambda share: (
            last + (1 - last) * (1 + math.cos(math.pi * share)) / 2
        ),
    }
    for name, fall in falls.items():
        schedule = make(
            name,
            peak=2.0,
            total=total,
            warmup=f"{warmup} steps",
            initial_factor=first,
            final_factor=last,
        )
        seen = values(schedule, total + 3)  # after the end the last rate stays
        for step, rate in enumerate(seen):
            if step < warmup:
                factor = first + (1 - first) * step / warmup
            else:
                factor = fall(min(1, (step - warmup) / (total - warmup)))
            assert rate == pytest.approx(2 * factor, abs=1e-6), name


def test_the_rate_stays_low_after_the_last_restart():
    options = dict(period="10 steps", period_factor=2, length="50 steps")
    schedule = make("cosine_restarts", total=100, warmup="0%", **options)
    seen = values(schedule, 100)  # cosines of 10, 20 and 40 steps
    assert seen[69] < 0.01 * seen[30] and max(seen[70:]) <= seen[69]


@pytest.mark.parametrize(
    ("duration", "steps"),
    [("5 epochs", 35), ("1 epoch", 7), ("2.5epochs", 18), ("30 steps", 30), ("5%", 35)],
)
def test_durations_become_steps(duration, steps):
    found = schedules.to_steps("x", duration, steps_per_epoch=7, total_steps=700)
    assert found == steps


@pytest.mark.parametrize("duration", ["5", "", "-1 epochs", "5 years", "1e3 steps"])
def test_durations_without_a_known_unit_are_refused(duration):
    with pytest.raises(UserError, match="schedule.warmup is .*; use a number and its"):
        make("constant", warmup=duration)


def test_steps_are_where_a_quotient_is_rounded():
    """In float32, 3900 times the reciprocal of 3900 is below 1."""
    drops = values(
        make("step", total=20_000, warmup="0%", decay_every="3900 steps"), 20_000
    )
    assert np.flatnonzero(np.diff(drops)).tolist() == [3899, 7799, 11699, 15599, 19499]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("constant", {"peak": 0.0}, "optim.learning_rate is 0.0; use a positive one"),
        ("constant", {"peak": math.nan}, "optim.learning_rate is nan"),
        (
            "linear",
            {"warmup": "40 steps"},
            "40 steps of a schedule of 40; .* larger train",
        ),
        (
            "linear",
            {"warmup": "9 steps", "length": "8 steps"},
            "takes 9 steps of a schedule of 8; use .* a larger schedule.length",
        ),
        ("step", {"decay_every": "0 epochs"}, "schedule.decay_every is 0; use 1"),
        ("cosine_restarts", {"period_factor": 0}, "period_factor is 0; use 1"),
        ("linear", {"momentum_range": (0.8, 0.9)}, "momentum_range is .*'one_cycle'"),
        (
            "one_cycle",
            {"momentum_range": (0.95, 0.85)},
            r"momentum_range is \(0.95, 0.85\); use .* the smaller one first",
        ),
        (
            "piecewise",
            {"milestones": (("50%", 0.1), ("20%", 0.2))},
            r"start at the steps \[20, 8\]; give them in their order",
        ),
    ],
)
def test_schedules_that_make_no_sense_are_refused(name, options, match):
    with pytest.raises(UserError, match=match):
        make(name, **options)


def test_unknown_schedules_are_refused():
    config = default.get_config()
    config.schedule.name = "cosine"
    with pytest.raises(UserError, match="is 'cosine'; use warmup_cosine, constant, "):
        default.check(config)


def test_a_cycle_of_a_single_step_is_finite():
    rate = make("one_cycle", total=1, warmup="0%")
    assert np.isfinite(rate(0))
