"""Runs the code of a page of the documentation, from top to bottom, in an empty folder.

    python tests/documents.py docs/tls.md

A page is one program: its blocks of Python share their names, and may use the files that earlier blocks have made. A
warning is an error, and so is anything on stderr that the page does not show. The rest is said by what a reader sees:

    ```python       its first line may be `# Python 3.12 and newer`, `# Python 3.13 and older` (it runs only there), or
                    `# name.py`: it is written to that file, and not run
    ```sh           lines that begin with `make` are only checked (make --dry-run), in the repository
    ```text         what the block before it prints; `...` stands for anything
    ```toml, json   must be valid
    ```rust         runs as a documentation test of a crate, which includes the page

A block that cannot run says why in a comment before it: `<!-- not run: why -->`. One that a test of its own runs, with
servers and the like, names it: `<!-- run by tests/services/test_servers.py -->`. That test must name the page. Such a
comment at the top of a page, before its title, is about each of its blocks.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
import tomllib
import traceback
from pathlib import Path

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(
    r"^(?:<!-- (?P<comment>.*?) -->\n+)?(?P<fence>```+)(?P<language>.*)\n(?P<code>(?s:.*?))^(?P=fence)$", re.MULTILINE
)
PAGE = re.compile(r"<!-- (?P<comment>run by .*?) -->\n+# ")
VERSION = re.compile(r"# Python 3\.(\d+) and (newer|older)\n")
FILE = re.compile(r"# ([\w/]+\.py)\n")


@dataclasses.dataclass
class Block:
    page: str
    line: int
    language: str
    code: str
    comment: str  # without its arrows; empty if there is none

    @property
    def reason(self):
        """Why it is not run."""
        return self.comment.partition("not run: ")[2]

    @property
    def other_test(self):
        return self.comment.partition("run by ")[2]

    def __str__(self):
        return f"{self.page}:{self.line}"


def blocks(page):
    """The blocks of a page, which is a path in the repository."""
    text = (ROOT / page).read_text()
    about_all = PAGE.match(text)
    default = about_all["comment"] if about_all else ""
    for found in BLOCK.finditer(text):
        line = text.count("\n", 0, found.start("code")) + 1
        yield Block(page, line, found["language"].strip(), found["code"], found["comment"] or default)


def pages():
    """README.md, and all that is in docs/."""
    return ["README.md", *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md"))]


def is_for_this_python(code):
    if found := VERSION.match(code):
        minor, newer = int(found[1]), found[2] == "newer"
        return sys.version_info[1] >= minor if newer else sys.version_info[1] <= minor
    return True


def run_python(block, names):
    if found := FILE.match(block.code):
        path = Path(found[1])
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.code)
        return "", ""
    if not is_for_this_python(block.code):
        return None
    # Behind as many lines as on the page, so that tracebacks show where.
    program = compile("\n" * (block.line - 1) + block.code, str(ROOT / block.page), "exec")
    with contextlib.redirect_stdout(io.StringIO()) as output, contextlib.redirect_stderr(io.StringIO()) as errors:
        exec(program, names)
    return output.getvalue(), errors.getvalue()


def run_shell(block):
    commands = [line for line in block.code.splitlines() if not line.startswith("make ")]
    for goal in re.findall(r"^make (.*?)(?: +#.*)?$", block.code, re.M):
        check(["sh", "-ec", f"make --dry-run {goal}"], cwd=ROOT)
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return "".join(check(["sh", "-ec", "\n".join(commands)], env=environment)), ""  # programs may talk on stderr


def check(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **options)
    if done.returncode:
        raise AssertionError(f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def compare(block, expected, seen):
    pattern = ".*".join(map(re.escape, expected.split("...")))
    if not re.fullmatch(pattern, seen, re.DOTALL):
        raise AssertionError(f"{block} printed\n{seen}")


def run_page(page):
    names = {"__name__": "__main__"}
    before, seen = None, None  # the block before, and its stdout and stderr
    for block in [*blocks(page), Block(page, 0, "", "", "")]:
        if block.language == "text" and not block.comment:
            if seen is not None:
                compare(before, block.code, seen[0] + seen[1])
            seen = None
            continue
        if seen is not None and seen[1]:
            compare(before, "", seen[1])
        seen = None
        before = block
        if block.comment:
            continue  # see test_documents.py
        match block.language:
            case "python":
                seen = run_python(block, names)
            case "sh":
                seen = run_shell(block)
            case "toml":
                tomllib.loads(block.code)
            case "json":
                json.loads(block.code)


def main():
    try:
        run_page(sys.argv[1])
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
