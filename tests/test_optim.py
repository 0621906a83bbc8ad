"""Schedules and optimisers against PyTorch's, and against their formulas."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cifar_jax import UserError
from cifar_jax import config as default
from cifar_jax.models import resnet
from cifar_jax.training import optim

OPTIONS = default.get_config().optim.to_dict()
del OPTIONS["learning_rate"]


def make_schedule(name, *, peak=0.4, warmup=6, total=20, first=0.25, last=0.01):
    return optim.make_schedule(
        name,
        peak,
        warmup_steps=warmup,
        total_steps=total,
        initial_factor=first,
        final_factor=last,
    )


def make_optimizer(name, schedule=lambda step: 0.1, **options):
    return optim.make_optimizer(schedule=schedule, **OPTIONS | {"name": name} | options)


def rates(schedule, num_steps):
    return [float(schedule(step)) for step in range(num_steps)]


def one_update(optimizer, grads, params):
    update = jax.jit(
        lambda grads, params: optimizer.update(grads, optimizer.init(params), params)[0]
    )
    return update(grads, params)


def torch_rates(num_steps, make, peak=0.4):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    schedule = make(optimizer, torch.optim.lr_scheduler)
    seen = []
    for _ in range(num_steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def torch_schedule(name, warmup, total):
    """The schedule of `make_schedule` in PyTorch's parts."""

    def make(optimizer, lib):
        rise = lib.LinearLR(optimizer, 0.25, 1.0, warmup)
        fall = {
            "constant": lambda: lib.ConstantLR(optimizer, 1.0),
            "warmup_cosine": lambda: lib.CosineAnnealingLR(
                optimizer, total - warmup, eta_min=0.4 * 0.01
            ),
            "one_cycle": lambda: lib.LinearLR(optimizer, 1.0, 0.01, total - warmup),
        }[name]()
        return lib.SequentialLR(optimizer, [rise, fall], [warmup])

    return make


# SequentialLR itself calls step(0), which PyTorch warns of.
@pytest.mark.filterwarnings("ignore:The epoch parameter in `scheduler.step:UserWarning")
@pytest.mark.parametrize("name", optim.SCHEDULES)
@pytest.mark.parametrize(("warmup", "total"), [(6, 20), (1, 10), (9, 10)])
def test_schedules_are_those_of_pytorch(name, warmup, total):
    schedule = make_schedule(name, warmup=warmup, total=total)
    expected = torch_rates(total, torch_schedule(name, warmup, total))
    np.testing.assert_allclose(rates(schedule, total), expected, rtol=1e-5)


def test_one_cycle_is_the_triangle_of_pytorch():
    def make(optimizer, lib):
        return lib.OneCycleLR(
            optimizer,
            max_lr=0.4,
            total_steps=21,  # PyTorch's last step is where ours has ended
            pct_start=7 / 21,
            anneal_strategy="linear",
            div_factor=4,
            final_div_factor=25,
            cycle_momentum=False,
        )

    schedule = make_schedule("one_cycle", warmup=6, total=20)
    expected = torch_rates(20, make)
    np.testing.assert_allclose(rates(schedule, 20), expected, rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 4])
