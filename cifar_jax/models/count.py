"""The size of a network, and the budget that it must keep to.

Parameters are counted three ways, which must agree: by formula (`closed_form`), in the
tree of the network's parameters (`num_parameters`), and layer by layer
(`layer_table`). The formula needs no network, so a search tries thousands of designs in
a second; the other two trace the network, which takes up to a second and no memory.
"""

import bisect
import contextlib
import dataclasses
import math
from collections.abc import Sequence

import jax
from flax import linen as nn

from cifar_jax import UserError
from cifar_jax.models.design import Design, ImageShape, check
from cifar_jax.models.resnet import ResNet, abstract_variables


@dataclasses.dataclass(frozen=True)
class Layer:
    """One line of the layer table."""

    name: str  # path of the layer, such as "stage1_block1/conv1"
    output_shape: tuple[int, ...]  # shape of its output for one image
    parameters: int  # number of trainable parameters
    # multiply-adds for one image, of convolutions and linear layers only, as is the
    # custom; 1 MAC = 2 FLOPs
    macs: int


def num_parameters(model: ResNet, image_shape: ImageShape) -> int:
    """Returns the number of trainable parameters."""
    params = abstract_variables(model, image_shape)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def macs(model: ResNet, image_shape: ImageShape) -> int:
    """Returns the multiply-adds for one image; twice that are the FLOPs."""
    return total(layer_table(model, image_shape)).macs


def layer_table(model: ResNet, image_shape: ImageShape) -> list[Layer]:
    """Returns the layers with parameters, as the network itself calls them."""
    layers = []

    def record(call, args, kwargs, context):
        out, module = call(*args, **kwargs), context.module
        if isinstance(module, nn.Conv | nn.Dense | nn.BatchNorm):
            params = module.variables["params"]
            # A kernel is applied at each position of its output.
            positions = math.prod(out.shape[1:-1])
            macs = params["kernel"].size * positions if "kernel" in params else 0
            size = sum(leaf.size for leaf in jax.tree.leaves(params))
            layers.append(Layer("/".join(module.path), out.shape[1:], size, macs))
        return out

    with nn.intercept_methods(record):
        abstract_variables(model, image_shape)
    return layers


def total(layers: Sequence[Layer], name: str = "total") -> Layer:
    """Returns the sum of layers, with the output shape of their last map."""
    last = max(reversed(layers), key=lambda layer: len(layer.output_shape))
    return Layer(
        name,
        last.output_shape,
        parameters=sum(layer.parameters for layer in layers),
        macs=sum(layer.macs for layer in layers),
    )


def by_stage(layers: Sequence[Layer]) -> list[Layer]:
    """Returns the table with one row for the stem, each stage and the head."""
    groups: dict[str, list[Layer]] = {}
    for layer in layers:
        groups.setdefault(layer.name.split("/")[0].split("_")[0], []).append(layer)
    return [total(group, name) for name, group in groups.items()]


def format_table(layers: Sequence[Layer], limit: int | None) -> str:
    """Returns the table as text: the layers, their total and the budget line."""
    rows = [("layer", "output", "parameters", "MACs")]
    for layer in layers:
        shape = "x".join(map(str, layer.output_shape))
        rows.append((layer.name, shape, f"{layer.parameters:,}", f"{layer.macs:,}"))
    sums = total(layers)
    rows.append((sums.name, "", f"{sums.parameters:,}", f"{sums.macs:,}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # The first column to the left, the others to the right.
    row = "   ".join(f"{{:{side}{n}}}" for side, n in zip("<>>>", widths, strict=True))
    lines = [row.format(*cells) for cells in rows]
    rule = "-" * len(lines[0])
    budget = budget_line(sums.parameters, limit)
    end = f"{budget}; {2 * sums.macs / 1e9:.3g} GFLOPs an image"
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], end])


