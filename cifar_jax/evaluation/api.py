"""The Python door: networks to use, to make and to train, in a few calls.

`cifar_jax` itself has all of this, imported where it is first used. Nothing here is
needed by the commands.
"""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from cifar_jax import UserError, _packaged, _runtime, formats
from cifar_jax import config as default
from cifar_jax.data import folders, sources, transforms
from cifar_jax.data.dataset import Dataset, as_labels, from_arrays
from cifar_jax.evaluation import scores
from cifar_jax.evaluation.inference import Predictor
from cifar_jax.models import count
from cifar_jax.models.presets import PRESETS
from cifar_jax.training import loop, pretrained, results
from cifar_jax.training.pretrained import LoadedModel

# uint8 [N, H, W, C] or [H, W, C], a file or a folder of images, an image of PIL, or a
# list of files, PIL's images and arrays [H, W, C].
Images = np.ndarray | str | os.PathLike | Image.Image | Sequence[Any]


class Model:
    """A trained network, ready to use; any number of threads may share it.

    Args:
      network: Network with its weights.
      batch_size: Most images in a call of the device.

    Attributes:
      network: Flax module, weights and normalisation, for code of one's own.
      class_names: Names of the classes, by label.
      image_shape: Height, width and channels that the network takes.
      num_parameters: Number of trainable parameters.
      config: Config that the network was trained with, as plain data.
      result: Contents of result.json of its training; None: not known.
    """

    def __init__(self, network: LoadedModel, batch_size: int = 256):
        self._logits = Predictor(network, batch_size=batch_size)
        self._features = Predictor(network, batch_size=batch_size, output="features")
        self.network = self._logits.network
        self.class_names = network.label_names
        self.image_shape = network.image_shape
        self.num_parameters = count.num_parameters(network.model, network.image_shape)
        self.config = network.config
        self.result = network.result

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.image_shape))
        return (
            f"Model({self.num_parameters:,} parameters, images {shape}, "
            f"{len(self.class_names)} classes)"
        )

    def predict(self, images: Images, *, resize: bool = False) -> np.ndarray:
        """Returns int64 [N], the most likely class of each image.

        >>> model = cifar_jax.load("cifar10_cpu")
        >>> images = np.zeros((2, 32, 32, 3), np.uint8)
        >>> model.predict(images).shape
        (2,)
        >>> type(model.class_names[model.predict(images)[0]])
        <class 'str'>

        Args:
          images: uint8 [N, H, W, C] or [H, W, C]; a path of what `cifar_jax.predict`
            reads; an image of PIL; or a list of these.
          resize: Whether images of another size are resized (bicubic); otherwise they
            are errors.
        """
        return self.logits(images, resize=resize).argmax(axis=-1)

    def predict_proba(self, images: Images, *, resize: bool = False) -> np.ndarray:
        """Returns float32 [N, K], the probability of each class.

        >>> model = cifar_jax.load("cifar10_cpu")
        >>> proba = model.predict_proba(np.zeros((1, 32, 32, 3), np.uint8))
        >>> bool(abs(proba.sum() - 1) < 1e-5)
        True

        Args:
          images: Images, as `predict` takes them.
          resize: Whether images of another size are resized.
        """
        logits = self.logits(images, resize=resize)
        return np.exp(scores.log_probabilities(logits)).astype(np.float32)

    def logits(self, images: Images, *, resize: bool = False) -> np.ndarray:
        """Returns float32 [N, K].

        Args:
          images: Images, as `predict` takes them.
          resize: Whether images of another size are resized.
        """
        return self._run(self._logits, images, resize)

    def features(self, images: Images, *, resize: bool = False) -> np.ndarray:
        """Returns float32 [N, D], what the classifier takes: the last maps, pooled.

        Args:
          images: Images, as `predict` takes them.
          resize: Whether images of another size are resized.
        """
        if self.network.program:
            raise UserError(
                "an exported program has no features; load the run or its safetensors"
            )
        return self._run(self._features, images, resize)

    def evaluate(
        self, images: Images, labels: Any, *, resize: bool = False
    ) -> dict[str, Any]:
        """Returns `accuracy`, `accuracy_interval` (95%), `loss` and `num_examples`.

        Args:
          images: Images, as `predict` takes them.
          labels: int [N], class of each image.
          resize: Whether images of another size are resized.
        """
        logits = self.logits(images, resize=resize)
        labels = as_labels(labels, len(logits), "labels", logits.shape[1])
        return dict(scores.score(logits, labels))

    def _open(self, images: Images, resize: bool) -> Dataset:
        """Returns images of any kind as a data set of the network's shape."""
        if isinstance(images, str | os.PathLike):
            return sources.open_split(
                os.fspath(images), image_shape=self.image_shape, resize=resize
            )
        if isinstance(images, list | tuple) and images:
            parts = [self._open(image, resize) for image in images]
            # Classes of folders do not matter here, and may differ.
            parts = [dataclasses.replace(part, label_names=None) for part in parts]
            whole = [(part, 0, len(part)) for part in parts]
            return transforms.concatenate("the list of images", whole)
        if isinstance(images, Image.Image):
            if images.mode.startswith(("I", "F")):
                depth = "an image of PIL has more than 8 bits a pixel"
                raise UserError(f"{depth} ({images.mode}); convert it to 8")
            mode = {1: "L", 3: "RGB"}[self.image_shape[2]]
            images = folders.upright(images).convert(mode)
            images = np.asarray(images).reshape(images.height, images.width, -1)
        array = np.asarray(images)
        array = array[None] if array.ndim == 3 else array
        dataset = from_arrays("the array of images", array)
        return transforms.resized(dataset, self.image_shape, resize=resize)

    def _run(self, predictor: Predictor, images: Images, resize: bool) -> np.ndarray:
        outputs = []
        for batch, output in predictor.batches(self._open(images, resize)):
            if batch.errors:
                raise UserError(next(iter(batch.errors.values())))
            outputs.append(output[:, 0])
        return np.concatenate(outputs)


