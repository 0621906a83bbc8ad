"""An exported network: one file and its card, verified before they get their names."""

import dataclasses
import hashlib
import json
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, NotRequired, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from cifar_jax import UserError
from cifar_jax._files import check, read_object
from cifar_jax.config import complete
from cifar_jax.data import batches
from cifar_jax.training import results
from cifar_jax.training.pretrained import LoadedModel, abstract_model, weights_file

# uint8 images [B, H, W, C] to float32 logits [B, num_classes]
Classify = Callable[[np.ndarray], np.ndarray]

BATCH_SIZES = (1, 16)  # that a file is tried with
TOLERANCE = 1e-4  # of logits, as a share of the largest
_PACKAGES = ("cifar-jax", "jax", "numpy", "safetensors", "onnx", "torch")


class Check(TypedDict, total=False):
    """How a file was verified: by its logits, or else by its accuracy."""

    num_images: int
    max_abs_difference: float  # of the logits
    tolerance: float  # for that difference
    images: str  # "validation" or "training"
    agreement: float  # share of images for which the predictions are the same
    accuracy: float
    float32_accuracy: float  # of the network itself


class Array(TypedDict):
    """An array that goes in or comes out."""

    dtype: str
    shape: list[str | int]


class Card(TypedDict):
    """What a user of the file must know."""

    input: Array
    output: Array
    dataset: results.Dataset
    num_parameters: int
    num_nonzero: int
    epoch: int  # after which the weights are these
    config: dict[str, Any]  # of the run
    result: dict[str, Any] | None  # of the run, if it has ended: its result.json
    versions: dict[str, str]
    sha256: NotRequired[str]  # of the file, in the card beside it
    check: NotRequired[Check]


def export(
    network: LoadedModel, kind: "Format", path: pathlib.Path, *, overwrite: bool = False
) -> Card:
    """Writes a network to a file, reads it back, and compares the two.

    It is exported in float32, in which all platforms give the same predictions.

    Args:
      network: Network to export.
      kind: Format, from `formats.find`.
      path: File or folder to write; a file's card goes to `path` and .json.
      overwrite: Whether an older one may be replaced.

    Returns:
      The card.

    Raises:
      UserError: If there is such a file, or what was read back is not the network; then
        nothing is left behind, and an older file is untouched.
    """
    for old in (path, card_path(path)) if kind.suffix else (path,):
        # A folder that is not an export, such as a run directory, is never replaced.
        if old.exists() and not (overwrite and weights_file(old)):
            remedy = "use --overwrite if it is an export, or another --output"
            raise UserError(f"{old} exists; {remedy}")
    path.parent.mkdir(parents=True, exist_ok=True)
    network = in_float32(network)
    card = describe(network)
    # Verified beside its place, and moved there: what is cut off leaves no file.
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=path.parent) as folder:
        partial = pathlib.Path(folder, path.name)
        kind.write(network, partial, card)
        content = weights_file(partial) or partial  # a folder's, or the file itself
        card["sha256"] = hashlib.sha256(content.read_bytes()).hexdigest()
        # Some formats are read with their card.
        card_path(partial).write_text(json.dumps(card, indent=2) + "\n")
        card["check"] = kind.verify(network, kind.read(partial))
        card_path(partial).write_text(json.dumps(card, indent=2) + "\n")
        if partial.is_dir():  # which holds its card; what else is there stays
            path.mkdir(exist_ok=True)
            for file in partial.iterdir():
                file.replace(path / file.name)
        else:
            card_path(partial).replace(card_path(path))
            partial.replace(path)
    return card


def load_program(path: pathlib.Path, kind: "Format") -> LoadedModel:
    """Reads a file that holds the whole network, or its weights for PyTorch.

    Args:
      path: File, which has its card beside it.
      kind: Its format.

    Returns:
      A network that lacks weights and computes with the file.
    """
    beside = card_path(path)
    card = read_object(beside) if beside.exists() else {}
    if card.get("sha256") != hashlib.sha256(path.read_bytes()).hexdigest():
        raise UserError(
            f"{path} is not the file that {beside.name} beside it describes by its "
            "SHA-256; keep both files that `cifar_jax.export` writes together"
        )
    config = complete(check(card.get("config"), dict, beside, "config"), beside)
    dataset = check(card.get("dataset"), results.Dataset, beside, "dataset")
    return dataclasses.replace(
        abstract_model(config, dataset),
        variables={},
        epoch=card["epoch"],
        result=card["result"],
        program=kind.read(path),
    )


