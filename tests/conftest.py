"""Eight simulated devices on the CPU, strict shapes, and what the tests share.

pytest-xdist's workers share it too: what is made once is made by one of them, in a
folder beside all of theirs.
"""

import fcntl
import gc
import os
import pathlib
import shutil

os.environ["JAX_PLATFORMS"] = "cpu"
# More of XLA's optimisations take longer than they save on networks this small; the
# processes that tests start inherit this.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# The cores are busy with the workers: threads of libraries would wait in loops.
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
from support.commands import xla_flags

os.environ["XLA_FLAGS"] = xla_flags(num_devices=8)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_finish():
    """Keeps what is imported out of collections of garbage, which become fewer."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def common_dir(tmp_path_factory) -> pathlib.Path:
    """A folder that all workers of this session have in common."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def made_once(common_dir):
    """Returns a function that makes a folder in the first worker that asks for it.

    It takes a name and a function, which writes into the folder that it is given.
    """

    def make(name, write):
        folder = common_dir / name
        with (common_dir / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = common_dir / f"{name}.partial"
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                write(partial)
                partial.rename(folder)
        return folder

    return make


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(common_dir):
    """Compiles each program once for all the tests, in this process and in others."""
    settings = {
        "jax_compilation_cache_dir": str(common_dir / "compiled"),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="session")
def digits_dir(made_once) -> str:
    """A folder of TFDS data sets with the digits in it."""
    from cifar_jax.data import sources

    def write(folder):
        sources.open("digits", str(folder), report=lambda line: None).prepare()

    return str(made_once("tfds", write))


@pytest.fixture(scope="session")
def tiny_run(made_once, digits_dir) -> pathlib.Path:
    """The directory of a tiny run, trained to its end. Copy it to change it."""
    from support.runs import tiny_config, train

    return made_once("tiny_run", lambda folder: train(tiny_config(digits_dir), folder))


@pytest.fixture
def strict_dtypes():
    """Refuses to mix dtypes, where the libraries allow it: see `mixed_dtypes`."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def mixed_dtypes(strict_dtypes):
    """For Flax's BatchNorm in bfloat16 and average pool, and Optax's Adam: they mix."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def op_by_op():
    """Rounds alike wherever an operation stands, which a compiled program need not."""
    with jax.disable_jit():
        yield


@pytest.fixture
def optimised():
    """Compiles with all of XLA's optimisations, for what computes for long."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)
