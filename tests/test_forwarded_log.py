"""What a process logs, handed on."""

from __future__ import annotations

import logging

from llmapi_kit.forwarded_log import ForwardedLog


def test_a_record_is_handed_on_with_its_traceback():
    lines = []
    log = logging.Logger("llmapi_kit.somewhere")
    log.addHandler(ForwardedLog(lambda *line: lines.append(line)))
    log.debug("not this")
    try:
        raise ValueError("too wide")
    except ValueError:
        log.warning("It is %s", "odd", exc_info=True)
    ((name, level, text),) = lines
    assert (name, level) == ("llmapi_kit.somewhere", logging.WARNING)
    assert text.startswith("It is odd\nTraceback")
    assert text.endswith("ValueError: too wide")


def test_a_line_that_cannot_be_handed_on_harms_no_work(monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)

    def fail(*line):
        raise ConnectionError("gone")

    log = logging.Logger("llmapi_kit.somewhere")
    log.addHandler(ForwardedLog(fail))
    log.info("nobody reads this")
