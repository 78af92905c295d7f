"""A work folder with the tiny benchmark model, made once."""

from __future__ import annotations

import sys

import pytest

from benchmarks.models import make_model
from tests.warm_python import ROOT


@pytest.fixture(scope="session")
def work(tmp_path_factory):
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="session")
def tiny(work):
    return make_model("tiny", work)


# A module as `python -m` runs it
MODULE = """
import os, runpy, sys, warnings
warnings.resetwarnings()
sys.path[:0] = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""


class WarmModules:
    """What benchmarks use of `subprocess`, for ``[sys.executable, "-m", …]``: these programs have torch imported."""

    def __init__(self, python):
        self._python = python

    def popen(self, command, *, stdout, env, cwd=ROOT, **others):
        assert command[:2] == [sys.executable, "-m"]
        assert others.keys() <= {"stdin", "stderr", "start_new_session"}
        files = {"stdout": stdout.fileno(), "stderr": stdout.fileno()}
        return self._python.start(MODULE, *command[2:], **files, folder=cwd, **env)

    def run(self, command, *, env=None, **others):
        assert command[:2] == [sys.executable, "-m"]
        ran = self._python.run(MODULE, *command[2:], **(env or {}))
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran


@pytest.fixture
def warm_modules(warm_torch):
    return WarmModules(warm_torch)
