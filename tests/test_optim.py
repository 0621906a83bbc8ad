"""Optimisers against PyTorch's, and against their formulas."""

import functools

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
NUM_STEPS = 20
RATES = np.linspace(0.05, 0.01, NUM_STEPS, dtype=np.float32)
MOMENTA = np.linspace(0.95, 0.8, NUM_STEPS, dtype=np.float32)


def make_optimizer(name, schedule=lambda step: 0.1, **options):
    return optim.make_optimizer(schedule=schedule, **OPTIONS | {"name": name} | options)


def one_update(optimizer, grads, params):
    update = jax.jit(
        lambda grads, params: optimizer.update(grads, optimizer.init(params), params)[0]
    )
    return update(grads, params)


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


def run_torch(torch, kind, options, *, clip=0.0, momenta=None, bias=None):
    """Trains with PyTorch; `bias` overrides options of the bias's group."""
    params, inputs, targets = jax.tree.map(torch.tensor, problem())
    for value in params.values():
        value.requires_grad_(True)
    groups = [{"params": [params["kernel"]]}, {"params": [params["bias"]]}]
    optimizer = getattr(torch.optim, kind)(groups, lr=1.0, **options)
    factors = [1.0, (bias or {}).pop("factor", 1.0)]
    optimizer.param_groups[1].update(bias or {})
    for step, rate in enumerate(RATES):
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] = float(rate) * factor
            if momenta is not None and "betas" in group:
                group["betas"] = float(momenta[step]), group["betas"][1]
            elif momenta is not None:
                group["momentum"] = float(momenta[step])
        optimizer.zero_grad()
        (residuals(params, inputs, targets) ** 2).mean().backward()
        if clip:
            torch.nn.utils.clip_grad_norm_(params.values(), clip)
        optimizer.step()
    return {name: value.detach().numpy() for name, value in params.items()}


PYTORCH = [
    ("sgd", "SGD", dict(momentum=0.9, nesterov=True, weight_decay=0.1)),
    ("sgd", "SGD", dict(momentum=0.8, nesterov=False, weight_decay=0.1)),
    ("sgd", "SGD", dict(momentum=0.0, nesterov=False, weight_decay=0.0)),
    ("adam", "Adam", dict(b1=0.8, b2=0.95, weight_decay=0.1)),
    ("adamw", "AdamW", dict(b1=0.8, b2=0.95, weight_decay=0.1)),
]


def theirs(options):
    options = dict(options)
    if "b1" in options:
        options["betas"] = options.pop("b1"), options.pop("b2")
    return options


def check_same(params, expected):
    for key, value in expected.items():
        np.testing.assert_allclose(params[key], value, rtol=2e-5, atol=2e-6)


def at(values):
    return lambda step: jnp.asarray(values)[step]


@pytest.mark.parametrize("clip", [0.0, 0.5])
@pytest.mark.parametrize(("name", "kind", "options"), PYTORCH)
def test_optimizers_are_those_of_pytorch(name, kind, options, clip):
    torch = pytest.importorskip("torch")
    expected = run_torch(
        torch, kind, theirs(options), clip=clip, bias={"weight_decay": 0.0}
    )
    optimizer = make_optimizer(name, at(RATES), gradient_clip=clip, **options)
    check_same(run_ours(optimizer, NUM_STEPS), expected)


@pytest.mark.parametrize(("name", "kind", "options"), PYTORCH)
def test_decay_of_all_parameters_and_moving_momentum_are_as_in_pytorch(
    name, kind, options
):
    torch = pytest.importorskip("torch")
    expected = run_torch(torch, kind, theirs(options), momenta=MOMENTA)
    optimizer = make_optimizer(
        name,
        at(RATES),
        momentum_schedule=at(MOMENTA),
        weight_decay_mask="all",
        **options,
    )
    check_same(run_ours(optimizer, NUM_STEPS), expected)


@pytest.mark.parametrize(("name", "kind", "options"), PYTORCH)
def test_multipliers_are_the_rates_of_pytorchs_groups(name, kind, options):
    torch = pytest.importorskip("torch")
    expected = run_torch(torch, kind, theirs(options), bias={"factor": 3.0})
    optimizer = make_optimizer(
        name,
        at(RATES),
        weight_decay_mask="all",
        lr_multipliers=(("b.*", 3.0), (".*", 1.0)),
        **options,
    )
    check_same(run_ours(optimizer, NUM_STEPS), expected)


