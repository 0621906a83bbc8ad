"""What the commands share: their flags, one-line errors, and exit codes.

0: done. 1: a fault. 2: wrong usage. 130, 143, 129: stopped by SIGINT, SIGTERM, SIGHUP.

A command is a module with `define_flags(flags)` and `main(flags)`; its docstring is
what --help prints first.
"""

import functools
import os
import pathlib
import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from absl import flags as absl_flags
from ml_collections import ConfigDict, config_flags

from cifar_jax import Stopped, UserError, __version__, _packaged
from cifar_jax._files import find_remedy, first_line
from cifar_jax._packaged import UsageError
from cifar_jax.config import OPTIONAL_KEYS, config_to_dict, flatten

START = time.perf_counter()  # of the process, nearly
# What --workdir takes where a trained network is wanted.
NETWORK = "run directory, exported file or folder, or a name such as cifar10_cpu"

absl_flags.disclaim_key_flags()  # flags defined here belong to the command


class Flags:
    """The flags of one command: defined by its `define_flags`, read by its `main`.

    Each call of a command has its own, so that several fit into one process. The value
    of --name is the attribute `name`.

    Attributes:
      argv: Arguments of the command, without its name.
      operands: Arguments that are not options.
      remedy: What to do where there are any; None: they are allowed.
      default_config: Returns the config without --config; None: --config is needed.
      config_path: Value of --config: `configs/NAME.py` or `configs/NAME.py:FORM`.
    """

    def __init__(self, argv: Sequence[str]):
        self.argv = list(argv)
        self.operands: list[str] = []
        self.config_path = ""
        self.values = absl_flags.FlagValues()
        self._config: ConfigDict | None = None
        self.default_config: Callable[[], ConfigDict] | None = None
        self.remedy: str | None = "options start with --"

    def __getattr__(self, name: str) -> Any:
        return getattr(self.values, name)

    @property
    def config_name(self) -> str:
        """What to call the config: the name of its file, and the form, if any."""
        file, _, form = self.config_path.partition(":")
        return "-".join(filter(None, [pathlib.Path(file).stem, form]))

    def _add(
        self, kind: str, name: str, text: str, default: Any = None, **options: Any
    ) -> None:
        """Defines --name; `text` is for --help, `options` are absl's: `required`."""
        define = getattr(absl_flags, f"DEFINE_{kind}")
        define(name, default, help=text, flag_values=self.values, **options)

    add_string = functools.partialmethod(_add, "string")
    add_bool = functools.partialmethod(_add, "bool", default=False)  # --noname as well
    # Numbers may have a `lower_bound` and an `upper_bound`.
    add_integer = functools.partialmethod(_add, "integer")
    add_float = functools.partialmethod(_add, "float")
    add_enum = functools.partialmethod(_add, "enum")  # one of `enum_values`
    add_list = functools.partialmethod(_add, "list")  # A,B,C
    add_multi_string = functools.partialmethod(  # may be repeated
        _add, "multi_string", default=[]
    )

    def parse(self) -> None:
        """Parses `argv`, once all flags are defined.

        Raises:
          UsageError: If it is wrong.
        """
        self.values.set_gnu_getopt(True)  # options may follow other arguments
        has_config = "config" in self.values
        try:
            _, *arguments = self.values(["", *self.argv], known_only=has_config)
            if has_config:  # the others are --config.KEY, once the config is known
                if (here := str(pathlib.Path.cwd())) not in sys.path:
                    # One may start from another: `from configs.records import seconds`.
                    sys.path.append(here)
                self.config_path = self.values.config or ""
                if self.config_path:
                    self._config = _packaged.read_config(self.config_path)
                elif self.default_config:
                    self._config = self.default_config()
                else:
                    raise UsageError("--config FILE is missing, such as quickstart")
                arguments = _keys_left(arguments, self._config)
                del self.values.config
                config_flags.DEFINE_config_dict(
                    "config", self._config, flag_values=self.values, sys_argv=arguments
                )
                _, *arguments = self.values(["", *arguments])
            self.operands = arguments
        except Exception as error:  # parsers of config keys raise IndexError, say
            raise UsageError(self._explained(error)) from error
        if self.operands and self.remedy:
            raise UsageError(f"unexpected argument {self.operands[0]!r}; {self.remedy}")

    def _explained(self, error: Exception) -> str:
        """Returns in one line what is wrong with a flag, and the remedy."""
        text = first_line(error)
        if missing := re.match(r"flag (--\w+)=None: ", text):
            return f"{missing[1]} is missing; see --help"
        if self._config is None:
            return text
        if unknown := re.match(r"Unknown command line flag '([\w.]+)'\.?$", text):
            if key := _packaged.nearest_key(unknown[1], self._config):
                return f"unknown flag --{unknown[1]}; did you mean --config.{key}?"
        if wrong := re.match(r"flag --config\.([\w.]+)=(.*?): ", text):
            *path, name = wrong[1].split(".")
            section = functools.reduce(getattr, path, self._config)
            kind, value = section.get_type(name).__name__, section[name]
            example = (
                f"of type {kind}, or None" if value is None else f"such as {value!r}"
            )
            return f"config.{wrong[1]} is {wrong[2]!r}; give a value {example}"
        return text


