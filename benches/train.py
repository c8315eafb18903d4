"""Run every row of the benchmark once, shortly, on a velodrome that counts what it does; tools/pgo.sh builds it.

No times are reported: the counts are the result, and each process writes them when it ends.
"""

import os
import signal
import subprocess
import sys
import tempfile

import bench
import run
import workloads

PLAN = run.Plan(rounds=1, warm_up=0.1, window=0.4, micro=0.3)

END_LIMIT = 120  # seconds; a thousand TLS connections took more than 20 on a machine with much else to do


class Training(bench.Bench):
    """Servers end as programs do, because one that is killed writes nothing."""

    def end(self, server):
        server.terminate()
        try:
            server.wait(END_LIMIT)
        except subprocess.TimeoutExpired:
            super().end(server)
            raise bench.Failed(f"server did not end within {END_LIMIT} s") from None


def main():
    # Ended from outside, it must still end its servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    bench.build_loadgen()
    cores = sorted(os.sched_getaffinity(0))
    (loop,) = run.parse_loops("velodrome")
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        training = Training(PLAN, cores[0], cores[-1], scratch)
        for workload in workloads.ALL:
            result = training.measure(workload, loop)
            # A row that is left out would be compiled as one that never runs.
            if missing := result.get("error") or result.get("not_installed"):
                failed = True
                run.progress(f"{workload.name}: {missing}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
