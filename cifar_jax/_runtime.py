"""Process set-up that every command shares: C allocator, log level, devices, cache."""

import ctypes
import hashlib
import os
import pathlib
import platform

import absl.logging

# Parameters of glibc's mallopt(3), from malloc.h.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def start(cpu_devices: int = 0, *, cpu_only: bool = False) -> None:
    """Sets the process up; call it before JAX looks for devices or computes anything.

    Args:
      cpu_devices: Number of devices that the CPU is divided into; 0 leaves it to JAX.
        XLA leaves cores idle in small convolutions, above all in the gradients of
        their kernels: two devices on two cores train 1.2 times as fast as one. What
        the environment asks for (XLA_FLAGS, JAX_NUM_CPU_DEVICES) comes first.
      cpu_only: Whether accelerators are left alone.
    """
    # First of all: memory that other threads allocate before it keeps its old ways.
    _tune_malloc()
    import jax

    # Orbax logs what it then raises, and warns of options that are asked for.
    absl.logging.set_verbosity(absl.logging.FATAL)
    if cpu_only:
        jax.config.update("jax_platforms", "cpu")
    asked = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if folder := _cache_folder():
        jax.config.update("jax_compilation_cache_dir", str(folder))
        if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
            jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    if cpu_devices and not asked and "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", cpu_devices)


def _tune_malloc() -> None:
    """Stops glibc from returning freed memory to the kernel; does nothing elsewhere.

    XLA allocates the temporary arrays of a step anew in each step: 90 MB for a small
    network. glibc maps such large blocks from the kernel and hands them back, so each
    step pays a page fault for every 4 KB of them, a quarter of its time on two cores.
    In a heap that never shrinks they fault once.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return
    values = {
        _ARENA_MAX: 1,  # the arenas of other threads map what exceeds 64 MB
        _MMAP_THRESHOLD: 2**30,  # arrays above this size are few and live long
        _TRIM_THRESHOLD: 2**31 - 1,
        _TOP_PAD: 64 * 2**20,  # the heap grows in steps of this size
    }
    for parameter, value in values.items():
        library.mallopt(parameter, value)


def _cache_folder() -> pathlib.Path | None:
    """Returns where compiled programs are kept, so that the next run starts at once.

    JAX reads JAX_COMPILATION_CACHE_DIR itself where that is set (empty: no cache).
    Otherwise it is cifar_jax/ in XDG_CACHE_HOME or ~/.cache, with a folder for each
    kind of processor: XLA compiles for the very CPU that it runs on, and a home may be
    shared. Where the folder cannot be written nothing is kept.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return None
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    kinds = ("model name", "flags", "Features")
    facts = [platform.machine(), platform.processor()]
    facts += sorted({line for line in lines if line.startswith(kinds)})
    processor = hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = cache / "cifar_jax" / f"xla-{processor}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
