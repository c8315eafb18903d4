"""A cluster of Dask's: scheduler, nannies and workers in processes of their own, all on velodrome."""

import json
import os
import signal
import time

import pytest
from conftest import PROGRAMS, starting
from dask import bag
from dask.distributed import Client, as_completed
from doc_lines import TOOLS

SCHEDULER = TOOLS.command("dask scheduler")
WORKER = TOOLS.command("dask worker")
LOCAL_CLUSTER = TOOLS.program("LocalCluster")

ADDRESS = "tcp://scheduler:8786"  # in the page


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A client of a cluster with three workers, each in a process of its own beside its nanny's."""
    file = tmp_path_factory.mktemp("dask") / "scheduler.json"
    # That a connection has ended, as they do, is logged with a traceback.
    with starting(PROGRAMS, complains=True) as start:
        local = "--host 127.0.0.1 --dashboard-address 127.0.0.1:0"
        scheduler = start(f"{SCHEDULER} {local} --port 0 --scheduler-file {file}")
        address = scheduler.until(lambda: read_address(file))
        workers = f"--nworkers 3 --nthreads 1 --death-timeout 60 --local-directory {file.parent}"
        start(f"{WORKER.replace(ADDRESS, address)} {local} {workers}")
        with Client(address, timeout=60) as client:
            client.wait_for_workers(3, timeout=60)
            yield client


def read_address(file):
    """What the scheduler has written, once all of it is there."""
    try:
        return json.loads(file.read_text())["address"]
    except ValueError as error:
        raise OSError("not yet") from error


def which_loop():
    """Pickled by value: no process has this module."""
    import which_loop

    return which_loop.which_loop()


which_loop.__module__ = "__main__"


def is_prime(number):
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


is_prime.__module__ = "__main__"


def loops_of(client):
    """Where scheduler, workers and nannies run, by process."""
    answers = [
        client.run_on_scheduler(which_loop),
        *client.run(which_loop).values(),
        *client.run(which_loop, nanny=True).values(),
    ]
    return {answer["pid"]: answer["loop"] for answer in answers}


def test_every_process_of_a_cluster_runs_on_velodrome(client):
    loops = loops_of(client)
    assert set(loops.values()) == {"velodrome"}
    assert len(loops) == 5  # the scheduler, three workers, and their nannies, which share a process
    assert os.getpid() not in loops


def test_a_cluster_computes_what_one_process_computes(client):
    numbers = range(100_000, 120_000)
    primes = bag.from_sequence(numbers, npartitions=30).filter(is_prime)
    count, total, by_digit = primes.count(), primes.sum(), primes.map(lambda prime: prime % 10).frequencies()
    expected = [number for number in numbers if is_prime(number)]
    assert count.compute(scheduler=client) == len(expected)
    assert total.compute(scheduler=client) == sum(expected)
    assert dict(by_digit.compute(scheduler=client)) == {
        digit: sum(prime % 10 == digit for prime in expected) for digit in (1, 3, 7, 9)
    }
    # Megabytes that go from worker to worker, and to us.
    blocks = client.map(lambda number: bytes([number]) * (1 << 20), range(24))
    joined = client.submit(lambda blocks: b"".join(blocks), blocks)
    assert joined.result(timeout=60) == b"".join(bytes([number]) * (1 << 20) for number in range(24))


def test_a_lost_worker_changes_no_result(client, tmp_path):
    def count(part):
        while part.start >= 30_000 and not go_on.exists():
            time.sleep(0.01)
        return sum(map(is_prime, part))

    go_on = tmp_path / "go on"
    workers = {answer["pid"] for answer in client.run(which_loop).values()}
    numbers = [range(start, start + 300) for start in range(0, 60_000, 300)]
    counts = client.map(count, numbers)
    total = client.submit(sum, counts)
    finished = as_completed(counts)
    for _ in range(20):
        next(finished)
    lost = min(workers)
    os.kill(lost, signal.SIGKILL)  # with results that nobody else has, and half of the work still to be done
    go_on.touch()
    assert total.result(timeout=60) == sum(map(is_prime, range(60_000)))
    assert client.gather(counts) == [sum(map(is_prime, part)) for part in numbers]
    # Its nanny starts another one in its place, which is on velodrome, too.
    client.wait_for_workers(3, timeout=60)
    loops = loops_of(client)
    assert lost not in loops
    assert set(loops.values()) == {"velodrome"}


def test_a_local_cluster_runs_on_velodrome(run, folder):
    ask = """
        from which_loop import which_loop
        for answer in client.run_on_scheduler(which_loop), *client.run(which_loop).values():
            print(answer["loop"])
"""
    (folder / "program.py").write_text(LOCAL_CLUSTER + ask)
    assert run("python program.py").split() == [str(sum(n * n for n in range(100))), *["velodrome"] * 3]
    (folder / "program.py").write_text((LOCAL_CLUSTER + ask).replace("import velodrome.auto\n", ""))
    assert run("python -m velodrome --children program.py").split()[1:] == ["velodrome"] * 3
