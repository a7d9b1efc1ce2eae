"""Fixtures, for those who run the suite with pytest; `python3 -m unittest` needs none of it."""

import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))

from harness import Daemon  # noqa: E402  pylint: disable=wrong-import-position


@pytest.fixture
def daemon():
    """A daemon of the test's own, which must end cleanly."""
    with Daemon() as started:
        yield started
