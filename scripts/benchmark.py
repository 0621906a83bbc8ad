"""Speed of a config's network here, in plain Flax and in PyTorch, side by side.

python scripts/benchmark.py --config configs/cifar10_cpu.py [--json FILE]

All crop and flip on the same batch size, with the same optimiser. "ours is" says how
many times as fast this project is; "host" is the share of the time in which Python or
the dispatch keeps the CPU busy; the first call compiles.
"""

import json
import pathlib

from absl import flags

from cifar_jax import UserError, _cli

_CONFIG = _cli.define_config()
_ROUNDS = flags.DEFINE_integer("rounds", 10, "turns of each contender", lower_bound=1)
_SECONDS = flags.DEFINE_float("seconds", 3.0, "length of a turn", lower_bound=0.0)
_CONTENDERS = flags.DEFINE_list(
    "contenders", None, "of plain_flax, torch, torch_compiled [all that are installed]"
)
_TINY = flags.DEFINE_bool("tiny", False, "a tiny network, to see that all runs")
_JSON = flags.DEFINE_string("json", None, "file for the record")


def main() -> None:
    """Prints the table and writes the record."""
    from cifar_jax.analysis import benchmark

    config, rounds, seconds = _CONFIG.value, _ROUNDS.value, _SECONDS.value
    if _TINY.value:
        config.model.update(stage_sizes=(1,), widths=(8,), strides=(2,))
        config.train.batch_size, rounds, seconds = 16, 2, 0.0
    names = benchmark.available()
    for name in _CONTENDERS.value or ():
        if name not in names:
            raise UserError(f"contender {name!r} is not here; use {', '.join(names)}")
    record = benchmark.compare(
        config, _CONTENDERS.value or names, rounds=rounds, seconds=seconds
    )
    print(benchmark.table(record))
    if _JSON.value:
        text = json.dumps(record, indent=1, default=str)
        pathlib.Path(_JSON.value).write_text(f"{text}\n")


if __name__ == "__main__":
    _cli.run(main, __doc__)