def test_sgdw_is_sgd_with_decay_apart():
    """Without a gradient only the decay is left: the rate's product (1711.05101)."""
    params = {"kernel": np.ones((2, 2), np.float32)}
    zeros = jax.tree.map(np.zeros_like, params)
    optimizer = make_optimizer("sgdw", at(RATES), weight_decay=0.1, momentum=0.9)
    state, expected = optimizer.init(params), 1.0
    for rate in RATES:
        updates, state = optimizer.update(zeros, state, params)
        params = optax.apply_updates(params, updates)
        expected *= 1 - float(rate) * 0.1
    np.testing.assert_allclose(params["kernel"], expected, rtol=1e-5)


def test_lion_follows_its_algorithm():
    """Algorithm 2 of Chen et al. (2023, arXiv:2302.06675)."""
    b1, b2, decay = 0.8, 0.95, 0.1
    params, inputs, targets = problem()
    expected = {name: value.astype(np.float64) for name, value in params.items()}
    moment = dict.fromkeys(expected, 0.0)
    for rate in RATES:
        error = 2 * residuals(expected, inputs, targets) / targets.size
        grads = {"bias": error.sum(0), "kernel": inputs.T @ error}
        for name, grad in grads.items():
            direction = np.sign(b1 * moment[name] + (1 - b1) * grad)
            direction += decay * expected[name] * (name == "kernel")
            moment[name] = b2 * moment[name] + (1 - b2) * grad
            expected[name] = expected[name] - rate * direction
    options = dict(b1=b1, b2=b2, weight_decay=decay)
    params = run_ours(make_optimizer("lion", at(RATES), **options), NUM_STEPS)
    check_same(params, expected)


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("name", "rmsprop", "optim.name is 'rmsprop'; use adam, adamw, lion, sgd, sgd"),
        ("muon_fallback", "muon", "muon_fallback is 'muon'; use adam, adamw, "),
        ("muon_preconditioning", "row", "'row'; use frobenius, aol"),
        ("weight_decay_mask", "bias", "mask is 'bias'; use all, kernels"),
    ],
)
def test_unknown_names_are_refused(key, value, match):
    config = default.get_config()
    config.optim[key] = value
    with pytest.raises(UserError, match=match):
        default.check(config)


def test_muons_momentum_does_not_move():
    with pytest.raises(UserError, match="momentum_range is not for muon"):
        make_optimizer("muon", momentum_schedule=at([0.9]))


@pytest.mark.parametrize(
    ("multipliers", "match"),
    [
        ((("head/kernal", 2.0),), "'head/kernal', which matches no parameter; their"),
        ((("(", 2.0),), r"'\(', which is not a regular expression"),
        (((".*", -1.0),), "has -1.0 for '.*'; use 0 or more"),
    ],
)
def test_multipliers_that_make_no_sense_are_refused(multipliers, match):
    with pytest.raises(UserError, match=match):
        optim.check_multipliers(multipliers, {"head": {"bias": 0, "kernel": 0}})


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


@pytest.mark.parametrize("name", ["sgd", "sgdw", "adam", "adamw", "lion"])
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


@pytest.mark.parametrize("name", default.CHOICES["optim.name"])
@pytest.mark.usefixtures("op_by_op")
def test_frozen_parameters_stay_as_they_are(name):
    parts = ("stem_conv", "stage1_block1", "head")
    params = fill({name: network()[name] for name in parts})
    frozen = ("stem_conv/kernel",)
    optimizer = make_optimizer(name, frozen=frozen, gradient_clip=0.0)
    updates = by_path(one_update(optimizer, fill(params, 1), params))
    free = by_path(one_update(make_optimizer(name), fill(params, 1), params))
    assert not np.any(updates.pop(frozen[0]))
    for path, update in updates.items():
        np.testing.assert_array_equal(update, free[path])
        assert np.any(update), path


def orthogonalize(matrix, num_steps, is_aol=False):
    """Newton-Schulz with the coefficients of Jordan et al. (2024)."""
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalize(matrix.T, num_steps, is_aol).T
    x = matrix / np.linalg.norm(matrix)
    if is_aol:  # Prach & Lampert, 2022, arXiv:2208.03160, equation 5
        x = x / np.sqrt(np.abs(x @ x.T).sum(axis=1, keepdims=True))
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
    take = jax.jit(optimizer.update)
    for grad in grads:  # at the same parameters, which is enough
        update, state = take(grad, state, params)
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


