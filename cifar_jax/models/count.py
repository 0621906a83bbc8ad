"""Parameters and multiply-adds of a network, and the budget they must keep to."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from clu import parameter_overview
from flax import linen as nn

from cifar_jax import UserError
from cifar_jax.models.formula import widest
from cifar_jax.models.resnet import ResNet


def num_parameters(model: ResNet, image_shape: tuple[int, int, int]) -> int:
    """Returns the number of trainable parameters; allocates none of them."""
    return _size(_abstract_params(model, image_shape))


def parameter_paths(model: ResNet, image_shape: tuple[int, int, int]) -> list[str]:
    """Returns the names of all parameters, such as `stem_conv/kernel`."""
    leaves = jax.tree_util.tree_leaves_with_path(_abstract_params(model, image_shape))
    keystr = jax.tree_util.keystr
    return [keystr(path, simple=True, separator="/") for path, _ in leaves]


def _size(params: dict) -> int:
    return int(parameter_overview.count_parameters(params))  # theirs is of NumPy


def _abstract_params(model: ResNet, image_shape) -> dict:
    """Returns the parameters as shapes, without their values."""
    return _traced(model, tuple(image_shape))


# Tracing a deep network takes a second; a study's runs ask for the same few again.
_CACHED = 8


@functools.lru_cache(_CACHED)
def _traced(model: ResNet, image_shape: tuple[int, int, int]) -> dict:
    def init():
        images = jnp.zeros((1, *image_shape))
        return model.init(jax.random.key(0), images, train=False)

    return jax.eval_shape(init)["params"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the layer table.

    Attributes:
        name: path of the layer.
        output_shape: for one image.
        parameters: trainable ones.
        macs: multiply-adds for one image, of convolutions and linear layers only, as
            is the custom; 1 MAC = 2 FLOPs.
    """

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    macs: int


def layer_table(model: ResNet, image_shape: tuple[int, int, int]) -> list[Row]:
    """Returns a row for each layer with parameters, read from the network itself."""
    return list(_layers(model, tuple(image_shape)))


@functools.lru_cache(_CACHED)
def _layers(model: ResNet, image_shape: tuple[int, int, int]) -> tuple[Row, ...]:
    rows = []

    def record(call, args, kwargs, context):
        out, module = call(*args, **kwargs), context.module
        if isinstance(module, nn.Conv | nn.Dense | nn.BatchNorm):
            params = module.variables["params"]
            positions = math.prod(out.shape[1:-1])
            macs = params["kernel"].size * positions if "kernel" in params else 0
            name = "/".join(module.path)
            rows.append(Row(name, out.shape[1:], _size(params), macs))
        return out

    with nn.intercept_methods(record):
        _traced.__wrapped__(model, image_shape)  # what is cached calls no module
    return tuple(rows)


def macs(model: ResNet, image_shape: tuple[int, int, int]) -> int:
    """Returns the multiply-adds for one image; twice that are the FLOPs."""
    return total(layer_table(model, image_shape)).macs


def total(rows: list[Row], name: str = "total") -> Row:
    """Returns the sum of rows, with the output shape of their last map."""
    last = max(reversed(rows), key=lambda row: len(row.output_shape))
    parameters = sum(row.parameters for row in rows)
    return Row(name, last.output_shape, parameters, sum(row.macs for row in rows))


def by_stage(rows: list[Row]) -> list[Row]:
    """Returns the table with one row for the stem, each stage and the head."""
    groups = {}
    for row in rows:
        groups.setdefault(row.name.split("/")[0].split("_")[0], []).append(row)
    return [total(group, name) for name, group in groups.items()]


def format_table(rows: list[Row], limit: int | None) -> str:
    """Returns the table as text: the rows, their totals and the budget line."""
    cells = [("layer", "output", "parameters", "MACs")]
    for row in rows:
        shape = "x".join(map(str, row.output_shape))
        cells.append((row.name, shape, f"{row.parameters:,}", f"{row.macs:,}"))
    sums = total(rows)
    cells.append((sums.name, "", f"{sums.parameters:,}", f"{sums.macs:,}"))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_aligned(line, widths) for line in cells]
    rule = "-" * len(lines[0])
    end = f"{budget_line(sums.parameters, limit)}; {2 * sums.macs / 1e9:.3g} GFLOPs"
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1], f"{end} an image"])


def _aligned(cells, widths) -> str:
    """Returns one line of a table: the first column to the left, the rest right."""
    first = cells[0].ljust(widths[0])
    rest = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
    return "   ".join([first, *rest])


def budget_line(num_parameters: int, limit: int | None) -> str:
    """Returns where a network stands to its budget, in a few words."""
    if limit is None:
        return f"{num_parameters:,} parameters; the budget is lifted (limit None)"
    over = num_parameters - limit
    stands = f"{abs(over):,} {'over' if over >= 0 else 'below'} the budget of {limit:,}"
    return f"{num_parameters:,} parameters: {stands}"


def checked_limit(limit) -> int | None:
    """Returns budget.limit; raises UserError unless it is a whole number or None."""
    if limit is None or type(limit) is int:
        return limit
    raise UserError(
        f"budget.limit is {limit!r}; use a whole number, or None to lift it"
    )


def check_budget(
    num_parameters: int, limit: int | None, model: ResNet, image_shape
) -> None:
    """Refuses a network whose parameters are not fewer than the limit.

    Raises:
        UserError: names the excess and the largest width that fits.
    """
    if limit is None or num_parameters < limit:
        return
    fitting = widest(model.design, image_shape, model.num_classes, limit)
    remedy = "no width fits: use fewer stages or blocks (model.stage_sizes)"
    if fitting:
        widths = ",".join(map(str, fitting.widths))
        remedy = f"the largest width that fits is {fitting.widths[0]}: use model.widths"
        remedy = f"{remedy}={widths}"
    raise UserError(
        f"{num_parameters:,} parameters are {num_parameters - limit:,} over the budget "
        f"(fewer than {limit:,}); {remedy}, or budget.limit=None to lift it"
    )
