"""A record: a recipe run with several seeds on one device, as a file.

python scripts/records.py --config configs/records/seconds.py --minutes 9

Stopped by its time limit, a signal or a crash, the same command goes on: seeds that the
file holds are kept, and a run that was begun goes on from its checkpoint.
"""

import pathlib
import shlex
import sys

from absl import flags

from cifar_jax import _cli

_CONFIG = _cli.define_config()
_SEEDS = flags.DEFINE_list("seeds", "0,1,2", "seeds, in their order")
_MINUTES = flags.DEFINE_float(
    "minutes", 0.0, "after which it saves and ends with 0; 0: never", lower_bound=0.0
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "file of the record [results/records/ and the config's name]"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "for the run directories [runs/records/ and the config's name]"
)
_DATA_NOTE = flags.DEFINE_string(
    "data_note", None, "how the data differ from the original files [what is known]"
)


def main() -> None:
    """Runs what is missing and prints what the file holds."""
    from cifar_jax.evaluation import record_text, records

    name = _cli.config_name(flags.FLAGS["config"].config_filename)
    record = records.make(
        _CONFIG.value,
        _seeds(),
        recipe=name,
        command=shlex.join(["python", *sys.argv]),
        output=pathlib.Path(_OUTPUT.value or f"results/records/{name}.json"),
        workdir=pathlib.Path(_WORKDIR.value or f"runs/records/{name}"),
        minutes=_MINUTES.value,
        note=_DATA_NOTE.value,
    )
    print(record_text.lines(record))


def _seeds() -> list[int]:
    try:
        seeds = [int(text) for text in _SEEDS.value]
    except ValueError as error:
        raise _cli.UsageError(
            f"--seeds is {','.join(_SEEDS.value)!r}; give whole numbers, such as 0,1,2"
        ) from error
    if not seeds or len(set(seeds)) < len(seeds):
        raise _cli.UsageError(f"--seeds is {_SEEDS.value}; give each seed once")
    return seeds


if __name__ == "__main__":
    _cli.run(main, __doc__)
