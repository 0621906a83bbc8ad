"""One network, trained and run in several ways: the contenders of `benchmark.py`.

Each lives in a process of its own: the threads of PyTorch and of XLA would spin beside
each other, and memory is known of a whole process alone. A contender has `facts()`,
`train(n)` and `infer(n)`, which wait for the device and return the images they took,
`logits(variables, images)` and `peak_memory()`.
"""

import copy
import dataclasses
import functools
import os
import resource
import threading
import time
from typing import Any, cast

import numpy as np

from cifar_jax import _runtime

CROP_PADDING = 4  # pixels
_STATISTICS = ("mean", "var")  # leaves of Flax's batch_stats


@dataclasses.dataclass(frozen=True)
class Task:
    """A network and how it is trained, as plain data, for a process without JAX.

    Attributes:
      design: Design of the network, resolved.
      image_shape: Height, width and channels.
      num_classes: Number of classes.
      num_images: Images in the training set.
      batch_size: Images in a step.
      mean: Mean of each channel, with pixels in [0, 1].
      std: Standard deviation of each channel, with pixels in [0, 1].
      label_smoothing: Probability shared by all classes.
      optimizer: Keys of `config.optim`.
      flops_per_image: Floating-point operations of a forward pass.
      shapes: Shapes of weights and batch statistics, by path.
    """

    design: Any
    image_shape: tuple[int, int, int]
    num_classes: int
    num_images: int
    batch_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    label_smoothing: float
    optimizer: dict[str, Any]
    flops_per_image: int
    shapes: dict[tuple[str, ...], tuple[int, ...]]


# In a contender's process


_contender: Any = None


def start(name: str, argument: Any, cache: str | None) -> None:
    """Makes the contender of this process; without a cache, compile time counts."""
    global _contender
    threading.Thread(target=_runtime.end_with_parent, daemon=True).start()
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # several share a GPU
    if cache is None:
        os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
        os.environ["TORCHINDUCTOR_FORCE_DISABLE_CACHES"] = "1"
    else:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = cache
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = os.path.join(cache, "torch")
    _contender = CONTENDERS[name](argument)


def call(method: str, *arguments: Any) -> tuple[Any, float, float]:
    """Returns what a method returns, and its seconds: by the clock, and of this thread.

    The thread's seconds are Python's and the dispatch's, without waiting.
    """
    wall, thread = time.perf_counter(), time.thread_time()
    answer = getattr(_contender, method)(*arguments)
    return answer, time.perf_counter() - wall, time.thread_time() - thread


