"""ONNX with weights and activations of 8 bits. Needs the extra onnx, as `onnx_file`.

Post-training static quantisation by ONNX Runtime: it measures the ranges of all
activations on training images, and gives each a scale.
"""

import json
import os
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import onnx
from onnx import helper
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from cifar_jax import UserError
from cifar_jax.data import batches
from cifar_jax.data.sources import Examples
from cifar_jax.formats import onnx_file
from cifar_jax.training import setup
from cifar_jax.training.pretrained import LoadedModel

SUFFIX = ".int8.onnx"
NUM_CALIBRATION = 512  # training images
NUM_COMPARED = 5000  # training images, where a run held none out
BATCH_SIZE = 64
MOST_LOST = 0.05  # of the accuracy: more means that something is wrong

read = onnx_file.read


def write(network: LoadedModel, path: os.PathLike, card: dict) -> None:
    """Writes a model like that of `onnx_file`, with integer arithmetic inside.

    Args:
      network: To write; the images of its run must be on disk.
      path: Of the file.
      card: Goes into the metadata.
    """
    source = setup.open_source(network.config)
    train, _ = setup.read_train_and_val(network.config, source)
    chosen = np.random.default_rng(0).permutation(len(train))[:NUM_CALIBRATION]
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        whole, folded = (str(pathlib.Path(folder, name)) for name in ("a", "b"))
        onnx_file.write(network, whole, card)
        # BatchNorm becomes a part of the convolution before it.
        quant_pre_process(whole, folded, skip_symbolic_shape=True)
        quantization.quantize_static(
            folded,
            path,
            _Calibration(train.images[np.sort(chosen)]),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Processors without VNNI add two products of 8 bits in 16, and overflow.
            reduce_range=True,
        )
    model = onnx.load(path)
    helper.set_model_props(model, {"card": json.dumps(card)})
    onnx.save(model, path)


def prove(network: LoadedModel, classify: Callable) -> dict[str, Any]:
    """Compares with the network on images that the ranges were not measured on.

    Args:
      network: In float32.
      classify: The file, read back.

    Returns:
      The `images` and `num_images`; the share for which both predict the same
      (`agreement`); `accuracy`, and that of the network (`float32_accuracy`).

    Raises:
      UserError: If too much accuracy is lost.
    """
    source = setup.open_source(network.config)
    train, held_out = setup.read_train_and_val(network.config, source)
    examples = train[:NUM_COMPARED] if held_out is None else held_out
    before = _predict(jax.jit(network.logits), examples)
    after = _predict(classify, examples)
    accuracy, expected = (
        float(np.mean(labels == examples.labels)) for labels in (after, before)
    )
    if not accuracy >= expected - MOST_LOST:
        raise UserError(
            f"with 8 bits the accuracy falls from {expected:.4f} to {accuracy:.4f}, by "
            f"more than {MOST_LOST}; nothing is kept: export float32 (onnx)"
        )
    return {
        "images": "training" if held_out is None else "validation",
        "num_images": len(examples),
        "agreement": float(np.mean(before == after)),
        "accuracy": accuracy,
        "float32_accuracy": expected,
    }


class _Calibration(quantization.CalibrationDataReader):
    """Hands out images in batches, once."""

    def __init__(self, images: np.ndarray):
        self._batches = (
            {"images": images[start : start + BATCH_SIZE]}
            for start in range(0, len(images), BATCH_SIZE)
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


def _predict(classify: Callable, examples: Examples) -> np.ndarray:
    """Returns labels int [N]."""
    parts = batches.every_example(len(examples), min(500, len(examples)))
    return np.concatenate(
        [
            np.asarray(classify(examples.images[index]))[mask].argmax(-1)
            for index, mask in parts
        ]
    )
