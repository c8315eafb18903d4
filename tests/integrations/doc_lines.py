"""The lines of docs/servers.md and docs/tools.md, which the tests run as they stand there.

Each is asked for when a test module is imported, so that `test_pages.py` knows which nobody asked for.
"""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Page:
    """What a page has to run: Python programs, and commands of a shell, one a line."""

    def __init__(self, name):
        blocks = BLOCK.findall((DOCS / name).read_text())
        assert {language for language, _ in blocks} == {"python", "sh"}
        self.programs = [code for language, code in blocks if language == "python"]
        self.commands = [line for language, code in blocks if language == "sh" for line in code.splitlines()]
        self.unused = {*self.programs, *self.commands}

    def _one(self, texts, part):
        (text,) = [text for text in texts if text == part] or [text for text in texts if part in text]
        self.unused.discard(text)
        return text

    def command(self, part):
        """The one command that is this, or has this in it."""
        return self._one(self.commands, part)

    def program(self, part):
        """The one program that is this, or has this in it."""
        return self._one(self.programs, part)


SERVERS = Page("servers.md")
TOOLS = Page("tools.md")