class _Jax:
    """What the two contenders in JAX share.

    Args:
      config: Config of the run.
      plain: Whether to use one device and Flax's own convolutions.
    """

    def __init__(self, config, plain: bool):
        from cifar_jax import _runtime

        _runtime.start(0 if plain else config.train.cpu_devices)
        import _measure
        import jax
        import jax.numpy as jnp

        import cifar_jax.training.setup as setup_lib
        from cifar_jax.training.state import split_key

        # Several GPUs would not be compared with one of PyTorch's.
        is_one = plain or jax.default_backend() != "cpu"
        devices = jax.devices()[:1] if is_one else None
        run = setup_lib.make(config, devices, lambda line: None)
        if plain:
            run = dataclasses.replace(run, model=run.model.clone(convolve=None))
        self._run, self._optimizer = run, dict(config.optim.to_dict())
        self._product_dtype = (
            jnp.dtype(run.model.dtype).name if plain else _measure.product_dtype(config)
        )
        key = jax.random.key(config.seed)
        self._keys = key, *split_key(key)
        # Optimising so many random numbers would take LLVM minutes.
        on_cpu = run.mesh.devices.flat[0].platform == "cpu"
        options = {"xla_backend_optimization_level": 0} if on_cpu else {}
        create = jax.jit(run.create_state, compiler_options=options)
        self._state = create(self._keys[1])

    def facts(self) -> dict[str, Any]:
        """Returns what makes the comparison fair, devices and versions."""
        import _measure
        import jax
        import jax.numpy as jnp

        from cifar_jax.training import results

        facts = results.environment(self._run.mesh)
        facts["versions"] |= _measure.gpu_libraries()
        return {
            "conv_precision": self._product_dtype,
            "num_parameters": sum(p.size for p in jax.tree.leaves(self._state.params)),
            "batch_size": self._run.options.batch_size,
            "dtype": jnp.dtype(self._run.model.dtype).name,
            **facts,
        }

    def task(self) -> Task:
        """Returns what a process without JAX needs to know."""
        from flax import traverse_util

        run, options = self._run, self._run.options
        leaves: dict = traverse_util.flatten_dict(self._state.params)
        leaves |= traverse_util.flatten_dict(self._state.batch_stats)
        return Task(
            design=run.model.design,
            image_shape=tuple(run.source.image_shape),
            num_classes=options.num_classes,
            num_images=len(run.train),
            batch_size=options.batch_size,
            mean=tuple(map(float, options.mean)),
            std=tuple(map(float, options.std)),
            label_smoothing=options.label_smoothing,
            optimizer=self._optimizer,
            flops_per_image=run.flops_per_image,
            shapes={path: tuple(leaf.shape) for path, leaf in leaves.items()},
        )

    def logits(self, variables: dict, images: np.ndarray) -> np.ndarray:
        """Returns logits [B, K] of normalised images [B, H, W, C] in eval mode."""
        import jax
        from flax import traverse_util

        params = {k: v for k, v in variables.items() if k[-1] not in _STATISTICS}
        stats = {k: v for k, v in variables.items() if k[-1] in _STATISTICS}
        tree = {"params": params, "batch_stats": stats}
        tree = {k: traverse_util.unflatten_dict(v) for k, v in tree.items()}
        apply = jax.jit(functools.partial(self._run.model.apply, train=False))
        return np.asarray(apply(tree, images))

    def matrix_peak(self) -> float:
        """Returns the FLOP/s of a large matrix product, as convolutions multiply."""
        import _measure

        return _measure.matrix_peak(self._product_dtype)

    def peak_memory(self) -> int:
        """Returns the most bytes held so far: on the devices, or by the process."""
        stats = [d.memory_stats() or {} for d in self._run.mesh.devices.flat]
        on_devices = sum(each.get("peak_bytes_in_use", 0) for each in stats)
        return on_devices or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Ours(_Jax):
    """This project: the calls that its training loop makes."""

    def __init__(self, config):
        super().__init__(config, plain=False)
        import jax

        from cifar_jax.training import distributed, feed
        from cifar_jax.training.state import Metrics

        run = self._run
        replicated = distributed.replicated(run.mesh)
        self._state, self._keys = jax.device_put((self._state, self._keys), replicated)
        self._metrics = jax.jit(Metrics.empty, out_shardings=replicated)()
        self._feed = feed.Feed(run, self._keys[3])
        self._program = functools.cache(lambda call: feed.lower(run, call).compile())
        self._evaluate_call = feed.evaluation_call(run)
        self._step = 0

    def train(self, num_steps: int) -> int:
        """Trains for at least so many steps, as the loop does."""
        import jax

        start, per_epoch = self._step, self._run.options.steps_per_epoch
        while self._step - start < num_steps:
            with self._feed.epoch(*divmod(self._step, per_epoch)) as calls:
                for call, data in calls:
                    train, previous = self._program(call), self._metrics
                    self._state, self._metrics = train(
                        self._state, previous, data, self._keys[0], None
                    )
                    jax.device_get(previous)  # the loop shows the call before
                    self._step += call.num_steps
                    if self._step - start >= num_steps:
                        break
        jax.block_until_ready(self._metrics)
        return (self._step - start) * self._run.options.batch_size

    def infer(self, num_batches: int) -> int:
        """Evaluates, as in validation: batches come from the host's memory."""
        import jax

        size = self._run.options.batch_size
        examples = self._examples(num_batches * size)
        metrics, variables = self._metrics, self._state.variables
        for batch, mask in self._feed.every_example(examples, size):
            metrics = self._evaluate_call(metrics, variables, batch, mask)
        jax.block_until_ready(metrics)
        return len(examples)

    @functools.cache  # noqa: B019  (a process has one of these)
    def _examples(self, num_images: int):
        train = self._run.train
        return train[np.arange(num_images) % len(train)]