@pytest.mark.parametrize("first", [0.0, 0.5])
def test_schedules_follow_their_formulas(warmup, first):
    total, last = 12, 0.1
    falls = {
        "constant": lambda share: 1.0,
        "one_cycle": lambda share: 1 + share * (last - 1),
        "warmup_cosine": lambda share: (
            last + (1 - last) * (1 + math.cos(math.pi * share)) / 2
        ),
    }
    assert falls.keys() == optim.SCHEDULES.keys()
    for name, fall in falls.items():
        schedule = make_schedule(
            name, peak=2.0, warmup=warmup, total=total, first=first, last=last
        )
        for step in range(total + 3):  # after the end the last rate stays
            if step < warmup:
                factor = first + (1 - first) * step / warmup
            else:
                factor = fall(min(1, (step - warmup) / (total - warmup)))
            assert float(schedule(step)) == pytest.approx(2 * factor, abs=1e-6), name


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("cosine", {}, "schedule.name is 'cosine'; use constant, one_cycle, warmup_co"),
        ("constant", {"peak": 0.0}, "optim.learning_rate is 0.0; use a positive one"),
        ("constant", {"peak": math.nan}, "optim.learning_rate is nan"),
        ("one_cycle", {"warmup": 20}, "warm-up takes 20 steps of a run of 20; use a"),
        ("one_cycle", {"warmup": -1}, "the warm-up takes -1 steps"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(name, options, match):
    with pytest.raises(UserError, match=match):
        make_schedule(name, **options)


def problem():
    """Parameters and inputs of a linear least-squares problem."""
    random = np.random.default_rng(0)
    params = {"bias": random.normal(size=3), "kernel": random.normal(size=(5, 3))}
    inputs, targets = random.normal(size=(8, 5)), random.normal(size=(8, 3))
    return jax.tree.map(np.float32, (params, inputs, targets))


def residuals(params, inputs, targets):
    return inputs @ params["kernel"] + params["bias"][None] - targets


def run_ours(optimizer, num_steps):
    params, inputs, targets = problem()

    @jax.jit
    def step(params, state):
        grads = jax.grad(lambda p: (residuals(p, inputs, targets) ** 2).mean())(params)
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(num_steps):
        params, state = step(params, state)
    return params


def run_torch(torch, make, learning_rates, clip):
    params, inputs, targets = jax.tree.map(torch.tensor, problem())
    for value in params.values():
        value.requires_grad_(True)
    optimizer = make(
        [
            {"params": [params["kernel"]]},
            {"params": [params["bias"]], "weight_decay": 0.0},
        ]
    )
    for rate in learning_rates:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        (residuals(params, inputs, targets) ** 2).mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
    return {name: value.detach().numpy() for name, value in params.items()}


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("sgd", "SGD", dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
        ("sgd", "SGD", dict(momentum=0.8, nesterov=False, weight_decay=0.1)),
        ("sgd", "SGD", dict(momentum=0.0, nesterov=False, weight_decay=0.0)),
        ("adam", "Adam", dict(b1=0.8, b2=0.95, weight_decay=0.1)),
        ("adamw", "AdamW", dict(b1=0.8, b2=0.95, weight_decay=0.1)),
    ],
)
def test_optimizers_are_those_of_pytorch(name, kind, options, clip):
    torch = pytest.importorskip("torch")
    schedule = make_schedule("warmup_cosine", peak=0.05)
    theirs = dict(options)
    if "b1" in theirs:
        theirs["betas"] = theirs.pop("b1"), theirs.pop("b2")
    expected = run_torch(
        torch,
        lambda groups: getattr(torch.optim, kind)(groups, lr=1.0, **theirs),
        rates(schedule, 20),
        clip,
    )
    optimizer = make_optimizer(name, schedule, gradient_clip=clip, **options)
    params = run_ours(optimizer, 20)
    for key, value in expected.items():
        np.testing.assert_allclose(params[key], value, rtol=2e-5, atol=2e-6)


def test_unknown_optimizers_are_refused():
    with pytest.raises(
        UserError, match="optim.name is 'lion'; use adam, adamw, muon, "
    ):
        make_optimizer("lion")


@functools.cache
def network():
    """Parameters of a small network, without computing them."""
    model = resnet.create(
        num_classes=10,
        image_shape=(32, 32, 3),
        **default.get_config().model.to_dict()
        | dict(stage_sizes=(1, 1), widths=(4, 8), se_ratio=2),
    )
    images = jnp.zeros((1, 32, 32, 3))
    return jax.eval_shape(
        lambda key: model.init(key, images, train=False), jax.random.key(0)
    )["params"]


def fill(tree, seed=0):
    random = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: random.normal(size=leaf.shape).astype(np.float32), tree
    )


