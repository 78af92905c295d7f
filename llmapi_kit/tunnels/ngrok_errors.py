"""What ngrok's error codes mean for a person, and which of the kit's errors they are.

Knows nothing of processes or pyngrok. `NgrokTunnel` calls it, from the tunnel's thread and from the one in
`check()`.
Source: https://ngrok.com/docs/errors
"""

from __future__ import annotations

import re

from llmapi_kit.errors import TunnelAuthError, TunnelDownError, TunnelError, TunnelLimitError

CODE_PATTERN = re.compile(r"ERR_NGROK_\d+")
TOKEN_PAGE = "https://dashboard.ngrok.com/get-started/your-authtoken"  # noqa: S105 - a page's address

_GET_TOKEN = f"Copy the token from {TOKEN_PAGE} again and put it in NGROK_AUTHTOKEN."
_UPDATE = 'Update it with "ngrok update", or remove it so that a new one is downloaded.'
_DOMAIN = "Use a name that https://dashboard.ngrok.com/domains lists for your account, or leave domain out."

# Refusals of a session or an endpoint: the kit's error and what to do.
_REFUSALS: dict[str, tuple[type[TunnelError], str]] = {
    "ERR_NGROK_102": (
        TunnelLimitError,
        "The account is suspended for a failed payment; see the ngrok dashboard.",
    ),
    "ERR_NGROK_103": (TunnelLimitError, "The account is suspended; ask support@ngrok.com."),
    "ERR_NGROK_105": (TunnelAuthError, f"The token does not look like an ngrok authtoken. {_GET_TOKEN}"),
    "ERR_NGROK_106": (TunnelAuthError, f"The token is of an old kind that no longer works. {_GET_TOKEN}"),
    "ERR_NGROK_107": (TunnelAuthError, f"The token is not valid (any more). {_GET_TOKEN}"),
    "ERR_NGROK_108": (
        TunnelLimitError,
        "Your plan allows no further agent at the same time. Stop the other one (another notebook or machine; "
        "https://dashboard.ngrok.com/agents lists them), or use another account's token.",
    ),
    "ERR_NGROK_120": (TunnelError, f"The agent program is too old. {_UPDATE}"),
    "ERR_NGROK_121": (TunnelError, f"The agent program is too old for your account. {_UPDATE}"),
    "ERR_NGROK_123": (
        TunnelAuthError,
        "First verify your e-mail: https://dashboard.ngrok.com/user/settings.",
    ),
    "ERR_NGROK_300": (TunnelAuthError, f"The token was revoked. {_GET_TOKEN}"),
    "ERR_NGROK_313": (TunnelLimitError, f"Your plan does not allow this domain. {_DOMAIN}"),
    "ERR_NGROK_314": (TunnelLimitError, f"Your plan does not allow this domain. {_DOMAIN}"),
    "ERR_NGROK_319": (TunnelLimitError, f"The domain is not reserved for your account. {_DOMAIN}"),
    "ERR_NGROK_320": (TunnelLimitError, f"The domain belongs to another account. {_DOMAIN}"),
    "ERR_NGROK_324": (TunnelLimitError, "Your plan allows no further endpoint on one agent."),
    "ERR_NGROK_334": (
        TunnelLimitError,
        "The URL is in use by another agent of your account. Stop that one, or choose another domain.",
    ),
    "ERR_NGROK_4018": (
        TunnelAuthError,
        f"ngrok wants a verified account and its token. {_GET_TOKEN}",
    ),
    "ERR_NGROK_9009": (
        TunnelLimitError,
        "Your plan does not allow an agent behind a proxy. Unset http_proxy if you don't need it.",
    ),
    "ERR_NGROK_9040": (
        TunnelLimitError,
        "ngrok refuses agents from this machine's address (a hosted notebook's, a VPN's or a country's). "
        "Run the server elsewhere, or use another kind of tunnel.",
    ),
}

# What ngrok answers at the public URL in place of the server.
_PAGES: dict[str, str] = {
    "ERR_NGROK_702": "too many connections per minute for your plan. Wait, or reuse connections.",
    "ERR_NGROK_727": "the account's requests of this month are used up.",
    "ERR_NGROK_734": "too many requests per minute for your plan. Wait a minute.",
    "ERR_NGROK_3200": "ngrok says that the endpoint is offline. Open the tunnel again.",
    "ERR_NGROK_3004": "the server's answer was not valid HTTP.",
    "ERR_NGROK_4027": "the account's traffic is used up.",
    "ERR_NGROK_6024": "ngrok shows its warning page for browsers; clients get past it with the header "
    "ngrok-skip-browser-warning.",
    "ERR_NGROK_8012": "ngrok's agent is up, but the server on this machine does not accept its connection.",
}


def find_code(text: str) -> str | None:
    """The last ngrok error code in `text`."""
    codes = CODE_PATTERN.findall(text)
    return codes[-1] if codes else None


def refusal(code: str, said: str, log_quote: str) -> TunnelError:
    """The error for a session or an endpoint that ngrok refused with `code`.

    What ngrok `said` and the agent's last lines must come without secrets.
    """
    kind, advice = _REFUSALS.get(code, (TunnelError, f"{_one_line(said)} See {_docs(code)}."))
    return kind(f"ngrok refused the tunnel ({code}). {advice}\n{log_quote}", code=code)


def ended_early(said: str, log_quote: str) -> TunnelError:
    """The error for an agent that ended before it was ready and gave no code."""
    words = _one_line(said)
    detail = f" It said: {words}" if words else ""
    return TunnelDownError(f"The ngrok agent ended before it was ready.{detail}\n{log_quote}")


def known_page(text: str) -> tuple[str, str] | None:
    """The code and meaning of ngrok's own page at a public URL; None if `text` is not one."""
    code = find_code(text)
    if code is None:
        return None
    return code, f"{_PAGES.get(code, f'an error page of ngrok; see {_docs(code)}.')} ({code})"


def _one_line(text: str) -> str:
    return " ".join(text.replace("\\r", " ").replace("\\n", " ").split())[:400]


def _docs(code: str) -> str:
    return f"https://ngrok.com/docs/errors/{code.lower()}"
