"""Times a study of equal runs with one worker and with several.

python scripts/benchmark_study.py --output DIR [--workers 2] [--runs 8]

Each takes a new folder, so that it does all runs, and a share of the cores for each of
its workers: a thread for each run (study.threads=1). The programs are compiled before,
by a study of one run.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

STUDY = (
    "configs/search/table_8.py:small",
    '--config.study.space=({"factor": "N", "values": (3,)}, '
    '{"factor": "B", "values": (2,)})',
    "--config.base.train.epochs=10",
)


def seconds(folder: pathlib.Path, *, workers: int, runs: int) -> float:
    """Returns how long a study takes, from its command's start to its end."""
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cifar_jax.search", "--config", *STUDY]
        + [f"--config.study.seeds={runs}", f"--workdir={folder}"]
        + [f"--workers={workers}"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - begin


def main() -> None:
    """Prints the times and their ratio, and whether the tables are the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--runs", type=int, default=8)
    options = parser.parse_args()
    folder, load = options.output, os.getloadavg()[0]
    seconds(folder / "compiling", workers=1, runs=1)
    one = seconds(folder / "one", workers=1, runs=options.runs)
    several = seconds(folder / "several", workers=options.workers, runs=options.runs)
    tables = {(folder / name / "table.md").read_text() for name in ("one", "several")}
    record = {
        "runs": options.runs,
        "workers": options.workers,
        "seconds_with_one": round(one, 1),
        "seconds_with_several": round(several, 1),
        "ratio": round(several / one, 3),
        "same_table": len(tables) == 1,
        "cores": os.cpu_count(),
        "load_before": load,
    }
    (folder / "benchmark.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