def by_path(tree):
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    keystr = jax.tree_util.keystr
    return {keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_touches_kernels_only(name):
    params = fill(network())
    zeros = jax.tree.map(np.zeros_like, params)
    optimizer = make_optimizer(name, weight_decay=0.1)
    decayed = {
        path
        for path, leaf in by_path(one_update(optimizer, zeros, params)).items()
        if np.any(leaf)
    }
    paths = by_path(params)
    assert decayed == {path for path in paths if path.endswith("kernel")}
    assert any(path.endswith("bias") for path in paths)
    assert any(path.endswith("scale") for path in paths)


def test_clipping_is_by_the_norm_of_all_gradients():
    params = {"a": np.zeros(2, np.float32), "b": np.zeros((2, 2), np.float32)}
    grads = {"a": np.float32([3, 0]), "b": np.float32([[0, 4], [0, 0]])}
    options = dict(weight_decay=0.0, momentum=0.0, nesterov=False)
    for clip, scale in ((1.0, 0.2), (4.0, 0.8), (6.0, 1.0), (0.0, 1.0)):
        optimizer = make_optimizer("sgd", gradient_clip=clip, **options)
        updates = one_update(optimizer, grads, params)
        for key, grad in grads.items():
            np.testing.assert_allclose(updates[key], -0.1 * scale * grad, rtol=1e-6)


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_frozen_parameters_stay_as_they_are(name):
    params = fill(network())
    frozen = ("stem_conv/kernel",)
    optimizer = make_optimizer(name, frozen=frozen, gradient_clip=0.0)
    updates = by_path(one_update(optimizer, fill(params, 1), params))
    free = by_path(one_update(make_optimizer(name), fill(params, 1), params))
    assert not np.any(updates.pop(frozen[0]))
    for path, update in updates.items():
        np.testing.assert_array_equal(update, free[path])
        assert np.any(update), path


def orthogonalize(matrix, num_steps):
    """Newton-Schulz with the coefficients of Jordan et al. (2024)."""
    x = matrix / np.linalg.norm(matrix)
    for _ in range(num_steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_muon_follows_its_formula():
    """Two steps: Muon in the blocks, SGD in the stem and the classifier."""
    rate, scale, beta, decay = 0.1, 0.3, 0.8, 0.05
    optimizer = make_optimizer(
        "muon",
        lambda step: rate / (1 + step),
        muon_scale=scale,
        muon_beta=beta,
        muon_steps=3,
        muon_weight_decay=decay,
        momentum=0.9,
        nesterov=True,
        weight_decay=0.01,
    )
    params = fill(network())
    grads = [fill(params, 1), fill(params, 2)]
    state, updates = optimizer.init(params), []
    for grad in grads:  # at the same parameters, which is enough
        update, state = optimizer.update(grad, state, params)
        updates.append(by_path(update))
    names = set()
    for path, param in by_path(params).items():
        first, second = (by_path(grad)[path].astype(np.float64) for grad in grads)
        if path.startswith("stage") and param.ndim == 4:
            names.add(path)
            moment_1 = (1 - beta) * first
            moment_2 = beta * moment_1 + (1 - beta) * second
            # Nesterov: what the moment would be with the same gradient once more,
            # each part without the bias of its start at zero.
            looks = [
                beta * moment / (1 - beta ** (t + 1))
                + (1 - beta) * grad / (1 - beta**t)
                for t, moment, grad in ((1, moment_1, first), (2, moment_2, second))
            ]
            width = param.shape[-1]
            fan_in = param.size // width
            directions = [
                orthogonalize(look.reshape(fan_in, width), 3).reshape(param.shape)
                * max(1, width / fan_in) ** 0.5
                + decay * param
                for look in looks
            ]
            factor = scale
        else:
            first, second = (
                grad + (0.01 * param if param.ndim > 1 else 0)
                for grad in (first, second)
            )
            trace_2 = 0.9 * first + second
            directions = [first + 0.9 * first, second + 0.9 * trace_2]
            factor = 1.0
        for step, direction in enumerate(directions):
            expected = -factor * rate / (1 + step) * direction
            np.testing.assert_allclose(
                updates[step][path], expected, rtol=1e-3, atol=1e-5, err_msg=path
            )
    assert len(names) == 5, names  # two blocks of two, and a projection
    assert not any("stem" in name for name in names)


@pytest.mark.parametrize("shape", [(3, 3, 4, 8), (1, 1, 4, 8)])
def test_muon_orthogonalises_what_a_patch_becomes(shape):
    params = {"stage1_block1": {"kernel": np.zeros(shape, np.float32)}}
    optimizer = make_optimizer(
        "muon", muon_steps=8, muon_weight_decay=0.0, muon_scale=1.0
    )
    (kernel,) = jax.tree.leaves(one_update(optimizer, fill(params), params))
    matrix = np.asarray(kernel).reshape(-1, 8) / -0.1
    singular = np.linalg.svd(matrix, compute_uv=False)
    singular /= max(1, 8 / len(matrix)) ** 0.5
    assert 0.6 < singular.min() <= singular.max() < 1.25
