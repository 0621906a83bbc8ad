"""The default config, and configs as files keep them.

A config file starts from `get_config()` and changes a few keys; so does the command
line. To see what a key means, read its comment here: no other list exists.

A new key must default to the old behaviour, so that older runs can resume; a renamed
one goes into `RENAMED_KEYS`.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict, config_dict

from cifar_jax import UserError
from cifar_jax._files import misfit

# Keys that change where or how fast a run computes, not what: a run may resume with
# other values of these. A name that ends in a point stands for all keys below it.
RESUMABLE_KEYS = (
    "data.dir",
    "data.placement",
    "data.source",
    "checkpoint.",
    "evaluate.batch_size",
    "train.cpu_devices",
    "train.max_seconds",
    "train.steps_per_dispatch",
    "train.watchdog_seconds",
)

# Test-time augmentations; see `training.methods.tta`.
TTA_NAMES = ("none", "flip", "multicrop")

# Old name of a key, as files of earlier versions have it, to its name today.
RENAMED_KEYS = {
    "optim.decayed": "optim.weight_decay_mask",
    "optim.muon_rest": "optim.muon_fallback",
    "train.views": "train.repeats",
    "study.reduction": "study.reduction_factor",
}


def _optional(kind: type) -> Any:
    """Returns a key that is None, or of this type."""
    return dataclasses.field(default_factory=lambda: config_dict.placeholder(kind))


@dataclasses.dataclass
class _Data:
    """The keys of `config.data`."""

    # a TFDS data set (cifar10, cifar100, digits, or one already on disk), or a path: a
    # folder of images, .npz, .npy, a pickled batch, an official archive
    name: str = "cifar10"
    dir: str | None = _optional(str)  # folder of TFDS data sets; None: TFDS's default
    # local copy of the archive to prepare the set from
    source: str | None = _optional(str)
    train_split: str = "train"  # TFDS split string
    test_split: str = "test"  # TFDS split string
    # (height, width) that all images are resized to; None: they have one size
    image_size: tuple | None = _optional(tuple)
    # images held out of train_split: a fraction below 1, or a count; 0: none, and the
    # last state is scored
    validation: float = 0.1
    stratified: bool = True  # hold out the same fraction of each class
    split_seed: int = 0  # apart from `seed`, so that all seeds share a validation set
    # memory that holds the images: device; host, for data that does not fit (batches
    # are sent ahead); or auto: device if they take at most a quarter of its memory
    placement: str = "auto"
    # per-channel mean of the pixels in [0, 1]; None: that of the training images
    mean: tuple | None = _optional(tuple)
    # per-channel standard deviation; None: that of the training images
    std: tuple | None = _optional(tuple)


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """The keys of `config.model`; `models.design` resolves and checks them.

    Tuples have one entry for each stage, or a single one for all stages.
    """

    stage_sizes: tuple[int, ...] = (1, 1, 1, 1)  # number of residual blocks
    # channels; a single one doubles with each stage
    widths: tuple[int, ...] = (64, 128, 256, 512)
    # of each stage's first block; None: 1, then 2
    strides: tuple[int, ...] = _optional(tuple)
    kernel_sizes: tuple[int, ...] = (3,)  # of the blocks' convolutions; odd
    stem: str = "conv"  # conv, or whitening: frozen filters that whiten the patches
    stem_width: int = _optional(int)  # channels; None: the first stage's
    # None: the first stage's; an even size makes the map a pixel smaller
    stem_kernel: int = _optional(int)
    stem_stride: int = 1  # stride of the stem's convolution
    stem_pool: int = 0  # window of a max-pool of stride 2 after the stem; 0: no pool
    block: str = "basic"  # basic (post-activation) or preact (wide ResNets)
    shortcut: str = "projection"  # projection or padding, where a block changes shape
    shortcut_kernel_sizes: tuple[int, ...] = (1,)  # of the projections; odd
    # how a stage applies its stride: stride (in its first block), or pool: convolution,
    # max-pool and BatchNorm before its blocks, which then keep the map's shape
    downsample: str = "stride"
    activation: str = "relu"  # relu, mish, elu, silu or gelu
    # squeeze-and-excitation: channels divided by hidden units; 0: no such layer
    se_ratio: int = 0
    se_bias: bool = True  # whether its two linear layers have a bias
    se_activation: str = _optional(str)  # None: `activation`
    # window of the last average-pool; None: the whole map
    pool: int | None = _optional(int)
    dropout: float = 0.0  # rate before the classifier
    logits_dropout: float = 0.0  # rate on the logits
    block_dropout: float = 0.0  # rate between the two convolutions of each block
    # probability of skipping the last block; it falls linearly towards the first
    stochastic_depth: float = 0.0
    init: str = "he"  # he (normal, fan-out), or pytorch (the default of its layers)
    zero_init: bool = False  # the last BatchNorm scale of each basic block starts at 0
    # the first filters of every convolution pass its input channels on unchanged
    dirac_init: bool = False
    bn_scale: bool = True  # False: BatchNorm has only a bias
    bn_momentum: float = 0.9  # weight of the old running statistics in each update
    bn_epsilon: float = 1e-5  # added to the variance
    dtype: str = "auto"  # of the computation: bfloat16 on accelerators, float32 on CPU
    # what a CPU that trains rounds the operands of convolutions to: float32, bfloat16,
    # or auto: bfloat16 on CPUs with AMX, which multiply it faster. Sums are float32
    conv_precision: str = "float32"


@dataclasses.dataclass
class _Optim:
    """The keys of `config.optim`."""

    # sgd, sgdw, adam, adamw, lion, or muon (for the blocks' convolutions)
    name: str = "sgd"
    learning_rate: float = 0.1  # peak of the schedule
    momentum: float = 0.9  # sgd, sgdw
    nesterov: bool = True  # sgd, sgdw
    b1: float = 0.9  # adam, adamw, lion
    b2: float = 0.999  # adam, adamw, lion
    # sgd, adam: added to the gradient; the others: multiplied by the learning rate
    weight_decay: float = 5e-4
    weight_decay_mask: str = "kernels"  # parameters that decay: kernels, or all
    muon_fallback: str = "sgd"  # muon: optimizer of all other parameters
    muon_scale: float = 0.2  # muon: its learning rate, as a fraction of the fallback's
    muon_beta: float = 0.9  # muon: decay of the gradient's moving average
    muon_steps: int = 3  # muon: number of Newton-Schulz iterations
    # muon: what a matrix is divided by before them, so that they converge: frobenius
    # (its norm), or aol, the almost orthogonal layer's bound for each row, which is
    # tighter and saves an iteration (Boissin et al., 2025, arXiv:2512.04632)
    muon_preconditioning: str = "frobenius"
    # muon: each kernel gets the norm sqrt(filters) before its update, as in airbench
    muon_renormalize: bool = False
    muon_weight_decay: float = 5e-3  # muon: multiplied by its learning rate
    gradient_clip: float = 0.0  # largest global norm of the gradient; 0: no clipping
    # factors of the learning rate, by regular expressions of parameter paths; the first
    # that matches counts: ((".*/bias", 2.0),)
    lr_multipliers: tuple = ()
    # sharpness-aware minimisation: radius of the perturbation; 0: off. Twice the work
    sam_rho: float = 0.0
    sam_adaptive: bool = False  # ASAM: radius of each weight in proportion to itself
    sam_start: str = "0%"  # duration, as in schedule: plain steps until then


@dataclasses.dataclass
class _Schedule:
    """The keys of `config.schedule`; durations: "5 epochs", "500 steps" or "5%"."""

    # warmup_cosine, constant, linear, step, piecewise, cosine_restarts, or one_cycle
    name: str = "warmup_cosine"
    warmup: str = "5%"  # duration of the linear rise to the peak
    length: str = "100%"  # duration until final_factor; may be longer than the run
    initial_factor: float = 0.0  # first learning rate, as a fraction of the peak
    final_factor: float = 0.0  # last learning rate, as a fraction of the peak
    period: str = "10 epochs"  # cosine_restarts: duration of the first cosine
    period_factor: int = 2  # cosine_restarts: ratio of a period to the last one
    decay_every: str = "10 epochs"  # step: duration between two decays
    decay_factor: float = 0.9  # step: factor of each decay
    # piecewise: durations, and fractions of the peak: (("50%", 0.1), ("75%", 0.01))
    milestones: tuple = ()
    # one_cycle: momentum (or b1) at the peak, and at both ends; None: that of optim
    momentum_range: tuple | None = _optional(tuple)
    # keep the first rate of an epoch throughout the epoch; a warm-up then needs an
    # initial_factor above 0
    per_epoch: bool = False


@dataclasses.dataclass
class _Train:
    """The keys of `config.train`."""

    epochs: int = 100  # passes over the training images
    batch_size: int = 512  # over all devices; repeats of an image count
    # repeated augmentation (Hoffer et al., 2020, arXiv:1901.09335): each image is in
    # its batch this many times, augmented anew; an epoch has as many times the steps
    repeats: int = 1
    # GPUs or TPU chips that the run is meant for; if they had too few images each, the
    # batch and the learning rate grow, as docs/accelerators.md says; 0: they do not
    chips: int = 0
    label_smoothing: float = 0.0  # probability shared equally by all classes
    # decay of the moving average of weights and batch statistics, warmed up as
    # (1 + t) / (10 + t) at step t; 0: no average
    ema_decay: float = 0.0
    accumulate: int = 1  # parts of a batch that are computed one after another
    # stop after this many epochs without a better validation; 0: never
    patience: int = 0
    reload_best: bool = False  # start each epoch from the best weights so far
    # save and stop after this many seconds, with exit code 0; 0: never. The same
    # command resumes the run
    max_seconds: float = 0.0
    cpu_devices: int = 0  # devices that a CPU is divided into; 0: JAX's default
    # on GPUs, only algorithms that always add up in the same order: runs repeat bit for
    # bit on the same GPUs with the same compiled programs, and are slower
    deterministic: bool = False
    # steps in one call of the device, where the images lie on it; 0: by its kind
    steps_per_dispatch: int = 0
    # a run of several processes ends after this long without a step, since one of
    # them hangs; 0: never
    watchdog_seconds: float = 1800.0


@dataclasses.dataclass
class _Evaluate:
    """The keys of `config.evaluate`."""

    batch_size: int = 1000  # over all devices
    # test-time augmentation, scored beside the plain figures at the end: none, flip, or
    # multicrop: six views, flipped and shifted by a pixel
    tta: str = "none"
    every_epochs: int = 1  # epochs between validations; always after the last
    best_by: str = "accuracy"  # how an epoch is selected: accuracy, loss, or last
    # images to select it on: val; or test, as some reports do: too high to be honest
    select_on: str = "val"
    # score the test images at the end; a study (cifar_jax.search) scores none of them
    # until it has selected a design
    test: bool = True


@dataclasses.dataclass
class _Study:
    """The keys of `config.study`."""

    # how the space gives designs: list, grid (all combinations), one_at_a_time (one
    # factor differs from `base`), or sample (a sampler proposes them)
    kind: str = "list"
    # list: dict(name="wide", change={"model.widths": (128,)}); else
    # dict(factor="B", values=(1, 2)), and to sample from, also
    # dict(factor="optim.learning_rate", low=1e-4, high=1e-1, log=True).
    # A factor is a key of `base`, or one of report 004's letters: N stages, B blocks in
    # each (B1, B2, ...: in one of them), C channels of the first, `growth` of the width
    # from stage to stage, kernels F, shortcut kernels K, pool P (0: the whole map)
    space: tuple = ()
    # widths of a design: keep, or widest (the largest below base.budget.limit)
    width: str = "keep"
    width_multiple: int = 1  # widest: widths are multiples of it
    seeds: int = 3  # runs of each design, of which the first has base.seed
    # accuracy, loss (of the best validation), parameters, macs, latency (ms for one
    # image) or seconds (of the run); the first one ranks the designs, several ask for
    # their Pareto front
    objectives: tuple = ("accuracy",)
    latency: bool = False  # measure each design's latency, even if not an objective
    sampler: str = "tpe"  # sample: tpe, nsga2, or random
    sampler_seed: int = 0  # sample: seed of the sampler
    trials: int = 30  # sample: number of designs that are tried, each with one seed
    finalists: int = 5  # sample: number of the best, which are run with all seeds
    # what ends first runs that validate badly: none, halving, or hyperband
    pruner: str = "none"
    min_epochs: int = 1  # epochs before which no run is pruned
    reduction_factor: int = 3  # one run in this many continues, each time
    # results of a report, shown beside the measured ones: (("N3-B2", 0.9104),)
    reported: tuple = ()
    # CPU threads of a run, whose number changes its rounding; 0: the cores, shared by
    # the workers of a command
    threads: int = 0
    # GPUs or TPU chips that a run reserves on a Ray cluster that has any; a share of a
    # GPU (0.5) will do; 0: CPUs alone
    accelerators: float = 1.0
    # after which the study saves its runs and stops, with exit code 0; the same command
    # resumes; 0: never
    max_seconds: float = 0.0


def get_config() -> ConfigDict:
    """Returns the default config, which trains resnet_4p9m on CIFAR-10."""
    config = ConfigDict()
    config.seed = 0  # seed of the weights, the order of the images and the augmentation
    config.data = ConfigDict(vars(_Data()))
    # Transforms of the training images, applied in this order. Each of them may have
    # `start` and `stop`, fractions of the run: it acts from one until the other; and
    # `ramp`, the fraction of the run in which the images that it acts on grow from none
    # to all.
    config.augment = (
        dict(name="random_crop", padding=4, mode="zero"),
        dict(name="random_flip"),
    )
    config.model = ConfigDict(vars(ModelOptions()))
    config.budget = ConfigDict()
    # the network must have fewer trainable parameters than this; None: no limit
    config.budget.limit = config_dict.FieldReference(5_000_000, field_type=object)
    config.optim = ConfigDict(vars(_Optim()))
    config.schedule = ConfigDict(vars(_Schedule()))
    config.init = ConfigDict()
    # trained network whose weights training starts from, as --workdir takes it: a run
    # directory, a file, a name; another number of classes gets a new classifier. None:
    # random weights
    config.init.workdir = config_dict.placeholder(str)
    # duration, as in schedule: until then only the classifier is trained
    config.init.frozen = "0%"
    config.train = ConfigDict(vars(_Train()))
    config.prune = ConfigDict()
    # fraction of the stages' kernels that is zero in the end; 0: no pruning
    config.prune.sparsity = 0.0
    # durations, as in schedule: the smallest weights are pruned from `start` until
    # `stop`, and only a later epoch can be selected
    config.prune.start = "0%"
    config.prune.stop = "50%"
    config.distill = ConfigDict()
    # the teacher, as in init.workdir: a network of any size for the same classes, used
    # with its best weights; None: no distillation
    config.distill.teacher = config_dict.placeholder(str)
    config.distill.weight = 0.9  # of the teacher's term in the loss; 1 - weight: labels
    config.distill.temperature = 4.0  # both networks' logits are divided by it
    config.evaluate = ConfigDict(vars(_Evaluate()))
    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1  # epochs between saves of the latest state,
    # and seconds between saves within epochs; 0: after every call of the device
    config.checkpoint.every_seconds = 300.0
    config.checkpoint.keep = 2  # number of latest states that are kept
    return config.lock()  # a config file that misspells a key is refused


def get_study_config() -> ConfigDict:
    """Returns the default config of a study, which `cifar_jax.search` runs."""
    config = ConfigDict()
    config.base = get_config()  # config of every run; the study changes keys of it
    config.study = ConfigDict(vars(_Study()))
    return config.lock()


def config_to_dict(config: ConfigDict) -> dict[str, Any]:
    """Returns a config as JSON reads it back: tuples as lists."""
    return json.loads(config.to_json_best_effort())


def config_from_dict(values: Mapping[str, Any], path: pathlib.Path) -> ConfigDict:
    """Returns the config of an older run, to be changed and run again.

    Args:
      values: Content of its config.json. Keys that are newer take their defaults, and
        renamed ones their new names.
      path: The file, for errors.

    Raises:
      UserError: If a key is unknown, or its value has another type than its default.
    """
    config, needed = get_config(), dict.fromkeys(("seed", "data.name", "model.widths"))
    for key, value in {**needed, **flatten(values)}.items():
        if key not in DEFAULTS:
            raise UserError(
                f"{path} has the key {key!r}, which this version lacks; use the "
                "version of cifar_jax that made the run"
            )
        is_huge = isinstance(value, int | float) and not abs(value) < 2**64  # or NaN
        try:
            if is_huge or (value is None and key not in OPTIONAL_KEYS):
                raise TypeError
            config.update_from_flattened_dict({key: _lists_to_tuples(value)})
        except TypeError as error:
            raise misfit(path, key) from error
    return config


def complete(saved: Mapping[str, Any], path: pathlib.Path) -> dict[str, Any]:
    """Returns the config of an older run under today's keys, as plain data.

    Its arguments and errors are those of `config_from_dict`.
    """
    return config_to_dict(config_from_dict(saved, path))


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the values of a nested config by dotted key, under today's names."""
    flat = {}
    for key, value in values.items():
        path = prefix + key
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{path}.")
        else:
            # a study's config has those of its runs under `base`
            base = "base." if path.startswith("base.") else ""
            name = path.removeprefix(base)
            flat[base + RENAMED_KEYS.get(name, name)] = value
    return flat


