"""What matters most about one run, and its settings."""

import datetime
from collections.abc import Sequence

from cifar_jax.config import flatten
from cifar_jax.evaluation import scores
from cifar_jax.models import count
from cifar_jax.reporting import commands
from cifar_jax.reporting.comparison import how_chosen, shown
from cifar_jax.reporting.document import (
    Cell,
    Fact,
    Facts,
    Note,
    Section,
    Table,
)
from cifar_jax.reporting.groups import Group
from cifar_jax.reporting.networks import Networks
from cifar_jax.reporting.run import Run
from cifar_jax.reporting.text import CHOSEN_ON_TEST, DAGGER, accuracy, gflops
from cifar_jax.training.progress import clock_time


def section(run: Run, networks: Networks) -> Section:
    """Returns the figures of one run."""
    facts = [_test(run), _augmented(run), _validation(run), *_size(run, networks)]
    if run.result:
        facts += _ended(run)
    elif not run.imported:
        facts.append(_progress(run))
    if run.latency:
        facts.append(_latency(run))
    blocks = [Facts([fact for fact in facts if fact])]
    if run.chose_on_test and run.result:
        blocks.append(Note(CHOSEN_ON_TEST, warns=True))
    elif not run.ended:
        blocks.append(Note(_live(run)))
    if run.ended and not run.is_record and not run.latency:
        text = "Latency is not measured yet."
        blocks.append(Note(text, commands.evaluate(run)))
    return Section("Summary", blocks)


def _test(run: Run) -> Fact:
    if run.imported:
        return _imported(run)
    if not run.result:
        return Fact("Test accuracy", "not yet", "scored once, when the run ends")
    if run.test is None:
        return Fact("Test accuracy", "not scored", "evaluate.test is False")
    total = run.result["test"].get("num_examples")
    mark = DAGGER if run.chose_on_test else ""
    detail = "the epoch was chosen on them" if run.chose_on_test else "scored once"
    if total:
        low, high = scores.wilson_interval(round(run.test * total), total)
        detail = f"95% interval {low:.4f} to {high:.4f}; {total:,} images, {detail}"
    return Fact("Test accuracy", f"{accuracy(run.test)}{mark}", detail)


def _augmented(run: Run) -> Fact | None:
    if run.test_tta is None:
        return None
    name = run.setting("evaluate.tta")
    detail = f"test-time augmentation: {name}" if name else ""
    return Fact("Test accuracy, augmented", accuracy(run.test_tta), detail)


def _imported(run: Run) -> Fact:
    if not run.evaluation or run.evaluation.split != "test":
        return Fact("Test accuracy", "not yet", "the weights were imported")
    scores = run.evaluation.record["scores"]
    low, high = scores["accuracy_interval"]
    detail = f"of imported weights; 95% interval {low:.4f} to {high:.4f}"
    return Fact("Test accuracy", accuracy(scores["accuracy"]), detail)


def _validation(run: Run) -> Fact | None:
    if run.validation is None:
        return None
    so_far = "" if run.result else " so far"
    detail = f"epoch {run.best_epoch} of {run.epochs_done}, chosen by {how_chosen(run)}"
    if run.result and "num_examples" in run.result["val"]:
        detail += f"; {run.result['val']['num_examples']:,} images"
    return Fact(f"Validation accuracy{so_far}", accuracy(run.validation), detail)


def _size(run: Run, networks: Networks) -> list[Fact]:
    parameters, flops = networks.parameters(run), networks.flops(run)
    if parameters is None:
        return []
    stands = count.budget_line(parameters, run.setting("budget.limit"))
    detail = stands.split(" parameters", 1)[1].lstrip(":; ")
    if run.num_nonzero is not None:
        detail += f"; {run.num_nonzero:,} are not zero"
    return [
        Fact("Parameters", f"{parameters:,}", detail),
        Fact("GFLOPs an image", gflops(flops), f"{flops // 2:,} multiply-adds"),
    ]


def _ended(run: Run) -> list[Fact]:
    result, seconds = run.result, run.result["seconds"]
    parts = ("compile", "train", "evaluate")
    clocks = ", ".join(f"{name} {clock_time(seconds[name])}" for name in parts)
    speed = f"{result['images_per_second']:,.0f} images/s"
    devices = f"{result['num_devices']} x {result['device']}"
    return [
        Fact("Time", clock_time(seconds["total"]), clocks),
        Fact("Training speed", speed, devices),
    ]


def _progress(run: Run) -> Fact:
    planned = run.config["train"]["epochs"]
    rates = run.values("train", "images_per_second")
    speed = f"{list(rates.values())[-1]:,.0f} images/s" if rates else ""
    return Fact("Epochs", f"{run.epochs_done} of {planned}", speed)


def _latency(run: Run) -> Fact:
    cost = run.evaluation.efficiency
    detail = (
        f"a batch of {cost['latency_batch_size']}; "
        f"{cost['images_per_second']:,.0f} images/s in batches of "
        f"{cost['best_batch_size']:,}; {cost['num_devices']} x {cost['device']}"
    )
    return Fact("Latency", f"{cost['latency_ms']:.3g} ms", detail)


def _live(run: Run) -> str:
    text = "The run has not ended"
    if run.updated:
        when = datetime.datetime.fromtimestamp(run.updated)
        text += f"; it last closed an epoch on {when:%Y-%m-%d at %H:%M}"
    return f"{text}. The same command makes a newer report."


def settings_section(groups: Sequence[Group]) -> Section:
    """Returns the whole config of each group, and the versions it was run with."""
    blocks = []
    for group in groups:
        run = group.runs[0]
        values = {
            key: value for key, value in flatten(run.config).items() if key != "seed"
        }
        rows = [[Cell(key), Cell(shown(value))] for key, value in values.items()]
        table = Table(f"Config of {group.name}", ["setting", "value"], rows)
        notes = [Note(_versions(run))] if run.result else []
        title = f"All {len(rows)} settings" if len(groups) == 1 else group.name
        blocks.append(Section(title, [*notes, table], folded=True))
    return Section("Settings", blocks)


def _versions(run: Run) -> str:
    versions = run.result.get("versions", {})
    shown = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"{run.name} ran with {shown}."
