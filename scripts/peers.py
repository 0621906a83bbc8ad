"""Speed of a config's network here, in plain Flax and in PyTorch, side by side.

python scripts/peers.py --config configs/cifar10_cpu.py [--output FILE]

All crop and flip on the same batch size, with the same optimiser. "ours is" says how
many times as fast this project is; "host" is the share of the time in which Python or
the dispatch keeps the CPU busy; the first call compiles.
"""

import pathlib

from absl import flags

from cifar_jax import UserError, _cli

_CONFIG = _cli.define_config()
_ROUNDS = flags.DEFINE_integer(
    "rounds", None, "turns of each contender [10 on a CPU, else 5]", lower_bound=1
)
_SECONDS = flags.DEFINE_float(
    "seconds", None, "length of a turn [3 on a CPU, else 20]", lower_bound=0.0
)
_MINUTES = flags.DEFINE_float(
    "minutes", 0.0, "for all; turns become shorter where they must; 0: no limit"
)
_CONTENDERS = flags.DEFINE_list(
    "contenders", None, "of plain_flax, torch, torch_compiled [all that are installed]"
)
_KINDS = flags.DEFINE_list("kinds", "train,infer", "what is timed: train, infer")
_TINY = flags.DEFINE_bool("tiny", False, "a tiny network, to see that all runs")
_OUTPUT = flags.DEFINE_string("output", None, "file for the record")


def main() -> None:
    """Prints the table and writes the record."""
    from cifar_jax.evaluation import benchmark, output

    config, rounds, seconds = _CONFIG.value, _ROUNDS.value, _SECONDS.value
    if _TINY.value:
        config.model.update(stage_sizes=(1,), widths=(8,), strides=(2,))
        config.train.batch_size, rounds, seconds = 16, 2, 0.0
    names = benchmark.available()
    for name in _CONTENDERS.value or ():
        if name not in names:
            raise UserError(f"contender {name!r} is not here; use {', '.join(names)}")
    for kind in _KINDS.value:
        if kind not in ("train", "infer"):
            raise _cli.UsageError(f"--kinds has {kind!r}; use train, infer, or both")
    record = benchmark.compare(
        config,
        _CONTENDERS.value or names,
        kinds=_KINDS.value,
        rounds=rounds,
        seconds=seconds,
        minutes=_MINUTES.value,
    )
    print(benchmark.table(record))
    if _OUTPUT.value:
        output.write_json(pathlib.Path(_OUTPUT.value), record)


if __name__ == "__main__":
    _cli.run(main, __doc__)
