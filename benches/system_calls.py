"""What a server asks of the kernel for an operation, by strace, which writes down each call and when it was made.

A server under strace is several times slower, so it is another server than the one whose CPU time is measured; how many
calls an operation takes hardly changes.
"""

import re
import shutil
import subprocess
import time
from collections import Counter

# As a grandchild of its own (-D), so that what is started, and ended, is the server. Arguments are not looked into.
OPTIONS = ("-D", "-f", "-q", "-ttt", "-e", "raw=all", "-e", "signal=KILL")

# A call that another thread's interrupts has a second line, which says so.
CALL = re.compile(rb"(\d+) +(\d+\.\d+) (\w+)\(")
END = re.compile(rb"^(\d+) +\S+ \+\+\+ ", re.MULTILINE)

END_LIMIT = 10  # seconds until strace has seen the end of a server that was killed
TAIL = 4096  # bytes of a log that have the ends of all its threads

LEAST_SHARE = 0.005  # calls per operation that are worth a name: what rounds to 0.01


def traced(command, log):
    """The command that runs `command` and writes its calls to the file `log`."""
    return ["strace", *OPTIONS, "-o", log, "--", *command]


def obstacle():
    """Why calls cannot be counted here; None if they can."""
    if not shutil.which("strace"):
        return "strace is not on PATH (Debian: apt-get install strace)"
    answer = subprocess.run(traced(["true"], "/dev/null"), capture_output=True, text=True)
    if answer.returncode or answer.stderr:
        words = answer.stderr.strip().splitlines()[-1:] or [f"it ends with status {answer.returncode}"]
        return f"strace does not work: {words[0]}"
    return None


def wait_for_end(log, pid):
    """Wait until the log tells of the end of the process; false if it never does."""
    deadline = time.monotonic() + END_LIMIT
    while time.monotonic() < deadline:
        with open(log, "rb") as lines:
            lines.seek(max(log.stat().st_size - TAIL, 0))
            if any(int(found[1]) == pid for found in END.finditer(lines.read())):
                return True
        time.sleep(0.01)
    return False


def count(log, begin, end):
    """How often each call was made from `begin` to `end`, in seconds since the epoch."""
    found = Counter()
    with open(log, "rb") as lines:
        for line in lines:
            call = CALL.match(line)
            if call and begin <= float(call[2]) < end:
                found[call[3].decode()] += 1
    return found


def per_operation(calls, operations):
    """The most frequent first."""
    return {name: round(number / operations, 4) for name, number in calls.most_common()}


def total(calls):
    return sum(calls.values())


def described(calls):
    """In words, without what hardly ever happens."""
    return ", ".join(f"{name} {share:.2f}" for name, share in calls.items() if share >= LEAST_SHARE)
