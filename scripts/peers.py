"""Speed of a config's network here, in plain Flax and in PyTorch, side by side.

python scripts/peers.py --config configs/cifar10_cpu.py [--output FILE]

All crop and flip on the same batch size, with the same optimiser. "ours is" says how
many times as fast this project is; "host" is the share of the time in which Python or
the dispatch keeps the CPU busy; the first call compiles.
"""

import pathlib

from cifar_jax import UserError, _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    _cli.define_config(flags)
    flags.add_integer(
        "rounds", "turns of each contender [10 on a CPU, else 5]", lower_bound=1
    )
    flags.add_float(
        "seconds", "length of a turn [3 on a CPU, else 20]", lower_bound=0.0
    )
    flags.add_float(
        "minutes", "for all; turns become shorter where they must; 0: no limit", 0.0
    )
    flags.add_list(
        "contenders", "of plain_flax, torch, torch_compiled [all that are installed]"
    )
    flags.add_list("kinds", "what is timed: train, infer", "train,infer")
    flags.add_bool("tiny", "a tiny network, to see that all runs")
    flags.add_string("output", "file for the record")


def main(flags: _cli.Flags) -> None:
    """Prints the table and writes the record."""
    from cifar_jax.evaluation import benchmark, output

    config, rounds, seconds = flags.config, flags.rounds, flags.seconds
    if flags.tiny:
        config.model.update(stage_sizes=(1,), widths=(8,), strides=(2,))
        config.train.batch_size, rounds, seconds = 16, 2, 0.0
    names = benchmark.available()
    for name in flags.contenders or ():
        if name not in names:
            raise UserError(f"contender {name!r} is not here; use {', '.join(names)}")
    for kind in flags.kinds:
        if kind not in ("train", "infer"):
            raise _cli.UsageError(f"--kinds has {kind!r}; use train, infer, or both")
    record = benchmark.compare(
        config,
        flags.contenders or names,
        kinds=flags.kinds,
        rounds=rounds,
        seconds=seconds,
        minutes=flags.minutes,
    )
    print(benchmark.table(record))
    if flags.output:
        output.write_json(pathlib.Path(flags.output), record)


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
