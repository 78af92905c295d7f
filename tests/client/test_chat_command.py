"""`llmapi-kit chat` in a terminal of its own, typed at as a user does."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest

from llmapi_kit.engines.mock import MockEngine
from tests.api.conftest import wait_until
from tests.warm_python import COMMAND_LINE

pytestmark = pytest.mark.slow

UP, END_OF_INPUT = "\x1b[A", "\x04"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x07|\r")


class Terminal:
    """The chat in a pseudo terminal: type, and wait for what it shows."""

    def __init__(self, warm_python, *arguments, **environment):
        self._ours, theirs = pty.openpty()
        files = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
        self.process = warm_python.start(COMMAND_LINE, "chat", *arguments, **files, **{"TERM": "dumb", **environment})
        os.close(theirs)
        self.shown = ""
        self._seen = 0

    def read_until(self, text, timeout_s=20):
        """Wait until a text is shown after all that was waited for before; returns what came up to it."""
        deadline = time.monotonic() + timeout_s
        while text not in self.shown[self._seen :]:
            assert time.monotonic() < deadline, f"{text!r} did not show; {self.shown[self._seen :]!r} did"
            if select.select([self._ours], [], [], 0.2)[0]:
                try:
                    new = os.read(self._ours, 65536).decode(errors="replace")
                except OSError:  # Linux, when the program has ended
                    new = ""
                assert new or text in self.shown[self._seen :], f"it ended without {text!r}: {self.shown!r}"
                self.shown += ESCAPES.sub("", new)
        start, self._seen = self._seen, self.shown.index(text, self._seen) + len(text)
        return self.shown[start : self._seen]

    def type(self, text):
        os.write(self._ours, text.encode())

    def ask(self, line):
        """Type a line at the prompt; returns what is shown until the next one."""
        self.type(line + "\r")
        self.read_until("\n")  # the echo
        return self.read_until("\n> ").removesuffix("\n> ")

    def interrupt(self):
        self.process.send_signal(signal.SIGINT)

    def interrupt_at_prompt(self):
        """A new line, a new prompt and nothing else; Python overlooks a signal that comes before it waits for keys."""
        self.interrupt()
        try:
            self.read_until("\n> ", timeout_s=3)
        except AssertionError:
            self.interrupt()
            self.read_until("\n> ")

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


@pytest.fixture
def terminal(warm_python):
    """`terminal(arguments…)`: a chat that has shown its first prompt."""
    made = []

    def make(*arguments, **environment):
        made.append(Terminal(warm_python, *arguments, **environment))
        made[-1].read_until("> ")
        return made[-1]

    yield make
    for each in made:
        each.close()


def leave(chat):
    chat.type(END_OF_INPUT)
    assert chat.process.wait(20) == 0


@pytest.mark.parametrize("who", [["--bot", "chatgpt"], []])
def test_the_commands_work_with_a_bot_and_with_a_model(serve, terminal, tmp_path, who):
    class Recounting(MockEngine):
        async def generate(self, request):
            texts = [message["content"] for message in request.messages]
            async for event in MockEngine("|".join(texts)).generate(request):
                yield event

    server = serve(Recounting())
    chat = terminal("--host", server.url, *who, "--system", "first")
    assert f" at {server.url}. /help lists" in chat.shown
    assert "/save FILE" in chat.ask("/help")
    assert "There is no /hlep" in chat.ask("/hlep")
    assert chat.ask("a").strip() == "first|a"
    assert chat.ask("b").strip() == "first|a|first|a|b"
    assert "Forgotten" in chat.ask("/reset")
    assert chat.ask("c").strip() == "first|c"
    assert "with that system prompt" in chat.ask("/system be  brief")
    assert chat.ask("d").strip() == "be  brief|d"
    file = tmp_path / "talk.txt"
    assert "Saved 2 messages" in chat.ask(f"/save {file}")
    name = "chatgpt" if who else "mock"
    assert file.read_text() == f"you: d\n\n{name}: be  brief|d\n\n"
    assert "File exists" in chat.ask(f"/save {file}")
    assert "Say where" in chat.ask("/save")
    assert "with no system prompt" in chat.ask("/system")
    assert chat.ask("e").strip() == "e"
    leave(chat)
    assert "Traceback" not in chat.shown


@pytest.mark.parametrize("who", [["--bot", "chatgpt"], ["--model", "mock"]])
def test_ctrl_c_ends_the_answer_and_not_the_chat(serve, terminal, who):
    engine = MockEngine("many words " * 1000, delay_s=0.01)
    serve(engine)
    chat = terminal(*who)
    chat.type("go\r")
    chat.read_until("many words many")
    chat.interrupt()
    assert "[stopped" in chat.read_until("\n> ")
    wait_until(lambda: engine.stats().num_running == 0)
    chat.interrupt_at_prompt()
    assert "begin anew" in chat.ask("/help")
    leave(chat)


def test_lines_typed_before_come_back_in_the_next_chat_and_are_private(serve, terminal, home):
    serve()
    first = terminal("--bot", "mock")
    first.ask("remember me")
    leave(first)
    assert (home / "chat").stat().st_mode & 0o777 == 0o700
    second = terminal("--bot", "mock", TERM="xterm")
    second.type(UP)
    second.read_until("remember me")
    second.type("\r")
    second.read_until("Text mock reply for your prompt:remember me")
    second.read_until("> ")
    leave(second)


def test_what_a_model_says_can_not_command_the_terminal(serve, terminal):
    serve(MockEngine("a\x1b]0;title\x07b\x1b[2Jc\x9bd\re"))
    chat = terminal(TERM="xterm")
    assert "a]0;titleb[2Jcde" in chat.ask("go")
    leave(chat)


def test_a_server_that_goes_away_is_a_line_and_the_chat_goes_on(serve, terminal):
    server = serve()
    chat = terminal("--bot", "mock")
    chat.ask("hello")
    server.stop(0)
    assert "[No whole answer came from" in chat.ask("still there?")
    assert "/reset" in chat.ask("/help")
    leave(chat)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--bot", "gpt-5"], "There is no bot 'gpt-5' here"),
        (["--bot", "chatgpt", "--model", "gone"], "settings.model: The model 'gone' is not served here"),
        (["--url", "127.0.0.1:1"], "No server answers at http://127.0.0.1:1"),
    ],
)
def test_a_chat_that_can_not_begin_is_one_line_and_status_1(serve, warm_python, arguments, message):
    serve()
    done = warm_python.run(COMMAND_LINE, "chat", *arguments)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_terminal_it_reads_lines_and_keeps_no_history(serve, home):
    serve()
    # The one chat here that starts from nothing
    command = [sys.executable, "-m", "llmapi_kit", "chat", "--bot", "mock"]
    done = subprocess.run(command, input="one\n\ntwo\n", capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.count("Text mock reply for your prompt:") == 2
    assert not (home / "chat").exists()