def _keys_left(arguments: Sequence[str], config: ConfigDict) -> list[str]:
    """Refuses --config.KEY of a key that does not exist, and sets those that are None.

    Returns the other arguments. absl's parsers refuse None, or take it for a text.
    """
    keys, left = flatten(config_to_dict(config)), []
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=]+)(=None$)?", argument)
        if not match:
            left.append(argument)
            continue
        if re.sub(r"\[.*", "", match[1]) not in keys:
            close = _packaged.nearest_key(match[1], config)
            remedy = f"did you mean {close}?" if close else "see cifar_jax.config"
            raise UsageError(f"config has no key {match[1]}; {remedy}")
        if match[2] and match[1].removeprefix("base.") in OPTIONAL_KEYS:
            config.update_from_flattened_dict({match[1]: None})
            # Of several values the last one counts.
            start = match[0].removesuffix("None")
            left = [other for other in left if not other.startswith(start)]
        else:
            left.append(argument)
    return left


def define_config(
    flags: Flags, default: Callable[[], ConfigDict] | None = None
) -> None:
    """Defines --config FILE and --config.KEY=VALUE; FILE may have a default."""
    flags.default_config = default
    flags.add_string("config", "config: a file, or a name such as resnet_4p9m")


def define_network(flags: Flags) -> None:
    """Defines --workdir RUN, --checkpoint PATH, --best, --last and --ema."""
    flags.add_string("workdir", NETWORK)
    flags.add_string(
        "checkpoint", "instead of --workdir: RUN/best/STEP or RUN/checkpoints/STEP"
    )
    flags.add_bool("best", "weights: best by validation [default]")
    flags.add_bool("last", "weights: those of the newest state")
    flags.add_bool("ema", "weights: the newest state's averages")


def chosen_network(flags: Flags) -> dict[str, Any]:
    """Returns `workdir`, `which` and `step`, as `load_model` takes them; says so."""
    asked = [name for name in ("best", "last", "ema") if getattr(flags, name)]
    if len(asked) > 1:
        raise UsageError(f"give one of --{' and --'.join(asked)}, not both")
    if flags.checkpoint and flags.workdir:
        raise UsageError("give --workdir or --checkpoint, not both")
    if not flags.checkpoint:
        if not flags.workdir:
            raise UsageError("--workdir RUN is missing, such as runs/quickstart")
        which = asked[0] if asked else "best"
        return {"workdir": trained(flags.workdir), "which": which, "step": None}
    path = pathlib.Path(flags.checkpoint)
    folders = {"best": ["best"], "checkpoints": ["last", "ema"]}
    weights = folders.get(path.absolute().parent.name)
    if weights is None or not path.name.isdecimal():
        raise UsageError(
            f"--checkpoint is {path}; give RUN/best/STEP or RUN/checkpoints/STEP"
        )
    which = asked[0] if asked else weights[0]
    if which not in weights:
        raise UsageError(f"{path} holds no weights for --{which}; leave it out")
    workdir = trained(path.absolute().parent.parent)
    return {"workdir": workdir, "which": which, "step": int(path.name)}


def trained(name: os.PathLike | str) -> pathlib.Path:
    """Returns the path of a trained network, and says what is read before JAX is."""
    path = _packaged.find_network(name)
    print(f"reading {path if path.suffix or path.is_dir() else name}", flush=True)
    return path


def output_folder(flags: Flags, network: pathlib.Path, name: str) -> pathlib.Path:
    """Returns --output, or else a folder in a run directory."""
    if flags.output:
        return pathlib.Path(flags.output)
    if not (network / "config.json").exists() or not (network / "best").is_dir():
        raise UsageError(f"{network} is not a run directory; give --output as well")
    return network / name


def run() -> NoReturn:
    """Runs the main module, a command, as this process, and exits with its code."""
    # As SIGINT does, so that unfinished files are taken away.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    # absl's own log complains where its flags, which no command has, are not parsed.
    absl_flags.FLAGS.mark_as_parsed()
    sys.exit(run_command(sys.modules["__main__"], sys.argv[1:]))


def run_command(command: ModuleType, argv: Sequence[str]) -> int:
    """Runs a command within this process.

    Args:
      command: Module of the command, such as `cifar_jax.evaluate`.
      argv: Its arguments.

    Returns:
      Its exit code; what it has to say is on stdout and stderr.
    """
    flags = Flags(argv)
    command.define_flags(flags)
    if any(argument in ("-h", "--help") for argument in argv):
        _, *lines = flags.values.get_help(include_special_flags=False).splitlines()
        print("\n".join([command.__doc__ or "", *lines[1:]]))
        return 0
    if list(argv) == ["--version"]:
        print(f"cifar_jax {__version__}")
        return 0
    try:
        flags.parse()
        return command.main(flags) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except Stopped as stopped:
        print(stopped)
        return stopped.exit_code
    except OSError as error:
        if (remedy := find_remedy(error)) is None:
            raise  # a fault of the program, whose traceback is needed
        print(f"error: {error}; {remedy}", file=sys.stderr)
        return 1
    except RuntimeError as error:  # JAX's own is one
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        remedy = "use a smaller --batch_size, evaluate.batch_size or train.batch_size"
        print(f"error: the device is out of memory; {remedy}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
