"""A stand-in for the ngrok agent: prints its log lines, serves its local web service, and fails as told.

    python fake_ngrok.py SCENARIO.json start --none --log stdout --config FILE

The scenario (all keys optional): `record` file that gets what it was given and asked; `public_url` it hands out;
`startup_error` printed before it exits with 1; `is_silent`; `post_status` and `post_body` of a refusal;
`die_file` that ends it with `last_words` when it appears; `ignores_sigterm`; `has_no_session` (serves, but never says
ready). It ends by itself after 60 s, so that a failed test leaves nothing behind for long.
"""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Agent:
    def __init__(self, scenario: dict, arguments: list[str]) -> None:
        self.scenario = scenario
        config = Path(arguments[arguments.index("--config") + 1]) if "--config" in arguments else None
        text = config.read_text() if config else ""
        match = re.search(r'authtoken: "(.*)"', text)
        self.token = match.group(1) if match else ""
        self.seen = {
            "pid": os.getpid(),
            "arguments": arguments,
            "config": text,
            "config_mode": oct(config.stat().st_mode & 0o777) if config else None,
            "folder_mode": oct(config.parent.stat().st_mode & 0o777) if config else None,
            "environment": dict(os.environ),
            "requests": [],
        }
        self.lock = threading.Lock()
        self.save()

    def save(self) -> None:
        if "record" in self.scenario:
            draft = Path(self.scenario["record"] + f".{os.getpid()}")
            draft.write_text(json.dumps(self.seen))
            draft.replace(self.scenario["record"])

    def terminate(self) -> None:
        if not self.scenario.get("ignores_sigterm"):
            self.seen["was_terminated"] = True
            self.save()
            os._exit(0)

    def say(self, level: str, message: str, **fields: str) -> None:
        rest = " ".join(f'{key}="{value}"' for key, value in fields.items())
        print(f'lvl={level} msg="{message}" {rest}', flush=True)

    def run(self) -> int:
        if "startup_error" in self.scenario:
            # The real one quotes the token it refuses.
            self.say("eror", "failed to auth", err=self.scenario["startup_error"].replace("TOKEN", self.token))
            self.say("crit", "command failed", err="authentication failed")
            time.sleep(0.1)  # until that was read, too
            return 1
        if not self.scenario.get("is_silent"):
            server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
            threading.Thread(target=server.serve_forever, daemon=True).start()
            self.say("info", "starting web service", obj="web", addr=f"127.0.0.1:{server.server_port}")
            if not self.scenario.get("has_no_session"):
                self.say("info", "client session established", obj="tunnels.session")
                self.say("info", "tunnel session started", obj="tunnels.session")
        while True:
            time.sleep(0.02)
            if os.path.exists(self.scenario.get("die_file", "/nonexistent")):
                for line in self.scenario.get("last_words", []):
                    self.say("eror", "session closed", err=line)
                return 7

    def handler(agent) -> type[BaseHTTPRequestHandler]:  # noqa: N805 - the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            def answer(self, status: int, body: object = None) -> None:
                data = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def note(self) -> dict:
                body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
                with agent.lock:
                    agent.seen["requests"].append([self.command, self.path, body])
                    agent.save()
                return body

            def do_GET(self) -> None:
                self.answer(200, {"endpoints": []})

            def do_POST(self) -> None:
                body = self.note()
                if "post_status" in agent.scenario:
                    self.answer(agent.scenario["post_status"], agent.scenario["post_body"])
                else:
                    url = body.get("url", agent.scenario.get("public_url", "http://127.0.0.1:9"))
                    self.answer(201, {"name": body["name"], "url": url, "upstream": body["upstream"]})

            def do_DELETE(self) -> None:
                self.note()
                self.answer(204)

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # dies of an interrupt, as the real one does
    threading.Timer(60, lambda: os._exit(9)).start()
    agent = Agent(json.loads(Path(sys.argv[1]).read_text()), sys.argv[2:])
    signal.signal(signal.SIGTERM, lambda *_: agent.terminate())
    return agent.run()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)
