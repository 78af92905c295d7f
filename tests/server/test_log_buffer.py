from __future__ import annotations

import json
import logging
import time
import types
from functools import partial

import pytest

from llmapi_kit.server import log_buffer

pytestmark = pytest.mark.kernel


def test_records_become_json_lines_that_a_request_can_not_forge():
    buffer = log_buffer.install()
    logging.getLogger("llmapi_kit.test").warning("first\nsecond %s", "\x1b[31m")
    line = buffer.lines(1)[0]
    assert "\n" not in line
    assert "\x1b" not in line
    assert json.loads(line)["message"] == "first\nsecond \x1b[31m"


def test_a_clock_that_was_set_back_hides_no_line(monkeypatch):
    buffer = log_buffer.LogBuffer()
    now = time.time()
    monkeypatch.setattr(log_buffer, "time", types.SimpleNamespace(**{**vars(time), "time": lambda: now + 100}))
    buffer.add_request(lambda: {"message": "GET /early 200"})
    monkeypatch.undo()
    buffer.emit(logging.makeLogRecord({"msg": "a warning", "levelname": "WARNING"}))
    buffer.add_request(lambda: {"message": "GET /late 200"})
    assert [json.loads(line)["message"] for line in buffer.lines(2)] == ["a warning", "GET /late 200"]


def test_an_error_is_kept_with_its_kind_and_the_buffer_stays_bounded():
    buffer = log_buffer.install()
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("llmapi_kit.test").exception("it failed")
    assert json.loads(buffer.lines(1)[0])["error"] == "ValueError: broken"
    for i in range(log_buffer.MAX_LINES + 10):
        logging.getLogger("llmapi_kit.test").warning("line %d", i)
    buffer.add_request(lambda: {"message": "GET / 404"})
    for i in range(log_buffer.MAX_LINES + 10):
        buffer.add_request(partial(dict, message=f"GET /{i} 404"))
    loggers = [json.loads(line)["logger"] for line in buffer.lines(10_000)]
    assert loggers.count("llmapi_kit.requests") == log_buffer.MAX_LINES
    assert loggers.count("llmapi_kit.test") == log_buffer.MAX_LINES, "requests pushed out other lines"


@pytest.mark.slow
def test_warnings_do_not_reach_stderr_once_a_server_runs(warm_python):
    code = """
import logging, llmapi_kit as kit
server = kit.launch("mock", port=0)
logging.getLogger("llmapi_kit.api").warning("not for a cell")
print(server.logs()[-1])
server.stop()
"""
    done = warm_python.run(code)
    done.check_returncode()
    assert "not for a cell" in done.stdout
    assert "not for a cell" not in done.stderr
