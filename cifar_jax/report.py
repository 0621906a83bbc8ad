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

from cifar_jax import _cli

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
        return _records(operands)
    if _CHECK.value:
        raise _cli.UsageError("--check needs --records")
    if not operands:
        raise _cli.UsageError("RUN is missing, such as runs/quickstart")
    # slow to import: not for --help
    import jax

    from cifar_jax.analysis.report import build, evaluating

    absl.logging.set_verbosity(absl.logging.ERROR)  # Orbax warns of what is asked for
    runs = build.read(operands)
    if not (_EVALUATE.value and all(run.result for run in runs)):
        # The accelerator is at work, or there is no work for it.
        jax.config.update("jax_platforms", "cpu")
    if _EVALUATE.value:
        evaluating.evaluate(runs)
        runs = build.read(operands)
    document = build.make(runs, datetime.datetime.now())
    folder = pathlib.Path(_OUTPUT.value or build.default_folder(runs))
    files = build.write(document, folder)
    for line in build.lines(runs):
        print(line)
    print(f"{folder}: {', '.join(files)}")


def _records(operands: list[str]) -> int:
    for flag in (_OUTPUT, _EVALUATE):
        if flag.value:
            raise _cli.UsageError(f"--{flag.name} and --records: leave one out")
    if len(operands) > 1:
        raise _cli.UsageError(f"unexpected argument {operands[1]!r}; give one FOLDER")
    from cifar_jax.analysis.report import published

    pages = published.pages(pathlib.Path(operands[0] if operands else "results"))
    stale = [path for path, text in pages.items() if path.read_text() != text]
    if not _CHECK.value:
        published.write({path: pages[path] for path in stale})
    for path in pages:
        state = "up to date"
        if path in stale:
            state = "not up to date" if _CHECK.value else "written"
        print(f"{path}: {state}")
    return int(_CHECK.value and bool(stale))


if __name__ == "__main__":
    _cli.run(main, __doc__, operands=True)
