"""Who may ask: the API key, checked by each route before anything of the request is read.

The owner's key is the one that the server was launched with; teammates have keys of their own, in a `KeyRing`. Keys are
kept and compared as SHA-256 digests, in constant time. Local callers need one too: requests through a tunnel come from
127.0.0.1.

A browser's EventSource can send no header, so for it alone there are tokens that stand in an address: short-lived, made
with the key and of no use without a route that asks for one. They are not kept anywhere: every server with the same key
knows them, and a new key ends them.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time

from starlette.datastructures import Headers
from starlette.requests import Request

from llmapi_kit.api.caller import Caller
from llmapi_kit.api.key_ring import KeyRing
from llmapi_kit.api.request_record import current_request
from llmapi_kit.engines.catalog import visible_models
from llmapi_kit.errors import AuthenticationError, ConfigError, RequestError
from llmapi_kit.store.stored_key import StoredKey

KEY_PREFIX = "sk-llmapi-"
MIN_KEY_LENGTH = 16
SHOWN_OF_KEY = len(KEY_PREFIX) + 4
# What clients of other APIs send in place of Authorization; the first that is there counts.
KEY_HEADERS = ("x-api-key", "api-key")
TOKEN_PURPOSE = b"llmapi_kit token for server-sent events, until "


def new_api_key() -> str:
    """A fresh random key of 256 bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def digest_of(secret: str) -> bytes:
    """What is kept of a key, or of an invitation's code."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()


def prefix_of(key: str) -> str:
    """The beginning of a key, by which people tell it from others."""
    return key[:SHOWN_OF_KEY]


def check_key_format(key: str) -> None:
    """Check a key the user chose.

    Raises:
        ConfigError: it is empty, or can't be sent in a header. The message does not contain it.
    """
    if not key:
        raise ConfigError("The api_key has 0 characters. Leave it out to get a random one.")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError("The api_key may contain printable ASCII characters without spaces only.")


def is_short(key: str) -> bool:
    """Whether a key is fit for callers of this machine only, as others could find it by trying."""
    return len(key) < MIN_KEY_LENGTH


def check_key_length(key: str, where: str) -> None:
    """Check a key for a server that others can reach.

    Args:
        key: of the server.
        where: how they reach it, such as "through a tunnel".

    Raises:
        ConfigError: it is too short to be safe there. The message does not contain it.
    """
    if is_short(key):
        raise ConfigError(
            f"The api_key has {len(key)} characters; at least {MIN_KEY_LENGTH} are needed where others reach the "
            f"server {where}, as they could find it by trying. Leave it out to get a random one."
        )


def has_key_header(headers: Headers) -> bool:
    """Whether one of the headers that a key may stand in was sent, with whatever value."""
    return any(name in headers for name in ("authorization", *KEY_HEADERS))


def sent_key(headers: Headers) -> str:
    """The key that a request brings: its bearer token, else what an API key header has; empty where there is none."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    found = [token if scheme.lower() == "bearer" else "", *(headers.get(name, "") for name in KEY_HEADERS)]
    # HTTP's own whitespace only: anything else is part of a key, and makes it a wrong one
    return next((key for each in found if (key := each.strip(" \t"))), "")


