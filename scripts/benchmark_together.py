"""Speed of several seeds of a config: trained together, and in other arrangements.

python scripts/benchmark_together.py --config configs/quickstart.py [--json FILE]

"apart": one after another on one device, which is what "faster" compares with;
"unrolled", "vmap": together, in the two forms of the joint call; "divided": on as many
devices as the CPU has cores; "processes": one for each core.
"""

import json
import pathlib

from absl import flags

from cifar_jax import _cli

_CONFIG = _cli.define_config()
_RUNS = flags.DEFINE_integer("runs", 4, "seeds to train", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "turns of each", lower_bound=1)
_ARRANGEMENTS = flags.DEFINE_list(
    "arrangements",
    None,
    "of unrolled, vmap, apart_divided, unrolled_divided, processes [all that are here]",
)
_JSON = flags.DEFINE_string("json", None, "file for the record")


def main() -> None:
    """Prints the table and writes the record."""
    from cifar_jax.analysis import study_speed

    names = _ARRANGEMENTS.value
    if names is None:
        names = list(study_speed.arrangements(study_speed.num_cores()))
    record = study_speed.compare(
        _CONFIG.value, names, num_runs=_RUNS.value, rounds=_ROUNDS.value
    )
    print(study_speed.table(record))
    if _JSON.value:
        text = json.dumps(record, indent=1, default=str)
        pathlib.Path(_JSON.value).write_text(f"{text}\n")


if __name__ == "__main__":
    _cli.run(main, __doc__)
