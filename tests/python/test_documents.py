"""The code of README.md and of docs/ runs: see tests/documents.py for how."""

import re
import subprocess
import sys

import pytest
import velodrome
from certificates import has_openssl
from documents import BLOCK, ROOT, Block, blocks, compare, pages
from support import child_environment

ALL = [block for page in pages() for block in blocks(page)]
RUST = {"rust", "rust,no_run"}
RUN = {"python", "sh", "text", "toml", "json"}


@pytest.mark.parametrize("page", sorted({block.page for block in ALL if block.language in RUN}))
def test_the_code_of_the_page_runs(page, tmp_path):
    if not has_openssl() and "openssl" in (ROOT / page).read_text():
        pytest.skip("the page makes its certificate with the openssl program")
    done = subprocess.run(
        [sys.executable, "-W", "error", ROOT / "tests/documents.py", page],
        cwd=tmp_path,
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("block", [block for block in ALL if block.language not in RUN], ids=str)
def test_a_block_that_does_not_run_here_says_why(block):
    assert block.language in RUST or block.reason or block.other_test, f"what is to be done with {block.language!r}?"


@pytest.mark.parametrize("block", [block for block in ALL if block.comment], ids=str)
def test_comments_before_blocks_are_those_that_are_understood(block):
    assert block.reason or block.other_test, block.comment


@pytest.mark.parametrize("block", [block for block in ALL if block.other_test], ids=str)
def test_the_test_that_runs_a_block_names_its_page(block):
    assert block.page in (ROOT / block.other_test).read_text()


@pytest.mark.parametrize("page", sorted({block.page for block in ALL if block.language in RUST}))
def test_rust_on_a_page_is_a_documentation_test_of_a_crate(page):
    crates = (ROOT / "crates").glob("*/src/lib.rs")
    assert any(f'include_str!("../../../{page}")' in crate.read_text() for crate in crates)


@pytest.mark.parametrize("page", pages())
def test_code_is_in_fences(page):
    """Code that is only indented would be run by nobody."""
    text = BLOCK.sub("", (ROOT / page).read_text())
    assert "```" not in text
    lists = ("-", "*", "|")
    previous = ""
    for line in text.splitlines():
        starts_code = line.startswith("    ") and not previous.strip() and not line.lstrip().startswith(lists)
        assert not starts_code, line
        previous = line


def test_the_guide_says_the_same_in_both_languages():
    def outline(page):
        text = BLOCK.sub("", (ROOT / page).read_text())
        code = [re.sub(r"  # .*", "", block.code) for block in blocks(page)]  # comments are translated
        return re.findall("^#+", text, re.MULTILINE), text.count("\n|"), code

    assert outline("docs/guide.md") == outline("docs/guide.ja.md")


def has_own_docstring(method):
    """As the site shows it: without what is declared as a method of asyncio's."""
    inherited = getattr(method, "__module__", None) or method.__objclass__.__module__
    wrapped = getattr(method, "__wrapped__", None)
    return bool(method.__doc__) and "asyncio" not in inherited and method.__doc__ != getattr(wrapped, "__doc__", None)


@pytest.mark.parametrize("name", [name for name in dir(velodrome.Loop) if not name.startswith("_")])
def test_the_reference_tells_of_each_method_of_the_loop(name):
    page = (ROOT / "docs/reference.md").read_text()
    method = getattr(velodrome.Loop, name)
    assert (f"`{name}`" in page) != (callable(method) and has_own_docstring(method))


def test_the_reference_tells_of_all_of_the_package():
    page = (ROOT / "docs/reference.md").read_text()
    missing = {name for name in velodrome.__all__ if f"::: velodrome.{name}\n" not in page}
    assert missing == {"__version__"}


def test_few_blocks_do_not_run():
    assert len([block for block in ALL if block.reason]) <= 12


@pytest.mark.parametrize("seen", ["", "one\n", "one\nthree\n", "one\ntwo\nthree\nfour\n"])
def test_other_output_than_the_page_says_is_noticed(seen):
    block = Block("page.md", 1, "python", "", "")
    compare(block, "one\n...\nthree\n", "one\ntwo\nthree\n")
    with pytest.raises(AssertionError, match="page.md:1 printed"):
        compare(block, "one\n...\nthree\n", seen)
