r"""Speed of several seeds of a config: trained together, and in other arrangements.

python scripts/benchmark_together.py --config configs/quickstart.py [--json FILE]
python scripts/benchmark_together.py --config configs/search/table_8.py:small \
    --design N3-B2 [--json FILE]

"apart": one after another on one device, which is what "faster" compares with;
"each", "unrolled", "vmap": together, in the three forms of the joint call; "divided":
on as many devices as the CPU has cores; "spread": each run on one of them;
"processes": one for each core. `taskset -c 0` before the command leaves it one core.
"""

import json
import pathlib

from absl import flags
from ml_collections import ConfigDict

from cifar_jax import _cli

_CONFIG = _cli.define_config()
_RUNS = flags.DEFINE_integer("runs", 4, "seeds to train", lower_bound=1)
_DESIGN = flags.DEFINE_string("design", None, "of the study that --config holds")
_ROUNDS = flags.DEFINE_integer("rounds", 3, "turns of each", lower_bound=1)
_ARRANGEMENTS = flags.DEFINE_list(
    "arrangements",
    None,
    "such as each,vmap,unrolled_divided,each_spread,processes [all that are here]",
)
_JSON = flags.DEFINE_string("json", None, "file for the record")


def main() -> None:
    """Prints the table and writes the record."""
    from cifar_jax.evaluation import study_speed

    names = _ARRANGEMENTS.value
    if names is None:
        names = list(study_speed.arrangements(study_speed.num_cores()))
    record = study_speed.compare(
        _config(), names, num_runs=_RUNS.value, rounds=_ROUNDS.value
    )
    print(study_speed.table(record))
    if _JSON.value:
        text = json.dumps(record, indent=1, default=str)
        pathlib.Path(_JSON.value).write_text(f"{text}\n")


def _config() -> ConfigDict:
    """Returns the config of a run: the one given, or that of a design."""
    config = _CONFIG.value
    if "study" not in config:
        if _DESIGN.value is not None:
            raise _cli.UsageError("--design is for a study, which --config is not")
        return config
    from cifar_jax.studies import study

    made = study.make(config)
    designs = {each.name: each for each in made.candidates}
    if _DESIGN.value not in designs:
        known = ", ".join(designs) or "a study whose designs are not sampled"
        raise _cli.UsageError(f"--design is {_DESIGN.value!r}; use {known}")
    return made.config(designs[_DESIGN.value], 0)


if __name__ == "__main__":
    _cli.run(main, __doc__)
