"""Opens files in a process of its own, under bounds of memory and time.

Run as a script with files as arguments; prints a line of JSON for each of them.
"""

import json
import pathlib
import resource
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).parents[2]
MAX_BYTES, MAX_SECONDS = 2 << 30, 60


def open_all(paths):
    """Returns, by name, what opening and reading each file has come to."""
    done = subprocess.run(
        [sys.executable, __file__, *map(str, paths)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    lines = map(json.loads, done.stdout.splitlines())
    return {pathlib.Path(line["path"]).name: line for line in lines}


def _outcome(path):
    from cifar_jax import UserError
    from cifar_jax.data import sources

    try:
        dataset = sources.open_split(path)
        dataset.read(0, len(dataset))
        str(dataset.ids)
    except UserError as error:
        return f"refused: {error}"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return "read"


def _expire(*_):
    raise TimeoutError(f"more than {MAX_SECONDS} s")


def _main(paths):
    sys.path.insert(0, str(ROOT))
    _outcome("none")  # imports
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_BYTES, used + MAX_BYTES))
    signal.signal(signal.SIGXCPU, _expire)
    for path in paths:
        start = time.process_time()
        limit = int(start + MAX_SECONDS) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        outcome = _outcome(path)
        # Not getrusage's: that counts what the process that started this one had.
        status = pathlib.Path("/proc/self/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0])
        seconds = time.process_time() - start
        line = {"path": path, "outcome": outcome, "seconds": seconds, "peak": peak}
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
