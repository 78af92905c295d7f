"""Choosing a kind of tunnel."""

from __future__ import annotations

import subprocess
import sys

import pytest

from llmapi_kit.errors import ConfigError
from llmapi_kit.tunnels import TUNNEL_KINDS, Tunnel, TunnelSettings, open_tunnel


def test_unknown_kind_is_refused_and_the_allowed_ones_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"'ngork'.*Allowed: ngrok"):
        open_tunnel("ngork", port=8000, settings=TunnelSettings(state_dir=tmp_path))


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_impossible_port_is_refused(tmp_path, port):
    with pytest.raises(ConfigError, match="between 1 and 65535"):
        open_tunnel("ngrok", port=port, settings=TunnelSettings(state_dir=tmp_path))


@pytest.mark.parametrize("kind", sorted(TUNNEL_KINDS))
def test_every_kind_is_a_tunnel_that_has_not_started(tmp_path, kind):
    tunnel = open_tunnel(kind, port=8000, settings=TunnelSettings(state_dir=tmp_path))
    assert isinstance(tunnel, Tunnel)
    assert (tunnel.kind, tunnel.status().state) == (kind, "stopped")


@pytest.mark.slow
def test_naming_the_room_does_not_import_a_provider():
    code = "import sys, llmapi_kit.tunnels; assert 'pyngrok' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)
