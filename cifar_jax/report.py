"""Reports on runs: python -m cifar_jax.report RUN [RUN ...].

RUN is a run directory, which may still be trained in, or a result.json. Writes
report.html, which needs no other file, report.md with the same tables, and plots/*.png.

python -m cifar_jax.report --records [FOLDER] writes the table of the published records
into FOLDER/README.md and the README.md above it [FOLDER: results].
"""

import datetime
import pathlib

import absl.logging
from absl import flags

from cifar_jax import UserError, _cli

_OUTPUT = flags.DEFINE_string(
    "output", None, "folder [the run directory; of several runs, runs/report]"
)
_EVALUATE = flags.DEFINE_bool(
    "evaluate", False, "first evaluate the best weights of runs that lack it"
)
_RECORDS = flags.DEFINE_bool("records", False, "write the table of published records")
_CHECK = flags.DEFINE_bool(
    "check", False, "with --records: write nothing, fail if a table is not up to date"
)


def main(operands: list[str]) -> None:
    """Writes a report, or the table of records."""
    if _RECORDS.value:
        _records(operands)
        return
    if _CHECK.value:
        raise _cli.UsageError("--check needs --records")
    if not operands:
        raise _cli.UsageError("RUN is missing, such as runs/quickstart")
    # slow to import: not for --help
    import jax

    from cifar_jax.reporting import build, evaluating
    from cifar_jax.reporting.runs import read_all

    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns of what is asked for
    runs = read_all(operands)
    if not (_EVALUATE.value and all(run.result for run in runs)):
        # The accelerator is at work, or there is no work for it.
        jax.config.update("jax_platforms", "cpu")
    if _EVALUATE.value:
        evaluating.evaluate_missing(runs)
        runs = read_all(operands)
    document = build.make(runs, datetime.datetime.now())
    folder = pathlib.Path(_OUTPUT.value or build.default_folder(runs))
    files = build.write(document, folder)
    for line in build.lines(runs):
        print(line)
    print(f"{folder}: {', '.join(files)}")


def _records(operands: list[str]) -> None:
    for flag in (_OUTPUT, _EVALUATE):
        if flag.value:
            raise _cli.UsageError(f"--{flag.name} and --records: leave one out")
    if len(operands) > 1:
        raise _cli.UsageError(f"unexpected argument {operands[1]!r}; give one FOLDER")
    from cifar_jax.reporting import published

    pages = published.pages(pathlib.Path(operands[0] if operands else "results"))
    stale = [path for path, text in pages.items() if path.read_text() != text]
    if stale and _CHECK.value:
        raise UserError(
            f"{' and '.join(map(str, stale))} not up to date with the records; run "
            "python -m cifar_jax.report --records"
        )
    for path in pages:
        if path in stale:
            published.write(path, pages[path])
        print(f"{path}: {'written' if path in stale else 'up to date'}")


if __name__ == "__main__":
    _cli.run(main, __doc__, operands=True)
