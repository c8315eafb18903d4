"""Nothing stands in docs/servers.md and docs/tools.md that no test runs."""

import importlib
from pathlib import Path

from doc_lines import SERVERS, TOOLS


def test_every_line_of_the_pages_is_run():
    for path in Path(__file__).parent.glob("test_*.py"):
        importlib.import_module(path.stem)
    assert not SERVERS.unused | TOOLS.unused