def closed_form(design: Design, image_shape: ImageShape, num_classes: int) -> int:
    """Returns the number of trainable parameters of a resolved design, by formula.

    A BatchNorm holds a bias and most often a scale for each channel, the classifier has
    a bias, convolutions have none. Report 004 gives the same sum for its own networks.
    """
    basic, norm = design.block == "basic", 1 + design.bn_scale
    count = design.stem_kernel**2 * image_shape[2] * design.stem_width
    if design.stem == "whitening":
        count += design.stem_width  # a bias and no BatchNorm
    else:
        count += norm * (design.stem_width if basic else design.widths[-1])
    for part in design.parts():
        before, after, kernel = part.before, part.width, part.kernel**2
        if part.pools:
            count += before * after * kernel + norm * after
            continue
        count += (before + after) * after * kernel  # two convolutions
        count += norm * ((after if basic else before) + after)  # two BatchNorms
        if part.reshapes and design.shortcut == "projection":
            count += before * after * part.shortcut_kernel**2
            count += norm * after if basic else 0
        if design.se_ratio:  # two linear layers
            hidden = after // design.se_ratio
            count += 2 * after * hidden + design.se_bias * (after + hidden)
    return count + (math.prod(design.head_map(image_shape)) + 1) * num_classes


def largest_width_under_budget(
    design: Design,
    image_shape: ImageShape,
    num_classes: int,
    limit: int,
    multiple: int = 1,
) -> Design | None:
    """Returns the widest design below the limit; None if even the least is too wide.

    Only the widths change, in proportion (and the stem's, if it is the first stage's).

    Args:
      design: Resolved design, whose proportions are kept.
      image_shape: (height, width, channels) of the images.
      num_classes: Length of the logits.
      limit: The parameters must be fewer.
      multiple: Number that all widths are multiples of; they are rounded down to it.
    """
    first = design.widths[0]

    def widened(width: int) -> Design:
        units = [max(1, width * other // first // multiple) for other in design.widths]
        return dataclasses.replace(
            design,
            widths=tuple(unit * multiple for unit in units),
            stem_width=width if design.stem_width == first else design.stem_width,
        )

    def fits(width: int, shortcut: str) -> bool:
        wider = dataclasses.replace(widened(width), shortcut=shortcut)
        return closed_form(wider, image_shape, num_classes) < limit

    # Without projections the count rises with the width, so bisection bounds it; with
    # them it may fall where a stage comes to equal the stem, so the rest is tried.
    widths = range(multiple, limit + multiple, multiple)
    bound = bisect.bisect_left(widths, True, key=lambda w: not fits(w, "padding"))
    for width in reversed(widths[:bound]):
        if fits(width, design.shortcut):
            with contextlib.suppress(UserError):  # an odd whitening stem, for example
                check(widened(width), image_shape)
                return widened(width)
    return None


def budget_line(num_parameters: int, limit: int | None) -> str:
    """Returns how a network compares to its budget, in a few words."""
    if limit is None:
        return f"{num_parameters:,} parameters; the budget is lifted (limit None)"
    over = num_parameters - limit
    stands = f"{abs(over):,} {'over' if over >= 0 else 'below'} the budget of {limit:,}"
    return f"{num_parameters:,} parameters: {stands}"


def check_budget(
    num_parameters: int, limit: int | None, model: ResNet, image_shape: ImageShape
) -> None:
    """Refuses a network whose parameters are not fewer than the limit."""
    if limit is None or num_parameters < limit:
        return
    fitting = largest_width_under_budget(
        model.design, image_shape, model.num_classes, limit
    )
    remedy = "no width fits: use fewer stages or blocks (model.stage_sizes)"
    if fitting:
        widths = ",".join(map(str, fitting.widths))
        remedy = f"the largest width that fits is {fitting.widths[0]}"
        remedy += f": use model.widths={widths}"
    raise UserError(
        f"{num_parameters:,} parameters are {num_parameters - limit:,} over the budget "
        f"(fewer than {limit:,}); {remedy}, or budget.limit=None to lift it"
    )
