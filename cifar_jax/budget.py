"""Shows a network's layers and its budget: python -m cifar_jax.budget --config FILE.

Any --config.model.KEY=VALUE may change the network. Over the budget (budget.limit) the
exit code is 1, and the error names the largest width that fits. Nothing is allocated.
"""

import dataclasses
import json

from cifar_jax import _cli
from cifar_jax import config as default


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_bool("json", "print one JSON object instead of the table")


def main(flags: _cli.Flags) -> None:
    """Prints the layer table, its totals and the budget line."""
    if not flags.json:
        print(f"{flags.config_path}: for {flags.config.data.name}", flush=True)
    from cifar_jax.data import sources  # slow to import: not for --help
    from cifar_jax.models import count, resnet

    config = flags.config
    default.check(config)
    data, limit = config.data, config.budget.limit
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    shape, num_classes = source.image_shape, source.num_classes
    model = resnet.create(num_classes=num_classes, image_shape=shape, **config.model)
    layers = count.layer_table(model, shape)
    num_parameters, macs = count.num_parameters(model, shape), count.total(layers).macs
    closed_form = count.closed_form(model.design, shape, num_classes)
    fitting = limit is not None and count.largest_width_under_budget(
        model.design, shape, num_classes, limit
    )
    widths = fitting.widths if fitting else None  # of the widest of these proportions
    if flags.json:
        facts = {
            "num_parameters": num_parameters,
            "closed_form": closed_form,
            "macs_per_image": macs,
            "flops_per_image": 2 * macs,
            "limit": limit,
            "within_budget": limit is None or num_parameters < limit,
            "widest_within_budget": widths,
            "layers": [dataclasses.asdict(layer) for layer in layers],
        }
        print(json.dumps(facts, indent=2))
    else:
        print(count.format_table(layers, limit))
        widest = f"; widest that fits: {'-'.join(map(str, widths))}" if widths else ""
        counts = f"by pytree: {num_parameters:,}; by formula: {closed_form:,}"
        print(f"counted {counts}{widest}")
    count.check_budget(num_parameters, limit, model, shape)


if __name__ == "__main__":
    _cli.run()