class PlainFlax(_Jax):
    """What is commonly written: NumPy makes the batches, and each step is a dispatch.

    On one device, with the same network, loss and optimizer as ours.
    """

    def __init__(self, config):
        super().__init__(config, plain=True)
        import jax
        import optax

        from cifar_jax.training.steps import normalize

        model, options = self._run.model, self._run.options
        self._random = np.random.default_rng(config.seed)

        def train_step(state, images, labels):
            images = normalize(images, options.mean, options.std)
            targets = jax.nn.one_hot(labels, options.num_classes)
            targets = optax.smooth_labels(targets, options.label_smoothing)

            def loss_fn(params):
                logits, updates = model.apply(
                    {"params": params, "batch_stats": state.batch_stats},
                    images,
                    train=True,
                    mutable=["batch_stats"],
                )
                loss = optax.softmax_cross_entropy(logits, targets).mean()
                return loss, updates["batch_stats"]

            grad_fn = jax.value_and_grad(loss_fn, has_aux=True)
            (loss, batch_stats), grads = grad_fn(state.params)
            return state.apply_gradients(grads=grads, batch_stats=batch_stats), loss

        def predict(variables, images):
            images = normalize(images, options.mean, options.std)
            logits = cast(jax.Array, model.apply(variables, images, train=False))
            return logits.argmax(-1)

        self._train_step = jax.jit(train_step, donate_argnums=0)
        self._predict = jax.jit(predict)

    def train(self, num_steps: int) -> int:
        """Trains on random batches, which NumPy crops and mirrors."""
        import jax

        images, labels = self._run.train.images, self._run.train.labels
        size, loss = self._run.options.batch_size, None
        for _ in range(num_steps):
            index = self._random.integers(0, len(images), size)
            batch = crop_and_mirror(self._random, images[index]), labels[index]
            self._state, loss = self._train_step(self._state, *jax.device_put(batch))
        jax.block_until_ready(loss)
        return num_steps * size

    def infer(self, num_batches: int) -> int:
        """Labels batches from the host."""
        import jax

        images, size = self._run.train.images, self._run.options.batch_size
        labels = None
        for number in range(num_batches):
            index = np.arange(number * size, (number + 1) * size) % len(images)
            labels = self._predict(self._state.variables, jax.device_put(images[index]))
        jax.block_until_ready(labels)
        return num_batches * size


def crop_and_mirror(random: np.random.Generator, images: np.ndarray) -> np.ndarray:
    """Returns uint8 [B, H, W, C], padded with zeros, cropped at random and mirrored."""
    batch, height, width, _ = images.shape
    pad = (CROP_PADDING, CROP_PADDING)
    padded = np.pad(images, ((0, 0), pad, pad, (0, 0)))
    top, left = random.integers(0, 2 * CROP_PADDING + 1, (2, batch, 1))
    rows, columns = top + np.arange(height), left + np.arange(width)
    mirrored = random.random((batch, 1)) < 0.5
    columns = np.where(mirrored, columns[:, ::-1], columns)
    number = np.arange(batch)[:, None, None]
    return padded[number, rows[:, :, None], columns[:, None, :]]