def config_diff(
    old: Mapping[str, Any],
    new: Mapping[str, Any],
    ignore: tuple[str, ...] = RESUMABLE_KEYS,
) -> dict[str, str]:
    """Returns the differences of two configs by key, such as "seed was 0, now 1".

    Args:
      old: The earlier config, as `config_to_dict` gives it. A key that it lacks, since
        it is younger, had its default value.
      new: The later config.
      ignore: Starts of the keys that may differ.
    """
    old, new = flatten(old), flatten(new)
    defaults = DEFAULTS | flatten(config_to_dict(get_study_config()))
    old = {key: value for key, value in defaults.items() if key in new} | old
    return {
        key: f"{key} was {old.get(key)}, now {new.get(key)}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key) and not key.startswith(ignore)
    }


def _lists_to_tuples(value: Any) -> Any:
    """Returns a value that JSON has read, with tuples instead of its lists."""
    if isinstance(value, dict):
        return {key: _lists_to_tuples(entry) for key, entry in value.items()}
    return tuple(map(_lists_to_tuples, value)) if isinstance(value, list) else value


DEFAULTS = flatten(config_to_dict(get_config()))
# Keys that may be None; the others never are.
OPTIONAL_KEYS = {"budget.limit", *(k for k, v in DEFAULTS.items() if v is None)}