class KeyCheck:
    """Checks the key that a request brings in a header, and tokens in its place.

    Args:
        api_key: the owner's key; None lets everybody in.
        ring: the keys of teammates.

    Attributes:
        owner: who has the owner's key.
        ring: the keys of teammates.
    """

    def __init__(self, api_key: str | None, ring: KeyRing | None = None) -> None:
        self._digest = None if api_key is None else hashlib.sha256(api_key.encode()).digest()
        self.owner = Caller("" if self._digest is None else self._digest.hex()[:16])
        self.ring = ring or KeyRing()
        self._token_secret = secrets.token_bytes() if self._digest is None else self._digest

    @property
    def is_open(self) -> bool:
        """Whether everybody is let in."""
        return self._digest is None

    @property
    def caller(self) -> Caller:
        """Who sent the current request; the owner where there is none, and where everybody is let in."""
        record = current_request.get()
        return self.owner if record is None or record.caller is None else record.caller

    @property
    def key_id(self) -> str:
        """The id of the current request's key: what is kept for one key belongs to it, and no other key finds it."""
        return self.caller.id

    def __call__(self, request: Request) -> None:
        """Let the request pass.

        Raises:
            AuthenticationError: the key is missing or wrong, has expired or was revoked.
            ForbiddenError: it is paused.
        """
        if self._digest is None:
            return
        key = sent_key(request.headers)
        if not key:
            raise AuthenticationError(
                "No API key was sent. Pass it as 'Authorization: Bearer <key>' or as 'x-api-key: <key>'; the notebook "
                "that launched this server shows it with server.api_key."
            )
        self.check_key(key)

    def check_key(self, key: str) -> None:
        """Let a request pass that brought this key.

        Raises:
            AuthenticationError: it is wrong, has expired or was revoked.
            ForbiddenError: it is paused.
        """
        if self._digest is None:
            return
        sent = hashlib.sha256(key.encode("latin-1", errors="replace")).digest()
        if hmac.compare_digest(sent, self._digest):
            _note(self.owner)
        elif (teammate := self.ring.find(sent)) is not None:
            self._let_in(teammate)
        else:
            raise AuthenticationError("The API key is wrong. Ask whoever launched this server for the current one.")

    def new_token(self, lifetime_s: int) -> str:
        """A token for those who have shown a key; it is worth as much as that key."""
        until = str(int(time.time()) + lifetime_s)
        key = self.caller.key
        if key is None:
            return f"{until}.{_seal(self._token_secret, until)}"
        return f"{until}.{key.id}.{_seal(_secret(key), until)}"

    def check_token(self, token: str) -> None:
        """Let a request with this token pass. A server without a key asks for one too: any website may send a GET.

        Raises:
            AuthenticationError: it is missing, expired, or was made with another key.
            ForbiddenError: its key is paused.
        """
        if not token:
            raise AuthenticationError("No token was sent. Get one with POST /chat-sse/token and pass it as token=<it>.")
        until, _, rest = token.partition(".")
        key_id, _, seal = rest.rpartition(".")
        teammate = self.ring.get(key_id) if key_id else None
        secret = _secret(teammate) if key_id else self._token_secret
        if not (token.isascii() and hmac.compare_digest(seal, _seal(secret, until))):
            raise AuthenticationError("The token is none of this server's. Get one with POST /chat-sse/token.")
        if time.time() >= int(until):
            raise AuthenticationError("The token has expired. Get a new one with POST /chat-sse/token.")
        if teammate is None:
            _note(self.owner)
        else:
            self._let_in(teammate)

    def _let_in(self, key: StoredKey) -> None:
        """Let a request pass that has shown this key, if it opens now."""
        caller = Caller(key.id, key)
        if (refusal := self.refusal(caller)) is not None:
            raise refusal
        _note(caller)

    def refusal(self, caller: Caller) -> RequestError | None:
        """Why somebody who was let in would be no more; None for whoever still is."""
        if caller.key is not None:
            return self.ring.refusal(caller.key)
        return None if caller.id == self.owner.id else AuthenticationError("The server's key was changed.")


def _seal(secret: bytes, until: str) -> str:
    """What only those who have the key, or this server, can make."""
    return hmac.new(secret, TOKEN_PURPOSE + until.encode(), hashlib.sha256).hexdigest()


def _secret(key: StoredKey | None) -> bytes:
    """What a key's tokens are sealed with; for no key, what no token is."""
    return secrets.token_bytes() if key is None or key.digest is None else key.digest


def _note(caller: Caller) -> None:
    """Write down whose the current request is, if there is one, and which models it may see."""
    record = current_request.get()
    if record is not None:
        record.caller = caller
        visible_models.set(caller.limits.models)
