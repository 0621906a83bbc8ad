"""Everything that is measured on one accelerator, within a time limit.

python scripts/lease.py --minutes 9

A check, then peers, records, breakdowns and variants of configs/records, each with a
file in --output as soon as it is measured. Typed again, the command goes on, until it
says that all is done. --form=tiny runs all of it on a CPU in some minutes.
"""

import pathlib

from absl import flags

from cifar_jax import _cli

_MINUTES = flags.DEFINE_float(
    "minutes", 0.0, "for this call, about; 0: no limit", lower_bound=0.0
)
_STEPS = flags.DEFINE_list(
    "steps", None, 'of the plan, such as "records seconds-full,breakdown best" [all]'
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "folder for the files [results; of the tiny form, runs/tiny]"
)
_WORKDIR = flags.DEFINE_string("workdir", None, "for run directories [runs/records]")
_CONFIGS = flags.DEFINE_string("configs", "configs/records", "folder of the recipes")
_SOURCE = flags.DEFINE_string(
    "source", None, "local copy of CIFAR-10 to prepare the data set from"
)
_DATA_NOTE = flags.DEFINE_string(
    "data_note", None, "how the data differ from the original files [what is known]"
)
_FORM = flags.DEFINE_string("form", "", "of the recipes, such as tiny")
_LIST = flags.DEFINE_bool("list", False, "only print the commands, and what is done")


def main() -> int:
    """Runs the plan and says what is left."""
    from cifar_jax.evaluation import lease

    output = "runs/tiny" if _FORM.value == "tiny" else "results"
    steps = lease.plan(
        pathlib.Path(_CONFIGS.value),
        pathlib.Path(_OUTPUT.value or output),
        pathlib.Path(_WORKDIR.value or "runs/records"),
        form=_FORM.value,
        source=_SOURCE.value,
        note=_DATA_NOTE.value,
    )
    names = [step.name for step in steps]
    for name in _STEPS.value or ():
        if name not in names:
            raise _cli.UsageError(f"--steps has {name!r}; use {', '.join(names)}")
    steps = [step for step in steps if step.name in (_STEPS.value or names)]
    if _LIST.value:
        for step in steps:
            state = "done" if step.is_done() else "left"
            print(f"{state}: python {' '.join(step.command)}")
        return 0
    found = lease.run(steps, _MINUTES.value)
    for state, those in found.items():
        print(f"{state}: {', '.join(those) or 'none'}")
    if found["left"] or found["failed"]:
        print("the same command goes on")
    else:
        print("all done")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    _cli.run(main, __doc__)
