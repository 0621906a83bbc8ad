"""Eight simulated devices on the CPU, strict shapes, and the data the tests share."""

import contextlib
import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compiles each program once for all the tests, in this process and in others."""
    folder = str(tmp_path_factory.mktemp("compiled"))
    settings = {
        "jax_compilation_cache_dir": folder,
        "jax_persistent_cache_min_compile_time_secs": 0.1,
    }
    for name, value in settings.items():
        jax.config.update(name, value)
        os.environ[name.upper()] = str(value)


@pytest.fixture(scope="session")
def digits_dir(tmp_path_factory) -> str:
    """A folder of TFDS data sets with the digits in it."""
    from cifar_jax.data import sources

    folder = str(tmp_path_factory.mktemp("tfds"))
    sources.open("digits", folder, report=lambda line: None).prepare()
    return folder


@pytest.fixture
def compile_fast():
    """More of XLA's optimisations take longer than they save on so few images."""
    with fast_compilation():
        yield


@contextlib.contextmanager
def fast_compilation():
    """What `compile_fast` does, for fixtures of a wider scope."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)
