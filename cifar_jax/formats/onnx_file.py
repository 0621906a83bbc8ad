"""ONNX: the whole network with its weights. Needs the extra onnx, not PyTorch.

Maps are NCHW in the graph, as ONNX has them; the input is NHWC, as in all formats.
"""

import json
import pathlib

import jax
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from flax import traverse_util
from onnx import TensorProto, helper, numpy_helper

from cifar_jax.formats.export import Card, Classify, Format
from cifar_jax.models.design import Part
from cifar_jax.training.pretrained import LoadedModel

OPSET = 20  # the first with Gelu
IR_VERSION = 9  # that opset's: a runtime that knows the one reads the other
_NORM = ("scale", "bias", "mean", "var")  # in ONNX's order
# of one operator; silu has none in this opset
_ACTIVATIONS = {"relu": "Relu", "mish": "Mish", "elu": "Elu", "gelu": "Gelu"}


def write(network: LoadedModel, path: pathlib.Path, card: Card) -> None:
    """Writes a model with the input `images`, the output `logits`, and the card."""
    graph = _Graph(network)
    graph.build()
    images = helper.make_tensor_value_info(
        "images", TensorProto.UINT8, ("batch", *network.image_shape)
    )
    logits = helper.make_tensor_value_info(
        "logits", TensorProto.FLOAT, ("batch", network.num_classes)
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, "cifar_jax", [images], [logits], graph.arrays),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cifar_jax",
    )
    helper.set_model_props(model, {"card": json.dumps(card)})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def read(path: pathlib.Path) -> Classify:
    """Returns the function of a file, as onnxruntime computes it on the CPU."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["logits"], {"images": images})[0]


FORMAT = Format(".onnx", write, read)


class _Graph:
    """The operators and arrays of a network. Methods take and return values' names.

    Arrays have the paths of the Flax leaves that they come from.
    """

    def __init__(self, network: LoadedModel):
        self.nodes, self.arrays = [], []
        self._design = network.model.design
        self._mean, self._std = network.mean, network.std
        self._leaves = {}
        for tree in jax.device_get(network.variables).values():
            self._leaves |= traverse_util.flatten_dict(tree, sep="/")

    def build(self) -> None:
        """Adds all of the network, from `images` to `logits`."""
        design = self._design
        x = self._stem("images")
        for part in design.parts():
            if part.pools:
                window = [part.stride] * 2
                x = self._conv(x, f"{part.name}/conv")
                x = self._add("MaxPool", x, kernel_shape=window, strides=window)
                x = self._act(self._norm(x, f"{part.name}/bn"))
            else:
                x = self._block(x, part)
        if design.block == "preact":
            x = self._act(self._norm(x, "final_bn"))
        if design.pool is None:
            x = self._add("GlobalAveragePool", x)
        else:
            window = [design.pool] * 2
            x = self._add("AveragePool", x, kernel_shape=window, strides=window)
        x = self._add("Transpose", x, perm=[0, 2, 3, 1])  # flattened as in Flax
        weights = [self._array("head/kernel"), self._array("head/bias")]
        self._add("Gemm", self._add("Flatten", x), *weights, output="logits")

    def _add(self, kind: str, *inputs: str, output: str = "", **attributes):
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        node = helper.make_node(kind, inputs, [output], name=output, **attributes)
        self.nodes.append(node)
        return output

    def _array(self, name: str, value: npt.ArrayLike | None = None) -> str:
        """Adds an array, without a value: the leaf of that name."""
        value = self._leaves[name] if value is None else value
        self.arrays.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def _stem(self, images: str) -> str:
        design, x = self._design, self._add("Cast", images, to=TensorProto.FLOAT)
        x = self._add("Transpose", x, perm=[0, 3, 1, 2])
        x = self._add("Div", x, self._array("white", np.float32(255)))
        x = self._add("Sub", x, self._array("mean", self._mean[:, None, None]))
        x = self._add("Div", x, self._array("std", self._std[:, None, None]))
        x = self._conv(x, "stem_conv", design.stem_stride)
        if design.block == "basic":
            x = self._norm(x, "stem_bn") if design.stem == "conv" else x
            x = self._act(x)
        if design.stem_pool:
            window, pad = design.stem_pool, (design.stem_pool - 1) // 2
            shape = dict(kernel_shape=[window] * 2, strides=[2] * 2, pads=[pad] * 4)
            x = self._add("MaxPool", x, **shape)
        return x

    def _block(self, x: str, part: Part) -> str:
        y, name, preact = x, part.name, self._design.block == "preact"
        if preact:
            y = self._act(self._norm(y, f"{name}/bn1"))
        if part.reshapes:
            x = self._shortcut(y, part)
        y = self._conv(y, f"{name}/conv1", part.stride)
        y = self._act(self._norm(y, f"{name}/{'bn2' if preact else 'bn1'}"))
        y = self._conv(y, f"{name}/conv2")
        y = y if preact else self._norm(y, f"{name}/bn2")
        if self._design.se_ratio:
            gate = self._add("GlobalAveragePool", y)
            gate = self._conv(gate, f"{name}/se/reduce")
            gate = self._act(gate, self._design.se_activation)
            gate = self._conv(gate, f"{name}/se/expand")
            y = self._add("Mul", y, self._add("Sigmoid", gate))
        y = self._add("Add", y, x)
        return y if preact else self._act(y)

    def _shortcut(self, x: str, part: Part) -> str:
        name, stride = f"{part.name}/shortcut", part.stride
        extra = part.width - part.before
        if self._design.shortcut == "projection":
            x = self._conv(x, f"{name}_conv", stride)
            return x if self._design.block == "preact" else self._norm(x, f"{name}_bn")
        # Padding: every `stride`-th pixel, between channels of zeros.
        x = self._add("MaxPool", x, kernel_shape=[1, 1], strides=[stride] * 2)
        pads, axes = np.array([extra // 2, extra - extra // 2]), np.array([1])
        arrays = [self._array(f"{name}/pads", pads), self._array(f"{name}/axes", axes)]
        return self._add("Pad", x, arrays[0], "", arrays[1])

    def _conv(self, x: str, name: str, stride: int = 1) -> str:
        """A convolution, or a linear layer of 1x1 maps."""
        kernel = self._leaves[f"{name}/kernel"]
        kernel = kernel if kernel.ndim == 4 else kernel[None, None]
        weights = [self._array(f"{name}/kernel", kernel.transpose(3, 2, 0, 1))]
        if f"{name}/bias" in self._leaves:
            weights.append(self._array(f"{name}/bias"))
        pads = [(kernel.shape[0] - 1) // 2] * 4
        return self._add("Conv", x, *weights, strides=[stride] * 2, pads=pads)

    def _norm(self, x: str, name: str) -> str:
        scale = f"{name}/scale"
        self._leaves.setdefault(scale, np.ones_like(self._leaves[f"{name}/bias"]))
        arrays = [self._array(f"{name}/{leaf}") for leaf in _NORM]
        epsilon = self._design.bn_epsilon
        return self._add("BatchNormalization", x, *arrays, epsilon=epsilon)

    def _act(self, x: str, kind: str | None = None) -> str:
        kind = kind or self._design.activation
        if kind == "silu":
            return self._add("Mul", x, self._add("Sigmoid", x))
        return self._add(_ACTIVATIONS[kind], x)
