"""A record: a recipe run with several seeds on one device, as a file.

python scripts/records.py --config configs/records/seconds.py --minutes 9

Stopped by its time limit, a signal or a crash, the same command goes on: seeds that the
file holds are kept, and a run that was begun goes on from its checkpoint.
"""

import pathlib
import shlex
import sys

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_list("seeds", "seeds, in their order", "0,1,2")
    flags.add_float(
        "minutes",
        "after which it saves and ends with 0; 0: never",
        0.0,
        lower_bound=0.0,
    )
    flags.add_string(
        "output", "file of the record [results/records/ and the config's name]"
    )
    flags.add_string(
        "workdir", "for the run directories [runs/records/ and the config's name]"
    )
    flags.add_string(
        "data_note", "how the data differ from the original files [what is known]"
    )


def main(flags: _cli.Flags) -> None:
    """Runs what is missing and prints what the file holds."""
    from cifar_jax.evaluation import record_text, records

    name = flags.config_name
    record = records.make(
        flags.config,
        _seeds(flags.seeds),
        recipe=name,
        command=shlex.join(["python", *sys.argv]),
        output=pathlib.Path(flags.output or f"results/records/{name}.json"),
        workdir=pathlib.Path(flags.workdir or f"runs/records/{name}"),
        minutes=flags.minutes,
        note=flags.data_note,
    )
    print(record_text.lines(record))


def _seeds(texts: list[str]) -> list[int]:
    try:
        seeds = [int(text) for text in texts]
    except ValueError as error:
        raise _cli.UsageError(
            f"--seeds is {','.join(texts)!r}; give whole numbers, such as 0,1,2"
        ) from error
    if not seeds or len(set(seeds)) < len(seeds):
        raise _cli.UsageError(f"--seeds is {','.join(texts)}; give each seed once")
    return seeds


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
