"""Puts a data set on disk: python -m cifar_jax.prepare --dataset cifar10.

Without --source the official archive is downloaded and its SHA-256 checked.
"""

import time

from absl import flags

from cifar_jax import _cli

_DATASET = flags.DEFINE_string("dataset", "cifar10", "data set to prepare")
_SOURCE = flags.DEFINE_string(
    "source", None, "the archive, its unpacked folder, or a folder that holds either"
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "folder of TFDS data sets [TFDS_DATA_DIR or its default]"
)


def main() -> None:
    """Prepares the data set and says where it lies."""
    from cifar_jax.data import sources  # slow to import: not for --help

    start = time.perf_counter()
    source = sources.open(_DATASET.value, _DATA_DIR.value, local=_SOURCE.value)
    if _SOURCE.value and source.path:
        print(f"{source.name} is in {source.path}; to prepare it again, delete it")
        return
    path = source.prepare()
    print(f"{_DATASET.value} is in {path} ({time.perf_counter() - start:.1f} s)")


if __name__ == "__main__":
    _cli.run(main, __doc__)
