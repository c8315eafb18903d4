"""What a suite's two runs, on stock asyncio and on velodrome, say of each other."""

from dataclasses import dataclass

from projects import Project
from session import BAD, OUTCOMES, Suite

SHOWN = 40  # of the lines that say what is wrong with a project


@dataclass
class Comparison:
    project: Project
    asyncio: Suite | None = None
    velodrome: Suite | None = None
    unavailable: str = ""  # why the suite did not run: not a failure
    broken: str = ""  # what went wrong in running it: a failure

    def only_on_velodrome(self):
        """The tests that velodrome fails and asyncio does not, and those that it only does not pass."""
        if not self.velodrome:
            return []
        worse = [test for test in self.velodrome.bad() if self.asyncio.outcomes.get(test) not in BAD]
        passed = [test for test, outcome in self.asyncio.outcomes.items() if outcome == "passed"]
        return worse + [test for test in passed if self.velodrome.outcomes.get(test, "skipped") == "skipped"]

    def only_on_asyncio(self):
        if not self.velodrome:
            return []
        return [test for test in self.asyncio.bad() if self.velodrome.outcomes.get(test) == "passed"]

    def explained(self, expected):
        """Test -> why, for those that fail only on velodrome and are in the list."""
        return {
            test: entry.why
            for test in self.only_on_velodrome()
            for entry in expected
            if entry.explains(self.project.name, test)
        }

    def troubles(self, expected):
        """What must not be: a line for each."""
        if self.broken:
            yield self.broken
        if not self.velodrome:
            return
        explained = self.explained(expected)
        for test in self.only_on_velodrome():
            if test not in explained and (test in self.velodrome.outcomes or not self.velodrome.broken_off):
                yield f"{self.velodrome.outcomes.get(test, 'not run')} only on velodrome: {test}"
        for suite in (self.asyncio, self.velodrome):
            if suite.broken_off:
                yield f"broken off on {suite.loop}: {suite.broken_off}"
            if not suite.loops(suite.loop):
                yield f"no {suite.loop} loop was made on {suite.loop}: nothing is known of it"
        for name, count in self.velodrome.loops_made.items():
            if not name.startswith("velodrome ") and name not in self.project.other_loops:
                yield f"{count} loops of {name.partition(' ')[2]} were made on velodrome"
        if self.asyncio.loops("velodrome"):
            yield "velodrome loops were made on asyncio"

    def describe(self, expected):
        """A few lines for the terminal."""
        title = f"\n== {self.project.name} {self.project.version}"
        if not self.velodrome:
            return f"{title}: {self.unavailable or self.broken}"
        lines = [title]
        for suite in (self.asyncio, self.velodrome):
            counts = ", ".join(f"{suite.count(outcome)} {outcome}" for outcome in OUTCOMES)
            lines.append(f"{suite.loop:10} {counts}; {suite.loops(suite.loop)} loops made; {suite.seconds:.0f} s")
            lines += [f"  passed when run again: {test}" for test in suite.passed_again]
        explained = self.explained(expected)
        lines += [f"only on asyncio: {test}" for test in self.only_on_asyncio()]
        lines += [f"explained: {test}: {why}" for test, why in explained.items()]
        troubles = [f"TROUBLE {line}" for line in self.troubles(expected)]
        lines += troubles[:SHOWN] + [f"... {len(troubles)} in all"] * (len(troubles) > SHOWN)
        return "\n".join(lines)
