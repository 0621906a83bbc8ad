"""A trained network, read back from its run directory."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding
from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax.models import count, resnet
from cifar_jax.training import setup
from cifar_jax.training.checkpoint import Checkpoints
from cifar_jax.training.state import Metrics, create_state
from cifar_jax.training.steps import normalize
from cifar_jax.training.tracking import RunDirectory

# Which of a run's weights: those of best/, or of its newest state the raw ones or
# their averages.
WEIGHTS = ("best", "last", "ema")


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network with its weights, and what it expects of images.

    Attributes:
      model: The network, a Flax module.
      variables: `params` and `batch_stats`, float32.
      image_shape: Height, width and channels.
      label_names: Classes, by label.
      mean: float32 [C], per channel, with pixels in [0, 1].
      std: float32 [C], likewise.
      config: That it was trained with, as plain data.
      epoch: After which the weights are these.
    """

    model: resnet.ResNet
    variables: dict[str, Any]
    image_shape: tuple[int, int, int]
    label_names: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray
    config: dict[str, Any]
    epoch: int

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return len(self.label_names)

    def logits(self, images: jax.Array) -> jax.Array:
        """Returns float32 [B, num_classes]; a pure function that can be jitted.

        Args:
          images: uint8 or float [B, H, W, C], in 0..255.
        """
        images = normalize(images, self.mean, self.std)
        return self.model.apply(self.variables, images, train=False)


def load(
    workdir: os.PathLike,
    sharding: Sharding | None = None,
    *,
    which: str = "best",
    step: int | None = None,
) -> Trained:
    """Reads the network of a run; by default the one that result.json tells of.

    Args:
      workdir: Run directory; training may still go on in it.
      sharding: Where the weights are to lie; None: on the first device.
      which: "best"; or of the newest state of training, "last": its weights, or "ema":
        their averages.
      step: Of the checkpoint; None: the newest.

    Raises:
      UserError: If this is no run directory, or it has no such network, whole, yet.
    """
    run = RunDirectory(workdir)
    network = blank(run.config(), run.dataset())
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    if which == "ema" and not network.config["train"]["ema_decay"]:
        raise UserError(
            f"{run.path} was trained without averages (train.ema_decay is 0); ask for "
            "the best or the last weights"
        )
    if which == "best":
        variables, facts = _restore(run.best, network.variables, sharding, step)
    else:
        template = _state_template(network, sharding)
        tree, facts = _restore(run.checkpoints, template, sharding, step)
        state = tree["state"]
        variables = state.averages if which == "ema" else state.variables
    return dataclasses.replace(network, variables=variables, epoch=facts["epoch"])


def blank(config: Mapping[str, Any], dataset: Mapping[str, Any]) -> Trained:
    """Returns a network without weights: `variables` holds their shapes and dtypes.

    Args:
      config: Of the run, as plain data.
      dataset: As `RunDirectory.claim` takes it.
    """
    image_shape = tuple(dataset["image_shape"])
    model = resnet.create(
        num_classes=len(dataset["label_names"]),
        image_shape=image_shape,
        **{key: _tuple(value) for key, value in config["model"].items()},
    )
    shapes = jax.eval_shape(
        lambda key: model.init(key, jnp.zeros((1, *image_shape)), train=False),
        jax.random.key(0),
    )
    return Trained(
        model=model,
        variables=dict(shapes),
        image_shape=image_shape,
        label_names=tuple(dataset["label_names"]),
        mean=np.float32(dataset["mean"]),
        std=np.float32(dataset["std"]),
        config=dict(config),
        epoch=0,
    )


def _restore(folder: pathlib.Path, template: Any, sharding: Sharding, step: int | None):
    found, saved = None, []
    if folder.exists():
        checkpoints = Checkpoints(folder, keep=None)
        saved = checkpoints.steps()
        found = checkpoints.restore(template, sharding, step)
        checkpoints.close()
    if found is None and saved:
        raise UserError(
            f"{folder} has no checkpoint of step {step}; those there are of "
            f"{', '.join(map(str, saved))}"
        )
    if found is None:
        raise UserError(
            f"{folder} holds no network yet; wait for the first validation of the "
            "run, or train with the same --workdir until then"
        )
    return found


def _state_template(network: Trained, sharding: Sharding) -> Any:
    """Returns the shapes of what the loop saves, the optimiser's state among them."""
    model, image_shape = network.model, network.image_shape
    steps_per_epoch = 1000  # any: shapes do not depend on it
    _, optimizer = setup.make_optimizer(
        ConfigDict(network.config),
        steps_per_epoch,
        frozen=setup.frozen(model),
        paths=count.parameter_paths(model, image_shape),
    )
    state = jax.eval_shape(
        lambda key: create_state(
            key,
            model,
            optimizer,
            image_shape=image_shape,
            average=network.config["train"]["ema_decay"] > 0,
            sharding=sharding,
        ),
        jax.random.key(0),
    )
    return {"state": state, "metrics": jax.eval_shape(Metrics.empty)}


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
