"""Programs that fork from a warm Python are as those that start from nothing."""

import os
import signal

import pytest

pytestmark = pytest.mark.kernel


@pytest.mark.slow
def test_a_program_has_its_arguments_environment_folder_and_input(warm_python, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "import os, sys; print(sys.argv, os.environ['WHO'], os.getcwd(), input(), __name__)"
    done = warm_python.run(code, "a b", "c", typed="typed\n", WHO="me")
    assert done.stdout == f"['-c', 'a b', 'c'] me {tmp_path} typed __main__\n"
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "status", "said"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise ValueError('broken')", 1, "ValueError: broken\n"),
        ("import warnings; warnings.warn('a warning')", 1, "UserWarning: a warning\n"),
        ("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, ""),
    ],
)
def test_how_a_program_ended_is_told(warm_python, code, status, said):
    done = warm_python.run(code)
    assert done.returncode == status
    assert done.stderr.endswith(said)


@pytest.mark.slow
def test_what_a_program_does_no_other_sees(warm_python):
    warm_python.run("import json, os; json.dumps = None; os.environ['LEFT'] = 'behind'")
    done = warm_python.run("import json, os; print(json.dumps(os.environ.get('LEFT')), end='')")
    assert done.stdout == "null"


def test_a_program_runs_beside_others_and_ends_as_it_is_told(warm_python):
    reading, writing = os.pipe()
    with open(reading) as output:
        with open(writing, "w"):
            program = warm_python.start("import time; print('begun', flush=True); time.sleep(600)", stdout=writing)
        try:
            assert output.readline() == "begun\n"
            assert warm_python.run("print('meanwhile')").stdout == "meanwhile\n"
            assert program.poll() is None
            program.send_signal(signal.SIGTERM)
            assert program.wait() == -signal.SIGTERM
        finally:
            program.kill()
