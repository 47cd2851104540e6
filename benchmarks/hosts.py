"""Several hosts that share nothing but a URL: does a job end with the same shards and weights when one is lost?

On one machine, as root: a Ray head, worker hosts, an S3 server and an MLflow server on PostgreSQL, in namespaces with
addresses and folders of their own (``hosts_network.py``), started by the commands of ``ray_cluster.yaml`` and
``infra/mlflow`` (``hosts_cluster.py``). ``ray job submit`` runs the main job once undisturbed. Then a host's power
fails while it ingests, while it trains, and while a checkpoint is written, and another host takes its place; shards
and weights must be those of the first run, byte for byte. Then three workers become two and three again, and hosts that
cannot do their part are refused (``hosts_cases.py``).

    python benchmarks/hosts.py
    python benchmarks/hosts.py --only undisturbed,training --keep /tmp/hosts

Needs PostgreSQL's server and faketime (``apt install postgresql faketime``), psycopg2, and some 4 GiB of memory.
"""

import argparse
import fcntl
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.hosts_cases import CASES, UNFIT, end_of, refusal_of
from benchmarks.hosts_cluster import SERVERS, Cluster, reach_store
from benchmarks.hosts_network import Host, enter_own_network, running
from posecore.synth.writers import write_dataset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join([*CASES, *UNFIT]), help="cases, with commas")
    parser.add_argument("--keep", type=Path, help="folder for the logs, to stay")
    parser.add_argument("--lock", type=Path, help="file that is locked while they start and while a case runs")
    options = parser.parse_args()
    enter_own_network(SERVERS)
    wrong = 0
    hosts: list[Host] = []
    with (
        (options.lock or Path(__file__)).open() as lock,
        tempfile.TemporaryDirectory(prefix="hosts-") as scratch,
        running(hosts),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        folder = options.keep or Path(scratch) / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        write_dataset("coco", Path(scratch) / "coco", num_train=60, num_val=6, image_size=(128, 128), seed=1)
        began = time.monotonic()
        cluster = Cluster(folder, hosts)
        cluster.start(2)
        print(f"servers, head and two workers are there after {time.monotonic() - began:.0f} s", flush=True)
        store = reach_store()
        for name in ("data", "runs"):
            store.fs.mkdir(name)
        store.fs.put(f"{scratch}/coco", "data/coco", recursive=True)
        for name in options.only.split(","):
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(1)  # somebody who waits may go first
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                row = (
                    end_of(cluster, store, name, CASES[name])
                    if name in CASES
                    else refusal_of(cluster, name, UNFIT[name])
                )
            except (RuntimeError, TimeoutError) as error:
                wrong += 1
                row = f"| {name} | WRONG | {error} |"
            print(row, flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
