"""From a config to what a run needs. The only part of training that reads the config.

Durations are turned from epochs into steps here, once.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.data import augment, sources, splits
from cifar_jax.models import count, resnet
from cifar_jax.training import checks, durations, optim, policy, schedules, sharding
from cifar_jax.training.methods import pruning, whitening
from cifar_jax.training.steps import StepOptions, normalize

# Five million patches of 3x3 pixels: more change no digit that matters.
NUM_WHITENING_IMAGES = 5000
# Of a device's memory that the training images may take; activations need the rest.
DEVICE_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A network that a run learns from.

    Attributes:
      variables: Its weights and batch statistics, on the devices.
      facts: What it is and what it has cost, as result.json has it.
    """

    variables: Any
    facts: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
      source: The data set.
      train: Images to train on.
      val: Images to choose the best epoch on, or None.
      val_split: Their name: "val", or "test" where a report chose on those.
      model: The network.
      num_parameters: Trainable ones.
      flops_per_image: Of one forward pass: 2 x multiply-adds of convolutions and
        linear layers.
      schedule: Learning rate by step.
      optimizer: Optax chain.
      stem_kernel: Filters that the stem starts with, or None.
      options: Of the compiled steps.
      mesh: All devices.
      num_epochs: Epochs of the run.
      placement: Where the images lie, "device" or "host".
      steps_per_dispatch: Steps in one call of the devices.
      teacher: Whom the run learns from, or None.
    """

    source: sources.Source
    train: sources.Examples
    val: sources.Examples | None
    val_split: str
    model: Any
    num_parameters: int
    flops_per_image: int
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation
    stem_kernel: np.ndarray | None
    options: StepOptions
    mesh: Mesh
    num_epochs: int
    placement: str
    steps_per_dispatch: int
    teacher: Teacher | None = None

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return self.options.total_steps

    @property
    def ships_from(self) -> int:
        """Steps after which the weights may be shipped: all pruning is done."""
        return self.options.pruning_plan.stop if self.options.pruning_plan else 0


def make(
    config: ConfigDict, devices: Sequence[jax.Device] | None, report: sources.Report
) -> Setup:
    """Checks a config, reads its data, and returns what a run needs.

    The network is checked against its budget before data is read or anything compiles.

    Args:
      config: As `cifar_jax.config` has it.
      devices: To run on; None: all.
      report: Called with what a person should see meanwhile.

    Raises:
      UserError: names the key, its value, the limit and the remedy.
    """
    mesh = sharding.make_mesh(devices)
    data = config.data
    source = sources.open(
        data.name,
        data.dir,
        image_size=data.image_size,
        local=data.source,
        report=report,
    )
    model, num_parameters, macs = _make_model(config, source, report)
    pipeline = augment.make_pipeline(config.augment, image_shape=source.image_shape)
    checks.check(config, mesh)
    policy.check(config)
    train, val = _load(config, source)
    source.check_split(data.test_split)
    mean, std = _normalization(config, train)
    batch_size, views = config.train.batch_size, config.train.repeats
    steps_per_epoch = _steps_per_epoch(len(train), batch_size, views)
    total_steps = config.train.epochs * steps_per_epoch
    options = StepOptions(
        num_classes=source.num_classes,
        batch_size=batch_size,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        augment=pipeline,
        mean=mean,
        std=std,
        label_smoothing=config.train.label_smoothing,
        ema_decay=config.train.ema_decay,
        split=sharding.split(mesh),
        accumulate=config.train.accumulate,
        sam_rho=config.optim.sam_rho,
        sam_adaptive=config.optim.sam_adaptive,
        sam_start=_sam_start(config, steps_per_epoch, total_steps),
        views=views,
        pruning_plan=pruning.make_plan(
            **config.prune.to_dict(),
            steps_per_epoch=steps_per_epoch,
            total_steps=total_steps,
        ),
    )
    placement = _placement(config, mesh, train)
    schedule, optimizer = make_optimizer(
        config,
        options.steps_per_epoch,
        frozen=frozen(model),
        paths=count.parameter_paths(model, source.image_shape),
    )
    return Setup(
        source=source,
        train=train,
        val=val,
        val_split=config.evaluate.select_on,
        model=model,
        num_parameters=num_parameters,
        flops_per_image=2 * macs,
        schedule=schedule,
        optimizer=optimizer,
        stem_kernel=_whitening(model.design, train, options) if frozen(model) else None,
        options=options,
        mesh=mesh,
        num_epochs=config.train.epochs,
        placement=placement,
        steps_per_dispatch=_steps_per_dispatch(config, mesh, placement),
    )


def _make_model(config: ConfigDict, source: sources.Source, report: sources.Report):
    model = resnet.create(
        num_classes=source.num_classes,
        image_shape=source.image_shape,
        **config.model.to_dict(),
    )
    num_parameters = count.num_parameters(model, source.image_shape)
    rows = count.layer_table(model, source.image_shape)
    limit = count.checked_limit(config.budget.limit)
    count.check_budget(num_parameters, limit, model, source.image_shape)
    report(count.format_table(count.by_stage(rows), limit))
    return model, num_parameters, count.total(rows).macs


def _load(config: ConfigDict, source: sources.Source):
    data = config.data
    examples = source.read(data.train_split)
    if config.evaluate.select_on == "test":
        return examples, source.read(data.test_split)
    if not data.validation:
        return examples, None
    return splits.hold_out(
        examples, data.validation, seed=data.split_seed, stratified=data.stratified
    )


def _normalization(config: ConfigDict, train: sources.Examples):
    """Constants of the config, else of the training images alone."""
    mean, std = config.data.mean, config.data.std
    if mean is None or std is None:
        computed = splits.channel_statistics(train.images)
        mean = computed[0] if mean is None else mean
        std = computed[1] if std is None else std
    channels = train.images.shape[-1]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) != channels:
            raise UserError(
                f"data.{name} has {len(values)} values for {channels} channels; give "
                f"{channels}, or None to compute them"
            )
    if min(std) <= 0:
        raise UserError(f"data.std is {tuple(std)}; use positive values, or None")
    return np.float32(mean), np.float32(std)


def _steps_per_epoch(num_examples: int, batch_size: int, views: int) -> int:
    if batch_size > num_examples * views:
        raise UserError(
            f"train.batch_size is {batch_size:,}, but there are {num_examples:,} "
            "training images; use a smaller batch"
        )
    return num_examples * views // batch_size


def _sam_start(config: ConfigDict, steps_per_epoch: int, total_steps: int) -> int:
    if not config.optim.sam_rho:
        return 0
    return durations.to_steps(
        "optim.sam_start",
        config.optim.sam_start,
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
    )


def frozen(model: Any) -> tuple[str, ...]:
    """Returns the paths of the parameters that stay as they are."""
    return ("stem_conv/kernel",) if model.design.stem == "whitening" else ()


def make_optimizer(
    config: ConfigDict,
    steps_per_epoch: int,
    *,
    frozen: tuple[str, ...],
    paths: Sequence[str],
    traced: Mapping[str, jax.Array] = MappingProxyType({}),
) -> tuple[optax.Schedule, optax.GradientTransformation]:
    """Returns the learning rate by step, and the Optax chain that uses it.

    Args:
      config: As `cifar_jax.config` has it.
      steps_per_epoch: Steps in an epoch.
      frozen: Paths of parameters that stay as they are.
      paths: Of all parameters.
      traced: What takes the place of some numbers of `config.optim`.
    """
    options = config.optim.to_dict() | traced
    for key in ("sam_rho", "sam_adaptive", "sam_start"):  # they belong to the step
        options.pop(key, None)
    peak = options.pop("learning_rate")
    is_traced = "learning_rate" in traced
    shape, momentum = schedules.make(
        peak=1.0 if is_traced else peak,
        steps_per_epoch=steps_per_epoch,
        total_steps=config.train.epochs * steps_per_epoch,
        **config.schedule.to_dict(),
    )
    schedule = (lambda step: peak * shape(step)) if is_traced else shape
    optim.check_multipliers(options["lr_multipliers"], paths)
    return schedule, optim.make_optimizer(
        schedule=schedule, momentum_schedule=momentum, frozen=frozen, **options
    )


def _whitening(design, train: sources.Examples, options: StepOptions) -> np.ndarray:
    images = normalize(train.images[:NUM_WHITENING_IMAGES], options.mean, options.std)
    return whitening.filters(
        np.asarray(images), kernel_size=design.stem_kernel, width=design.stem_width
    )


def _placement(config: ConfigDict, mesh: Mesh, train: sources.Examples) -> str:
    placement = config.data.placement
    if placement not in ("auto", "device", "host"):
        raise UserError(
            f"data.placement is {placement!r}; use 'auto', 'device' or 'host'"
        )
    if placement != "auto":
        return placement
    memory = (mesh.local_devices[0].memory_stats() or {}).get("bytes_limit", math.inf)
    return "device" if train.images.nbytes <= DEVICE_SHARE * memory else "host"


def _steps_per_dispatch(config: ConfigDict, mesh: Mesh, placement: str) -> int:
    if placement == "host":  # a batch comes at a time
        return 1
    # XLA runs convolutions inside a loop on one thread of the CPU, and slowly: 58 times
    # slower than a call for each step (2 cores, jaxlib 0.10.2).
    automatic = 1 if mesh.devices.flat[0].platform == "cpu" else 50
    return config.train.steps_per_dispatch or automatic
