"""Where the time of a config's training step goes here, beside its floor.

python scripts/breakdown.py --config configs/records/best.py [--output FILE]

The step is the recipe's, in the middle of its run.
"""

import pathlib

from absl import flags

from cifar_jax import _cli

_CONFIG = _cli.define_config()
_STEPS = flags.DEFINE_integer(
    "steps", None, "of a timing and of the trace [5 on a CPU, else 20]", lower_bound=1
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "file for the record [results/breakdown/ and the config's name]"
)


def main() -> None:
    """Prints the table and writes the record."""
    from cifar_jax.evaluation import breakdown, output

    name = _cli.config_name(flags.FLAGS["config"].config_filename)
    record = {
        "recipe": name,
        **breakdown.measure(_CONFIG.value, steps=_STEPS.value),
    }
    path = pathlib.Path(_OUTPUT.value or f"results/breakdown/{name}.json")
    output.write_json(path, record)
    print(f"{breakdown.table(record)}\n{path}")


if __name__ == "__main__":
    _cli.run(main, __doc__)
