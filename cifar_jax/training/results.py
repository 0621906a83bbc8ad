"""The end of a run: which epoch is selected, result.json, and the lines printed."""

import importlib.metadata
import os
import pathlib
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NotRequired, TypedDict, cast

import jax
import numpy as np
from jax.sharding import Mesh

from cifar_jax.training.methods.pruning import Sparsity
from cifar_jax.training.progress import clock_time

_PACKAGES = ("cifar-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint")


class Scores(TypedDict):
    """Means over a split."""

    accuracy: float  # share of correct predictions, 0 to 1
    loss: float  # mean cross-entropy
    num_examples: int  # number of images, each counted once


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
    """A run that weights or a teacher come from."""

    workdir: str  # its run directory
    epoch: int  # epoch of its weights
    digest: str  # SHA-256 of its weights
    num_parameters: NotRequired[int]  # trainable parameters; teachers only
    # floating-point operations of a forward pass; teachers only
    flops_per_image: NotRequired[int]
    # clocks of its training, or None if it was imported; teachers only
    seconds: NotRequired[Seconds | None]


class RunMetadata(TypedDict):
    """What is saved beside a state."""

    step: int  # steps done
    epoch: int  # epochs closed, that is validated and logged
    best: Best | None  # best epoch so far with its validation, or None
    init: NotRequired[Source | None]  # run whose weights training started from, or None
    teacher: NotRequired[Source | None]  # run that is distilled from, or None
    seconds: Seconds  # clocks of the run


class Dataset(TypedDict):
    """dataset.json: what a network needs to know of its images."""

    name: str  # data set, as `config.data.name`
    image_shape: list[int]  # height, width and channels
    label_names: list[str]  # classes, by label
    mean: list[float]  # mean of each channel, with pixels in [0, 1]
    std: list[float]  # standard deviation of each channel, with pixels in [0, 1]


def describe(
    name: str, owner: Any, mean: Iterable[float], std: Iterable[float]
) -> Dataset:
    """Returns dataset.json, where `owner` has the image shape and the label names."""
    return {
        "name": name,
        "image_shape": list(owner.image_shape),
        "label_names": list(owner.label_names),
        "mean": list(map(float, mean)),
        "std": list(map(float, std)),
    }


class Environment(TypedDict):
    """Devices and versions."""

    device: str  # name of the devices
    num_devices: int  # number of devices, of all processes
    num_processes: int  # number of processes
    versions: dict[str, str]  # versions of Python and packages


class Result(Environment, Sparsity):
    """result.json."""

    config: dict[str, Any]  # resolved config, as plain data
    dataset: str  # name of the data set
    num_parameters: int  # trainable parameters
    # floating-point operations of one forward pass: 2 x multiply-adds of convolutions
    # and linear layers
    flops_per_image: int
    init: Source | None  # run whose weights training started from, or None
    teacher: Source | None  # run that was distilled from, or None
    # scores of the selected weights on the validation images, or None
    val: Scores | None
    test: Scores | None  # scores on the test images, or None where they were left alone
    # scores with test-time augmentation, where there are any
    val_tta: NotRequired[Scores]
    # scores with test-time augmentation, where there are any
    test_tta: NotRequired[Scores]
    best_epoch: int  # selected epoch, from 1
    best_digest: NotRequired[str]  # SHA-256 of the selected weights
    epochs: int  # epochs trained
    steps: int  # steps trained
    seed: int  # `config.seed`
    seconds: Seconds  # clocks
    images_per_second: float  # images trained per second of the clock `train`


# Rules for the better of two validations, the one with the larger rank:
# `config.evaluate.best_by`. A loss that is not a number is the worst.
RANKS: dict[str, Callable[[Any], tuple[float, ...]]] = {
    "accuracy": lambda val: (val["accuracy"], -np.nan_to_num(val["loss"], nan=np.inf)),
    "loss": lambda val: (-np.nan_to_num(val["loss"], nan=np.inf),),
    "last": lambda val: (val["epoch"],),
}


def summary(result: Result, path: pathlib.Path) -> str:
    """Returns the last lines that a run prints."""
    lines = []
    if test := result["test"]:
        on_test = result["config"]["evaluate"]["select_on"] == "test"
        note = "selected on these images: not an honest accuracy"
        note = note if on_test else "scored once"
        lines.append(
            f"test accuracy {test['accuracy']:.4f}, loss {test['loss']:.4f} "
            f"({test['num_examples']:,} images, {note})"
        )
    augmented = {"test": result.get("test_tta"), "val": result.get("val_tta")}
    for split, scores in augmented.items():
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
    seconds = cast(dict[str, float], result["seconds"])
    clocks = {name: clock_time(value) for name, value in seconds.items()}
    parts = (f"{name} {clocks[name]}" for name in ("compile", "train", "evaluate"))
    lines.append(
        f"{clocks['total']} in all: {', '.join(parts)}; "
        f"{result['images_per_second']:,.0f} images/s on {result['num_devices']} x "
        f"{result['device']}"
    )
    lines.append(f"{path}: result.json, metrics.jsonl, best/, checkpoints/, tb/")
    return "\n".join(lines)


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """Returns the 95% bounds of a share by Wilson's score interval (1927).

    Args:
      correct: Number of successes.
      total: Number of trials, at least one.
    """
    from scipy import stats  # slow to import, and training does not need it

    bounds = stats.binomtest(correct, total).proportion_ci(method="wilson")
    return float(bounds.low), float(bounds.high)


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
