"""What --tunnel-option says."""

from __future__ import annotations

import pytest

from llmapi_kit.cli.tunnel_flags import tunnel_options
from llmapi_kit.errors import ConfigError


def test_options_are_read_with_their_types():
    given = ["host=user@example.com:22", "remote-port=8080", "probe_interval_s=1.5", "domain=a=b"]
    assert tunnel_options(given) == {
        "host": "user@example.com:22",
        "remote_port": 8080,
        "probe_interval_s": 1.5,
        "domain": "a=b",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("host", "has no value"),
        ("host=", "has no value"),
        ("remote_port=many", "must be a number"),
        ("on_progress=print", "in Python only"),
        ("auth_token=a-secret", "all users of this machine can read a command line. Set NGROK_AUTHTOKEN"),
        ("auth-token=a-secret", "TUNNEL_TOKEN"),
    ],
)
def test_what_can_not_be_is_refused_without_quoting_a_secret(text, words):
    with pytest.raises(ConfigError, match=words) as caught:
        tunnel_options([text])
    assert "a-secret" not in str(caught.value)
