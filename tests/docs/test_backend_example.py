"""The example package of a back end: installed as a user would, found by its entry point, and its tests pass."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "backend"

USE_IT = """
import llmapi_kit as kit

model = kit.load("rhyming:poet", mood="sad")
print(model.ask("cat day"))
server = kit.launch(["mock", "rhyming:bard"], port=0)
with server.client() as client:
    messages = [{"role": "user", "content": "cat day"}]
    answer = client.chat.completions.create(model="bard", messages=messages)
print(answer.choices[0].message.content, server.stats()["bard"]["num_loads"])
try:
    kit.load("rhyming:nobody")
except kit.LlmApiKitError as exc:
    print(type(exc).__name__, exc)
kit.stop_all()
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The environment of a process that has the package installed, and the folder with its sources."""
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "backend")
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(site), str(source)], check=True, timeout=120, capture_output=True)
    shutil.rmtree(source / "rhyming_backend")  # what is installed is what is tested
    home = str(tmp_path_factory.mktemp("home"))
    return {**os.environ, "PYTHONPATH": str(site), "LLMAPI_KIT_HOME": home}, source


def run(installed, *command, status=0):
    environment, folder = installed
    ran = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ran.returncode == status, ran.stdout + ran.stderr
    return ran.stdout


def test_its_own_tests_pass(installed):
    assert "passed" in run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests")


def test_it_is_loaded_by_name_and_served_lazily(installed):
    lines = run(installed, "-c", USE_IT).splitlines()
    assert lines[:2] == ["gat gay", "bat bay 1"]
    assert lines[2] == (
        "ModelNotFoundError The back end 'rhyming' of the package llmapi-kit-rhyming: There is no poet 'nobody'. "
        "There are: poet, bard."
    )
