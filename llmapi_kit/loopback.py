"""Which hosts are this machine itself: the one place that says so."""

from __future__ import annotations

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# As a Host header has them
LOOPBACK_HOSTS = tuple(f"[{host}]" if ":" in host else host for host in LOOPBACK)