def card_path(path: pathlib.Path) -> pathlib.Path:
    """Returns where the card of a file, or of a folder, lies."""
    return path / "config.json" if path.is_dir() else pathlib.Path(f"{path}.json")


def in_float32(network: LoadedModel) -> LoadedModel:
    """Returns the same network, which computes in float32."""
    model = network.model.clone(dtype=jnp.float32)
    return dataclasses.replace(network, model=model)


def describe(network: LoadedModel) -> Card:
    """Returns the card of a network, as plain data."""
    leaves = jax.device_get(jax.tree.leaves(network.variables["params"]))
    config, data = network.config, network.config["data"]
    return {
        "input": {"dtype": "uint8", "shape": ["batch", *network.image_shape]},
        "output": {"dtype": "float32", "shape": ["batch", network.num_classes]},
        "dataset": results.describe(data["name"], network, network.mean, network.std),
        "num_parameters": sum(leaf.size for leaf in leaves),
        "num_nonzero": int(sum(np.count_nonzero(leaf) for leaf in leaves)),
        "epoch": network.epoch,
        # Where the run's data lay means nothing elsewhere.
        "config": {**config, "data": {**data, "dir": None, "source": None}},
        "result": {**network.result, "config": {}} if network.result else None,
        "versions": results.versions(_PACKAGES),
    }


def compare(
    network: LoadedModel, classify: Classify, share: float = TOLERANCE
) -> Check:
    """Classifies the same random images twice.

    Args:
      network: Network.
      classify: Function of what was read back.
      share: Tolerance of the logits, as a share of the largest.

    Raises:
      UserError: If logits differ by more than the tolerance, or in shape or dtype, or
        if predictions differ other than by a tie within it.
    """
    logits, image_shape = jax.jit(network.logits), network.image_shape
    random, worst, tolerance = np.random.default_rng(0), 0.0, 0.0
    for batch_size in BATCH_SIZES:
        images = random.integers(0, 256, (batch_size, *image_shape), np.uint8)
        expected, actual = np.asarray(logits(images)), np.asarray(classify(images))
        difference = np.inf
        if (actual.dtype, actual.shape) == (expected.dtype, expected.shape):
            difference = float(np.max(np.abs(actual - expected)))
        tolerance = share * max(1.0, float(np.max(np.abs(expected))))
        top = np.take_along_axis(expected, actual.argmax(-1)[:, None], -1)[:, 0]
        lost = float(np.max(expected.max(-1) - top))  # 0 where predictions agree
        # Written so that NaN is refused.
        if not (difference <= tolerance and lost <= 2 * tolerance):
            raise UserError(
                f"what was written differs from the network by {difference:.2g} in its "
                f"logits, more than {tolerance:.2g}; nothing is kept: please report it"
            )
        worst = max(worst, difference)
    return Check(
        num_images=sum(BATCH_SIZES), max_abs_difference=worst, tolerance=tolerance
    )


def classify_all(
    classify: Callable[[np.ndarray], Any], images: np.ndarray, batch_size: int = 500
) -> np.ndarray:
    """Returns the logits float32 [N, K] of all images, in batches of one size."""
    parts = batches.every_example(len(images), min(batch_size, len(images)))
    return np.concatenate([np.asarray(classify(images[k]))[mask] for k, mask in parts])


def summary(check: Check) -> str:
    """Returns in words how a file was verified."""
    if "agreement" in check:
        return (
            f"it predicts as before for {check['agreement']:.2%} of "
            f"{check['num_images']:,} {check['images']} images, accuracy "
            f"{check['accuracy']:.4f} (before: {check['float32_accuracy']:.4f})"
        )
    return (
        f"on {check['num_images']} random images it predicts the same as before, "
        f"with logits within {check['max_abs_difference']:.1e}"
    )


@dataclasses.dataclass(frozen=True)
class Format:
    """A file format.

    Attributes:
      suffix: End of the files' names.
      write: Writes a network to a path; some formats hold the card as well.
      read: Returns the function of a file.
      verify: Compares the network with the function of its file.
    """

    suffix: str
    write: Callable[[LoadedModel, pathlib.Path, Card], None]
    read: Callable[[pathlib.Path], Classify]
    verify: Callable[[LoadedModel, Classify], Check] = compare
