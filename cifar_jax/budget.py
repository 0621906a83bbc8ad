"""Shows a network's layers and its budget: python -m cifar_jax.budget --config FILE.

Any --config.model.KEY=VALUE may change the network. Over the budget (budget.limit) the
exit code is 1, and the error names the largest width that fits. Nothing is allocated.
"""

import dataclasses
import json

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_bool("json", "print one JSON object instead of the table")


def main(flags: _cli.Flags) -> None:
    """Prints the layer table, its totals and the budget line."""
    from cifar_jax.data import sources  # slow to import: not for --help
    from cifar_jax.models import count, resnet

    config = flags.config
    data = config.data
    source = sources.open(data.name, data.dir, image_size=data.image_size)
    shape, limit = source.image_shape, count.checked_limit(config.budget.limit)
    model = resnet.create(
        num_classes=source.num_classes, image_shape=shape, **config.model.to_dict()
    )
    rows, facts = count.layer_table(model, shape), _facts(model, shape, limit)
    if flags.json:
        layers = [dataclasses.asdict(row) for row in rows]
        print(json.dumps(facts | {"layers": layers}, indent=2))
    else:
        print(count.format_table(rows, limit))
        print(_counts(facts))
    count.check_budget(facts["num_parameters"], limit, model, shape)


def _facts(model, image_shape, limit) -> dict:
    """Returns what --json prints, without the layers."""
    from cifar_jax.models import count, formula

    design, num_classes = model.design, model.num_classes
    num_parameters = count.num_parameters(model, image_shape)
    widest = limit and formula.widest(design, image_shape, num_classes, limit)
    macs = count.macs(model, image_shape)
    return {
        "num_parameters": num_parameters,
        "closed_form": formula.closed_form(design, image_shape, num_classes),
        "macs_per_image": macs,
        "flops_per_image": 2 * macs,
        "limit": limit,
        "within_budget": limit is None or num_parameters < limit,
        "widest_within_budget": list(widest.widths) if widest else None,
    }


def _counts(facts: dict) -> str:
    """Returns both counts, and how wide the network may become."""
    line = f"counted by pytree: {facts['num_parameters']:,}"
    line += f"; by formula: {facts['closed_form']:,}"
    if facts["widest_within_budget"]:
        line += (
            f"; widest that fits: {'-'.join(map(str, facts['widest_within_budget']))}"
        )
    return line


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