@pytest.mark.parametrize(
    "preconditioning", default.CHOICES["optim.muon_preconditioning"]
)
@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_muon_on_accelerators_stacks_its_matrices(
    monkeypatch, preconditioning, platform
):
    """In bfloat16, whose products have 8 bits; a CPU takes one after another."""
    params = fill(network())
    grads = fill(params, 1)
    optimizer = make_optimizer(
        "muon",
        muon_scale=1.0,
        muon_preconditioning=preconditioning,
        muon_weight_decay=0.0,
    )
    arguments = grads, optimizer.init(params), params
    traced = jax.jit(optimizer.update).trace(*arguments)
    lowered = traced.lower(lowering_platforms=(platform,)).as_text()
    for stack in ("tensor<3x4x36xf32>", "tensor<2x8x72xf32>"):
        assert (stack in lowered) == (platform != "cpu")
    if platform != "cpu":  # what they compute, computed here
        monkeypatch.setattr(
            jax.lax, "platform_dependent", lambda *args, default, cpu: default(*args)
        )
    compiled = jax.jit(optimizer.update).lower(*arguments).compile().as_text()
    assert " while(" not in compiled and " conditional(" not in compiled
    updates = by_path(one_update(optimizer, grads, params))
    # The polynomial is steep: three of its steps make 2^-9 of bfloat16 some percent.
    tolerance = 1e-5 if platform == "cpu" else 0.08
    for path, grad in by_path(grads).items():
        if path.startswith("stage") and grad.ndim == 4:
            matrix = grad.reshape(-1, grad.shape[-1]).astype(np.float64)
            expected = orthogonalize(matrix, 3, preconditioning == "aol")
            expected *= max(1, matrix.shape[1] / matrix.shape[0]) ** 0.5
            error = updates[path].reshape(matrix.shape) / -0.1 - expected
            norms = np.linalg.norm(error), np.linalg.norm(expected)
            assert norms[0] < tolerance * norms[1], path


def test_aol_comes_closer_to_an_orthogonal_matrix():
    """Turbo-Muon's claim: as close in two iterations as the norm is in three."""
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 3, 64, 64)) * np.geomspace(1, 0.03, 64)
    grads = {"stage1_block1": {"conv1": {"kernel": kernel.astype(np.float32)}}}

    def far(steps, preconditioning):
        options = dict(muon_steps=steps, muon_preconditioning=preconditioning)
        optimizer = make_optimizer("muon", muon_weight_decay=0.0, **options)
        (update,) = jax.tree.leaves(one_update(optimizer, grads, grads))
        singular = np.linalg.svd(update.reshape(576, 64), compute_uv=False)
        return np.linalg.norm(singular / (0.1 * OPTIONS["muon_scale"]) - 1)

    assert far(3, "aol") < far(3, "frobenius")
    assert far(2, "aol") < 1.05 * far(3, "frobenius")


def test_muon_renormalises_kernels_as_airbench_does():
    """The update starts from the kernel with the norm sqrt(filters)."""
    params = fill(network())
    grads = fill(params, 1)
    options = dict(muon_weight_decay=0.0, lr_multipliers=((".*", 2.0),))
    plain = by_path(one_update(make_optimizer("muon", **options), grads, params))
    options["muon_renormalize"] = True
    updates = by_path(one_update(make_optimizer("muon", **options), grads, params))
    for path, param in by_path(params).items():
        start = param.astype(np.float64)
        if path.startswith("stage") and param.ndim == 4:
            start *= param.shape[-1] ** 0.5 / np.linalg.norm(start)
        new = param + updates[path]
        np.testing.assert_allclose(new, start + plain[path], atol=1e-5, err_msg=path)


def test_muons_state_is_laid_out_as_optaxs_was():
    """Runs of Optax's own Muon resume."""
    kernels = {"stage1_block1": {"conv1": {"kernel": np.zeros((3, 3, 4, 8))}}}
    dimensions = optax.contrib.MuonDimensionNumbers((0, 1, 2), (3,))
    optaxs = optax.contrib.muon(
        lambda step: 0.1,
        muon_weight_dimension_numbers=lambda p: jax.tree.map(lambda _: dimensions, p),
    )
    state = make_optimizer("muon").init(kernels)[0].inner_states["muon"].inner_state
    expected = optaxs.init(kernels)
    assert jax.tree.structure(state) == jax.tree.structure(expected)
    assert jax.tree.leaves(jax.tree.map(jnp.shape, state)) == jax.tree.leaves(
        jax.tree.map(jnp.shape, expected)
    )


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


def test_muon_leaves_the_rest_to_the_optimizer_that_is_named():
    params = fill(network())
    grads = fill(params, 1)
    updates = by_path(
        one_update(make_optimizer("muon", muon_fallback="adamw"), grads, params)
    )
    alone = by_path(one_update(make_optimizer("adamw"), grads, params))
    for path, update in updates.items():
        same = np.array_equal(update, alone[path])
        assert same != (path.startswith("stage") and update.ndim == 4), path
