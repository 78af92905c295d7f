"""A public URL by ngrok, through pyngrok.

pyngrok starts the agent and reads its log until it is ready; from there on this module watches the process
itself and asks the agent's local web service for one endpoint. Knows nothing of the server behind the port.
Threads: see `process`.

How the agent is tied down, and what that gives:

- pyngrok knows agents by `ngrok_path` and reuses one that runs, whatever its token. Here the path is a
  launcher made for this one tunnel (`AgentFolder.write_launcher`), so every tunnel has its own agent, two
  may run at once as far as the ngrok plan goes, and an agent that the user's own pyngrok code started is
  neither reused nor killed.
- The launcher becomes the agent after asking Linux to kill it when the tunnel thread ends: a killed kernel
  leaves no agent. On macOS there is no such call; there an agent outlives a `kill -9` of its kernel until
  the next tunnel's start finds its pid file.
- `start_new_session` keeps an interrupted cell from interrupting the agent.
- The token stands in a file only this user can read, gone when the tunnel stops; never in an argument, nor
  in the agent's environment. ngrok quotes a wrong token in its answer, so the log and pyngrok's own logger
  are redacted too.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import uuid
from pathlib import Path

from pydantic import SecretStr
from pyngrok import ngrok
from pyngrok import process as pyngrok_process
from pyngrok.conf import PyngrokConfig
from pyngrok.exception import PyngrokError, PyngrokNgrokError, PyngrokNgrokHTTPError, PyngrokNgrokURLError
from pyngrok.process import NgrokProcess

from llmapi_kit.errors import ConfigError, LlmApiKitError, TunnelAuthError, TunnelError, TunnelTimeoutError
from llmapi_kit.tunnels import ngrok_errors
from llmapi_kit.tunnels.agent_folder import AgentFolder
from llmapi_kit.tunnels.base import TunnelSettings
from llmapi_kit.tunnels.health import Health, check_health
from llmapi_kit.tunnels.ngrok_setup import TOKEN_VARIABLE, check_agent_path, find_agent, find_token
from llmapi_kit.tunnels.no_proxy import loopback_direct
from llmapi_kit.tunnels.process import AgentTunnel
from llmapi_kit.tunnels.secret_store import forget_secret

PYNGROK_AGENT_LOGGER = "pyngrok.process.ngrok"
DISCONNECT_TIMEOUT_S = 1.5
# With it ngrok's free plan answers API clients that look like browsers; the value does not matter.
SKIP_WARNING = {"ngrok-skip-browser-warning": "llmapi-kit"}


class NgrokTunnel(AgentTunnel):
    """One ngrok agent with one endpoint. Implements the `Tunnel` protocol."""

    def __init__(self, *, port: int, settings: TunnelSettings) -> None:
        super().__init__(port=port, settings=settings)
        self._token = SecretStr("")
        self._given_agent: Path | None = None
        self._endpoint_name = f"llmapi-kit-{port}-{uuid.uuid4().hex[:8]}"
        self._agent: NgrokProcess | None = None

    @property
    def kind(self) -> str:
        """See `Tunnel.kind`."""
        return "ngrok"

    def prepare(self) -> None:
        """See `Tunnel.prepare`."""
        if self.settings.ngrok_path is not None:
            self._given_agent = check_agent_path(self.settings.ngrok_path)
        domain = self.settings.domain
        if domain is not None and not re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", domain):
            raise ConfigError(f"domain is {domain!r}; it must be a host name, such as my-name.ngrok.app.")
        region = self.settings.region
        if region is not None and not re.fullmatch(r"[a-z]{2}(-[a-z]+-\d+)?", region):
            raise ConfigError(f"region is {region!r}; it must be one of ngrok's, such as eu, us, ap, au, in, jp or sa.")
        self._token = find_token(self.settings.auth_token, may_ask_person=self.settings.may_ask_person)
        self.log.hide(self._token.get_secret_value())

    def _find_agent(self) -> Path:
        return self._given_agent or find_agent(self._say)

    def _spawn(self, folder: AgentFolder, agent: Path) -> subprocess.Popen[str]:
        launcher = folder.write_launcher(agent, drop_variables=(TOKEN_VARIABLE,))
        region = self.settings.region
        connect_url = f"connect.{region}.ngrok-agent.com:443" if region else ""
        config_path = folder.write_private(
            "ngrok.yml",
            'version: "3"\n'
            "agent:\n"
            f"  authtoken: {json.dumps(self._token.get_secret_value())}\n"
            # The agent would keep every request, keys included, readable for all users of this machine.
            "  inspect_db_size: -1\n" + (f"  connect_url: {connect_url}\n" if connect_url else ""),
        )
        config = PyngrokConfig(
            ngrok_path=str(launcher),
            config_path=str(config_path),
            monitor_thread=False,  # its reader drops what an agent says as it dies; ours does not
            log_event_callback=lambda log: self.log.add(log.line),
            # Our own deadline comes first: this one is looked at only when a line arrives.
            startup_timeout=math.ceil(self.settings.timeout_s) + 1,
            start_new_session=True,
            config_version="3",
        )
        # PyngrokConfig fills both from the environment, and would put the token in the agent's arguments.
        config.auth_token = None
        config.api_key = None
        with loopback_direct(), self.log.redacted_logger(PYNGROK_AGENT_LOGGER):
            self._agent = ngrok.get_ngrok_process(config)
        return self._agent.proc

    def _connect(self) -> str:
        # Not ngrok.connect(): it starts a second agent, unwatched, should the first have died by now.
        endpoint: dict[str, object] = {
            "name": self._endpoint_name,
            "upstream": {"url": f"http://127.0.0.1:{self.port}"},
        }
        if self.settings.domain is not None:
            endpoint["url"] = f"https://{self.settings.domain}"
        left_s = max(1.0, self._deadline - time.monotonic())
        answer = self._ask_agent("POST", "/api/endpoints", endpoint, left_s)
        public_url = answer.get("url") or answer.get("public_url")
        if not isinstance(public_url, str) or not public_url.startswith("http"):
            raise TunnelError(f"The ngrok agent answered without a public URL.\n{self.log.quote()}")
        return public_url

    def _disconnect(self) -> None:
        self._ask_agent("DELETE", f"/api/endpoints/{self._endpoint_name}", None, DISCONNECT_TIMEOUT_S)

    def _clean_up(self) -> None:
        super()._clean_up()
        if self._agent is not None:
            # The agent has ended by now; this makes pyngrok forget it.
            pyngrok_process.is_process_running(self._agent.pyngrok_config.ngrok_path)

    def _ask_agent(self, method: str, path: str, data: dict[str, object] | None, timeout_s: float) -> dict[str, object]:
        if self._agent is None:
            return {}
        with loopback_direct():
            url = f"{self._agent.api_url}{path}"
            answer = ngrok.api_request(url, method=method, data=data, timeout=timeout_s)
        return answer if isinstance(answer, dict) else {}

    def _explain(self, exc: Exception) -> LlmApiKitError:
        said, quote = self.log.redact(self._own_words(exc)), self.log.quote()
        code = ngrok_errors.find_code(said)
        if code is None and type(exc) is PyngrokNgrokError:  # it ended, and not always with the line that has it
            code = ngrok_errors.find_code("\n".join(self.log.tail(20)))
        if code is not None:
            error = ngrok_errors.refusal(code, said, quote)
            if isinstance(error, TunnelAuthError):
                forget_secret(TOKEN_VARIABLE)
        elif isinstance(exc, PyngrokNgrokHTTPError):
            said = said[:400]
            error = TunnelError(f"The ngrok agent refused the endpoint (HTTP {exc.status_code}): {said}\n{quote}")
        elif isinstance(exc, PyngrokNgrokURLError):
            error = TunnelTimeoutError(f"The ngrok agent did not answer on this machine: {said}\n{quote}")
        elif isinstance(exc, PyngrokNgrokError):
            error = ngrok_errors.ended_early(said, quote)
        else:
            error = self._explain_spawn(exc)
        # The original's message, attributes and frames may hold the token, which ngrok quotes.
        error.__cause__ = PyngrokError(f"{type(exc).__name__}: {self.log.redact(str(exc))}")
        return error

    def _own_words(self, exc: Exception) -> str:
        if isinstance(exc, PyngrokNgrokHTTPError):
            return _detail(exc.body)
        if isinstance(exc, PyngrokNgrokError) and exc.ngrok_error:
            return exc.ngrok_error
        return "" if type(exc) is PyngrokNgrokError else str(exc)

    def _explain_exit(self, returncode: int) -> tuple[str, str | None]:
        lines = self.log.tail(20)
        code = ngrok_errors.find_code("\n".join(lines))
        how = f"signal {-returncode}" if returncode < 0 else f"exit code {returncode}"
        last = f" Its last words: {lines[-1]}" if lines else ""
        return f"The ngrok agent ended ({how}), so the public URL is dead. Open a new tunnel.{last}", code

    def _timeout_advice(self) -> str:
        if any("client session established" in line for line in self.log.tail(200)):
            return "It reached ngrok but did not get ready; is it too old? Update it with: ngrok update."
        return super()._timeout_advice()

    def _ask_health(self, public_url: str, timeout_s: float) -> Health:
        return check_health(
            public_url,
            instance=self.settings.instance,
            headers=SKIP_WARNING,
            known_page=ngrok_errors.known_page,
            timeout_s=timeout_s,
        )


def _detail(body: str) -> str:
    """The agent's own reason in the body of a refusal: ``{"msg": …, "details": {"err": …}}``."""
    try:
        answer = json.loads(body)
        details = answer.get("details") or {}
        return str(details.get("err") or answer.get("msg") or body)
    except (ValueError, AttributeError):
        return body
