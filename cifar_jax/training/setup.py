"""From a config to a run before its first step: data, network, optimizer, devices.

Durations are turned from epochs into steps here, once.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax import config as config_lib
from cifar_jax.data import augment, sources, splits
from cifar_jax.models import count, resnet
from cifar_jax.models.design import ImageShape
from cifar_jax.training import distributed, optim, results, schedules
from cifar_jax.training.methods import pruning, whitening
from cifar_jax.training.state import TrainState, create_state
from cifar_jax.training.steps import StepOptions, normalize

# Five million patches of 3x3 pixels: more change no digit that matters.
NUM_WHITENING_IMAGES = 5000
# Given for train.deterministic alone: False would overrule XLA_FLAGS.
DETERMINISTIC: dict[str, Any] = {"xla_gpu_exclude_nondeterministic_ops": True}
# Share of a device's memory for the training images; activations need the rest.
DEVICE_SHARE = 0.25
# The rule of `for_chips`: images of a chip below which the batch grows, the largest
# batch, and the shortest warm-up. docs/accelerators.md has the sources.
IMAGES_PER_CHIP, MAX_BATCH_SIZE, WARMUP_EPOCHS = 64, 4096, 5


class Call(NamedTuple):
    """What a call of the devices does; it has a program of its own."""

    segment: int  # first step of the part of the run that it belongs to
    num_steps: int  # steps that it takes


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network to distil from."""

    variables: Any  # weights and batch statistics, on the devices
    source: results.Source  # where it comes from and what it has cost


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step."""

    source: sources.Source  # data set
    train: sources.Examples  # images to train on
    val: sources.Examples | None  # images to select the best epoch on, or None
    model: resnet.ResNet  # network, a Flax module
    num_parameters: int  # number of trainable parameters
    # floating-point operations of one forward pass: 2 x multiply-adds of convolutions
    # and linear layers
    flops_per_image: int
    schedule: optax.Schedule  # learning rate by step
    optimizer: optax.GradientTransformation  # optax chain
    stem_kernel: np.ndarray | None  # float32 filters that the stem starts with, or None
    options: StepOptions  # options of the steps
    mesh: Mesh  # mesh of all devices
    placement: str  # where the images lie, "device" or "host"
    steps_per_dispatch: int  # largest number of steps in one call of the devices
    sam_start: int  # first step with sharpness-aware minimisation
    frozen_stop: int  # first step that trains more than the classifier
    compiler_options: dict[str, bool | int | str]  # XLA's, for training and evaluation
    teacher: Teacher | None = None  # network to distil from, or None

    @functools.cached_property
    def segments(self) -> dict[int, StepOptions]:
        """Options of the steps in each part of the run, by its first step.

        What changes in the course of a run is not a branch in the step: XLA:CPU runs
        convolutions in one a hundred times slower, and accelerators gather the batch.
        """
        options, total = self.options, self.options.total_steps
        # Divided where `steps.train` divides: by XLA, which rounds in its own way.
        active = jax.jit(lambda steps: options.augment.active(steps / total))
        steps = np.arange(total, dtype=np.float32)
        sam = (steps >= self.sam_start) & (options.sam_rho > 0)
        columns = [sam, steps < self.frozen_stop, *active(steps)]
        rows = list(zip(*(np.asarray(c).tolist() for c in columns), strict=True))
        return {
            start: dataclasses.replace(
                options,
                sam_rho=options.sam_rho * with_sam,
                frozen=is_frozen,
                augment=functools.partial(options.augment, active=tuple(acting)),
            )
            for start, (with_sam, is_frozen, *acting) in enumerate(rows)
            if start == 0 or rows[start] != rows[start - 1]
        }

    def calls(self, start: int, stop: int) -> Iterator[Call]:
        """Yields the calls that take the steps from `start` to `stop`.

        A call ends with its epoch or segment, or else where those of a run that was
        not interrupted end: a program is compiled for each length.
        """
        per_epoch, step = self.options.steps_per_epoch, start
        while step < stop:
            segment = max(first for first in self.segments if first <= step)
            epoch = step // per_epoch * per_epoch
            done = (step - max(segment, epoch)) % self.steps_per_dispatch
            end = min(
                step - done + self.steps_per_dispatch,
                epoch + per_epoch,
                *(first for first in self.segments if first > step),
            )
            yield Call(segment, end - step)
            step = end

    def create_state(self, key: jax.Array) -> TrainState:
        """Returns the state before the first step; a pure function of the key."""
        return create_state(
            key,
            self.model,
            self.optimizer,
            image_shape=self.source.image_shape,
            average=self.options.ema_decay > 0,
            stem_kernel=self.stem_kernel,
        )


def jit_create_state(setup: Setup) -> Callable[[jax.Array], TrainState]:
    """Returns the jitted `create_state` of a run, whose state is replicated."""
    # Optimising so many random numbers takes LLVM most of the time of a short run.
    on_cpu = distributed.is_on_cpu(setup.options.split)
    return jax.jit(
        setup.create_state,
        out_shardings=distributed.replicated(setup.mesh),
        compiler_options={"xla_backend_optimization_level": 0} if on_cpu else {},
    )


def make(
    config: ConfigDict,
    devices: Sequence[jax.Device] | None,
    report: sources.Report,
    source: sources.Source | None = None,
) -> Setup:
    """Checks a config, reads its data, and returns what a run needs.

    Do not change the order: the network is checked against its budget, and the config
    against its bounds, before data is read or anything compiles.

    Args:
      config: Config of the run.
      devices: Devices to run on; None: all.
      report: Called with lines for a person to read meanwhile.
      source: Data set to use in place of the config's, or None.
    """
    config_lib.check(config)
    mesh, config = distributed.make_mesh(devices), for_chips(config, report)
    is_own, source = source is None, source or open_source(config, report=report)
    model, num_parameters, macs = _make_model(config, source, mesh, report)
    chain = augment.make_pipeline(config.augment, image_shape=source.image_shape)
    _check(config, mesh)
    train, val = read_train_and_val(config, source)
    source.check_split(config.data.test_split)
    if is_own:  # not made up
        _report_empty_classes(source.label_names, train.labels, report)
    if config.evaluate.select_on == "test":  # as some reports did
        val = source.read(config.data.test_split)
    options = _step_options(config, source, train, chain, mesh)
    schedule, optimizer = _make_optimizer(config, model, source.image_shape, options)
    placement, steps_per_dispatch = _placement(config, mesh, options, train)
    return Setup(
        source=source,
        train=train,
        val=val,
        model=model,
        num_parameters=num_parameters,
        flops_per_image=2 * macs,
        schedule=schedule,
        optimizer=optimizer,
        stem_kernel=_whitening(model, train, options) if frozen_paths(model) else None,
        options=options,
        mesh=mesh,
        placement=placement,
        steps_per_dispatch=steps_per_dispatch,
        sam_start=_steps(config, "optim.sam_start", options),
        frozen_stop=_steps(config, "init.frozen", options),
        compiler_options=DETERMINISTIC if config.train.deterministic else {},
    )


def _report_empty_classes(
    names: Sequence[str], labels: np.ndarray, report: sources.Report
) -> None:
    """Reports classes without images, as where labels begin with 1."""
    counts = np.bincount(labels, minlength=len(names))
    empty = [name for name, number in zip(names, counts, strict=True) if not number]
    if empty:
        more = ", ..." if len(empty) > 10 else ""
        report(
            f"{len(empty)} of {len(names)} classes have no training images: "
            f"{', '.join(empty[:10])}{more}"
        )


def for_chips(
    config: ConfigDict, report: sources.Report = lambda line: None
) -> ConfigDict:
    """Returns a config whose batch gives each of `train.chips` devices enough to do.

    The batch is doubled until it does, or until it is as large as CIFAR's may be. The
    learning rate of SGD grows by the same factor (Goyal et al., 2017, arXiv:1706.02677,
    with their warm-up), that of other optimizers by its square root (Malladi et al.,
    2022, arXiv:2205.10287).

    Args:
      config: Config of the run.
      report: Called with a line if anything changes.
    """
    train, factor = config.train, 1
    while (
        train.batch_size * factor < IMAGES_PER_CHIP * train.chips
        and train.batch_size * factor * 2 <= MAX_BATCH_SIZE
    ):
        factor *= 2
    if factor == 1:
        return config
    config = config.copy_and_resolve_references()
    config.train.chips = 0  # done
    config.train.batch_size *= factor
    is_sgd = config.optim.name in ("sgd", "sgdw")
    config.optim.learning_rate *= factor if is_sgd else math.sqrt(factor)
    lengths = {"steps_per_epoch": 1000, "total_steps": 1000 * train.epochs}
    own = schedules.to_steps("schedule.warmup", config.schedule.warmup, **lengths)
    if own < 1000 * WARMUP_EPOCHS < 1000 * train.epochs:
        config.schedule.warmup = f"{WARMUP_EPOCHS} epochs"
    report(
        f"for {train.chips} chips: batch {config.train.batch_size:,}, learning rate "
        f"{config.optim.learning_rate:.4g}, warm-up {config.schedule.warmup}"
    )
    return config


def _make_model(
    config: ConfigDict, source: sources.Source, mesh: Mesh, report: sources.Report
) -> tuple[resnet.ResNet, int, int]:
    """Returns the network, its number of parameters, and its multiply-adds."""
    model = resnet.create(
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        devices=list(mesh.devices.flat),
        **config.model.to_dict(),
    )
    layers = count.layer_table(model, source.image_shape)
    total = count.total(layers)
    limit = config.budget.limit
    count.check_budget(total.parameters, limit, model, source.image_shape)
    report(count.format_table(count.by_stage(layers), limit))
    return model, total.parameters, total.macs


def _check(config: ConfigDict, mesh: Mesh) -> None:
    """Refuses a batch that the devices cannot share."""
    batch_size, num_parts = config.train.batch_size, config.train.accumulate
    share = math.lcm(mesh.size * num_parts, config.train.repeats)
    if batch_size % share:
        below = batch_size // share * share
        raise UserError(
            f"train.batch_size is {batch_size}, which {mesh.size} devices cannot share "
            f"evenly in {num_parts} parts (train.accumulate); use "
            f"{f'{below} or ' if below else ''}{below + share}"
        )


def open_source(
    config: ConfigDict | Mapping[str, Any], report: sources.Report = print
) -> sources.Source:
    """Opens the data set of a config, which may be plain data.

    Args:
      config: Config of the run.
      report: Called with a line before each slow part.
    """
    data = config["data"]
    return sources.open(
        data["name"],
        data["dir"],
        image_size=data["image_size"],
        local=data["source"],
        report=report,
    )


def read_train_and_val(
    config: ConfigDict | Mapping[str, Any], source: sources.Source
) -> tuple[sources.Examples, sources.Examples | None]:
    """Reads the images that a run trains on, and those that it holds out, if any.

    Args:
      config: Config of the run, which may be plain data.
      source: Its data set.
    """
    data = config["data"]
    examples = source.read(data["train_split"])
    if not data["validation"]:
        return examples, None
    return splits.hold_out(
        examples,
        data["validation"],
        seed=data["split_seed"],
        stratified=data["stratified"],
    )


def _step_options(
    config: ConfigDict,
    source: sources.Source,
    train: sources.Examples,
    pipeline: Any,
    mesh: Mesh,
) -> StepOptions:
    """Returns the options of the steps; here epochs become steps."""
    batch_size, repeats = config.train.batch_size, config.train.repeats
    if batch_size > len(train) * repeats:
        raise UserError(
            f"train.batch_size is {batch_size:,}, but there are {len(train):,} "
            "training images; use a smaller batch, or fewer train.chips"
        )
    steps_per_epoch = len(train) * repeats // batch_size
    mean, std = _normalization(config, train)
    options = StepOptions(
        num_classes=source.num_classes,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=config.train.epochs * steps_per_epoch,
        augment=pipeline,
        mean=mean,
        std=std,
        label_smoothing=config.train.label_smoothing,
        ema_decay=config.train.ema_decay,
        split=distributed.split(mesh),
        accumulate=config.train.accumulate,
        sam_rho=config.optim.sam_rho,
        sam_adaptive=config.optim.sam_adaptive,
        repeats=repeats,
        # Adam corrects the bias of moments that begin at zero with the first step.
        frozen_moments="adam" in config.optim.name + config.optim.muon_fallback,
    )
    if _steps(config, "init.frozen", options) and config.init.workdir is None:
        raise UserError(
            f"init.frozen is {config.init.frozen!r}, but init.workdir is None: random "
            "weights would stay as they are; name a trained network there, or use '0%'"
        )
    if not config.prune.sparsity:
        return options
    start, stop = (_steps(config, f"prune.{key}", options) for key in ("start", "stop"))
    if not start < stop <= options.total_steps:
        raise UserError(
            f"prune.start is {config.prune.start!r} and prune.stop "
            f"{config.prune.stop!r}, steps {start:,} and {stop:,} of "
            f"{options.total_steps:,}; stop later than the start, within the run"
        )
    plan = pruning.Plan(config.prune.sparsity, start, stop)
    return dataclasses.replace(options, pruning_plan=plan)


def _normalization(
    config: ConfigDict, train: sources.Examples
) -> tuple[np.ndarray, np.ndarray]:
    """Returns constants of the config, or those of the training images alone."""
    mean, std = config.data.mean, config.data.std
    if mean is None or std is None:
        computed = splits.channel_statistics(train)
        mean = computed[0] if mean is None else mean
        std = computed[1] if std is None else std
    channels = train.images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(
                f"data.{name} has {len(values)} values for {channels} channels; give "
                f"{channels}, or None to compute them"
            )
    if min(std) <= 0 or max(*mean, *std) > 1:
        raise UserError(
            f"data.mean is {tuple(mean)} and data.std is {tuple(std)}; use those of "
            "pixels from 0 to 1, std above 0, or None"
        )
    return np.asarray(mean, np.float32), np.asarray(std, np.float32)


def _steps(config: ConfigDict, key: str, options: StepOptions) -> int:
    """Returns a duration of the config, such as optim.sam_start, in steps."""
    section, name = key.split(".")
    return schedules.to_steps(
        key,
        config[section][name],
        steps_per_epoch=options.steps_per_epoch,
        total_steps=options.total_steps,
    )


def frozen_paths(model: resnet.ResNet) -> tuple[str, ...]:
    """Returns the paths of the parameters that stay as they are."""
    return ("stem_conv/kernel",) if model.design.stem == "whitening" else ()


def _make_optimizer(
    config: ConfigDict,
    model: resnet.ResNet,
    image_shape: ImageShape,
    options: StepOptions,
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Returns the learning rate by step, and the Optax chain that uses it."""
    schedule, momentum_schedule = schedules.make(
        peak=config.optim.learning_rate,
        steps_per_epoch=options.steps_per_epoch,
        total_steps=options.total_steps,
        **config.schedule.to_dict(),
    )
    if config.optim.lr_multipliers:  # else not worth tracing the network for
        params = resnet.abstract_variables(model, image_shape)["params"]
        optim.check_multipliers(config.optim.lr_multipliers, params)
    return schedule, optim.make_optimizer(
        schedule=schedule,
        momentum_schedule=momentum_schedule,
        frozen=frozen_paths(model),
        **config.optim,
    )


