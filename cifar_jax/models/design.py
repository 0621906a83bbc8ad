"""A network's design as plain data: its options, resolved and checked.

Nothing here needs JAX, so a design can be refused or resolved in microseconds.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from cifar_jax import UserError, config

ImageShape = tuple[int, int, int]  # height, width and channels

# A card of a few bytes can name a network that would take hours to make.
MAX_BLOCKS, MAX_WIDTH = 1000, 1 << 16

# Options that need another one, and why.
_NEEDS = (
    ("stem", "whitening", "block", "basic", "another would normalise white maps"),
    ("downsample", "pool", "block", "basic", "pooled maps are activated already"),
    ("zero_init", True, "block", "basic", "another does not end with a BatchNorm"),
    ("zero_init", True, "bn_scale", True, "the last scale of a block starts at zero"),
)


class Part(NamedTuple):
    """A residual block; or the convolution and max-pool that may start a stage."""

    name: str  # such as stage1_block1 or stage1_pool
    stage: int  # counted from 0
    before: int  # channels of the map that it takes
    width: int  # channels of the map that it gives
    stride: int  # of the first convolution and of the shortcut; or the pool's window
    kernel: int  # size of the convolutions
    shortcut_kernel: int  # size of the projection

    @property
    def pools(self) -> bool:
        """Whether this is not a block."""
        return self.name.endswith("pool")

    @property
    def reshapes(self) -> bool:
        """Whether the map changes its shape, so that a block's shortcut changes it."""
        return self.stride != 1 or self.before != self.width


class Design(config.ModelOptions):
    """One residual network: the keys of `config.model`, with their defaults.

    After `resolve`, every tuple has one entry for each stage, and of the options that
    follow from others only `pool` may be None.
    """

    def parts(self) -> Iterator[Part]:
        """Yields what is between stem and head; the first part of a stage strides."""
        before, pools = self.stem_width, self.downsample == "pool"
        for stage, width in enumerate(self.widths):
            names = [f"block{number + 1}" for number in range(self.stage_sizes[stage])]
            stride = self.strides[stage]
            kernels = self.kernel_sizes[stage], self.shortcut_kernel_sizes[stage]
            for name in ["pool", *names] if pools else names:
                name = f"stage{stage + 1}_{name}"
                yield Part(name, stage, before, width, stride, *kernels)
                before, stride = width, 1

    def map_sizes(self, image_shape: ImageShape) -> list[tuple[int, int]]:
        """Returns (height, width) of the maps after the stem and after each stage."""
        size = _out(image_shape[:2], self.stem_kernel, self.stem_stride)
        if self.stem_pool:
            size = _out(size, self.stem_pool, 2)
        sizes = [size]
        for kernel, stride in zip(self.kernel_sizes, self.strides, strict=True):
            height, width = sizes[-1]
            pooled = height // stride, width // stride
            pools = self.downsample == "pool"
            sizes.append(pooled if pools else _out(sizes[-1], kernel, stride))
        return sizes

    def head_map(self, image_shape: ImageShape) -> tuple[int, int, int]:
        """Returns (C, H, W) of what the classifier flattens: floor(side / P)."""
        height, width = self.map_sizes(image_shape)[-1]
        if self.pool is None:
            return self.widths[-1], 1, 1
        return self.widths[-1], height // self.pool, width // self.pool


def resolve(options: Mapping[str, Any]) -> Design:
    """Returns the design with every short form written out.

    One width doubles from stage to stage, one kernel size serves all the stages, and
    strides of None are 1 and then 2 (He et al., 2016, arXiv:1512.03385).

    Args:
      options: Keys of `config.model`; the others, and those of None, take their
        defaults.
    """
    options = {name: value for name, value in options.items() if value is not None}
    raw = Design(**options)
    num_stages = len(raw.stage_sizes)
    tuples = {
        "stage_sizes": raw.stage_sizes,
        "widths": raw.widths,
        "strides": options.get("strides", (1,) + (2,) * (num_stages - 1)),
        "kernel_sizes": raw.kernel_sizes,
        "shortcut_kernel_sizes": raw.shortcut_kernel_sizes,
    }
    full = {name: _ints(name, values, num_stages) for name, values in tuples.items()}
    if len(raw.widths) == 1:
        full["widths"] = tuple(n * 2**stage for stage, n in enumerate(full["widths"]))
    derived = {
        "stem_width": full["widths"][0],
        "stem_kernel": full["kernel_sizes"][0],
        "se_activation": raw.activation,
        "pool": None,
    }
    found: dict[str, Any] = {**derived, **options, **full}
    return Design(**found)


