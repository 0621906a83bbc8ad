"""What the commands share: the config flag, one-line errors, and exit codes.

0: done. 1: a fault. 2: wrong usage. 130, 143: stopped by SIGINT or SIGTERM.
"""

import difflib
import pathlib
import re
import signal
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from cifar_jax import UserError
from cifar_jax.config import RENAMED_KEYS

flags.disclaim_key_flags()  # those defined here belong to the command: --help


class UsageError(UserError):
    """The command line is wrong: exit code 2."""


def define_config() -> flags.FlagHolder:
    """Defines --config FILE and --config.KEY=VALUE."""
    return config_flags.DEFINE_config_file(
        "config", None, "config file, such as configs/resnet_4p9m.py", lock_config=True
    )


def define_network() -> Callable[[], dict[str, Any]]:
    """Defines --workdir RUN, --checkpoint PATH, --best, --last and --ema.

    Returns:
      What reads them: `workdir`, and `which` and `step` as `trained.load` takes them.
    """
    flags.DEFINE_string("workdir", None, "run directory")
    flags.DEFINE_string(
        "checkpoint",
        None,
        "instead of --workdir: RUN/best/STEP or RUN/checkpoints/STEP",
    )
    flags.DEFINE_bool("best", False, "weights: best by validation [default]")
    flags.DEFINE_bool("last", False, "weights: those of the newest state")
    flags.DEFINE_bool("ema", False, "weights: the newest state's averages")
    return _chosen_network


def _chosen_network() -> dict[str, Any]:
    given = flags.FLAGS
    asked = [name for name in ("best", "last", "ema") if given[name].value]
    if len(asked) > 1:
        raise UsageError(f"give one of --{' and --'.join(asked)}, not both")
    if given.checkpoint and given.workdir:
        raise UsageError("give --workdir or --checkpoint, not both")
    if given.checkpoint:
        return _checkpoint(pathlib.Path(given.checkpoint), *asked)
    if not given.workdir:
        raise UsageError("--workdir RUN is missing, such as runs/quickstart")
    which = asked[0] if asked else "best"
    return {"workdir": pathlib.Path(given.workdir), "which": which, "step": None}


def _checkpoint(path: pathlib.Path, asked: str | None = None) -> dict[str, Any]:
    """Returns which of a run's weights a checkpoint's folder holds."""
    kinds = {"best": ("best",), "checkpoints": ("last", "ema")}
    kind = path.absolute().parent.name
    if not path.name.isdecimal() or kind not in kinds:
        raise UsageError(
            f"--checkpoint is {path}; give RUN/best/STEP or RUN/checkpoints/STEP"
        )
    which = asked or kinds[kind][0]
    if which not in kinds[kind]:
        raise UsageError(f"{path} holds no weights for --{which}; leave it out")
    workdir = path.absolute().parent.parent
    return {"workdir": workdir, "which": which, "step": int(path.name)}


def config_name(path: str) -> str:
    """Returns what to call a config: its file's name, and the form if one is asked for.

    Args:
      path: As --config has it: `configs/quickstart.py`, or `configs/NAME.py:FORM`.
    """
    file, _, form = path.partition(":")
    return "-".join(filter(None, [pathlib.Path(file).stem, form]))


def run(main: Callable[..., int | None], usage: str, *, operands: bool = False) -> None:
    """Parses the command line, runs a command, and exits with its code.

    Args:
      main: The command; with `operands`, it gets the list of them.
      usage: What --help prints first.
      operands: Whether there may be arguments that are no options.
    """
    # As SIGINT does, so that unfinished files are taken away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(_exit_code(main, usage, sys.argv, operands))


def _exit_code(main, usage: str, argv: list[str], operands: bool) -> int:
    try:
        rest = _parse(argv, usage)
        if operands:
            return main(rest) or 0
        if rest:
            raise UsageError(f"unexpected argument {rest[0]!r}; options start with --")
        return main() or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except OSError as error:
        remedy = "check the path, its permissions and the free space"
        print(f"error: {error}; {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parse(argv: list[str], usage: str) -> list[str]:
    """Returns the arguments that are no options, and do not belong to one."""
    if any(arg in ("-h", "--help") for arg in argv[1:]):
        print(f"{usage}\n{flags.FLAGS.main_module_help()}")
        raise SystemExit(0)
    path = _config_path(argv)
    if path is not None:
        _check_exists(path)
        # A config may start from another: `from configs.records import seconds`.
        sys.path.append(str(pathlib.Path.cwd()))
    flags.FLAGS.set_gnu_getopt(True)  # options may follow other arguments
    try:
        rest = flags.FLAGS(argv)[1:]
    except Exception as error:  # whatever a config file or a parser raises
        raise UsageError(_explain(error, argv, path)) from error
    if "config" in flags.FLAGS and path is None:
        raise UsageError("--config FILE is missing, such as configs/quickstart.py")
    return rest


def _config_path(argv: list[str]) -> str | None:
    """Returns the value of --config, before anything is parsed."""
    for arg, following in zip(argv, [*argv[1:], None], strict=True):
        if match := re.fullmatch(r"--?config(?:=(.*))?", arg):
            return match[1] if match[1] is not None else following
    return None


def _check_exists(path: str) -> None:
    if pathlib.Path(path.split(":")[0]).is_file():
        return
    known = sorted(str(known) for known in pathlib.Path("configs").rglob("*.py"))
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.5)
    remedy = f"did you mean {close[0]}?" if close else "give the path of a config file"
    raise UsageError(f"config {path} does not exist; {remedy}")


def _explain(error: Exception, argv: list[str], path: str | None) -> str:
    """Returns what is wrong with the command line, in one line."""
    try:
        config = _load_alone(path) if path else ConfigDict()
    except Exception as fault:  # told with the tracebacks of all that it has passed
        *_, last = f"{type(fault).__name__}: {fault}".strip().splitlines()
        hints = (
            f"; {old} is now {new}"
            for old, new in RENAMED_KEYS.items()
            if f'"{old.rpartition(".")[2]}"' in last
        )
        return f"config {path} cannot be read: {last}{''.join(hints)}"
    keys = list(_keys(config))
    for arg in argv[1:]:
        match = re.match(r"--?(?:no)?config\.([^=]+)", arg)
        if match and re.sub(r"\[.*", "", match[1]) not in keys:
            close = difflib.get_close_matches(match[1], keys, n=1)
            remedy = f"did you mean {close[0]}?" if close else "see cifar_jax/config.py"
            if match[1] in RENAMED_KEYS:
                remedy = f"it is now {RENAMED_KEYS[match[1]]}"
            return f"config has no key {match[1]}; {remedy}"
    return f"{str(error) or type(error).__name__}".splitlines()[0]


def _load_alone(path: str) -> ConfigDict:
    """Loads a config without what the command line overrides."""
    alone = flags.FlagValues()
    holder = config_flags.DEFINE_config_file("config", flag_values=alone, sys_argv=[])
    alone(["", f"--config={path}"])
    return holder.value


def _keys(config: ConfigDict, prefix: str = ""):
    for key in config:
        yield prefix + key
        if isinstance(config[key], ConfigDict):
            yield from _keys(config[key], f"{prefix}{key}.")
