"""The images that a run trained on, and those that it held out."""

from collections.abc import Mapping
from typing import Any

from cifar_jax.data import sources, splits
from cifar_jax.data.sources import Examples


def load(
    config: Mapping[str, Any], data_dir: str | None = None
) -> tuple[Examples, Examples | None]:
    """Reads a run's images, split as they were.

    Args:
      config: Of the run, as plain data.
      data_dir: Folder of TFDS data sets; None: that of the run.

    Returns:
      Images to train on, and the validation images or None.

    Raises:
      UserError: If the data is no longer there.
    """
    data = config["data"]
    examples = _open(config, data_dir).read(data["train_split"])
    if not data["validation"]:
        return examples, None
    return splits.hold_out(
        examples,
        data["validation"],
        seed=data["split_seed"],
        stratified=data["stratified"],
    )


def load_test(config: Mapping[str, Any], data_dir: str | None = None) -> Examples:
    """Reads a run's test images; see `load`."""
    return _open(config, data_dir).read(config["data"]["test_split"])


def _open(config: Mapping[str, Any], data_dir: str | None) -> sources.Source:
    data = config["data"]
    return sources.open(
        data["name"], data_dir or data["dir"], image_size=data["image_size"]
    )
