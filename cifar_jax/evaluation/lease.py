"""All that is measured on an accelerator, in an order that serves a short lease.

Each step is a command of its own and has a file; a step whose file is whole is not run
again. So the same call goes on after a time limit, on another machine too, if the files
are there.
"""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Sequence

from cifar_jax.evaluation import benchmark

# Seeds of each recipe: what the statistics of a record rest on.
SEEDS = {"seconds": 10, "minute": 5, "best": 3}
# Of a recipe that keeps validation images, by which it may be compared with others.
VALIDATED_SEEDS = 3
TINY_SEEDS = 2
SCRIPTS = pathlib.Path(__file__).parents[2] / "scripts"
# To end in time, a step is told less than what is left; and it is ended if it takes
# longer all the same.
RESERVE_SECONDS = 20.0
PATIENCE_SECONDS = 30.0
ENDING_SECONDS = 150.0


@dataclasses.dataclass(frozen=True)
class Step:
    """A command of the plan.

    Attributes:
      name: Unique.
      command: To run.
      output: Its file, or None.
      least_minutes: With less left it is not begun.
      limit: Whether it takes --minutes.
    """

    name: str
    command: tuple[str, ...]
    output: pathlib.Path | None = None
    least_minutes: float = 0.0
    limit: bool = True

    def is_done(self) -> bool:
        """Tells whether its file is whole."""
        try:
            record = json.loads(self.output.read_text())
        except (AttributeError, OSError, ValueError):
            return False
        return not (record.get("missing_seeds") or record.get("missing"))


def plan(
    configs: pathlib.Path,
    output: pathlib.Path,
    workdir: pathlib.Path,
    *,
    form: str = "",
    source: str | None = None,
    note: str | None = None,
) -> list[Step]:
    """Returns the steps, in their order.

    Args:
      configs: Folder of the recipes.
      output: Folder for the files.
      workdir: For run directories.
      form: Of the recipes: "tiny" runs on a CPU in minutes. Else the records are those
        of the form "full", which trains on all images, and after them those of the
        recipes as they are.
      source: Local copy of CIFAR-10 to prepare it from, or None.
      note: How the data differ from the original files, or None: what is known.
    """
    make = _Maker(configs, output, workdir, form, note)
    full = form or "full"
    steps = [
        *([_prepare(source)] if source else []),
        make.check("seconds"),
        make.peers("best"),
        make.record("seconds", full),
        make.record("minute", full),
        make.breakdown("best"),
        make.breakdown("seconds"),
        make.record("best", full),
        make.breakdown("minute"),
        make.peers("seconds"),
        make.record("seconds", form),
        make.record("minute", form),
        make.variants("best"),
    ]
    return list({step.name: step for step in steps}.values())


class _Maker:
    """Makes the steps."""

    def __init__(self, configs, output, workdir, form, note):
        self._configs = configs
        self._output = output
        self._workdir = workdir
        self._form = form
        self._tiny = form == "tiny"
        self._note = note

    def check(self, recipe: str) -> Step:
        """That the main command runs here: in two steps, on made-up images."""
        config = f"{self._configs / recipe}.py:tiny"
        command = ("-m", "cifar_jax.main", f"--config={config}", "--dry_run")
        return Step("check", command, limit=False)

    def peers(self, recipe: str) -> Step:
        """The same network in PyTorch, or where that is not installed in plain Flax."""
        names = [name for name in benchmark.available() if name.startswith("torch")]
        if self._tiny:  # torch.compile takes a minute
            names = [name for name in names if name != "torch_compiled"]
        names = ",".join(names or ["plain_flax"])
        tiny = ["--rounds=2", "--seconds=0"] if self._tiny else []
        options = [f"--contenders={names}", "--kinds=train", *tiny]
        return self._step("peers", "benchmarks", recipe, options, least_minutes=4)

    def record(self, recipe: str, form: str) -> Step:
        """The recipe with several seeds."""
        number = SEEDS[recipe] if form == "full" else VALIDATED_SEEDS
        seeds = range(TINY_SEEDS if self._tiny else number)
        options = [f"--seeds={','.join(map(str, seeds))}"]
        options.append(f"--workdir={self._workdir / _name(recipe, form)}")
        if self._note is not None:
            options.append(f"--data_note={self._note}")
        return self._step(
            "records", "records", recipe, options, form=form, least_minutes=1
        )

    def breakdown(self, recipe: str) -> Step:
        """Where the time of a step goes."""
        return self._step(
            *("breakdown", "breakdown", recipe, []), least_minutes=2, limit=False
        )

    def variants(self, recipe: str) -> Step:
        """What was tried to make a step faster."""
        options = ["--rounds=2", "--seconds=0"] if self._tiny else []
        return self._step("variants", "variants", recipe, options, least_minutes=3)

    def _step(
        self, script, folder, recipe, options, *, least_minutes, limit=True, form=None
    ):
        form = self._form if form is None else form
        config = f"{self._configs / recipe}.py"
        config += f":{form}" if form else ""
        output = self._output / folder / f"{_name(recipe, form)}.json"
        path = str(SCRIPTS / f"{script}.py")
        command = (path, f"--config={config}", f"--output={output}")
        return Step(
            name=f"{script} {_name(recipe, form)}",
            command=(*command, *options),
            output=output,
            least_minutes=0.0 if self._tiny else least_minutes,
            limit=limit,
        )


def _name(recipe: str, form: str) -> str:
    return f"{recipe}-{form}" if form else recipe


def _prepare(source: str) -> Step:
    command = ("-m", "cifar_jax.prepare", "--dataset=cifar10", f"--source={source}")
    return Step("prepare", command, limit=False)


def run(steps: Sequence[Step], minutes: float) -> dict[str, list[str]]:
    """Runs the steps whose files are not whole, as far as the time reaches.

    Args:
      steps: Of the plan.
      minutes: For all of them; 0: no limit.

    Returns:
      The names of the steps that are `done`, that are `left`, and that have `failed`.
    """
    deadline = time.monotonic() + 60 * minutes if minutes else None
    begun = any(step.is_done() for step in steps)
    done, left, failed = [], [], []
    for step in steps:
        if step.is_done() or (begun and step.name == "check"):
            done.append(step.name)
            continue
        seconds = None if deadline is None else deadline - time.monotonic()
        if seconds is not None and seconds < 60 * step.least_minutes + RESERVE_SECONDS:
            left.append(step.name)
            continue
        print(f"\n== {step.name}", flush=True)
        code = _call(step, seconds)
        if code:
            print(f"== {step.name} failed with exit code {code}", flush=True)
            failed.append(step.name)
        elif step.output is None or step.is_done():
            done.append(step.name)
        else:
            left.append(step.name)
    return {"done": done, "left": left, "failed": failed}


def _call(step: Step, seconds: float | None) -> int:
    """Returns the exit code of a step."""
    command = [sys.executable, *step.command]
    limit = None
    if seconds is not None:
        limit = seconds + PATIENCE_SECONDS
        if step.limit:
            command.append(f"--minutes={(seconds - RESERVE_SECONDS) / 60:.3f}")
    process = subprocess.Popen(command)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return 124
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDING_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
