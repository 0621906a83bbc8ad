"""What a training step could be instead, as a list."""

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Variant:
    """One thing that is done in another way.

    Attributes:
      group: Of variants that take turns.
      name: Unique.
      keys: Of the config, with other values.
      flags: Of XLA.
      environment: Other variables.
      change: Of the network: a key of `variant_contender.CHANGES`.
      device: That it is for: "gpu", or "" for any.
    """

    group: str
    name: str
    keys: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    flags: str = ""
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    change: str = ""
    device: str = ""


def _gpu(group: str, name: str, flags: str) -> Variant:
    return Variant(group, name, flags=flags, device="gpu")


def _width(width: int) -> Variant:
    keys = {"model.widths": (width,), "budget.limit": None}
    return Variant("widths", f"width {width}", keys=keys)


def _dispatch(name: str, steps: int) -> Variant:
    return Variant("dispatch", name, keys={"train.steps_per_dispatch": steps})


_GRAPHS = "--xla_gpu_enable_command_buffer="
VARIANTS = (
    _dispatch("1 step a dispatch", 1),
    _dispatch("8 steps a dispatch", 8),
    _dispatch("an epoch a dispatch", 2**20),
    _gpu("graphs", "no command buffers", _GRAPHS),
    _gpu("graphs", "loops in command buffers", f"{_GRAPHS}+WHILE"),
    _gpu(
        *("graphs", "loops unrolled in command buffers"),
        f"{_GRAPHS}+WHILE --xla_gpu_command_buffer_unroll_loops=true",
    ),
    Variant("network", "channels padded to 8", change="aligned"),
    Variant("network", "NCHW", change="nchw"),
    Variant("network", "BatchNorm's statistics in the dtype", change="norm_in_dtype"),
    Variant("network", "BatchNorm's variance in two passes", change="norm_two_pass"),
    _gpu("compiler", "autotuning level 0", "--xla_gpu_autotune_level=0"),
    _gpu("compiler", "autotuning level 2", "--xla_gpu_autotune_level=2"),
    _gpu(
        *("compiler", "convolution fusion"),
        "--xla_gpu_experimental_enable_conv_fusion=true",
    ),
    _gpu(
        *("compiler", "latency-hiding scheduler"),
        "--xla_gpu_enable_latency_hiding_scheduler=true",
    ),
    Variant(
        *("compiler", "random numbers by rbg"),
        environment={"JAX_DEFAULT_PRNG_IMPL": "rbg"},
    ),
    _width(80),
    _width(85),
    _width(88),
    _width(96),
)
GROUPS = tuple(dict.fromkeys(variant.group for variant in VARIANTS))
