"""What ships of other projects is what the manifest says, with its licence, and asks no other machine for anything."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from llmapi_kit import vendored

pytestmark = pytest.mark.kernel
FOLDER = Path(vendored.__file__).parent
PACKAGES = {package["name"]: package for package in json.loads((FOLDER / "manifest.json").read_text())["packages"]}


@pytest.mark.parametrize("name", PACKAGES)
def test_files_are_the_ones_whose_hashes_the_manifest_has(name):
    here = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (FOLDER / name).iterdir()}
    assert here == {Path(path).name: sha256 for path, sha256 in PACKAGES[name]["files"].items()}


@pytest.mark.parametrize("name", PACKAGES)
def test_each_package_has_a_version_and_a_licence_with_its_text(name):
    assert re.fullmatch(r"\d+\.\d+\.\d+", PACKAGES[name]["version"])
    assert PACKAGES[name]["license"]
    assert len((FOLDER / name / "LICENSE").read_text()) > 500


def test_no_folder_is_left_out_of_the_manifest():
    assert {path.name for path in FOLDER.iterdir() if path.is_dir() and path.name != "__pycache__"} == set(PACKAGES)


def test_style_sheet_of_katex_brings_its_fonts_and_asks_for_none():
    css = vendored.katex_css()
    assert re.findall(r"url\((?!data:)", css) == []
    assert css.count("url(data:font/woff2") == len(list((FOLDER / "katex").glob("*.woff2")))
    assert css.count("@font-face") == css.count("url(")
