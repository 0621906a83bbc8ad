"""Trained networks read back: to use, to start from, to distil from.

They come from run directories, from weights as `cifar_jax.export` writes them, alone or
in a folder, and from the package itself, by name.
"""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import safetensors
from flax import traverse_util
from jax.sharding import Sharding
from ml_collections import ConfigDict

from cifar_jax import UserError, _packaged
from cifar_jax._files import check
from cifar_jax.config import check_values, complete, flatten
from cifar_jax.data.dataset import MAX_CLASSES
from cifar_jax.models import count, resnet
from cifar_jax.training import distributed, optim, results, setup
from cifar_jax.training.checkpoint import CheckpointFolder, digest
from cifar_jax.training.methods import pruning
from cifar_jax.training.methods.distillation import Distillation
from cifar_jax.training.setup import Setup, Teacher
from cifar_jax.training.state import Metrics, TrainState, create_state
from cifar_jax.training.steps import normalize
from cifar_jax.training.workdir import RunDirectory

# A run's weights: those of best/, or those of its newest state, raw or averaged.
WEIGHTS = ("best", "last", "ema")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A network with its weights, and what it expects of images."""

    model: resnet.ResNet  # network, a Flax module
    variables: dict[str, Any]  # `params` and `batch_stats`, float32
    image_shape: tuple[int, int, int]  # height, width and channels
    label_names: tuple[str, ...]  # classes, by label
    mean: np.ndarray  # float32 [C], mean of each channel, with pixels in [0, 1]
    std: np.ndarray  # float32 [C], standard deviation, with pixels in [0, 1]
    config: dict[str, Any]  # config that it was trained with, as plain data
    epoch: int  # epoch after which the weights are these
    result: Mapping[str, Any] | None = None  # result.json of its run, if it has ended
    # computes the logits in place of the model, which then lacks weights: uint8
    # [B, H, W, C] to float32 [B, num_classes], in NumPy; None: the model does
    program: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return len(self.label_names)

    def logits(self, images: jax.Array) -> jax.Array:
        """Returns float32 [B, num_classes]; a pure function that can be jitted.

        Args:
          images: uint8 or float [B, H, W, C], in 0..255.
        """
        if self.program:  # not to be jitted
            return jnp.asarray(self.program(np.asarray(images)))
        images = normalize(images, self.mean, self.std)
        return cast(jax.Array, self.model.apply(self.variables, images, train=False))

    def features(self, images: jax.Array) -> jax.Array:
        """Returns what the classifier takes: float32 [B, D], pooled.

        Args:
          images: uint8 or float [B, H, W, C], in 0..255.
        """
        images = normalize(images, self.mean, self.std)
        _, state = self.model.apply(
            self.variables, images, train=False, mutable=["intermediates"]
        )
        return cast(Any, state)["intermediates"]["features"][0]


def load_model(
    workdir: os.PathLike | str,
    sharding: Sharding | None = None,
    *,
    which: str = "best",
    step: int | None = None,
) -> LoadedModel:
    """Reads a trained network; by default the weights that result.json scores.

    Args:
      workdir: Run directory, in which training may be running; a file or a folder of
        weights as `cifar_jax.export` writes them; or the name of packaged weights.
      sharding: Sharding of the weights; None: they lie on the first device.
      which: "best"; or of the newest state: "last", or "ema" for its averages.
      step: Step of the checkpoint; None: the newest.

    Raises:
      UserError: If `workdir` does not hold such a network, undamaged, yet.
    """
    if which not in WEIGHTS:
        raise UserError(f"which is {which!r}; use {', '.join(WEIGHTS)}")
    path = _packaged.find_network(workdir)
    sharding = sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    if weights := weights_file(path):
        if which != "best" or step is not None:
            raise UserError(f"{path} holds one set of weights; ask for the best ones")
        return _read_weights(weights, sharding)
    run = RunDirectory(path)
    network = abstract_model(run.config(), run.dataset())
    if which == "ema" and not network.config["train"]["ema_decay"]:
        raise UserError(
            f"{run.path} was trained without averages (train.ema_decay is 0); ask for "
            "the best or the last weights"
        )
    if which == "best":
        variables, metadata = _restore_best(run, network.variables, sharding, step)
    else:
        metrics = jax.eval_shape(Metrics.empty)
        template = {"state": _abstract_state(network), "metrics": metrics}
        tree, metadata = _restore(run.checkpoints, template, sharding, step)
        state = tree["state"]
        variables = state.averages if which == "ema" else state.variables
    return dataclasses.replace(
        network,
        variables=variables,
        epoch=metadata["epoch"],
        result=run.result() if (which, step) == ("best", None) else None,
    )


def weights_file(path: pathlib.Path) -> pathlib.Path | None:
    """Returns the file of weights that a path is or holds; None of a run directory."""
    inner, is_run = path / "model.safetensors", (path / "dataset.json").exists()
    return path if path.is_file() else inner if inner.exists() and not is_run else None


def read_card(workdir: os.PathLike | str) -> dict[str, Any]:
    """Returns `config`, `dataset` and `result` of a trained network, without weights.

    Args:
      workdir: Run directory, weights or a name, as `load_model` takes it.
    """
    path = _packaged.find_network(workdir)
    if weights := weights_file(path):
        return _open_weights(weights)[0]
    run = RunDirectory(path)
    return {"config": run.config(), "dataset": run.dataset(), "result": run.result()}


def _open_weights(path: pathlib.Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Returns the card of a file of weights, and its arrays by name."""
    with _explained(path), safetensors.safe_open(path, framework="numpy") as file:
        card = json.loads((file.metadata() or {})["card"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        card["config"] = complete(card["config"], path)
        check(card["dataset"], results.Dataset, path)
        return {"result": None, **card, "epoch": int(card["epoch"])}, tensors


@contextlib.contextmanager
def _explained(path: pathlib.Path) -> Iterator[None]:
    """Turns the errors of a file that is not one of ours into one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # a malformed card raises many kinds
        raise UserError(
            f"{path} is not a network of `cifar_jax.export --format safetensors` "
            f"({type(error).__name__}: {error}); give one, or export it again"
        ) from error


def _read_weights(path: pathlib.Path, sharding: Sharding) -> LoadedModel:
    """Reads a file of weights, float32 or float16, whose metadata is the card."""
    card, tensors = _open_weights(path)
    with _explained(path):
        network = abstract_model(card["config"], card["dataset"])
    tensors = {
        name: tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
        for name, tensor in tensors.items()
    }
    for name, held, needed in _differences(tensors, network.variables):
        raise UserError(
            f"{path} holds {held} as {name}, and its network {needed}; export it again"
        )
    variables = traverse_util.unflatten_dict(tensors, sep="/")
    return dataclasses.replace(
        network,
        variables=distributed.put(variables, sharding),
        epoch=card["epoch"],
        result=card["result"],
    )


def abstract_model(config: Mapping[str, Any], dataset: results.Dataset) -> LoadedModel:
    """Returns a network without weights: `variables` holds their shapes and dtypes.

    Args:
      config: Config of the run, as plain data.
      dataset: Contents of dataset.json.
    """
    image_shape, channels = tuple(dataset["image_shape"]), len(dataset["mean"])
    if (
        len(image_shape) != 3
        or not 0 < min(image_shape) <= max(image_shape) < 1 << 16
        or not channels == len(dataset["std"]) == image_shape[2]
        or not 0 < len(dataset["label_names"]) <= MAX_CLASSES
        or min(dataset["std"]) <= 0
        or not np.isfinite([dataset["mean"], dataset["std"]]).all()
    ):
        raise UserError(
            f"images of shape {image_shape} with {channels} means in "
            f"{len(dataset['label_names']):,} classes make no sense; check dataset.json"
        )
    names, options = tuple(dataset["label_names"]), config["model"]
    model = resnet.create(num_classes=len(names), image_shape=image_shape, **options)
    return LoadedModel(
        model=model,
        variables=resnet.abstract_variables(model, image_shape),
        image_shape=image_shape,
        label_names=names,
        mean=np.asarray(dataset["mean"], np.float32),
        std=np.asarray(dataset["std"], np.float32),
        config=dict(config),
        epoch=0,
    )


def _restore_best(
    run: RunDirectory, template: Any, sharding: Sharding, step: int | None
) -> tuple[Any, Any]:
    """Returns the weights that the run says are its best, or those of one step."""
    result = run.result() if step is None else None
    named = result["best_epoch"] if result else None
    restored = _restore(run.best, template, sharding, step, named)
    saved = result.get("best_digest") if result else None
    is_sound = not saved or saved == digest(jax.device_get(restored[0]), {})
    if result is None and step is None and run.checkpoints.exists():
        states = CheckpointFolder(run.checkpoints, keep=None)
        best = states.newest_metadata().get("best")
        states.close()
        named = best["epoch"] if best else 0
        # A run that trains may have saved better weights since.
        is_sound = restored[1]["epoch"] >= named
    if not is_sound:
        raise UserError(
            f"{run.best} lacks the best weights of the run, those of epoch {named}; "
            "restore the folder from a copy, or choose weights with --checkpoint"
        )
    return restored


def _restore(
    folder: pathlib.Path,
    template: Any,
    sharding: Sharding,
    step: int | None,
    epoch: int | None = None,
) -> tuple[Any, Any]:
    """Returns variables and metadata of the newest checkpoint, or of one."""
    if folder.exists():
        with contextlib.closing(CheckpointFolder(folder, keep=None)) as checkpoints:
            if restored := checkpoints.restore(template, sharding, step, epoch):
                return restored
    raise UserError(
        f"{folder} does not hold a network yet; wait for the first validation of the "
        "run, or if it has none for its end, or read its latest weights (--last)"
    )


def _abstract_state(network: LoadedModel) -> TrainState:
    """Returns the shapes of the state that the loop saves.

    They do not depend on the schedules, only on whether the momentum has one.
    """
    check_values(flatten(network.config))
    constant = optax.constant_schedule(0.0)
    has_momentum = network.config["schedule"]["momentum_range"] is not None
    optimizer = optim.make_optimizer(
        schedule=constant,
        momentum_schedule=constant if has_momentum else None,
        frozen=setup.frozen_paths(network.model),
        **network.config["optim"],
    )
    create = functools.partial(
        create_state,
        model=network.model,
        optimizer=optimizer,
        image_shape=network.image_shape,
        average=network.config["train"]["ema_decay"] > 0,
    )
    return jax.eval_shape(create, jax.random.key(0))


def with_teacher(config: ConfigDict, setup: Setup) -> Setup:
    """Returns the setup with the teacher that the config asks for, if any."""
    workdir, weight = config.distill.teacher, config.distill.weight
    temperature = config.distill.temperature
    if workdir is None:
        return setup
    if not 0 < weight <= 1:
        raise UserError(f"distill.weight is {weight}; use more than 0, at most 1")
    if not temperature > 0:
        raise UserError(f"distill.temperature is {temperature}; use more than 0")
    network = _load_for("distill.teacher", workdir, setup)
    for name in ("label_names", "image_shape"):
        theirs, ours = getattr(network, name), getattr(setup.source, name)
        if theirs != ours:
            raise UserError(
                f"distill.teacher is {workdir}, whose {name} are {str(theirs)[:80]}, "
                f"not the data's {str(ours)[:80]}; use a network trained on such data"
            )

    # The variables are an argument: constants would be compiled into the step.
    def teach(variables, images):
        return dataclasses.replace(network, variables=variables).logits(images)

    distillation = Distillation(teach, weight, temperature)
    options = dataclasses.replace(setup.options, distillation=distillation)
    source = _source(workdir, network)
    source["num_parameters"] = count.num_parameters(network.model, network.image_shape)
    source["flops_per_image"] = 2 * count.macs(network.model, network.image_shape)
    # An imported network has no result.
    source["seconds"] = network.result["seconds"] if network.result else None
    teacher = Teacher(variables=network.variables, source=source)
    return dataclasses.replace(setup, options=options, teacher=teacher)


def check_teacher(setup: Setup, saved: results.Source | None) -> None:
    """Refuses to resume with another teacher than the run began with.

    Args:
      setup: Setup with the teacher.
      saved: Teacher of the run, as it was saved.
    """
    source = setup.teacher.source if setup.teacher else None
    if source and saved and source["digest"] != saved["digest"]:
        raise UserError(
            f"distill.teacher is {source['workdir']}, whose weights have changed since "
            f"the run began (epoch {saved['epoch']} then, {source['epoch']} now); "
            "restore them from a copy, or start in another --workdir"
        )


def initialize(
    config: ConfigDict, setup: Setup, state: TrainState
) -> tuple[TrainState, results.Source | None]:
    """Returns the first state with the weights that the config asks for.

    Another number of classes gets a new classifier, with random weights.

    Args:
      config: Config of the run.
      setup: The run.
      state: State before the first step, with random weights.

    Returns:
      The state, and the run its weights come from; None: they are random.
    """
    workdir = config.init.workdir
    if workdir is None:
        if setup.options.pruning_plan:
            params = pruning.with_zeros_as(pruning.TINY, state.params)
            state = state.replace(params=params)
        return state, None
    network = _load_for("init.workdir", workdir, setup)
    variables, classes = dict(network.variables), setup.source.num_classes
    if network.num_classes != classes:
        head = {"head": state.params["head"]}
        variables["params"] = variables["params"] | head
        distributed.log(
            f"init.workdir is {workdir}, a network of {network.num_classes} classes: "
            f"its classifier is replaced by a new one for {classes}"
        )
    for name, held, needed in _differences(variables["params"], state.params):
        raise UserError(
            f"init.workdir is {workdir}, which holds {held} as {name}, and this config "
            f"{needed}; use the same config.model"
        )
    state = state.replace(**variables)
    if state.averages is not None:  # copies, for a step is given both to donate
        state = state.replace(averages=jax.tree.map(jnp.copy, variables))
    return state, _source(workdir, network)


def _differences(one: Any, other: Any) -> Iterator[tuple[str, str, str]]:
    """Yields the paths at which two trees differ, each with what both hold there."""

    def layout(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {optim.path_name(k): f"{x.dtype} {list(x.shape)}" for k, x in leaves}

    held, needed = layout(one), layout(other)
    for name in sorted({*held, *needed}):
        pair = held.get(name, "nothing"), needed.get(name, "nothing")
        if pair[0] != pair[1]:
            yield name, *pair


def _load_for(key: str, workdir: str, setup: Setup) -> LoadedModel:
    """Loads a network that a key of the config names; errors name the key."""
    try:
        return load_model(workdir, distributed.replicated(setup.mesh))
    except UserError as error:
        raise UserError(f"{key} is {workdir}: {error}") from error


def _source(workdir: str, network: LoadedModel) -> results.Source:
    """Returns where a network comes from, as result.json has it."""
    return {
        "workdir": workdir,
        "epoch": network.epoch,
        "digest": digest(jax.device_get(network.variables), {}),
    }
