"""What a study costs, before it is started: `--plan`."""

import os

import optuna

from cifar_jax import _runtime
from cifar_jax.studies import designs, table
from cifar_jax.studies.designs import Candidate
from cifar_jax.studies.study import Study
from cifar_jax.studies.table import Row

NUM_EXAMPLES = 12  # of a space that is sampled


def show(study: Study, *, measure: bool, workers: int) -> None:
    """Prints the designs of a study with their size, and the time that runs would take.

    Args:
      study: Study that is planned.
      measure: Whether to measure the time of one run here; that of the others follows
        from their multiply-adds.
      workers: Number of runs that are done side by side.
    """
    from cifar_jax.models import count, resnet
    from cifar_jax.training import dry_run
    from cifar_jax.training.progress import clock_time

    threads = study.options.threads or max(1, (os.cpu_count() or 1) // workers)
    os.environ.setdefault("NPROC", str(threads))  # as a worker has it
    _runtime.start(study.rules.base.train.cpu_devices)
    shape, num_classes = study.rules.image_shape, study.rules.num_classes
    candidates = study.candidates or examples(study)
    rows = {c.name: Row(c) for c in candidates if not c.skip_reason}
    macs = {}
    for name, row in rows.items():
        options = row.candidate.config.model.to_dict()
        model = resnet.create(num_classes=num_classes, image_shape=shape, **options)
        macs[name] = count.macs(model, shape)
    columns = table.columns(study, list(rows.values()), study.factors)
    columns["MACs"] = lambda row: f"{macs[row.candidate.name]:,}"
    num_designs = study.options.trials if study.is_sampled else len(rows)
    note = f"{num_designs} designs, {study.num_runs} runs"
    if measure:
        middle = sorted(rows, key=macs.__getitem__)[len(rows) // 2]
        print(f"measuring a run of {middle}", flush=True)
        factor = dry_run.seconds(rows[middle].candidate.config) / macs[middle]
        columns["time of a run"] = lambda row: clock_time(
            macs[row.candidate.name] * factor
        )
        mean = sum(macs.values()) / len(rows) * factor
        total = clock_time(study.num_runs * mean / workers)
        note += f": about {total} here with --workers={workers}. That of {middle} is "
        note += f"measured ({threads} CPU threads), the others follow from the MACs"
    print(table.grid(columns, rows.values()))
    for candidate in candidates:
        if candidate.skip_reason:
            print(f"never started: {candidate.name}: {candidate.skip_reason}")
    print(note)


def examples(study: Study) -> list[Candidate]:
    """Returns some designs of a space that is sampled; the same ones each time."""
    sampler = optuna.samplers.RandomSampler(seed=study.options.sampler_seed)
    draw = optuna.create_study(sampler=sampler)
    return [
        designs.candidate(study.rules, draw.ask(study.distributions).params, f"e{n}")
        for n in range(NUM_EXAMPLES)
    ]
