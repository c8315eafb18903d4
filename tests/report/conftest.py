"""The tests of http_compare.py's page find its modules, made-up measurements for it, and the browser."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import browser as chromium
from made_up import MEASUREMENTS


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    if not chromium.program():
        pytest.skip("no Chromium here: apt-get install chromium")
    started = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield started
    started.close()


@pytest.fixture(params=MEASUREMENTS)
def measurements(request):
    return MEASUREMENTS[request.param]
