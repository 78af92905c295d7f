"""The project's own files agree with each other."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import tomllib
import yaml

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def requirement_name(line):
    return re.match(r"[A-Za-z0-9._-]+", line).group().lower().replace("_", "-")


def pinned():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return {requirement_name(line) for line in lines if line and not line.startswith("#")}


def test_every_dependency_is_pinned_in_constraints():
    extras = PYPROJECT["project"]["optional-dependencies"]
    wanted = PYPROJECT["project"]["dependencies"] + [r for name in extras for r in extras[name]]
    names = {requirement_name(r) for r in wanted} - {"llmapi-kit"}
    assert names - pinned() == set()


def test_torch_is_pinned_exactly():
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()


def test_conda_environment_installs_this_package_with_its_extras():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    names = [d for d in environment["dependencies"] if isinstance(d, str)]
    python = next(d for d in names if d.startswith("python="))
    assert python.removeprefix("python=") >= PYPROJECT["project"]["requires-python"].removeprefix(">=")
    pip = next(d["pip"] for d in environment["dependencies"] if isinstance(d, dict))
    assert "-c constraints.txt" in pip
    assert "c-compiler" in names
    extras = re.fullmatch(r"-e \.\[(.*)\]", next(line for line in pip if line.startswith("-e"))).group(1).split(",")
    assert set(extras) <= set(PYPROJECT["project"]["optional-dependencies"])


def rooms_of_the_architecture():
    """Folder and files of each row of the table of rooms in docs/architecture.md."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| `(llmapi_kit/[\w/]*)` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    return {folder.rstrip("/"): re.findall(r"`([^`]+)`", files) for folder, files in rows}


def test_architecture_has_every_room_and_no_other():
    files = [path for path in (ROOT / "llmapi_kit").rglob("*.*") if path.is_file() and "__pycache__" not in path.parts]
    folders = {str(path.parent.relative_to(ROOT)) for path in files}
    others = {folder for folder in folders if folder.startswith("llmapi_kit/vendored/")}  # the manifest lists those
    assert set(rooms_of_the_architecture()) == folders - others


def test_files_that_the_architecture_names_are_there():
    named = [f"{folder}/{name}" for folder, names in rooms_of_the_architecture().items() for name in names]
    assert [path for path in named if not (ROOT / path).is_file()] == []
    page = (ROOT / "docs" / "architecture.md").read_text()
    steps = [f"llmapi_kit/{path}" for path in re.findall(r"`((?:\w+/)+\w+\.py)`", page)]
    assert [path for path in steps if not (ROOT / path.replace("llmapi_kit/llmapi_kit", "llmapi_kit")).is_file()] == []
    assert len(named) > 30
    assert len(steps) > 6


def test_readme_is_short_and_its_links_lead_somewhere():
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= 130
    links = re.findall(r"\]\(([^)#]+)", readme)
    assert [link for link in links if not (ROOT / link).exists()] == []
    assert "docs/images/card.png" in links


def test_files_stay_short():
    files = [f for folder in ("llmapi_kit", "tests", "tools", "benchmarks") for f in (ROOT / folder).rglob("*.py")]
    long = {str(f.relative_to(ROOT)): n for f in files if (n := len(f.read_text().splitlines())) > 600}
    assert long == {}


def test_makefile_help_lists_the_targets():
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for target in ("demo", "lab", "serve", "test", "check", "docs", "notebooks", "bench", "gpu-check"):
        assert f"make {target}" in shown


def test_shell_scripts_are_valid_and_explain_themselves():
    for script in ("code-server.sh", ".ci/run"):
        subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    shown = subprocess.run(["./code-server.sh", "--help"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "--setup-only" in shown.stdout
    wrong = subprocess.run(["./code-server.sh", "--prot", "1"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (wrong.returncode, "unknown option --prot" in wrong.stderr) == (2, True)


def test_planted_faults_stand_where_they_say_and_name_tests_that_are_there():
    faults = tomllib.loads((ROOT / "tools" / "planted_faults.toml").read_text())["fault"]
    for fault in faults:
        assert (ROOT / fault["file"]).read_text().count(fault["old"]) == 1, fault["breaks"]
        assert all((ROOT / test.partition("::")[0]).exists() for test in fault["tests"]), fault["breaks"]
