"""What a network costs: parameters, multiply-adds, time and memory."""

import pathlib
import resource
import statistics
import time
from collections.abc import Callable
from typing import TypedDict

import jax
import numpy as np

from cifar_jax.evaluation.inference import Predictor
from cifar_jax.models import count, resnet
from cifar_jax.training.pretrained import LoadedModel, weights_file
from cifar_jax.training.results import Environment, environment

BATCH_SIZES = (16, 64, 256, 1024, 4096)
SECONDS = 1.0  # of the repeats at one batch size, about


class Speed(TypedDict, total=False):
    """How fast a network labels images: medians, compiling excluded.

    A time runs from uint8 images in the host's memory to the logits, back on the host.
    """

    latency_ms: float  # of one call with an image for each device
    latency_batch_size: int
    images_per_second: float  # at the best of BATCH_SIZES
    best_batch_size: int
    images_per_second_by_batch_size: dict[int, float]


class Efficiency(Speed, Environment):
    """What a network costs, and where that was measured."""

    parameters: int  # trainable ones
    macs_per_image: int  # multiply-adds of convolutions and linear layers
    weights_bytes: int  # of all arrays that inference needs, in float32
    disk_bytes: int  # of the newest checkpoint in best/, compressed
    peak_memory_bytes: int  # held so far on the devices, or else by the process


def measure(
    network: LoadedModel, workdir: pathlib.Path, *, with_speed: bool = False
) -> Efficiency:
    """Returns what a network costs.

    Args:
      network: Network.
      workdir: Run directory or file that it comes from.
      with_speed: Whether to measure its latency and throughput as well.
    """
    predictor = Predictor(network, batch_size=1)
    arrays = resnet.abstract_variables(network.model, network.image_shape)
    steps = [p for p in (workdir / "best").glob("*") if p.name.isdecimal()]
    newest = max(steps, key=lambda path: int(path.name), default=None)
    files = newest.rglob("*") if newest else (weights_file(workdir),)
    speed: Speed = _speed(predictor) if with_speed else {}
    memory = [d.memory_stats() or {} for d in predictor.mesh.devices.flat]
    on_devices = sum(stats.get("peak_bytes_in_use", 0) for stats in memory)
    on_host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "parameters": count.num_parameters(network.model, network.image_shape),
        "macs_per_image": count.macs(network.model, network.image_shape),
        "weights_bytes": sum(4 * leaf.size for leaf in jax.tree.leaves(arrays)),
        "disk_bytes": sum(p.stat().st_size for p in files if p and p.is_file()),
        **speed,
        "peak_memory_bytes": on_devices or on_host,
        **environment(predictor.mesh),
    }


def _speed(predictor: Predictor) -> Speed:
    num_devices, rates = predictor.mesh.size, {}
    latency = latency_ms(predictor, num_devices)
    for batch_size in (-(-n // num_devices) * num_devices for n in BATCH_SIZES):
        seconds = latency_ms(predictor, batch_size) / 1000
        rates[batch_size] = batch_size / seconds
        if rates[batch_size] < 0.9 * max(rates.values()) or seconds > SECONDS / 2:
            break
    best = max(rates, key=rates.__getitem__)
    return {
        "latency_ms": latency,
        "latency_batch_size": num_devices,
        "images_per_second": rates[best],
        "best_batch_size": best,
        "images_per_second_by_batch_size": rates,
    }


def latency_ms(predictor: Predictor, batch_size: int) -> float:
    """Returns the milliseconds of a call, compiling excluded."""
    shape = (batch_size, *predictor.network.image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    predictor(images).block_until_ready()  # compiled
    return 1000 * median_seconds(lambda: np.asarray(predictor(images)), SECONDS)


def median_seconds(call: Callable[[], object], seconds: float) -> float:
    """Returns the median time of a call that is repeated for about so many seconds."""
    times, start = [], time.perf_counter()
    while not times or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def summary(cost: Efficiency) -> list[str]:
    """Returns the costs in a line or two."""
    lines = [
        f"{cost['parameters']:,} parameters, {cost['macs_per_image']:,} multiply-adds "
        f"an image, {cost['disk_bytes'] / 2**20:.1f} MB on disk, "
        f"{cost['peak_memory_bytes'] / 2**20:,.0f} MB of memory at most"
    ]
    if "latency_ms" in cost:
        lines.append(
            f"{cost['latency_ms']:.2f} ms for a batch of {cost['latency_batch_size']}, "
            f"{cost['images_per_second']:,.0f} images/s in batches of "
            f"{cost['best_batch_size']}, on {cost['num_devices']} x {cost['device']}"
        )
    return lines
