"""The Dockerfile says what the package needs; where there is no Docker, that is all that can be told."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import subprocess
import sys

import pytest
import tomllib

from llmapi_kit.version import __version__
from tests.api.conftest import KEY

from .files import DEPLOY, ROOT, defaults, documents, instructions, parsed, unknown_variables

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ALLOWED = [line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def given(word):
    return [rest for name, rest in instructions() if name == word]


def is_sent(path):
    """Whether the build sees a path of the repository."""
    return any(path == each or path.startswith(f"{each}/") for each in ALLOWED)


def test_the_linter_has_nothing_to_say():
    command = [f"{os.path.dirname(sys.executable)}/hadolint", "--no-color", str(DEPLOY / "Dockerfile")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_server_is_nobody_special_and_is_told_to_stop():
    assert given("USER") == ["10001:10001"]
    assert json.loads(given("ENTRYPOINT")[-1]) == ["tini", "--", "llmapi-kit"]
    assert "tini" in next(rest for rest in given("RUN") if "apt-get" in rest)


def test_the_command_is_one_of_the_kit():
    options = parsed(json.loads(given("CMD")[-1]))
    assert (options["host"], f"{options['port']}") == ("0.0.0.0", given("EXPOSE")[-1])


def test_no_key_is_built_in_and_every_variable_is_read_by_something():
    names = re.findall(r"(\w+)=", " ".join(given("ENV"))) + [rest.partition("=")[0] for rest in given("ARG")]
    assert unknown_variables(names) == {"PYTHON_VERSION", "DEVICE", "EXTRAS"}
    assert [name for name in names if re.search("KEY|TOKEN|PASSWORD|SECRET", name)] == []


def test_the_health_check_asks_what_needs_no_key(live_server):
    command = given("HEALTHCHECK")[-1]
    assert f"http://127.0.0.1:{given('EXPOSE')[-1]}/healthz" in command
    assert live_server.get("/healthz", headers={"Authorization": ""}).status_code == 200


def test_all_that_is_copied_is_sent_and_nothing_else():
    copied = [source for rest in given("COPY") for source in rest.split()[:-1] if not source.startswith("--")]
    assert [source for source in copied if source != "." and not is_sent(source)] == []
    assert [path for path in ALLOWED if not (ROOT / path).exists()] == []
    hatch = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    in_the_wheel = [PROJECT["readme"], *PROJECT["license-files"], *hatch["packages"], *hatch["force-include"]]
    assert [path for path in in_the_wheel if not is_sent(path)] == []
    assert not is_sent(".env")
    assert not any(fnmatch.fnmatch("deploy/.env", each) for each in ALLOWED)


def test_its_extras_and_stages_are_there():
    extras = dict(rest.split("=") for rest in given("ARG") if "=" in rest)["EXTRAS"].split(",")
    assert set(extras) <= set(PROJECT["optional-dependencies"])
    stages = {rest.split(" AS ")[1] for rest in given("FROM") if " AS " in rest}
    devices = {
        defaults(document)["services"]["server"]["build"]["args"]["DEVICE"]
        for path in ("compose.yaml", "compose.cuda.yaml")
        for document in documents(path)
    }
    assert {f"torch-{device}" for device in devices} == stages - {"wheel", "base"}


def test_it_has_the_version_and_a_python_of_the_package():
    text = (DEPLOY / "Dockerfile").read_text()
    assert set(re.findall(r"llmapi-kit:([\d.]+\d)", text)) == {__version__}
    version = dict(rest.split("=") for rest in given("ARG") if "=" in rest)["PYTHON_VERSION"]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]
    assert f"on Python {version}." in (ROOT / "constraints.txt").read_text().splitlines()[0]


@pytest.mark.parametrize(
    ("key", "status", "said"), [(KEY, 0, ""), ("sk-llmapi-not-this-one", 1, "401"), (None, 1, "401")]
)
def test_readyz_asks_with_the_key_of_the_environment(live_server, key, status, said):
    assert asked(live_server.base_url.port, key) == (status, said)


def test_readyz_fails_where_nothing_answers(unused_port):
    assert asked(unused_port, KEY) == (1, "[Errno")


def asked(port, key):
    """The exit status, and the first word that is printed."""
    environment = {name: value for name, value in os.environ.items() if name != "LLMAPI_KIT_API_KEY"}
    if key is not None:
        environment["LLMAPI_KIT_API_KEY"] = key
    command = [sys.executable, "-I", str(DEPLOY / "readyz.py"), str(port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stderr.partition(" ")[0].strip()
