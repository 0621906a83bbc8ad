"""What else a config's training step could be: each way beside the step as it is.

python scripts/variants.py --config configs/records/best.py --minutes 9

Steps in a dispatch, XLA's flags, layouts, channels, BatchNorm's formulation, and forms
of pooling. Stopped by its time limit, the same command goes on with the groups left.
"""

import pathlib

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_list("groups", "of dispatch, graphs, network, compiler, widths [all]")
    flags.add_integer("rounds", "turns of each [5]", lower_bound=1)
    flags.add_float("seconds", "length of a turn [2 on a CPU, else 4]", lower_bound=0.0)
    flags.add_float(
        "minutes", "after which no group is begun; 0: no limit", 0.0, lower_bound=0.0
    )
    flags.add_string(
        "output", "file for the record [results/variants/ and the config's name]"
    )


def main(flags: _cli.Flags) -> None:
    """Measures what is missing and prints what the file holds."""
    from cifar_jax.evaluation import variant_list, variants

    name = flags.config_name
    groups = flags.groups or variant_list.GROUPS
    for group in groups:
        if group not in variant_list.GROUPS:
            known = ", ".join(variant_list.GROUPS)
            raise _cli.UsageError(f"--groups has {group!r}; use {known}")
    record = variants.measure(
        flags.config,
        [each for each in variant_list.VARIANTS if each.group in groups],
        recipe=name,
        output=pathlib.Path(flags.output or f"results/variants/{name}.json"),
        rounds=flags.rounds,
        seconds=flags.seconds,
        minutes=flags.minutes,
    )
    print(variants.table(record))


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
