"""From a config to what a run needs. The only part of training that reads the config.

Durations are turned from epochs into steps here, once.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.data import augment, sources, splits
from cifar_jax.models import count, resnet
from cifar_jax.training import optim, sharding, whitening
from cifar_jax.training.steps import StepOptions, normalize

# Five million patches of 3x3 pixels: more change no digit that matters.
NUM_WHITENING_IMAGES = 5000
# Of a device's memory that the training images may take; activations need the rest.
DEVICE_SHARE = 0.25


@dataclasses.dataclass(frozen=True)
class Setup:
    """A run before its first step.

    Attributes:
      source: The data set.
      train: Images to train on.
      val: Images held out, or None.
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
    """

    source: sources.Source
    train: sources.Examples
    val: sources.Examples | None
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

    @property
    def total_steps(self) -> int:
        """Steps of the run."""
        return self.num_epochs * self.options.steps_per_epoch


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
    source = sources.find(config.data.name, config.data.dir)
    model, num_parameters, macs = _make_model(config, source, report)
    pipeline = augment.make_pipeline(config.augment, image_shape=source.image_shape)
    _check_train(config, mesh)
    train, val = _load(config, report)
    sources.check_split(config.data.name, config.data.test_split, config.data.dir)
    mean, std = _normalization(config, train)
    options = StepOptions(
        num_classes=source.num_classes,
        batch_size=config.train.batch_size,
        steps_per_epoch=_steps_per_epoch(len(train), config.train.batch_size),
        augment=pipeline,
        mean=mean,
        std=std,
        label_smoothing=config.train.label_smoothing,
        ema_decay=config.train.ema_decay,
        split=sharding.split(mesh),
    )
    placement = _placement(config, mesh, train)
    schedule = _make_schedule(config, options.steps_per_epoch)
    whitens = model.design.stem == "whitening"
    optimizer_options = config.optim.to_dict()
    del optimizer_options["learning_rate"]
    return Setup(
        source=source,
        train=train,
        val=val,
        model=model,
        num_parameters=num_parameters,
        flops_per_image=2 * macs,
        schedule=schedule,
        optimizer=optim.make_optimizer(
            schedule=schedule,
            frozen=("stem_conv/kernel",) if whitens else (),
            **optimizer_options,
        ),
        stem_kernel=_whitening(model.design, train, options) if whitens else None,
        options=options,
        mesh=mesh,
        num_epochs=config.train.epochs,
        placement=placement,
        steps_per_dispatch=_steps_per_dispatch(config, mesh, placement),
    )


def load_test(config: ConfigDict) -> sources.Examples:
    """Reads the test images: once, when training has ended."""
    return sources.load(config.data.name, config.data.test_split, config.data.dir)


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


def _check_train(config: ConfigDict, mesh: Mesh) -> None:
    if not 0 <= config.seed < 2**32:
        raise UserError(f"seed is {config.seed}; use 0 to {2**32 - 1}")
    sharding.check_batch_size("train.batch_size", config.train.batch_size, mesh)
    bounds = (
        ("schedule.warmup_fraction", 0, 1),
        ("train.epochs", 1, None),
        ("train.label_smoothing", 0, 1),
        ("train.ema_decay", 0, 1),
        ("train.cpu_devices", 0, None),
        ("train.steps_per_dispatch", 0, None),
        ("train.watchdog_seconds", 0, None),
        ("evaluate.batch_size", 1, None),
        ("evaluate.every_epochs", 1, None),
        ("checkpoint.every_epochs", 1, None),
        ("checkpoint.every_seconds", 0, None),
        ("checkpoint.keep", 1, None),
        ("optim.gradient_clip", 0, None),
        ("optim.weight_decay", 0, None),
    )
    for path, least, below in bounds:
        section, key = path.split(".")
        value = config[section][key]
        if value < least or (below is not None and value >= below):
            limit = f"at least {least}" + (f" and below {below}" if below else "")
            raise UserError(f"{path} is {value}; use {limit}")


def _load(config: ConfigDict, report: sources.Report):
    data = config.data
    examples = sources.load(
        data.name, data.train_split, data.dir, source=data.source, report=report
    )
    if not data.validation:
        return examples, None
    return splits.hold_out(examples, data.validation, seed=config.seed)


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
    return mean, std


def _steps_per_epoch(num_examples: int, batch_size: int) -> int:
    if batch_size > num_examples:
        raise UserError(
            f"train.batch_size is {batch_size:,}, but there are {num_examples:,} "
            "training images; use a smaller batch"
        )
    return num_examples // batch_size


def _make_schedule(config: ConfigDict, steps_per_epoch: int) -> optax.Schedule:
    schedule, total_steps = config.schedule, config.train.epochs * steps_per_epoch
    return optim.make_schedule(
        schedule.name,
        config.optim.learning_rate,
        warmup_steps=round(schedule.warmup_fraction * total_steps),
        total_steps=total_steps,
        initial_factor=schedule.initial_factor,
        final_factor=schedule.final_factor,
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