def load(name: os.PathLike | str, *, which: str = "best") -> Model:
    """Returns a trained network.

    >>> cifar_jax.load("cifar10_cpu")
    Model(1,060,426 parameters, images 32x32x3, 10 classes)

    Args:
      name: Name of packaged weights (`list_models(pretrained=True)`), a run directory,
        or what `cifar_jax.export` has written.
      which: Weights of a run: "best", "last" or "ema".
    """
    return Model(formats.load(name, which=which))


def list_models(pretrained: bool = False) -> list[str]:
    """Returns the names that `create_model` takes, or those of packaged weights.

    >>> "resnet_4p9m" in cifar_jax.list_models()
    True

    Args:
      pretrained: Whether to list those with weights, which `load` takes.
    """
    if pretrained:
        return _packaged.network_names()
    # The networks of reports/ are presets.
    others = ("search/", "reports/", "records/forms")
    configs = (n for n in _packaged.config_names() if not n.startswith(others))
    return sorted({*PRESETS, *configs})


def create_model(
    name: str,
    *,
    num_classes: int = 10,
    image_shape: Sequence[int] = (32, 32, 3),
    seed: int = 0,
    **options: Any,
) -> Model:
    """Returns a network with random weights, for images in [0, 1] once divided by 255.

    >>> cifar_jax.create_model("resnet20", num_classes=100).num_parameters
    275572

    Args:
      name: A preset, or a config whose network it is: see `list_models`.
      num_classes: Number of classes.
      image_shape: Height, width and channels.
      seed: Seed of the weights.
      **options: Keys of `config.model` that differ, such as `widths=(32, 64)`.
    """
    config = default.get_config() if name in PRESETS else get_config(name)
    try:
        config.model.update(PRESETS.get(name, {}) | options)
    except (KeyError, TypeError) as error:
        keys = ", ".join(config.model)
        raise UserError(f"{name} cannot have {options}; use {keys}") from error
    dataset: results.Dataset = {
        "name": "none",
        "image_shape": list(image_shape),
        "label_names": [str(label) for label in range(num_classes)],
        "mean": [0.0] * image_shape[2],
        "std": [1.0] * image_shape[2],
    }
    network = pretrained.abstract_model(default.config_to_dict(config), dataset)
    example = np.zeros((1, *network.image_shape), np.float32)
    initialize = jax.jit(functools.partial(network.model.init, train=False))
    variables = initialize(jax.random.key(seed), example)
    return Model(dataclasses.replace(network, variables=dict(variables)))


def get_config(name: str) -> ConfigDict:
    """Returns a config, to be changed and trained.

    >>> cifar_jax.get_config("quickstart").data.name
    'digits'

    Args:
      name: Name such as "quickstart" or "records/seconds", or path of a config file;
        with `:FORM` where it has forms.
    """
    return _packaged.read_config(name)


def train(
    config: ConfigDict | str,
    workdir: os.PathLike | str,
    *,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> results.Result:
    """Trains a network, or resumes training, as `cifar_jax.main` does.

    `load(workdir)` returns the network then.

    Args:
      config: Config, or its name.
      workdir: Run directory.
      on_epoch: Called with `epoch`, `train` and `val` (`loss` and `accuracy`, or None)
        when an epoch has ended.

    Returns:
      The contents of result.json.

    Raises:
      UserError: If the config, the data or the run directory is unusable, or training
        diverges.
      Stopped: After Ctrl-C, or train.max_seconds, when all is saved: call it again to
        resume.
    """
    config = get_config(config) if isinstance(config, str) else config
    with contextlib.suppress(RuntimeError):  # JAX has its devices already
        _runtime.start(config.train.cpu_devices)
    return loop.train_and_evaluate(config, workdir, on_epoch=on_epoch)
