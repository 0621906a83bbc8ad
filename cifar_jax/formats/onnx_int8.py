"""ONNX with weights and activations of 8 bits. Needs the extra onnx, as `onnx_file`.

Post-training static quantisation by ONNX Runtime: it measures the ranges of all
activations on training images, and gives each a scale.
"""

import functools
import pathlib
import tempfile
import types

import jax
import numpy as np
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process

from cifar_jax import UserError
from cifar_jax.formats import export, onnx_file
from cifar_jax.formats.export import Card, Check, Classify, Format
from cifar_jax.training import setup
from cifar_jax.training.pretrained import LoadedModel

NUM_CALIBRATION = 512  # training images
NUM_COMPARED = 5000  # training images, where a run held none out
BATCH_SIZE = 64
MAX_LOSS = 0.05  # of the accuracy: more means that something is wrong


def write(network: LoadedModel, path: pathlib.Path, card: Card) -> None:
    """Writes a model like that of `onnx_file`, with integer arithmetic inside.

    Args:
      network: Network to write; the images of its run must be on disk.
      path: File to write.
      card: Card, which goes into the metadata; quantisation keeps those.
    """
    source = setup.open_source(network.config)
    train, _ = setup.read_train_and_val(network.config, source)
    chosen = np.sort(np.random.default_rng(0).permutation(len(train))[:NUM_CALIBRATION])
    batches = (
        {"images": train.images[part]}
        for part in np.split(chosen, range(BATCH_SIZE, len(chosen), BATCH_SIZE))
    )
    with tempfile.TemporaryDirectory(prefix="cifar_jax-") as folder:
        plain, folded = pathlib.Path(folder, "a"), pathlib.Path(folder, "b")
        onnx_file.write(network, plain, card)
        # BatchNorm becomes a part of the convolution before it.
        quant_pre_process(str(plain), str(folded), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(folded),
            path,
            types.SimpleNamespace(get_next=functools.partial(next, batches, None)),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            # Processors without VNNI add two products of 8 bits in 16, and overflow.
            reduce_range=True,
        )


def verify(network: LoadedModel, classify: Classify) -> Check:
    """Compares predictions on other images than the ranges were measured on.

    They are the same only of a run that has so few images, and held out none.

    Args:
      network: Network, in float32.
      classify: Function of the file.
    """
    source = setup.open_source(network.config)
    train, held_out = setup.read_train_and_val(network.config, source)
    order = np.random.default_rng(0).permutation(len(train))
    others = order[NUM_CALIBRATION:] if len(order) > NUM_CALIBRATION else order
    examples = train[others[:NUM_COMPARED]] if held_out is None else held_out
    before, after = (
        export.classify_all(call, examples.images).argmax(axis=-1)
        for call in (jax.jit(network.logits), classify)
    )
    accuracy = float(np.mean(after == examples.labels))
    expected = float(np.mean(before == examples.labels))
    if not accuracy >= expected - MAX_LOSS:
        raise UserError(
            f"with 8 bits the accuracy falls from {expected:.4f} to {accuracy:.4f}, by "
            f"more than {MAX_LOSS}; nothing is kept: export float32 (onnx)"
        )
    return {
        "images": "training" if held_out is None else "validation",
        "num_images": len(examples),
        "agreement": float(np.mean(before == after)),
        "accuracy": accuracy,
        "float32_accuracy": expected,
    }


FORMAT = Format(".int8.onnx", write, onnx_file.read, verify)