def _ints(name: str, values, num_stages: int) -> tuple[int, ...]:
    """Returns whole numbers that are at least 1, one for each stage.

    Args:
      name: Name of the option, for errors.
      values: As many numbers as there are stages, or one for all.
      num_stages: Number of stages.
    """
    values = tuple(values)
    if not values or any(type(value) is not int or value < 1 for value in values):
        raise UserError(
            f"model.{name} is {values}; it needs whole numbers of at least 1"
        )
    if len(values) == 1:
        values *= num_stages
    if len(values) != num_stages:
        raise UserError(
            f"model.{name} has {len(values)} entries for {num_stages} stages "
            f"(model.stage_sizes); give one for each stage, or a single one"
        )
    return values


def _out(size, kernel: int, stride: int) -> tuple[int, int]:
    """Returns the size after a window padded by (kernel - 1) // 2 on each side."""
    height, width = ((n + 2 * ((kernel - 1) // 2) - kernel) // stride + 1 for n in size)
    return height, width


def check(design: Design, image_shape: ImageShape) -> None:
    """Refuses a resolved design that is not a sound network for these images."""
    config.check_values({f"model.{k}": value for k, value in vars(design).items()})
    if not design.bn_epsilon > 0:
        raise UserError(f"model.bn_epsilon is {design.bn_epsilon}; use a value above 0")
    for name in ("kernel_sizes", "shortcut_kernel_sizes"):
        if even := [size for size in getattr(design, name) if size % 2 == 0]:
            raise UserError(
                f"model.{name} holds {even[0]}, which is even; use an odd size such as "
                f"{even[0] + 1}: only those leave the map's size to the stride"
            )
    for name, value, other, needed, reason in _NEEDS:
        found = getattr(design, other)
        if getattr(design, name) == value and found != needed:
            raise UserError(
                f"model.{name} is {value!r} and model.{other} {found!r}; use "
                f"{other}={needed!r}: {reason}"
            )
    if sum(design.stage_sizes) > MAX_BLOCKS or max(design.widths) > MAX_WIDTH:
        raise UserError(
            f"model.stage_sizes has {sum(design.stage_sizes):,} blocks of up to "
            f"{max(design.widths):,} channels; use at most {MAX_BLOCKS:,} of "
            f"{MAX_WIDTH:,}"
        )
    narrowest = min(design.widths)
    if design.se_ratio > narrowest:
        raise UserError(
            f"model.se_ratio is {design.se_ratio}, but the narrowest stage has "
            f"{narrowest} channels; use at most {narrowest}, or 0 for none"
        )
    for part in design.parts():
        if design.shortcut == "padding" and part.width < part.before:
            raise UserError(
                f"padding shortcuts cannot narrow from {part.before} to {part.width} "
                "channels; use shortcut='projection', or widths that do not fall"
            )
    # Each direction of a patch's space has two filters, of either sign.
    most = 2 * design.stem_kernel**2 * image_shape[2]
    odd = design.stem_width > most or design.stem_width % 2
    if design.stem == "whitening" and odd:
        raise UserError(
            f"model.stem_width is {design.stem_width}; a whitening stem of kernel "
            f"{design.stem_kernel} has an even width of at most {most}"
        )
    _check_maps(design, image_shape)


def _check_maps(design: Design, image_shape: ImageShape) -> None:
    """Checks that every map is large enough for what is applied to it."""
    sizes = design.map_sizes(image_shape)
    for stage, (size, stride) in enumerate(zip(sizes, design.strides, strict=False), 1):
        if min(size) < stride:
            raise UserError(
                f"stage {stage} cannot divide a {size[0]}x{size[1]} map by its stride "
                f"of {stride}: images of {image_shape[0]}x{image_shape[1]} are too "
                f"small; use at most {stage - 1} stages, or model.strides with more 1s"
            )
    if design.pool is not None and design.pool not in range(1, min(sizes[-1]) + 1):
        raise UserError(
            f"model.pool is {design.pool}, but the last map is "
            f"{sizes[-1][0]}x{sizes[-1][1]}; use 1 to {min(sizes[-1])}, or None for "
            "all of it"
        )
