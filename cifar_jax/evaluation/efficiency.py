"""What a network costs: parameters, multiply-adds, time and memory."""

import pathlib
import resource
import statistics
import time
from collections.abc import Iterable
from typing import Any

import jax
import numpy as np

from cifar_jax.evaluation.inference import Predictor
from cifar_jax.models import count

BATCH_SIZES = (16, 64, 256, 1024, 4096)
REPEATS = 20
SECONDS = 2.0  # at most, for the repeats at one batch size, but for the first three


def size(predictor: Predictor, workdir: pathlib.Path) -> dict[str, Any]:
    """Returns how large a network is.

    Returns:
      `parameters`, trainable ones; `macs_per_image`, multiply-adds of convolutions and
      linear layers; `weights_bytes`, of all arrays that inference needs, in float32;
      and `disk_bytes`, of the newest checkpoint in best/, compressed.
    """
    network = predictor.network
    leaves = jax.tree.leaves(network.variables)
    steps = [p for p in (workdir / "best").glob("*") if p.name.isdecimal()]
    newest = max(steps, key=lambda path: int(path.name), default=None)
    files = newest.rglob("*") if newest else ()
    return {
        "parameters": count.num_parameters(network.model, network.image_shape),
        "macs_per_image": count.macs(network.model, network.image_shape),
        "weights_bytes": sum(leaf.nbytes for leaf in leaves),
        "disk_bytes": sum(p.stat().st_size for p in files if p.is_file()),
    }


def speed(predictor: Predictor) -> dict[str, Any]:
    """Returns how fast a network labels images that lie in the host's memory.

    A time runs from the uint8 images to the logits, back on the host. Compiling is
    excluded; what counts are medians.

    Returns:
      `latency_ms`, of one call with an image for each device; `images_per_second` at
      the best of `BATCH_SIZES`, `best_batch_size`, and all rates, by batch size. Larger
      batches are left out from where they would take too long or are slower.
    """
    mesh, rates = predictor.mesh, {}
    latency = latency_ms(predictor)
    for batch_size in (n for n in BATCH_SIZES if n % mesh.size == 0):
        seconds = _median_seconds(predictor, batch_size)
        rates[batch_size] = batch_size / seconds
        if rates[batch_size] < 0.9 * max(rates.values()) or seconds > SECONDS / 4:
            break
    best = max(rates, key=rates.get)
    return {
        "latency_ms": latency,
        "latency_batch_size": mesh.size,
        "images_per_second": rates[best],
        "best_batch_size": best,
        "images_per_second_by_batch_size": rates,
    }


def latency_ms(predictor: Predictor) -> float:
    """Returns the milliseconds of a call with an image for each device."""
    return 1000 * _median_seconds(predictor, predictor.mesh.size)


def _median_seconds(predictor: Predictor, batch_size: int) -> float:
    call = predictor.compile(batch_size)
    shape = (batch_size, *predictor.network.image_shape)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    np.asarray(call(images))
    times, start = [], time.perf_counter()
    while len(times) < REPEATS:
        if len(times) >= 3 and time.perf_counter() - start > SECONDS:
            break
        begin = time.perf_counter()
        np.asarray(call(images))
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def peak_memory(devices: Iterable[jax.Device]) -> int:
    """Returns the most bytes held so far: on the devices, or else by the process."""
    stats = [device.memory_stats() or {} for device in devices]
    on_devices = sum(each.get("peak_bytes_in_use", 0) for each in stats)
    return on_devices or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
