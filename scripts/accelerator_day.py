"""All that is to be measured on one accelerator, in the order in which it is worth it.

python scripts/accelerator_day.py --minutes 9

Each step is a command with a file, and a step whose file is whole is skipped. So the
same command resumes after a time limit, on another machine too, if the files are there.
--list prints the commands; --form tiny runs them all, small, on a CPU.
"""

import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from cifar_jax import _cli

# A step is told to end this long before the limit, and ended at the limit; then it has
# some time to save.
RESERVE_SECONDS = 20.0
PATIENCE_SECONDS = 60.0

MAIN = "-m cifar_jax.main --config {config} --workdir {run}"
LIMIT = " --config.train.max_seconds={seconds}"
RECORDS = (
    "scripts/records.py --config {config} --workdir {run} --output {file} "
    "--minutes {minutes} --config.evaluate.tta=multicrop"
)
BENCHMARK = (
    "scripts/benchmark.py --config {config} --output {file} --minutes {minutes} "
    "--cache {workdir}/compiled"
)
# What the tiny form adds: a turn each, and not PyTorch's compiler, which takes minutes.
SHORT = " --rounds=1 --seconds=0 --contenders=plain_flax"
DETERMINISTIC = MAIN + LIMIT + " --config.train.deterministic"


@dataclasses.dataclass(frozen=True)
class Step:
    """A file, and the command that makes it.

    Attributes:
      file: Path in --output.
      command: Template of the command, after `python`.
      config: Config without its form.
      form: Form of the config on the accelerator.
      tiny: What the tiny form adds to the command.
      least_minutes: With less time left the step is not begun.
      is_cold: Whether it finds nothing compiled, because that is timed. The others
        share what they compile, and which algorithms XLA found to be the fastest.
    """

    file: str
    command: str
    config: str
    form: str = ""
    tiny: str = ""
    least_minutes: float = 1.0
    is_cold: bool = False


# 1. The brief's command for two epochs; a longer run, stopped as it trains and resumed.
FIRST = MAIN + " --config.train.epochs=2"
LONGER = MAIN + " --config.train.epochs={epochs}"
STOPPED = LONGER + " --config.train.max_seconds={stop}"
RESUMED = LONGER + " --resume=must"
R, S, M, B = (
    f"configs/{name}.py"
    for name in ("resnet_4p9m", "records/seconds", "records/minute", "records/best")
)
# Compiling a network's first config took two and a half minutes on an H200, scoring
# included: so what is missing whole comes before single seeds.
STEPS = (
    Step("reliability/first.json", FIRST, R),
    Step("reliability/resumed.json", f"{STOPPED} && {RESUMED}", R),
    # 2. The recipe that takes longest, with one seed; more of them come last.
    Step("records/best-full.json", RECORDS + " --seeds=0", B, "full"),
    # 3. Beside PyTorch and plain Flax.
    Step("benchmarks/resnet_4p9m.json", BENCHMARK, R, "", SHORT, 4),
    # 4. Ten seeds, three, and one, plain and with six views.
    Step(
        "records/seconds-full.json",
        RECORDS + " --seeds={seeds10}",
        S,
        "full",
        is_cold=True,
    ),
    Step("records/minute-full.json", RECORDS + " --seeds={seeds3}", M, "full"),
    Step("records/resnet_4p9m-full.json", RECORDS + " --seeds=0", R, "full"),
    # 5. The other networks beside PyTorch, and a trace of each.
    Step("benchmarks/best.json", BENCHMARK, B, "", SHORT, 4),
    Step("benchmarks/seconds.json", BENCHMARK, S, "", SHORT, 4),
    *(
        Step(f"reliability/traced/{pathlib.Path(c).stem}.json", FIRST + " --profile", c)
        for c in (R, S, B)
    ),
    # 6. The reported systems; they have no tiny form.
    *(
        Step(
            f"reports/report_{number}.json",
            MAIN + LIMIT,
            f"configs/reports/report_{number}.py",
            tiny=" --config.train.epochs=1 --config.data.train_split=train[:64] "
            "--config.data.test_split=test[:64] --config.train.batch_size=16 "
            "--config.model.widths=(8,) --config.data.validation=0",
        )
        for number in ("000", "004", "001", "002", "003")
    ),
    # 7. What determinism costs, and whether two such runs are bit-identical. Seeds in
    # one vmapped step have no code, and none is written before this shows a need.
    Step("reliability/deterministic/1.json", DETERMINISTIC, S, "full"),
    Step("reliability/deterministic/2.json", DETERMINISTIC, S, "full"),
    # 2 again: the seed that is done is read from its run directory.
    Step(
        "records/best-full-more.json",
        RECORDS.replace("{run}", "{workdir}/records/best-full") + " --seeds={seeds3}",
        B,
        "full",
    ),
)


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_float("minutes", "time limit; 0: none", 0.0, lower_bound=0.0)
    flags.add_enum("form", "what is run", "full", enum_values=("full", "tiny"))
    flags.add_string("output", "folder for the files [results; tiny: runs/tiny]")
    flags.add_string(
        "workdir", "folder for run directories [runs/day; tiny: runs/tiny]"
    )
    flags.add_list("steps", "files to make, such as reliability/first.json [all]")
    flags.add_multi_string("set", "added to every command: --set=--config.data.dir=DIR")
    flags.add_bool("list", "only print the commands, and which files are there")


