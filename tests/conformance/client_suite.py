"""The own tests of the openai and the anthropic client, run against a server of ours.

They come in the clients' source distributions, which pip fetches from wherever it is configured to; the archives are
checked by hash and kept under build/. They run in a process of their own, with the client's own pytest settings: its
plugins and asyncio mode would clash with ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

FOLDER = Path(__file__).parent
TIMEOUT_S = 120


@dataclass(frozen=True)
class ClientSuite:
    """The tests of one client.

    Attributes:
        package: its name, also that of its archive.
        version: that is installed and tested.
        sha256: of its source distribution.
        files: of its tests, those of the endpoints that this server has.
        api_key: what they send.
        models: what they ask for.
        conftest: a file beside this one that takes the place of its own; empty for its own.
    """

    package: str
    version: str
    sha256: str
    files: tuple[str, ...]
    api_key: str
    models: tuple[str, ...]
    conftest: str = ""

    @property
    def archive(self) -> Path:
        """Where its source distribution is kept."""
        folder = FOLDER.parents[1] / "build" / f"{self.package}-client"
        return folder / f"{self.package}-{self.version}.tar.gz"


OPENAI = ClientSuite(
    package="openai",
    version="3.52.0",
    sha256="258a4fec3e40b412c58672526ed33f20738c2e4ea27601792e73843af62466af",
    files=(
        *("chat", "test_completions.py", "test_embeddings.py", "test_images.py", "test_models.py"),
        *("responses", "test_responses.py"),
    ),
    api_key="My API Key",
    models=("gpt-6-astra", "gpt-3.5-turbo-instruct", "text-embedding-3-small"),
)
# Its own conftest makes clients for recorded tests too, and needs the packages that record.
ANTHROPIC = ClientSuite(
    package="anthropic",
    version="2.14.0",
    sha256="afb02f4df8efba429ff769bbfd71340d8b244b41ba42c073a45cc307702549fe",
    files=("test_messages.py", "beta/test_messages.py"),
    api_key="my-anthropic-api-key",
    models=("claude-opus-5-5",),
    conftest="anthropic_conftest.py",
)


def fetch_archive(client: ClientSuite) -> Path:
    """The source distribution, from the cache or from pip's index."""
    archive = client.archive
    if not archive.is_file():
        archive.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=archive.parent) as work:
            requirement = Path(work, "requirement.txt")
            requirement.write_text(f"{client.package}=={client.version} --hash=sha256:{client.sha256}\n")
            # Without isolation pip reads its metadata with the hatchling that is installed; else it would fetch one.
            pip = (sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation")
            only_source = ("--no-binary", client.package, "--require-hashes")
            what_if_not = f"pip could not fetch the {client.package} client"
            _run([*pip, *only_source, "--dest", work, "-r", str(requirement)], what_if_not)
            Path(work, archive.name).replace(archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != client.sha256:
        raise RuntimeError(f"{archive} has the SHA-256 {found}, not {client.sha256}. Delete it to fetch it again.")
    return archive


def unpack(client: ClientSuite, folder: Path) -> Path:
    """Its tests and pytest settings; the package itself is the one that is installed."""
    archive = fetch_archive(client)
    with tarfile.open(archive) as tar:
        root = archive.name.removesuffix(".tar.gz")
        wanted = [m for m in tar if m.name.startswith(f"{root}/tests/") or m.name == f"{root}/pyproject.toml"]
        tar.extractall(folder, wanted, filter="data")
    if client.conftest:
        shutil.copyfile(FOLDER / client.conftest, folder / root / "tests" / "conftest.py")
    return folder / root


def run_suite(client: ClientSuite, suite: Path, base_url: str) -> dict[str, str | None]:
    """Run the tests against a server.

    Args:
        client: whose tests.
        suite: where they are unpacked.
        base_url: of the server, as the client takes it.

    Returns:
        By test, such as ``chat.test_completions.TestAsyncCompletions.test_method_list[loose]``: None where it passed,
        else what it said.
    """
    report = suite / "report.xml"
    files = [f"tests/api_resources/{name}" for name in client.files]
    options = ("-c", "pyproject.toml", "-o", "addopts=", "-p", "no:cacheprovider", "-p", "pytest_asyncio.plugin")
    command = [sys.executable, "-m", "pytest", *options, "--tb=line", f"--junitxml={report}", *files]
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OPENAI_", "ANTHROPIC_", "PYTEST_", "PYTHONPATH")) and not _is_proxy(name)
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


def _is_proxy(name: str) -> bool:
    return name.lower().endswith("_proxy")


def _outcome(case: ElementTree.Element) -> tuple[str, str | None]:
    name = f"{case.attrib['classname']}.{case.attrib['name']}".removeprefix("tests.api_resources.")
    problem = next((part for part in case if part.tag in ("failure", "error", "skipped")), None)
    return name, None if problem is None else f"{problem.tag}: {problem.get('message')}"


def _run(command: list[str], what_if_not: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"{what_if_not}: {ran.stderr.strip()[-2000:]}")
