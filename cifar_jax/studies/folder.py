"""The folder of a study, from its claim to its tables."""

import json
import pathlib
import time

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax._files import replacing
from cifar_jax.config import RESUMABLE_KEYS, config_diff, config_to_dict
from cifar_jax.data import sources
from cifar_jax.studies import live, results, table
from cifar_jax.studies.crew import Crew
from cifar_jax.studies.journal import Journal
from cifar_jax.studies.study import Study

# Keys that a study may go on with other values of: it then has more runs, or its runs
# other resources. Those of `base` are the run directories'.
FREE_KEYS = (
    *("study.seeds", "study.trials", "study.finalists"),
    *("study.latency", "study.together"),  # the second is one of older versions
)
_LOOK_SECONDS = 0.5


def run(
    study: Study,
    config: ConfigDict,
    folder: pathlib.Path,
    *,
    command: list[str],
    workers: int,
    retry_failed: bool,
) -> int:
    """Runs, joins or goes on with a study; returns the command's exit code.

    Args:
      study: As `study.make` has made it.
      config: That it was made of.
      folder: Where.
      command: Of a worker.
      workers: How many, here.
      retry_failed: Whether to do failed runs once more.

    Raises:
      UserError: If the folder holds another study, or no run can be done.
    """
    claim(folder, config)
    journal = Journal(study, folder)
    if retry_failed:
        journal.retry_failed()
    view = live.View(study)
    code = 0
    done = journal.is_done()
    if not done or not results.is_scored(study, _rows(study, journal), folder):
        _prepare(study)
        code = _work(study, journal, view, command, workers)
    found = _rows(study, journal)
    with journal.alone("tables"):
        results.write(study, found, folder)
    view.summarise(found, folder, code)
    if code == 0 and not any(row.count("done") for row in found):
        raise UserError(
            f"no run of the study has ended well; {folder}/table.md says why, and "
            "--retry_failed tries them again"
        )
    return code


def _work(study: Study, journal: Journal, view, command, workers: int) -> int:
    crew = Crew(
        command, size=workers, threads=study.threads, folder=journal.folder / "logs"
    )
    with crew, view:
        while crew.tend():
            view.show(_rows(study, journal))
            time.sleep(_LOOK_SECONDS)
        view.show(_rows(study, journal))
    return crew.exit_code


def _rows(study: Study, journal: Journal) -> list[table.Row]:
    return table.rows(study, journal.candidates(), journal.trials())


def claim(folder: pathlib.Path, config: ConfigDict) -> None:
    """Writes the config of a study, or refuses a folder that holds another one.

    Raises:
      UserError: names the keys that differ.
    """
    path, new = folder / "study.json", config_to_dict(config)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists():
            changed = config_diff(json.loads(path.read_text()), new, _free())
            if changed:
                raise UserError(
                    f"{folder} holds a study of another config "
                    f"({'; '.join(changed.values())}); use the old values, or choose "
                    "another --workdir"
                )
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(new, indent=2) + "\n")
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror}); choose another --workdir"
        ) from error


def _free() -> tuple[str, ...]:
    return (*FREE_KEYS, *(f"base.{key}" for key in RESUMABLE_KEYS))


def _prepare(study: Study) -> None:
    """Prepares the data set before workers would do so at once."""
    data = study.rules.base.data
    sources.open(data.name, data.dir, local=data.source).prepare()