def main(flags: _cli.Flags) -> int:
    """Runs what is missing, as far as the time reaches, and says what is left."""
    names = [step.file for step in STEPS]
    for name in flags.steps or ():
        if name not in names:
            raise _cli.UsageError(f"--steps has {name!r}; use {', '.join(names)}")
    default = ("runs/tiny",) * 2 if flags.form == "tiny" else ("results", "runs/day")
    output = pathlib.Path(flags.output or default[0])
    flags.values["workdir"].value = flags.workdir or default[1]
    end = time.monotonic() + 60 * flags.minutes if flags.minutes else None
    left, failed = [], []
    for step in STEPS:
        if flags.steps and step.file not in flags.steps:
            continue
        if flags.list:
            state = "done" if is_done(output / step.file) else "missing"
            print(f"{state} {step.file}: python {command(step, flags, output, None)}")
            continue
        if is_done(output / step.file):
            continue
        seconds = None if end is None else end - time.monotonic()
        needed = RESERVE_SECONDS
        needed += 60 * step.least_minutes if flags.form == "full" else 0.0
        if seconds is not None and seconds < needed:
            left.append(step.file)
            continue
        print(f"\n== {step.file}", flush=True)
        code = run(step, flags, output, seconds)
        if code:
            print(f"== exit code {code}", flush=True)
            failed.append(step.file)
        elif not is_done(output / step.file):
            left.append(step.file)
    if not flags.list:
        for state, files in (("left", left), ("failed", failed)):
            print(f"{state}: {', '.join(files) or 'none'}")
    return 1 if failed else 0


def is_done(file: pathlib.Path) -> bool:
    """Returns whether a file is there, and lacks no seed."""
    try:
        return not json.loads(file.read_text()).get("missing_seeds")
    except (OSError, ValueError):
        return False


def command(
    step: Step, flags: _cli.Flags, output: pathlib.Path, seconds: float | None
) -> str:
    """Returns a step's command with its places filled in, after `python`."""
    tiny = flags.form == "tiny"
    form = "tiny" if tiny and "/reports/" not in step.config else step.form
    left = 0.0 if seconds is None else max(seconds - RESERVE_SECONDS, 1.0)
    filled = (step.command + (step.tiny if tiny else "")).format(
        config=f"{step.config}:{form}" if form else step.config,
        run=shlex.quote(str(pathlib.Path(flags.workdir, step.file).with_suffix(""))),
        workdir=shlex.quote(flags.workdir),
        file=shlex.quote(str(output / step.file)),
        minutes=f"{left / 60:.3f}",
        seconds=f"{left:.0f}",
        stop="1" if tiny else "40",  # the start and compiling are estimated to take 20
        epochs="2" if tiny else "150",
        seeds10="0,1" if tiny else "0,1,2,3,4,5,6,7,8,9",
        seeds3="0" if tiny else "0,1,2",
    )
    return " && python ".join(
        shlex.join([*shlex.split(part), *flags.set]) for part in filled.split(" && ")
    )


def run(
    step: Step, flags: _cli.Flags, output: pathlib.Path, seconds: float | None
) -> int:
    """Runs a step's command; a run's result.json becomes its file. Returns its code."""
    environment = dict(os.environ)
    if not step.is_cold:
        compiled = str(pathlib.Path(flags.workdir, "compiled").absolute())
        environment.setdefault("JAX_COMPILATION_CACHE_DIR", compiled)
    end = None if seconds is None else time.monotonic() + seconds
    for text in command(step, flags, output, seconds).split(" && python "):
        limit = None if end is None else max(end - time.monotonic(), 1.0)
        code = _call([sys.executable, *shlex.split(text)], environment, limit)
        if code:
            return code
    result = pathlib.Path(flags.workdir, step.file).with_suffix("") / "result.json"
    if result.exists():
        (output / step.file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(result, output / step.file)
    return 0


def _call(
    words: Sequence[str], environment: dict[str, str], limit: float | None
) -> int:
    """Returns the exit code of a process, which saves and ends if it takes too long."""
    # In a session of its own, so that Ctrl-C does not reach it a second time.
    process = subprocess.Popen(words, env=environment, start_new_session=True)
    try:
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return 124
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)  # and its own processes
                process.wait()


if __name__ == "__main__":
    _cli.run()
