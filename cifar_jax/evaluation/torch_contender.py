"""The same network trained and run by PyTorch. Needs the extra torch; no JAX.

As its users make it fast: channels_last, data on the device, bfloat16 autocast on a
GPU and float32 on a CPU.
"""

import resource
import time
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cifar_jax.evaluation.task import CROP_PADDING, Task
from cifar_jax.models.torch_resnet import TorchResNet, to_torch


class Torch:
    """The network in PyTorch.

    Args:
      task: The network and how it is trained.
      compiled: Whether to run it through `torch.compile`.
    """

    def __init__(self, task: Task, compiled: bool):
        self._task = task
        self._cuda = torch.cuda.is_available()
        self._device = torch.device("cuda" if self._cuda else "cpu")
        torch.backends.cudnn.benchmark = True
        channels = task.image_shape[2]
        network = TorchResNet(
            task.design, channels, task.num_classes, int(np.prod(task.head_map))
        )
        network = network.to(self._device, memory_format=torch.channels_last)
        if task.design.stem == "whitening":
            network.stem_conv.weight.requires_grad_(False)
        self._network = self._forward = network
        if compiled:
            mode = "max-autotune" if self._cuda else "default"
            self._forward = torch.compile(network, mode=mode)
        self._optimizer = _make_optimizer(network, task.optimizer)
        shape = (task.num_images, *task.image_shape)
        self._images = torch.randint(0, 256, shape, dtype=torch.uint8).to(self._device)
        labels = torch.randint(0, task.num_classes, (task.num_images,))
        self._labels = labels.to(self._device)
        self._mean, self._std = (
            torch.tensor(values, device=self._device)
            for values in (task.mean, task.std)
        )

    def facts(self) -> dict[str, Any]:
        """Returns what makes the comparison fair."""
        count = sum(parameter.numel() for parameter in self._network.parameters())
        name = torch.cuda.get_device_name() if self._cuda else "cpu"
        return {
            "num_parameters": count,
            "batch_size": self._task.batch_size,
            "dtype": "bfloat16" if self._cuda else "float32",
            "device": name,
            "num_devices": 1,
            "num_threads": torch.get_num_threads(),
            "versions": {
                "torch": torch.__version__,
                "cuda": torch.version.cuda,
                "cudnn": torch.backends.cudnn.version() if self._cuda else None,
            },
        }

    def train(self, num_steps: int) -> None:
        """Trains on random batches and waits for them."""
        self._network.train()
        for _ in range(num_steps):
            index = self._sample_index()
            images = self._normalize(crop_and_flip(self._images[index]))
            with self._autocast():
                logits = self._forward(images)
            loss = F.cross_entropy(
                logits.float(),
                self._labels[index],
                label_smoothing=self._task.label_smoothing,
            )
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
        self._wait()

    def infer(self, num_batches: int) -> None:
        """Labels batches of images and waits for them."""
        self._network.eval()
        size, found = self._task.batch_size, None
        for number in range(num_batches):
            index = torch.arange(number * size, (number + 1) * size)
            index = (index % self._task.num_images).to(self._device)
            with torch.no_grad(), self._autocast():
                found = self._forward(self._normalize(self._images[index])).argmax(-1)
        self._wait()
        del found

    def logits(self, variables: dict, images: np.ndarray) -> np.ndarray:
        """Returns logits [B, K] of normalised images [B, H, W, C] in eval mode."""
        state = self._network.state_dict()
        tensors = to_torch(variables, state, self._task.head_map)
        missing, unexpected = self._network.load_state_dict(tensors, strict=False)
        lacking = [name for name in missing if "num_batches_tracked" not in name]
        if lacking or unexpected:
            raise ValueError(f"weights differ: {lacking} {unexpected}")
        self._network.eval()
        images = torch.tensor(images, device=self._device).permute(0, 3, 1, 2)
        with torch.no_grad(), self._autocast():
            return self._network(images).float().cpu().numpy()

    def peak_flops(self) -> float:
        """Returns the FLOP/s of a large matrix product in the compute dtype."""
        size = 8192 if self._cuda else 1536
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
        return 5 * 2 * size**3 / min(seconds() for _ in range(10))

    def peak_memory(self) -> int:
        """Returns the most bytes held so far: on the device, or by the process."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def _sample_index(self) -> torch.Tensor:
        shape = (self._task.batch_size,)
        return torch.randint(0, self._task.num_images, shape, device=self._device)

    def _normalize(self, images: torch.Tensor) -> torch.Tensor:
        """Returns float images [B, C, H, W] whose memory is NHWC: channels_last."""
        images = (images.float() / 255 - self._mean) / self._std
        return images.permute(0, 3, 1, 2)

    def _autocast(self):
        return torch.autocast(self._device.type, torch.bfloat16, enabled=self._cuda)

    def _wait(self) -> None:
        if self._cuda:
            torch.cuda.synchronize()


def crop_and_flip(images: torch.Tensor) -> torch.Tensor:
    """Returns uint8 [B, H, W, C], padded with zeros, cropped at random and mirrored."""
    batch, height, width, _ = images.shape
    device = images.device
    padded = F.pad(images, (0, 0, *[CROP_PADDING] * 4))
    corners = torch.randint(0, 2 * CROP_PADDING + 1, (2, batch, 1), device=device)
    rows = corners[0] + torch.arange(height, device=device)
    columns = corners[1] + torch.arange(width, device=device)
    mirrored = torch.rand(batch, 1, device=device) < 0.5
    columns = torch.where(mirrored, columns.flip(1), columns)
    number = torch.arange(batch, device=device)[:, None, None]
    return padded[number, rows[:, :, None], columns[:, None, :]]


def _make_optimizer(network, options: dict[str, Any]) -> torch.optim.Optimizer:
    """Returns the optimiser of `config.optim`; decay is on kernels alone, as ours."""
    trained = [p for p in network.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in trained if p.ndim > 1],
            "weight_decay": options["weight_decay"],
        },
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate, betas = options["learning_rate"], (options["b1"], options["b2"])
    if options["name"] == "sgd":
        return torch.optim.SGD(
            groups, rate, options["momentum"], nesterov=options["nesterov"]
        )
    kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    return kinds[options["name"]](groups, rate, betas)