# The least value of numbers and the first one too large, if any, with their keys.
_BOUNDS = {
    (0, 2**32): ("seed", "data.split_seed"),
    (0, 1): (
        *("model.dropout", "model.logits_dropout", "model.block_dropout"),
        *("model.stochastic_depth", "model.bn_momentum", "prune.sparsity"),
        *("train.label_smoothing", "train.ema_decay", "optim.momentum"),
        *("optim.b1", "optim.b2", "optim.muon_beta"),
    ),
    (0, None): (
        *("model.stem_pool", "model.se_ratio"),
        *("optim.gradient_clip", "optim.weight_decay", "optim.sam_rho"),
        *("train.chips", "train.patience", "train.max_seconds", "train.cpu_devices"),
        *("train.steps_per_dispatch", "train.watchdog_seconds"),
        *("checkpoint.every_seconds", "study.finalists", "study.threads"),
        *("study.accelerators", "study.max_seconds", "data.validation"),
    ),
    (1, None): (
        *("model.stem_width", "model.stem_kernel", "model.stem_stride"),
        *("train.epochs", "train.batch_size", "train.accumulate", "train.repeats"),
        *("evaluate.batch_size", "evaluate.every_epochs", "optim.muon_steps"),
        *("checkpoint.every_epochs", "checkpoint.keep"),
        *("study.width_multiple", "study.seeds", "study.trials", "study.min_epochs"),
    ),
    (2, None): ("study.reduction_factor",),
}

