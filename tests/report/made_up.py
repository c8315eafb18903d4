"""Measurements that nobody took: one loop ahead, the other, neither, and what is rare."""

from http_report import Measurement


def measurement(loop, rate=1000, cpu_us=100.0, latency=lambda share: 0.001 + 0.02 * share**20):
    """One second with `rate` answers, of which each share was as late as `latency` of it says."""
    latencies = sorted(latency((number + 1) / rate) for number in range(rate))
    return Measurement(loop, rate, 1.0, rate * cpu_us * 1e-6, latencies)


def twice(better, worse, factor=2):
    """Two rounds, in which one loop is clearly better in everything."""

    def slow(share):
        return factor * (0.001 + 0.02 * share**20)

    return [
        measurement(better, 3000, 50.0),
        measurement(worse, 1500, 120.0, slow),
        measurement(worse, 1400, 125.0, lambda share: 1.1 * slow(share)),
        measurement(better, 3100, 49.0),
    ]


MEASUREMENTS = {
    "velodrome ahead": twice("velodrome", "asyncio"),
    "asyncio ahead": twice("asyncio", "velodrome"),
    "equal, and one round": [measurement("velodrome"), measurement("asyncio")],
    "nothing": [Measurement(name, 0, 1.0, 0.0, []) for name in ("velodrome", "asyncio")],
    "nothing of one": [Measurement("velodrome", 0, 1.0, 0.0, []), measurement("asyncio")],
    "one answer each": [measurement("velodrome", 1), measurement("asyncio", 1)],
    "far apart": [
        Measurement("velodrome", 9_876_543_210, 1.0, 3.0, [0.0, 1e-9, 1e-6]),
        Measurement("asyncio", 3, 3600.0, 3599.0, [1000.0, 1100.0, 1200.0]),
    ],
}
