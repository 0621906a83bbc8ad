"""Weights from PyTorch become a run directory. Needs the extra torch."""

import hashlib
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import torch
from flax import traverse_util
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.config import config_to_dict
from cifar_jax.formats import export, pytorch
from cifar_jax.models import torch_names, torch_resnet
from cifar_jax.training import pretrained, results
from cifar_jax.training.checkpoint import CheckpointFolder
from cifar_jax.training.workdir import RunDirectory

MAX_WEIGHTS = 1 << 27  # in a file: 0.5 GB of them
_WRAPPERS = ("state_dict", "model_state_dict", "net", "model")  # keys around a state
# Of the original's logits, as a share of the largest: its device may round otherwise.
CHECK_TOLERANCE = 1e-3


def import_weights(
    path: pathlib.Path,
    config: ConfigDict,
    dataset: results.Dataset,
    workdir: pathlib.Path,
    original: tuple[np.ndarray, np.ndarray] | None = None,
) -> export.Check:
    """Makes a run directory of a file of PyTorch's weights.

    Batch statistics are kept as they are. PyTorch gathers the unbiased variance, and
    Flax the biased one: that would matter to further training, not to predictions.

    Args:
      path: A state_dict, or a checkpoint that holds one.
      config: Config with the network in `model`.
      dataset: Content of dataset.json.
      workdir: Run directory to make.
      original: uint8 [N, H, W, C] and float [N, K]: images, and the logits that the
        original network gives for them; None: it is not compared with them.

    Returns:
      How closely the network agrees with its copy in PyTorch.

    Raises:
      UserError: If the directory is there, the file cannot be read, its weights are not
        the network's, or the network made of them does not agree with PyTorch's or
        the original's.
    """
    workdir = workdir.absolute()
    if workdir.exists() and (not workdir.is_dir() or any(workdir.iterdir())):
        raise UserError(f"{workdir} exists; choose another --workdir")
    network = pretrained.abstract_model(config_to_dict(config), dataset)
    variables, theirs = _load(read(path), network)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    metadata = {"epoch": 0, "imported": path.name, "sha256": sha256}
    workdir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=workdir.parent) as folder:
        run = RunDirectory(pathlib.Path(folder, workdir.name))
        run.path.mkdir()
        run.claim(config, dataset)
        checkpoints = CheckpointFolder(run.best, keep=1)
        checkpoints.save(0, variables, metadata)
        checkpoints.close()
        ours = export.in_float32(pretrained.load_model(run.path))
        check = export.compare(ours, pytorch.on_arrays(theirs))
        if original is not None:
            _check_original(ours, *original)
        run.path.rename(workdir)
    return check


def _load(
    weights: Mapping[str, np.ndarray], network: pretrained.LoadedModel
) -> tuple[dict[str, Any], torch_resnet.Classifier]:
    """Returns a network's variables made of weights, and its copy in PyTorch."""
    shape, num_classes = network.image_shape, network.num_classes
    module = torch_resnet.create(network.config["model"], shape, num_classes)
    state = module.state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    preact = module.design.block == "preact"
    weights = torch_names.match(weights, shapes, preact=preact)
    tensors = {name: torch.tensor(value) for name, value in weights.items()}
    module.load_state_dict(state | tensors)
    mean, std = network.mean.tolist(), network.std.tolist()
    theirs = torch_resnet.Classifier(module, mean, std).eval()
    flat: dict[Any, Any] = traverse_util.flatten_dict(network.variables)
    leaf_shapes = {path[1:]: leaf.shape for path, leaf in flat.items()}
    leaves = torch_names.to_flax(weights, leaf_shapes, module.design.head_map(shape))
    flat = {path: leaves[path[1:]] for path in flat}
    return traverse_util.unflatten_dict(flat), theirs


def _check_original(
    network: pretrained.LoadedModel, images: np.ndarray, expected: np.ndarray
) -> None:
    """Refuses a network that does not give the original's logits."""
    shape = (len(images), network.num_classes)
    kinds = images.dtype == np.uint8 and expected.dtype.kind == "f" and len(images)
    if not kinds or (images.shape[1:], expected.shape) != (network.image_shape, shape):
        raise UserError(
            f"--check holds {images.dtype} images {images.shape} and {expected.dtype} "
            f"logits {expected.shape}; give uint8 images {('N', *network.image_shape)} "
            f"and float logits {('N', shape[1])}"
        )
    actual = export.classify_all(jax.jit(network.logits), images)
    difference = np.max(np.abs(actual - expected))
    tolerance = CHECK_TOLERANCE * max(1.0, float(np.max(np.abs(expected))))
    if not difference <= tolerance:  # NaN too
        same = np.mean(actual.argmax(-1) == expected.argmax(-1))
        raise UserError(
            f"the network is not the original: its logits differ by up to "
            f"{difference:.2g}, more than {tolerance:.2g}, and {same:.1%} of the "
            "labels are the same; nothing is kept: names and shapes do not tell "
            "strides, pools and normalisation: set --config.model.stem_pool or --mean"
        )


def read(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the float32 arrays of a file by name; nothing in it is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
        tensors = content.values()
        total = sum(tensor.numel() for tensor in tensors)  # a view can claim any number
        if total > MAX_WEIGHTS or any(tensor.is_complex() for tensor in tensors):
            raise ValueError("too many weights, or complex ones")
        return {name: t.float().numpy(force=True) for name, t in content.items()}
    except OSError:
        raise
    except Exception as error:  # of many kinds, and long ones
        raise UserError(
            f"{path} cannot be read as plain weights ({type(error).__name__}); save "
            "model.state_dict() with torch.save"
        ) from error
