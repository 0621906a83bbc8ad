"""Configs and trained weights: those that come with the package, and a user's own."""

import difflib
import hashlib
import os
import pathlib
import re
import runpy
import sys
import traceback
from collections.abc import Iterable
from types import ModuleType, SimpleNamespace

from ml_collections import ConfigDict

from cifar_jax import UserError
from cifar_jax._files import on_disk
from cifar_jax.config import RENAMED_KEYS, config_to_dict, flatten, get_config

_PACKAGE = pathlib.Path(__file__).parent
# In an installed package, or else beside it in a checkout.
CONFIGS = _PACKAGE / "configs"
if not CONFIGS.is_dir():
    CONFIGS = _PACKAGE.parent / "configs"
WEIGHTS = _PACKAGE / "pretrained"
# Names that other tools and earlier versions have for keys of ours.
_OTHER_NAMES = {
    "lr": "optim.learning_rate",
    "wd": "optim.weight_decay",
    "bs": "train.batch_size",
    "optimizer": "optim.name",
    "dataset": "data.name",
    "scheduler": "schedule.name",
    **{old.rpartition(".")[2]: new for old, new in RENAMED_KEYS.items()},
}


class UsageError(UserError):
    """The command line is wrong: exit code 2."""


def config_names() -> list[str]:
    """Returns the names of the packaged configs, such as records/seconds."""
    files = CONFIGS.rglob("*.py")
    return sorted(str(path.relative_to(CONFIGS).with_suffix("")) for path in files)


def network_names() -> list[str]:
    """Returns the names of the packaged weights."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


def find_config(name: str) -> pathlib.Path:
    """Returns a config file: a path, or else a packaged one by its name."""
    path, known = pathlib.Path(name), config_names()
    if path.is_file():
        return path
    short = name.removeprefix("configs/").removesuffix(".py")
    if short in known:
        return CONFIGS / f"{short}.py"
    names = ", ".join(n for n in known if "/" not in n)
    remedy = _close(short, known) or f"give a path, or one of {names}"
    raise UsageError(f"config {name} does not exist; {remedy}")


def find_network(name: os.PathLike | str) -> pathlib.Path:
    """Returns the path of a trained network: a path, or else packaged weights.

    Args:
      name: Run directory, exported file or folder, or name of packaged weights.
    """
    path = on_disk(os.fspath(name), "the network")
    if path.exists():
        return path
    packaged, known = WEIGHTS / f"{name}.safetensors", network_names()
    if packaged.exists():
        return packaged
    names = ", ".join(known) or "none are packaged"
    remedy = f"give a run directory, an exported file, or a name: {names}"
    remedy = _close(str(name), known) or remedy
    raise UserError(f"{name} is not a run directory: it does not exist; {remedy}")


def _close(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else ""


def read_config(name: str) -> ConfigDict:
    """Returns what `get_config` of a config file returns.

    Args:
      name: Path or name of the file, and `:FORM` where its `get_config` takes a form.
    """
    path, *form = name.split(":", 1)
    file = find_config(path)
    try:
        config = _execute(file).get_config(*form)
        if not isinstance(config, ConfigDict):
            kind = type(config).__name__
            raise TypeError(f"get_config() returns {kind}, not a ConfigDict")
        return config.lock()
    except Exception as error:  # a config file may raise anything
        reason = traceback.format_exception_only(error)[-1].strip().splitlines()[-1]
        # ml_collections answers a wrong key with all that there are.
        if missing := re.search(r'Key "(\w+)" does not exist', reason):
            close = nearest_key(missing[1], get_config())
            reason = f"the key {missing[1]} does not exist"
            reason += f"; did you mean {close}?" if close else ""
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(file.absolute())]
        reason += f" (line {lines[-1]})" if lines else ""  # the innermost
        raise UsageError(f"config {name} cannot be read: {reason}") from error


def _execute(file: pathlib.Path) -> SimpleNamespace:
    """Returns what a config file defines.

    It may start from another one: `from . import seconds`. The package that such an
    import is relative to is the folder `configs` around the file, or its own folder.
    """
    file = file.absolute()
    root = next((path for path in file.parents if path.name == "configs"), file.parent)
    package = ModuleType(f"_configs_{hashlib.sha256(bytes(root)).hexdigest()[:12]}")
    package.__path__ = [str(root)]
    sys.modules.setdefault(package.__name__, package)
    folders = file.relative_to(root).parts[:-1]
    name = ".".join([package.__name__, *folders, file.stem.replace(".", "_")])
    return SimpleNamespace(**runpy.run_path(os.fspath(file), run_name=name))


def nearest_key(wrong: str, config: ConfigDict) -> str | None:
    """Returns the key that is meant by one that does not exist, or None.

    Args:
      wrong: Key, whole or its end, such as optim.lr or epochs.
      config: Config that lacks it.
    """
    known, last = list(flatten(config_to_dict(config))), wrong.rpartition(".")[2]
    base = "base." if "base" in config else ""
    if base + _OTHER_NAMES.get(last, "-") in known:
        return base + _OTHER_NAMES[last]
    # The whole key as it is typed, or its last part in another section: train's, if
    # several have it.
    known.sort(key=lambda key: "train." in key)
    ends = {key.rpartition(".")[2]: key for key in known}
    for names, typed, cutoff in ((known, wrong, 0.75), (ends, last, 0.7)):
        if close := difflib.get_close_matches(typed, names, n=1, cutoff=cutoff):
            return ends.get(close[0], close[0])
    return None
