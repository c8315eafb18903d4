"""Workloads that need no peer: each does an exact number of operations and checks that all of them happened."""

from . import callbacks, descriptors, lifecycle, processes, tasks, threads, timers
from .workload import MicroWorkload, MissingOperations

__all__ = ["WORKLOADS", "MicroWorkload", "MissingOperations"]

# In the order of the table: that of these files and, in each, of its functions.
WORKLOADS = {
    found.name: found
    for module in (callbacks, threads, tasks, timers, lifecycle, descriptors, processes)
    for found in vars(module).values()
    if isinstance(found, MicroWorkload)
}
