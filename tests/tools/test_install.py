"""Packages come from where pip is told to look, by whichever program installs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tools import install

LISTED = """:env:.find-links='/first /second'
global.cert='/etc/certificates.pem'
global.find-links='/global'
global.index-url='https://index.example/simple'
install.constraint='/etc/constraints.txt'
site.index-url='https://unread.example/simple'
"""


@pytest.fixture
def programs(monkeypatch):
    """What was run, and what each program says by the module's name."""
    ran, answers = [], {"uv": 0, "pip": 0}

    def run(command, folder=None, environment=None):
        ran.append(command)
        listed = LISTED if "config" in command else "what it said"
        return subprocess.CompletedProcess(command, answers[command[2]], listed)

    monkeypatch.setattr(install, "run", run)
    monkeypatch.setattr(install, "has_uv", lambda: True)
    return ran, answers


def test_the_environment_goes_before_a_commands_settings_and_those_before_all_others():
    assert install.effective_settings(LISTED) == {
        "cert": "/etc/certificates.pem",
        "find-links": "/first /second",
        "index-url": "https://index.example/simple",
        "constraint": "/etc/constraints.txt",
    }


def test_uv_is_told_where_pip_finds_packages(programs):
    ran, _ = programs
    assert install.main(["--python", "other", "-c", "mine.txt", "thing"]) == 0
    assert ran[-1] == [
        *(sys.executable, "-m", "uv", "pip", "install", "--python", "other", "--index-strategy", "unsafe-best-match"),
        *("--default-index", "https://index.example/simple", "--find-links", "/first", "--find-links", "/second"),
        *("--constraint", "/etc/constraints.txt", "-c", "mine.txt", "thing"),
    ]


def test_pip_installs_where_uv_cannot(programs):
    ran, answers = programs
    answers["uv"] = 2
    assert install.main(["--python", "other", "thing"]) == 0
    assert ran[-1][1:5] == ["-m", "pip", "--python", "other"]
    assert ran[-1][-1] == "thing"


def test_what_pip_says_is_shown_when_neither_can(programs, capsys):
    _, answers = programs
    answers.update(uv=2, pip=1)
    assert install.main(["thing"]) == 1
    assert "what it said" in capsys.readouterr().err