class Torch:
    """The network in PyTorch, as its users make it fast.

    channels_last, data on the device, bfloat16 autocast on a GPU and float32 on a CPU.

    Args:
      task: The network and how it is trained.
      mode: Mode of `torch.compile`; None: eager.
    """

    def __init__(self, task: Task, mode: str | None):
        import torch

        from cifar_jax.models import torch_resnet

        self._torch, self._task = torch, task
        self._cuda = torch.cuda.is_available()
        self._device = torch.device("cuda" if self._cuda else "cpu")
        torch.backends.cudnn.benchmark = True
        self._head_map = task.design.head_map(task.image_shape)
        network = torch_resnet.TorchResNet(
            task.design, task.image_shape, task.num_classes
        ).to(self._device, memory_format=torch.channels_last)
        if task.design.stem == "whitening":
            network.stem_conv.weight.requires_grad_(False)
        self._network = network
        self._forward = torch.compile(network, mode=mode) if mode else network
        self._optimizer = self._make_optimizer()
        shape = (task.num_images, *task.image_shape)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8).to(self._device)
        labels = torch.randint(0, task.num_classes, (task.num_images,))
        self._labels = labels.to(self._device)
        self._mean, self._std = (
            torch.tensor(values, device=self._device)
            for values in (task.mean, task.std)
        )

    def _make_optimizer(self):
        """Returns the optimizer of `config.optim`; as ours, it decays kernels alone."""
        optim, options = self._torch.optim, self._task.optimizer
        trained = [p for p in self._network.parameters() if p.requires_grad]
        kernels = [p for p in trained if p.ndim > 1]
        vectors = [p for p in trained if p.ndim <= 1]
        groups = [
            {"params": kernels, "weight_decay": options["weight_decay"]},
            {"params": vectors, "weight_decay": 0.0},
        ]
        rate, betas = options["learning_rate"], (options["b1"], options["b2"])
        if options["name"] == "sgd":
            nesterov = options["nesterov"]
            return optim.SGD(groups, rate, options["momentum"], nesterov=nesterov)
        kinds = {"adam": optim.Adam, "adamw": optim.AdamW}
        return kinds[options["name"]](groups, rate, betas)

    def facts(self) -> dict[str, Any]:
        """Returns what makes the comparison fair, devices and versions."""
        torch = self._torch
        return {
            "num_parameters": sum(p.numel() for p in self._network.parameters()),
            "batch_size": self._task.batch_size,
            "dtype": "bfloat16" if self._cuda else "float32",
            "device": torch.cuda.get_device_name() if self._cuda else "cpu",
            "num_devices": 1,
            "num_threads": torch.get_num_threads(),
            "versions": {
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version() if self._cuda else None,
            },
        }

    def train(self, num_steps: int) -> int:
        """Trains on random batches, cropped and mirrored on the device."""
        torch, size = self._torch, self._task.batch_size
        self._network.train()
        for _ in range(num_steps):
            index = torch.randint(
                0, self._task.num_images, (size,), device=self._device
            )
            images = self._normalize(self._crop_and_mirror(self._images[index]))
            with self._autocast():
                logits = self._forward(images)
            loss = torch.nn.functional.cross_entropy(
                logits.float(),
                self._labels[index],
                label_smoothing=self._task.label_smoothing,
            )
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        self._wait()
        return num_steps * size

    def infer(self, num_batches: int) -> int:
        """Labels batches of images that lie on the device."""
        torch, size, labels = self._torch, self._task.batch_size, None
        self._network.eval()
        for number in range(num_batches):
            index = torch.arange(number * size, (number + 1) * size)
            index = (index % self._task.num_images).to(self._device)
            with torch.no_grad(), self._autocast():
                labels = self._forward(self._normalize(self._images[index])).argmax(-1)
        self._wait()
        del labels
        return num_batches * size

    def logits(self, variables: dict, images: np.ndarray) -> np.ndarray:
        """Returns logits [B, K] of normalised images [B, H, W, C] in eval mode."""
        from cifar_jax.models import torch_resnet

        torch, state = self._torch, self._network.state_dict()
        tensors = torch_resnet.to_torch(variables, state, self._head_map)
        missing, unexpected = self._network.load_state_dict(tensors, strict=False)
        missing = [name for name in missing if "num_batches_tracked" not in name]
        if missing or unexpected:
            raise ValueError(f"weights differ: {missing} {unexpected}")
        self._network.eval()
        inputs = torch.tensor(images, device=self._device).permute(0, 3, 1, 2)
        with torch.no_grad(), self._autocast():
            return self._network(inputs).float().cpu().numpy()

    def matrix_peak(self) -> float:
        """Returns the FLOP/s of a large matrix product in the compute dtype."""
        torch, size = self._torch, 8192 if self._cuda else 1024
        dtype = torch.bfloat16 if self._cuda else torch.float32
        # random: a chip clocks higher on zeros and ones
        matrix = torch.randn(size, size, dtype=dtype, device=self._device)

        def seconds():
            start = time.perf_counter()
            for _ in range(5):
                matrix @ matrix
            self._wait()
            return time.perf_counter() - start

        seconds()
        return 5 * 2 * size**3 / min(seconds() for _ in range(5))

    def peak_memory(self) -> int:
        """Returns the most bytes held so far: on the device, or by the process."""
        if self._cuda:
            return self._torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _crop_and_mirror(self, images):
        """Returns uint8 [B, H, W, C], padded with zeros, cropped and mirrored."""
        torch, device = self._torch, self._device
        batch, height, width, _ = images.shape
        padded = torch.nn.functional.pad(images, (0, 0, *[CROP_PADDING] * 4))
        corners = torch.randint(0, 2 * CROP_PADDING + 1, (2, batch, 1), device=device)
        rows = corners[0] + torch.arange(height, device=device)
        columns = corners[1] + torch.arange(width, device=device)
        mirrored = torch.rand(batch, 1, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
        number = torch.arange(batch, device=device)[:, None, None]
        return padded[number, rows[:, :, None], columns[:, None, :]]

    def _normalize(self, images):
        """Returns float images [B, C, H, W] whose memory is NHWC: channels_last."""
        images = (images.float() / 255 - self._mean) / self._std
        return images.permute(0, 3, 1, 2)

    def _autocast(self):
        return self._torch.autocast(
            self._device.type, self._torch.bfloat16, enabled=self._cuda
        )

    def _wait(self) -> None:
        if self._cuda:
            self._torch.cuda.synchronize()


def ours_in_float32(config) -> Ours:
    """Makes ours without the rounding that `model.conv_precision` may ask for."""
    config = copy.deepcopy(config)
    config.model.conv_precision = "float32"
    return Ours(config)


CONTENDERS = {
    "ours": Ours,
    "ours_float32": ours_in_float32,
    "plain_flax": PlainFlax,
    "torch": functools.partial(Torch, mode=None),
    "torch_compiled": functools.partial(Torch, mode="default"),
    "torch_max_autotune": functools.partial(Torch, mode="max-autotune"),
}
