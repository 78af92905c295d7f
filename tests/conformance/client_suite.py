"""The openai client's own tests, run against a server of ours.

They come in its source distribution, which pip fetches from wherever it is configured to; the archive is checked by
hash and kept under build/. They run in a process of their own, with the client's own pytest settings: its conftest,
plugins and asyncio mode would clash with ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from tempfile import TemporaryDirectory

VERSION = "3.52.0"
SHA256 = "258a4fec3e40b412c58672526ed33f20738c2e4ea27601792e73843af62466af"
# Of its tests, those of the endpoints that this server has.
FILES = ("chat", "test_completions.py", "test_embeddings.py", "test_images.py", "test_models.py")
# What they send.
API_KEY = "My API Key"
MODELS = ("gpt-6-astra", "gpt-3.5-turbo-instruct", "text-embedding-3-small")
CACHE = Path(__file__).parents[2] / "build" / "openai-client"
TIMEOUT_S = 120


def fetch_archive() -> Path:
    """The source distribution, from the cache or from pip's index."""
    archive = CACHE / f"openai-{VERSION}.tar.gz"
    if not archive.is_file():
        CACHE.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=CACHE) as work:
            requirement = Path(work, "requirement.txt")
            requirement.write_text(f"openai=={VERSION} --hash=sha256:{SHA256}\n")
            # Without isolation pip reads its metadata with the hatchling that is installed; else it would fetch one.
            pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation")
            only_source = ("--no-binary", "openai", "--require-hashes")
            _run([*pip, *only_source, "--dest", work, "-r", str(requirement)], "pip could not fetch the openai client")
            Path(work, archive.name).replace(archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != SHA256:
        raise RuntimeError(f"{archive} has the SHA-256 {found}, not {SHA256}. Delete it to fetch it again.")
    return archive


def unpack(archive: Path, folder: Path) -> Path:
    """Its tests and pytest settings; the package itself is the one that is installed."""
    with tarfile.open(archive) as tar:
        root = archive.name.removesuffix(".tar.gz")
        wanted = [m for m in tar if m.name.startswith(f"{root}/tests/") or m.name == f"{root}/pyproject.toml"]
        tar.extractall(folder, wanted, filter="data")
    return folder / root


def run_suite(suite: Path, base_url: str) -> dict[str, str | None]:
    """Run the tests against a server.

    Returns:
        By test, such as ``chat.test_completions.TestAsyncCompletions.test_method_list[loose]``: None where it passed,
        else what it said.
    """
    report = suite / "report.xml"
    files = [f"tests/api_resources/{name}" for name in FILES]
    options = ("-c", "pyproject.toml", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin")
    command = [sys.executable, "-m", "pytest", *options, "--tb=line", f"--junitxml={report}", *files]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "PYTEST_", "PYTHONPATH")) and not name.lower().endswith("_proxy")
    }
    environment |= {"TEST_API_BASE_URL": base_url, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    ran = subprocess.run(
        command, cwd=suite, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if ran.returncode not in (0, 1):  # 0: all passed; 1: some failed, which the report tells
        raise RuntimeError(f"The client's tests did not run:\n{ran.stdout[-4000:]}{ran.stderr[-2000:]}")
    return dict(map(_outcome, ElementTree.parse(report).iter("testcase")))


def split_client(test: str) -> tuple[str, str]:
    """The test without the client it ran with, and that client: ``chat.test_completions.test_method_list``, loose."""
    name, _, client = re.sub(r"\.Test\w+", "", test).removesuffix("]").partition("[")
    return name, client


def _outcome(case: ElementTree.Element) -> tuple[str, str | None]:
    name = f"{case.attrib['classname']}.{case.attrib['name']}".removeprefix("tests.api_resources.")
    problem = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
    return name, None if problem is None else f"{problem.tag}: {problem.get('message')}"


def _run(command: list[str], what_if_not: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"{what_if_not}: {ran.stderr.strip()[-2000:]}")
