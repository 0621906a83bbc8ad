"""The end of a run: which epoch is selected, result.json, and the lines printed."""

import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Callable, Sequence
from typing import Any, NotRequired, TypedDict

import jax
from jax.sharding import Mesh

from cifar_jax.training.progress import clock_time

_PACKAGES = ("cifar-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class Scores(TypedDict):
    """Means over a split.

    Attributes:
      accuracy: Share of correct predictions, 0 to 1.
      loss: Mean cross-entropy.
      num_examples: Number of images, each counted once.
    """

    accuracy: float
    loss: float
    num_examples: int


class Best(TypedDict):
    """The selected epoch, from 1; its validation, if there was one."""

    epoch: int
    accuracy: NotRequired[float]
    loss: NotRequired[float]


class Seconds(TypedDict):
    """Clocks of a run, over all sessions, in seconds."""

    total: float
    compile: float
    train: float
    evaluate: float


class Source(TypedDict):
    """A run that weights or a teacher come from.

    Attributes:
      workdir: Its run directory.
      epoch: Epoch of its weights.
      digest: SHA-256 of its weights.
      num_parameters: Trainable parameters; teachers only.
      flops_per_image: Floating-point operations of a forward pass; teachers only.
      seconds: Clocks of its training, or None if it was imported; teachers only.
    """

    workdir: str
    epoch: int
    digest: str
    num_parameters: NotRequired[int]
    flops_per_image: NotRequired[int]
    seconds: NotRequired[Seconds | None]


class Dataset(TypedDict):
    """dataset.json: what a network needs to know of its images.

    Attributes:
      name: Data set, as `config.data.name`.
      image_shape: Height, width and channels.
      label_names: Classes, by label.
      mean: Mean of each channel, with pixels in [0, 1].
      std: Standard deviation of each channel, with pixels in [0, 1].
    """

    name: str
    image_shape: list[int]
    label_names: list[str]
    mean: list[float]
    std: list[float]


class Environment(TypedDict):
    """Devices and versions.

    Attributes:
      device: Name of the devices.
      num_devices: Number of devices, of all processes.
      num_processes: Number of processes.
      versions: Versions of Python and packages.
    """

    device: str
    num_devices: int
    num_processes: int
    versions: dict[str, str]


class Result(Environment):
    """result.json.

    Attributes:
      config: Resolved config, as plain data.
      dataset: Name of the data set.
      num_parameters: Trainable parameters.
      num_nonzero: Parameters that are not zero.
      sparsity: Share of zeros in the kernels that pruning may touch.
      flops_per_image: Floating-point operations of one forward pass: 2 x multiply-adds
        of convolutions and linear layers.
      init: Run whose weights training started from, or None.
      teacher: Run that was distilled from, or None.
      val: Scores of the selected weights on the validation images, or None.
      test: Scores on the test images, or None where they were left alone.
      val_tta: Scores with test-time augmentation, where there are any.
      test_tta: Scores with test-time augmentation, where there are any.
      best_epoch: Selected epoch, from 1.
      epochs: Epochs trained.
      steps: Steps trained.
      seed: `config.seed`.
      seconds: Clocks.
      images_per_second: Images trained per second of the clock `train`.
    """

    config: dict[str, Any]
    dataset: str
    num_parameters: int
    num_nonzero: int
    sparsity: float
    flops_per_image: int
    init: Source | None
    teacher: Source | None
    val: Scores | None
    test: Scores | None
    val_tta: NotRequired[Scores]
    test_tta: NotRequired[Scores]
    best_epoch: int
    epochs: int
    steps: int
    seed: int
    seconds: Seconds
    images_per_second: float


# Rules for the better of two validations, `config.evaluate.best_by`.
RANKS: dict[str, Callable[[Any], tuple[float, ...]]] = {
    "accuracy": lambda val: (val["accuracy"], -val["loss"]),
    "loss": lambda val: (-val["loss"],),
    "last": lambda val: (val["epoch"],),
}


def is_better(by: str, val: Best, best: Best | None) -> bool:
    """Returns whether a validation is better than the best one so far.

    Args:
      by: Rule, a key of `RANKS`.
      val: Validation of an epoch.
      best: Best validation so far, or None.
    """
    return best is None or RANKS[by](val) > RANKS[by](best)


def summary(result: Result, path: pathlib.Path) -> str:
    """Returns the last lines that a run prints."""
    lines = []
    if test := result["test"]:
        on_test = result["config"]["evaluate"]["select_on"] == "test"
        note = (
            "selected on these images: not an honest accuracy"
            if on_test
            else ("scored once")
        )
        lines.append(
            f"test accuracy {test['accuracy']:.4f}, loss {test['loss']:.4f} "
            f"({test['num_examples']:,} images, {note})"
        )
    for split, scores in (
        ("test", result.get("test_tta")),
        ("val", result.get("val_tta")),
    ):
        if scores:
            lines.append(
                f"{split} accuracy {scores['accuracy']:.4f} with test-time "
                f"augmentation ({result['config']['evaluate']['tta']})"
            )
    if val := result["val"]:
        lines.append(
            f"validation accuracy {val['accuracy']:.4f}, loss {val['loss']:.4f} "
            f"(best of {result['epochs']} epochs: {result['best_epoch']})"
        )
    seconds = result["seconds"]
    lines.append(
        f"{clock_time(seconds['total'])} in all: "
        f"compile {clock_time(seconds['compile'])}, "
        f"train {clock_time(seconds['train'])}, "
        f"evaluate {clock_time(seconds['evaluate'])}; "
        f"{result['images_per_second']:,.0f} images/s on {result['num_devices']} x "
        f"{result['device']}"
    )
    lines.append(f"{path}: result.json, metrics.jsonl, best/, checkpoints/, tb/")
    return "\n".join(lines)


def environment(mesh: Mesh) -> Environment:
    """Returns the devices of a mesh and the versions of this process."""
    device = mesh.devices.flat[0]
    name = device.device_kind
    if device.platform == "cpu":
        cpuinfo = pathlib.Path("/proc/cpuinfo")
        text = cpuinfo.read_text() if cpuinfo.exists() else ""
        match = re.search(r"model name\s*:\s*(.+)", text)
        model = match[1].strip() if match else platform.processor() or "unknown"
        name = f"cpu ({model}, {os.cpu_count()} cores)"
    return {
        "device": name,
        "num_devices": mesh.size,
        "num_processes": jax.process_count(),
        "versions": {"python": platform.python_version(), **versions(_PACKAGES)},
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Returns the versions of packages, "not installed" for missing ones."""
    result = {}
    for package in packages:
        try:
            result[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            result[package] = "not installed"
    return result
