"""The front ends' tests once more on ipywidgets 7.7, which Colab ships. Installs it, so it runs only when asked for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]
HERE = Path(__file__).parent
ROOT = HERE.parents[2]
FOLDER = ROOT / ".venv-clients" / "ipywidgets7"
PACKAGES = ("ipywidgets==7.7.5", "jupyterlab_widgets==1.1.11", "ipython_genutils==0.2.0")


@pytest.fixture
def older_ipywidgets():
    """A folder with them, to be put before what is installed."""
    if not (FOLDER / "ipywidgets").is_dir():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(FOLDER)]
        subprocess.run([*pip, *PACKAGES], check=True, timeout=300)
    return FOLDER


def test_front_ends_and_plain_buttons_work_on_ipywidgets_7(older_ipywidgets):
    env = {**os.environ, "PYTHONPATH": str(older_ipywidgets)}
    version = [sys.executable, "-c", "import ipywidgets; print(ipywidgets.__version__)"]
    assert subprocess.run(version, env=env, capture_output=True, text=True, check=True).stdout.strip() == "7.7.5"
    modules = [str(HERE / "test_front_ends.py"), str(HERE.parent / "test_plain_buttons.py")]
    tests = [sys.executable, "-m", "pytest", "-q", "-W", "ignore", *modules]
    run = subprocess.run(tests, env=env, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stdout[-3000:]
    assert "skipped" not in run.stdout
