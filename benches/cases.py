"""For tests that start servers and measure."""

import tempfile
import unittest

import run
from bench import Bench, build_loadgen


class Measuring(unittest.TestCase):
    """Has a bench for short measurements, all of it on one core, and stock asyncio's loop."""

    window = 0.05  # seconds

    @classmethod
    def setUpClass(cls):
        build_loadgen()
        scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(scratch.cleanup)
        plan = run.Plan(rounds=1, warm_up=0.02, window=cls.window, micro=0.01)
        cls.bench = Bench(plan, 0, 0, scratch.name)
        (cls.loop,) = run.parse_loops("asyncio")
