"""arq and taskiq: jobs are done by workers in processes of their own."""

import json
import threading

import pytest
import velodrome
from arq import create_pool
from arq.connections import RedisSettings
from doc_lines import TOOLS
from fakeredis import TcpFakeServer

ARQ = TOOLS.command("arq")
TASKIQ = TOOLS.command("taskiq")


@pytest.fixture
def redis_port():
    """A server that speaks as much of Redis as arq needs."""
    server = TcpFakeServer(("127.0.0.1", 0), server_type="redis")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


async def add_with_arq(port):
    pool = await create_pool(RedisSettings(port=port))
    jobs = [await pool.enqueue_job("add", number, 2 * number) for number in range(20)]
    answers = [await job.result(timeout=60, poll_delay=0.05) for job in jobs]
    await pool.aclose()
    return answers


def test_arq_runs_jobs_on_velodrome(redis_port, start):
    worker = start(ARQ, REDIS_PORT=str(redis_port))
    answers = velodrome.run(add_with_arq(redis_port))
    assert [answer["sum"] for answer in answers] == [3 * number for number in range(20)]
    assert {(answer["loop"], answer["pid"]) for answer in answers} == {("velodrome", worker.process.pid)}


def test_taskiq_runs_tasks_on_velodrome(start, run, port):
    parent = start(TASKIQ, BROKER_PORT=str(port)).process.pid
    answers = [json.loads(line) for line in run("python give_tasks.py", BROKER_PORT=str(port)).splitlines()]
    assert [(answer["sum"], answer["loop"]) for answer in answers] == [(42, "velodrome")] * 2
    assert len({parent, *(answer["pid"] for answer in answers)}) == 3
