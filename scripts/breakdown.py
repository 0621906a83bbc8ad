"""Where the time of a config's training step goes here, beside its floor.

python scripts/breakdown.py --config configs/records/best.py [--output FILE]

The step is the recipe's, in the middle of its run.
"""

import pathlib

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_integer(
        "steps", "of a timing and of the trace [5 on a CPU, else 20]", lower_bound=1
    )
    flags.add_string(
        "output", "file for the record [results/breakdown/ and the config's name]"
    )


def main(flags: _cli.Flags) -> None:
    """Prints the table and writes the record."""
    from cifar_jax.evaluation import breakdown, output

    name = flags.config_name
    record = {
        "recipe": name,
        **breakdown.measure(flags.config, steps=flags.steps),
    }
    path = pathlib.Path(flags.output or f"results/breakdown/{name}.json")
    output.write_json(path, record)
    print(f"{breakdown.table(record)}\n{path}")


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