_ACTIVATIONS = ("relu", "mish", "elu", "silu", "gelu")
# What the keys may be that name one of several things.
CHOICES = {
    "data.placement": ("auto", "device", "host"),
    "evaluate.best_by": ("accuracy", "loss", "last"),
    "evaluate.select_on": ("val", "test"),
    "evaluate.tta": TTA_NAMES,
    "model.stem": ("conv", "whitening"),
    "model.block": ("basic", "preact"),
    "model.shortcut": ("projection", "padding"),
    "model.downsample": ("stride", "pool"),
    "model.activation": _ACTIVATIONS,
    "model.se_activation": (None, *_ACTIVATIONS),
    "model.init": ("he", "pytorch"),
    "model.dtype": ("auto", "float32", "bfloat16"),
    "model.conv_precision": ("auto", "float32", "bfloat16"),
    "optim.name": ("adam", "adamw", "lion", "sgd", "sgdw", "muon"),
    "optim.muon_fallback": ("adam", "adamw", "lion", "sgd", "sgdw"),
    "optim.muon_preconditioning": ("frobenius", "aol"),
    "optim.weight_decay_mask": ("all", "kernels"),
    "schedule.name": (
        *("warmup_cosine", "constant", "linear", "step", "piecewise"),
        *("cosine_restarts", "one_cycle"),
    ),
    "study.kind": ("list", "grid", "one_at_a_time", "sample"),
    "study.pruner": ("none", "halving", "hyperband"),
    "study.sampler": ("tpe", "nsga2", "random"),
    "study.width": ("keep", "widest"),
}


