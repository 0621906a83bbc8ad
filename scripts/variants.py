"""What else a config's training step could be: each way beside the step as it is.

python scripts/variants.py --config configs/records/best.py --minutes 9

Steps in a dispatch, XLA's flags, layouts, channels, BatchNorm's formulation, and forms
of pooling. Stopped by its time limit, the same command goes on with the groups left.
"""

import pathlib

from absl import flags

from cifar_jax import _cli

_CONFIG = _cli.define_config()
_GROUPS = flags.DEFINE_list(
    "groups", None, "of dispatch, graphs, network, compiler, widths [all]"
)
_ROUNDS = flags.DEFINE_integer("rounds", None, "turns of each [5]", lower_bound=1)
_SECONDS = flags.DEFINE_float(
    "seconds", None, "length of a turn [2 on a CPU, else 4]", lower_bound=0.0
)
_MINUTES = flags.DEFINE_float(
    "minutes", 0.0, "after which no group is begun; 0: no limit", lower_bound=0.0
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "file for the record [results/variants/ and the config's name]"
)


def main() -> None:
    """Measures what is missing and prints what the file holds."""
    from cifar_jax.evaluation import variant_list, variants

    name = _cli.config_name(flags.FLAGS["config"].config_filename)
    groups = _GROUPS.value or variant_list.GROUPS
    for group in groups:
        if group not in variant_list.GROUPS:
            known = ", ".join(variant_list.GROUPS)
            raise _cli.UsageError(f"--groups has {group!r}; use {known}")
    record = variants.measure(
        _CONFIG.value,
        [each for each in variant_list.VARIANTS if each.group in groups],
        recipe=name,
        output=pathlib.Path(_OUTPUT.value or f"results/variants/{name}.json"),
        rounds=_ROUNDS.value,
        seconds=_SECONDS.value,
        minutes=_MINUTES.value,
    )
    print(variants.table(record))


if __name__ == "__main__":
    _cli.run(main, __doc__)
