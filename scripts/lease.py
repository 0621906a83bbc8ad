"""Everything that is measured on one accelerator, within a time limit.

python scripts/lease.py --minutes 9

A check, then peers, records, breakdowns and variants of configs/records, each with a
file in --output as soon as it is measured. Typed again, the command goes on, until it
says that all is done. --form=tiny runs all of it on a CPU in some minutes.
"""

import pathlib

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_float(
        "minutes", "for this call, about; 0: no limit", 0.0, lower_bound=0.0
    )
    flags.add_list(
        "steps",
        'of the plan, such as "records seconds-full,breakdown best" [all]',
    )
    flags.add_string(
        "output", "folder for the files [results; of the tiny form, runs/tiny]"
    )
    flags.add_string("workdir", "for run directories [runs/records]")
    flags.add_string("configs", "folder of the recipes", "configs/records")
    flags.add_string("source", "local copy of CIFAR-10 to prepare the data set from")
    flags.add_string(
        "data_note", "how the data differ from the original files [what is known]"
    )
    flags.add_string("form", "of the recipes, such as tiny", "")
    flags.add_bool("list", "only print the commands, and what is done")


def main(flags: _cli.Flags) -> int:
    """Runs the plan and says what is left."""
    from cifar_jax.evaluation import lease

    output = "runs/tiny" if flags.form == "tiny" else "results"
    steps = lease.plan(
        pathlib.Path(flags.configs),
        pathlib.Path(flags.output or output),
        pathlib.Path(flags.workdir or "runs/records"),
        form=flags.form,
        source=flags.source,
        note=flags.data_note,
    )
    names = [step.name for step in steps]
    for name in flags.steps or ():
        if name not in names:
            raise _cli.UsageError(f"--steps has {name!r}; use {', '.join(names)}")
    steps = [step for step in steps if step.name in (flags.steps or names)]
    if flags.list:
        for step in steps:
            state = "done" if step.is_done() else "left"
            print(f"{state}: python {' '.join(step.command)}")
        return 0
    found = lease.run(steps, flags.minutes)
    for state, those in found.items():
        print(f"{state}: {', '.join(those) or 'none'}")
    if found["left"] or found["failed"]:
        print("the same command goes on")
    else:
        print("all done")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    _cli.run(define_flags, main, __doc__)
