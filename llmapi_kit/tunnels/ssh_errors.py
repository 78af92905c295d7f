"""What ssh's words mean for a person, and which of the kit's errors they are. Knows nothing of processes."""

from __future__ import annotations

import re
from pathlib import Path

from llmapi_kit.errors import TunnelAuthError, TunnelDownError, TunnelError, TunnelLimitError

# The first that is found counts: what comes later in a log is often a consequence.
_MEANINGS: tuple[tuple[str, type[TunnelError], str], ...] = (
    (
        r"HOST IDENTIFICATION HAS CHANGED|Host key verification failed",
        TunnelError,
        "{host} shows another host key than the one that is known, so it may be another machine. If it was installed "
        "anew, forget the old key: ssh-keygen -R {host} -f {known_hosts} (or host_key, where you gave it).",
    ),
    (
        r"UNPROTECTED PRIVATE KEY FILE|bad permissions",
        TunnelAuthError,
        "ssh does not use a private key that others can read. Run: chmod 600 on it.",
    ),
    (
        r"Load key .*: (invalid format|error in libcrypto)",
        TunnelAuthError,
        "ssh can't read the private key. Is identity_file the private one, and whole?",
    ),
    (
        r"[Pp]ermission denied|Too many authentication failures|No more authentication methods",
        TunnelAuthError,
        "{host} refused the login. Pass identity_file=… for the right key; load one with a passphrase before, with "
        "ssh-add: nothing is asked here.",
    ),
    (
        r"remote port forwarding failed for listen port (?P<port>\d+)",
        TunnelLimitError,
        "{host} does not listen on port {port}: another program has it, or its sshd does not allow it "
        "(AllowTcpForwarding, PermitListen, or a port below 1024). Choose another remote_port.",
    ),
    (
        r"Could not resolve hostname",
        TunnelDownError,
        "The name {host} is not known to DNS, or this machine is offline.",
    ),
    (
        r"Connection refused|[Cc]onnection timed out|No route to host|Network is unreachable|Operation timed out",
        TunnelDownError,
        "{host} can't be reached with ssh from here. Is its port right ('user@host:port'), and does this machine's "
        "network let ssh out?",
    ),
    (
        r"kex_exchange_identification|Connection reset|Connection closed|Broken pipe|closed by remote host|"
        r"Timeout, server .* not responding",
        TunnelDownError,
        "{host} ended the connection.",
    ),
    (r"Bad configuration option|terminating, \d+ bad configuration", TunnelError, "ssh does not take its settings."),
)


def refusal(lines: list[str], *, host: str, known_hosts: Path) -> TunnelError | None:
    """The error for an ssh that ended with these last lines; None where they mean nothing known.

    Args:
        lines: what it printed, without secrets.
        host: where it was to log in.
        known_hosts: the file with the host keys that were seen.
    """
    text = "\n".join(lines)
    for pattern, kind, advice in _MEANINGS:
        if (found := re.search(pattern, text)) is not None:
            return kind(advice.format(host=host, known_hosts=known_hosts, **found.groupdict()))
    return None