def _whitening(
    model: resnet.ResNet, train: sources.Examples, options: StepOptions
) -> np.ndarray:
    """Returns filters that whiten the patches of training images."""
    # From all over: a folder's images come class by class.
    some = train.images[:: -(-len(train) // NUM_WHITENING_IMAGES)]
    images = normalize(some, options.mean, options.std)
    return whitening.filters(
        np.asarray(images),
        kernel_size=model.design.stem_kernel,
        width=model.design.stem_width,
    )


def _placement(
    config: ConfigDict, mesh: Mesh, options: StepOptions, train: sources.Examples
) -> tuple[str, int]:
    """Returns where the images lie, and the number of steps in a call."""
    placement = config.data.placement
    if placement == "auto":
        stats = mesh.local_devices[0].memory_stats() or {}
        memory = stats.get("bytes_limit", math.inf)
        fits = train.images.nbytes <= DEVICE_SHARE * memory
        placement = "device" if fits else "host"
    if placement == "host":  # one batch arrives at a time
        return placement, 1
    # Calls of one length, where 26 to 100 steps divide an epoch, need one program, and
    # XLA takes long to compile each for a GPU.
    lengths = (*range(50, 25, -1), *range(51, 101))
    whole = (n for n in lengths if options.steps_per_epoch % n == 0)
    # XLA runs convolutions inside a loop on one thread of the CPU, and slowly: 58 times
    # slower than a call for each step (2 cores, jaxlib 0.10.2).
    automatic = 1 if distributed.is_on_cpu(options.split) else next(whole, 50)
    return placement, config.train.steps_per_dispatch or automatic
