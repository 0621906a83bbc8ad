"""Lists the commands: python -m cifar_jax."""

import pathlib
import re

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines no flags."""
    flags.remedy = "a command is a module, such as python -m cifar_jax.main"


def main(flags: _cli.Flags) -> None:
    """Prints the first line of each command's docstring."""
    del flags
    commands = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("[a-z]*.py")):
        text = path.read_text(encoding="utf-8")
        if match := re.match('"""(.+): python -m ', text):
            commands[path.stem] = match[1]
    width = max(map(len, commands))
    for name, what in commands.items():
        print(f"python -m cifar_jax.{name:<{width}}  {what}")
    print("Each prints its flags with --help; --version prints the version.")


if __name__ == "__main__":
    _cli.run()