def check_values(values: Mapping[str, Any]) -> None:
    """Refuses unknown names and numbers out of bounds, by dotted key."""
    for (least, below), keys in _BOUNDS.items():
        for key in keys:
            if (value := values.get(key)) is None:
                continue
            if not (value >= least and (below is None or value < below)):
                limit = f"at least {least}" + (f" and below {below}" if below else "")
                raise UserError(f"{key} is {value}; use {limit}")
    for key, choices in CHOICES.items():
        if values.get(key, choices[0]) not in choices:
            names = ", ".join(map(str, choices))
            raise UserError(f"{key} is {values[key]!r}; use {names}")


def check(config: ConfigDict) -> None:
    """Refuses what can be refused without JAX: unknown names, numbers out of bounds."""
    if "study" in config:
        raise UserError(
            "this is the config of a study, not of a run; use cifar_jax.search"
        )
    values = flatten(config_to_dict(config))
    check_values(values)
    number, momenta = (int, float), values["schedule.momentum_range"]
    ranges = [] if momenta is None else [momenta]
    for key, pairs, kind, example in (
        ("optim.lr_multipliers", values["optim.lr_multipliers"], str, '(".*/bias", 2)'),
        ("schedule.milestones", values["schedule.milestones"], str, '("50%", 0.1)'),
        ("schedule.momentum_range", ranges, number, "(0.85, 0.95)"),
    ):
        for pair in pairs:
            is_pair = isinstance(pair, tuple | list) and len(pair) == 2
            if not (is_pair and all(map(isinstance, pair, (kind, number)))):
                raise UserError(f"{key} has {pair!r}; use a pair such as {example}")
    limit, train, evaluate = config.budget.limit, config.train, config.evaluate
    held_out, on_test = config.data.validation, evaluate.select_on == "test"
    needs = "but data.validation is 0; hold out validation images"
    needs = "" if held_out or on_test else needs
    is_last = evaluate.best_by == "last"
    wrong = {
        f"budget.limit is {limit!r}; use a whole number, or None to lift it": (
            limit is not None and type(limit) is not int
        ),
        f"train.batch_size is {train.batch_size}, which is not a multiple of "
        f"train.repeats, {train.repeats}; use one that is": (
            train.batch_size % train.repeats
        ),
        f"evaluate.select_on is 'test', but data.validation is {held_out}; use 0, or "
        "select_on='val'": on_test and held_out,
        f"train.patience is {train.patience}, {needs}": (needs and train.patience),
        f"train.reload_best is True, {needs}": needs and train.reload_best,
        f"train.patience is {train.patience}, but evaluate.best_by is 'last', by which "
        "each validation is better; use accuracy or loss": (train.patience and is_last),
        "train.reload_best needs train.ema_decay=0, evaluate.every_epochs=1, and "
        f"best_by accuracy or loss, not {train.ema_decay}, {evaluate.every_epochs} and "
        f"{evaluate.best_by}": train.reload_best
        and (train.ema_decay or evaluate.every_epochs > 1 or is_last),
    }
    for message, is_wrong in wrong.items():
        if is_wrong:
            raise UserError(message)
