import platform
import subprocess
import sys

import pytest

# Page faults of calls that need 36 MB of temporary memory each.
FAULTS = """
import resource, statistics, sys
from cifar_jax.training import host_memory

if sys.argv[1] == "keep":
    assert host_memory.keep_freed()
import jax, jax.numpy as jnp

call = jax.jit(lambda x: jnp.tanh(x @ x.T) @ x)
x, faults = jnp.full((3072, 8), 0.01), []
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    x = call(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(statistics.median_low(faults[15:]))
"""


def count_faults(mode):
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, mode], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_what_is_freed_is_used_again():
    assert count_faults("keep") < 100
    assert count_faults("leave") > 5000
