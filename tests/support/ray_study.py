"""Runs a small study on a Ray cluster of two machines, one of which goes away.

python ray_study.py DATA_DIR WORKDIR: a program of its own, for Ray ends with it.
"""

import pathlib
import sys
import threading
import time

from ray.cluster_utils import Cluster
from support.studying import config_of

from cifar_jax.studies.driver import run_study


def main():
    data_dir, workdir = sys.argv[1], pathlib.Path(sys.argv[2])
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1)

    def remove():
        while len(list(workdir.glob("runs/*/*/metrics.jsonl"))) < 2:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)
        print("a machine is gone", flush=True)

    threading.Thread(target=remove, daemon=True).start()
    config = config_of(data_dir)
    run_study(config, workdir, executor=f"ray={cluster.address}")
    cluster.shutdown()


if __name__ == "__main__":
    main()
