"""From the URL of a picture to its bytes: ``data:`` URLs, and hosts that the owner of the server has listed.

A URL from a stranger must not make this machine ask others for something. So nothing is fetched unless the host is
listed; the address is looked up once, must be a public one, and is the one that is connected to; nothing is followed.
Blocking: called from worker threads.

Source: vLLM CVE-2025-6242 and CVE-2026-24779 (two parsers that read one URL differently).
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
import time
from collections.abc import Collection
from urllib.parse import unquote_to_bytes

import httpx

from llmapi_kit.errors import InvalidRequestError, UnsupportedFieldError

MAX_BYTES = 20_000_000
TIMEOUT_S = 10.0
DATA_URL = re.compile(r"data:(?P<kind>[\w.+-]+/[\w.+-]+)?(?:;[\w-]+=[\w.+-]+)*(?P<base64>;base64)?,", re.ASCII | re.I)


def read_image_url(url: str, param: str, *, hosts: Collection[str] = (), max_bytes: int = MAX_BYTES) -> bytes:
    """The bytes behind a URL.

    Args:
        url: ``data:image/png;base64,…``; or ``http://`` or ``https://`` to a host that is listed.
        param: where it stands in the request, for messages.
        hosts: names of hosts that pictures may be fetched from, in lower case.
        max_bytes: size of the file.

    Raises:
        UnsupportedFieldError: nothing is fetched from there.
        InvalidRequestError: it is not a URL, too large, or could not be fetched.
    """
    scheme = url[:8].partition(":")[0].lower()
    if scheme == "data":
        return _read_data(url, param, max_bytes)
    if scheme in ("http", "https"):
        return _fetch(url, param, hosts, max_bytes)
    raise InvalidRequestError(
        f"{param} is {url[:40]!r}; a picture is sent as a data: URL, such as data:image/png;base64,…", param=param
    )


def _read_data(url: str, param: str, max_bytes: int) -> bytes:
    head = DATA_URL.match(url, 0, 200)
    if head is None:
        raise InvalidRequestError(
            f"{param} is not a data: URL that can be read; write data:image/png;base64, and then the file.", param=param
        )
    kind = (head["kind"] or "").lower()
    if kind and not kind.startswith("image/") and kind != "application/octet-stream":
        raise InvalidRequestError(f"{param} is of the type {kind!r}; a picture's begins with image/.", param=param)
    body = url[head.end() :]
    if len(body) > max_bytes * 4 // 3 + 4:
        raise _too_large(param, max_bytes)
    if not head["base64"]:
        return unquote_to_bytes(body)
    try:
        # Line breaks and the alphabet of URLs are what clients really send
        packed = "".join(body.split()).replace("-", "+").replace("_", "/")
        return base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidRequestError(f"{param} is not base64: {exc}.", param=param) from exc


def _fetch(url: str, param: str, hosts: Collection[str], max_bytes: int) -> bytes:
    try:
        target = httpx.URL(url)
    except httpx.InvalidURL as exc:
        raise InvalidRequestError(f"{param} is not a URL: {exc}.", param=param) from exc
    host = target.host.lower()
    if host not in hosts or target.userinfo:
        listed = (
            f"Allowed hosts are: {', '.join(sorted(hosts))}." if hosts else "No host is allowed unless it is listed."
        )
        raise UnsupportedFieldError(
            f"{param} is on {host[:80]!r}, and pictures are not fetched from there. {listed} Send it as a data: URL; "
            "or whoever runs the server lists the host in image_hosts.",
            param=param,
        )
    address = _public_address(host, target.port or (443 if target.scheme == "https" else 80), param)
    deadline = time.monotonic() + TIMEOUT_S
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream(
                "GET",
                target.copy_with(host=address),
                headers={"Host": target.netloc.decode("ascii"), "Accept": "image/*", "Accept-Encoding": "identity"},
                extensions={"sni_hostname": host},
            ) as response,
        ):
            if response.status_code != 200:
                raise InvalidRequestError(
                    f"{param}: {host} answered HTTP {response.status_code}; redirects are not followed.", param=param
                )
            parts, size = [], 0
            for part in response.iter_raw():
                size += len(part)
                if size > max_bytes:
                    raise _too_large(param, max_bytes)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the file did not end")
                parts.append(part)
            return b"".join(parts)
    except httpx.HTTPError as exc:
        what = str(exc) or type(exc).__name__
        raise InvalidRequestError(f"{param} could not be fetched from {host}: {what}.", param=param) from exc


def _public_address(host: str, port: int, param: str) -> str:
    """The address to connect to; all of a name's addresses must be public."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as exc:
        raise InvalidRequestError(f"{param}: the name {host!r} is not known: {exc}.", param=param) from exc
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not is_public(address):
            raise UnsupportedFieldError(
                f"{param}: {host!r} is at {address}, which is not a public address; nothing is fetched there.",
                param=param,
            )
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address is one of the internet's, and not this machine's, its network's or its cloud's."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if inner is not None:
            return is_public(str(inner))
        if parsed in ipaddress.ip_network("64:ff9b::/96"):  # IPv4 behind a translator
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
    return parsed.is_global and not parsed.is_multicast


def _too_large(param: str, max_bytes: int) -> InvalidRequestError:
    return InvalidRequestError(f"{param} is larger than {max_bytes:,} bytes. Make the picture smaller.", param=param)
