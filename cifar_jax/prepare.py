"""Puts a data set on disk: python -m cifar_jax.prepare --dataset cifar10.

Without --source the official archive is downloaded and its SHA-256 checked.
"""

import time

from cifar_jax import _cli


def define_flags(flags: _cli.Flags) -> None:
    """Defines the command's flags."""
    flags.add_string("dataset", "data set to prepare", "cifar10")
    flags.add_string(
        "source", "the archive, its unpacked folder, or a folder that holds either"
    )
    flags.add_string(
        "data_dir", "folder of TFDS data sets [TFDS_DATA_DIR or its default]"
    )


def main(flags: _cli.Flags) -> None:
    """Prepares the data set and says where it lies."""
    print(f"looking for {flags.source or flags.dataset}", flush=True)
    from cifar_jax.data import sources  # slow to import: not for --help

    start = time.perf_counter()
    source = sources.open(flags.dataset, flags.data_dir, local=flags.source)
    if flags.source and source.path:
        print(f"{source.name} is in {source.path}; --source was not needed")
        return
    path = source.prepare()
    print(f"{source.name} is in {path} ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    _cli.run()
