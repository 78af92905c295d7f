"""Every error of the kit, one class for each thing a user can act on.

Knows nothing of HTTP frameworks, tunnels or torch; every other module may import it.

    LlmApiKitError
    ├── ConfigError             a setting or an argument is wrong
    ├── MissingDependencyError  an extra is not installed (also an ImportError)
    ├── ModelError              a model can't be used
    │   ├── ModelNotFoundError      nothing there under that name
    │   ├── ModelLoadError          it is there but does not load
    │   │   └── ModelTooLargeError      it would, but not into the memory that is free
    │   └── UnsupportedModelError   it loads but can't be served, with the reason
    ├── RequestError            one request can't be served; carries the HTTP status and OpenAI's fields
    │   ├── InvalidRequestError     400, a field is wrong
    │   │   ├── UnsupportedFieldError   400, a field is known elsewhere but not honoured here
    │   │   └── ContextLengthError      400, prompt and answer do not fit the context
    │   ├── AuthenticationError     401
    │   ├── ForbiddenError          403
    │   │   └── RequestCancelledError   403, whoever runs the server ended the request; no client tries it again
    │   ├── NotFoundError           404, no such model, route or stored completion
    │   ├── RequestIncompleteError  408, it did not arrive in time
    │   ├── GoneError               410, it was there, and can't be had any more
    │   ├── BodyTooLargeError       413
    │   ├── UnsupportedMediaTypeError   415, the body is compressed, or is not said to be JSON
    │   ├── HeadersTooLargeError    431
    │   ├── QueueFullError          429, with Retry-After
    │   ├── RateLimitError          429, the key has to wait, with Retry-After
    │   ├── QuotaError              429, the key has used all it may
    │   ├── EngineUnavailableError  503, the engine is loading, closing or dead
    │   ├── RequestTimeoutError     504, waited too long
    │   ├── UpstreamError           502, the provider behind a model failed, or refuses this server
    │   └── GenerationError         500, the model failed on this request
    ├── ServerError             a server in this process
    │   ├── PortInUseError
    │   ├── ServerStartError
    │   └── ServerNotFoundError     no running server matches
    │       └── ServerGoneError         a client's server does not answer (in `llmapi_kit.client.openai_client`)
    ├── StoreError              the database can't do what was asked
    │   ├── StoreUnavailableError   locked, full, out of reach or closed: the same may work later
    │   └── StoreVersionError       its tables are of a newer version of the kit
    ├── SessionError            a session can't be begun or go on
    │   ├── SessionLimitError       the key has as many as it may have
    │   ├── SessionConflictError    another request wrote to it meanwhile
    │   ├── SessionGoneError        it ended, expired, or never was
    │   ├── BotTypeError            there is no such bot type
    │   └── BotUnavailableError     the bot type is known, and nothing here can answer for it
    ├── ClusterError            a Ray cluster can't be reached, or can't run what it was given
    └── TunnelError             the public side; `.code` is the provider's own error code, if it gave one
        ├── TunnelAuthError         token missing or refused
        ├── TunnelLimitError        the provider's plan does not allow it now
        ├── TunnelTimeoutError      the agent stayed silent
        └── TunnelDownError         the agent ended, or the public URL does not answer
"""

from __future__ import annotations

from llmapi_kit.short_traceback import render


class LlmApiKitError(Exception):
    """Root of every error the kit raises on purpose. A notebook shows its message; ``%tb`` shows the traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows; see `llmapi_kit.short_traceback`."""
        return render(self)


class ConfigError(LlmApiKitError):
    """A setting or an argument has a value that can't be used."""


class MissingDependencyError(LlmApiKitError, ImportError):
    """A package of an extra is not installed; the message names the pip command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        super().__init__(f'{purpose} needs {package}. Install it with: pip install "llmapi-kit[{extra}]"')
        self.package = package
        self.extra = extra
        self._purpose = purpose

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        """How it is pickled: made anew from what it was made of."""
        return type(self), (self.package, self.extra, self._purpose)


class ModelError(LlmApiKitError):
    """A model can't be used."""


class ModelNotFoundError(ModelError):
    """Nothing is there under the given name."""


class ModelLoadError(ModelError):
    """The model's files are there but do not load."""


class ModelTooLargeError(ModelLoadError):
    """The model does not fit into the memory that is free."""


class UnsupportedModelError(ModelError):
    """The model can't be served by this runner; the message says why."""


class RequestError(LlmApiKitError):
    """One request can't be served.

    Attributes:
        message: what happened, what is allowed, what to do.
        status: the HTTP status it maps to.
        type: OpenAI's error type, such as ``invalid_request_error``.
        param: the request field at fault, if one is.
        code: a machine-readable code, such as ``context_length_exceeded``.
        retry_after_s: seconds after which a retry makes sense, if it does.
    """

    status = 500
    type = "server_error"
    default_code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.default_code
        self.retry_after_s = retry_after_s


class InvalidRequestError(RequestError):
    """A request field has a value that can't be used."""

    status = 400
    type = "invalid_request_error"


class UnsupportedFieldError(InvalidRequestError):
    """A request field is not honoured by this server, so it is refused rather than ignored."""

    default_code = "unsupported_parameter"


class ContextLengthError(InvalidRequestError):
    """Prompt and requested answer do not fit the model's context."""

    default_code = "context_length_exceeded"


class AuthenticationError(RequestError):
    """The API key is missing or wrong."""

    status = 401
    type = "authentication_error"
    default_code = "invalid_api_key"


class ForbiddenError(RequestError):
    """The request is not allowed here, whatever the key."""

    status = 403
    type = "permission_error"


class RequestCancelledError(ForbiddenError):
    """Whoever runs the server ended the request."""

    default_code = "request_cancelled"


class NotFoundError(RequestError):
    """There is no such model, route or stored completion."""

    status = 404
    type = "invalid_request_error"


class GoneError(RequestError):
    """What was asked for was there, and can't be had any more."""

    status = 410
    type = "invalid_request_error"


class BodyTooLargeError(RequestError):
    """The request's body is over the limit, counted as received."""

    status = 413
    type = "invalid_request_error"
    default_code = "request_too_large"


class UnsupportedMediaTypeError(RequestError):
    """The request's body is encoded in a way this server does not read."""

    status = 415
    type = "invalid_request_error"
    default_code = "unsupported_media_type"


class HeadersTooLargeError(RequestError):
    """The request's headers are over the limit."""

    status = 431
    type = "invalid_request_error"
    default_code = "headers_too_large"


class RequestIncompleteError(RequestError):
    """The request did not arrive in time."""

    status = 408
    type = "invalid_request_error"
    default_code = "request_incomplete"


class QueueFullError(RequestError):
    """The engine's queue is full."""

    status = 429
    type = "rate_limit_error"
    default_code = "queue_full"


class RateLimitError(RequestError):
    """The key has sent as much as its limits allow within a minute."""

    status = 429
    type = "rate_limit_error"
    default_code = "rate_limit_exceeded"


class QuotaError(RequestError):
    """The key has used all the tokens it was given."""

    status = 429
    type = "insufficient_quota"
    default_code = "insufficient_quota"


class EngineUnavailableError(RequestError):
    """The engine can't answer now: it is loading, closing, closed or dead."""

    status = 503
    type = "server_error"
    default_code = "engine_unavailable"


class RequestTimeoutError(RequestError):
    """The request waited longer than the server allows."""

    status = 504
    type = "server_error"
    default_code = "timeout"


class UpstreamError(RequestError):
    """The provider behind a model failed, or does not serve this server."""

    status = 502
    type = "server_error"
    default_code = "upstream_failed"


class GenerationError(RequestError):
    """The model failed on this request; others are not affected."""

    status = 500
    type = "server_error"
    default_code = "generation_failed"


class ServerError(LlmApiKitError):
    """A server in this process can't do what was asked."""


class PortInUseError(ServerError):
    """Another program, or another kernel's server, holds the port."""


class ServerStartError(ServerError):
    """The server's thread ended before it could answer; the cause is chained."""


class ServerNotFoundError(ServerError):
    """No running server matches."""


class StoreError(LlmApiKitError):
    """The database can't do what was asked. The message names the database, without user and password."""


class StoreUnavailableError(StoreError):
    """The database is locked, full, out of reach or closed; the same may work later. What was asked was not done.

    Unless the connection to a Postgres server was lost while it committed: then nobody can tell.
    """


class StoreVersionError(StoreError):
    """The database's tables are of a newer version of the kit."""


class SessionError(LlmApiKitError):
    """A session can't be begun or go on."""


class SessionLimitError(SessionError):
    """The key has as many sessions as it may have."""


class SessionConflictError(SessionError):
    """Another request wrote to the session meanwhile; nothing was written."""


class SessionGoneError(SessionError):
    """The session was ended, has expired, or never was this key's; nothing was written."""


class BotTypeError(SessionError):
    """There is no such bot type."""


class BotUnavailableError(SessionError):
    """The bot type is known, and nothing here can answer for it; the message says what to configure."""


class ClusterError(LlmApiKitError):
    """A Ray cluster can't be reached, or can't run what it was given."""


class TunnelError(LlmApiKitError):
    """The tunnel can't be opened or does not work.

    Attributes:
        code: the provider's own error code, such as ``ERR_NGROK_108``, where it gave one.
    """

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        self.code = code


class TunnelAuthError(TunnelError):
    """The tunnel provider's token is missing or refused."""


class TunnelLimitError(TunnelError):
    """The provider's plan does not allow another tunnel or session now."""


class TunnelTimeoutError(TunnelError):
    """The tunnel's agent did not answer in time."""


class TunnelDownError(TunnelError):
    """The agent ended, or the public URL does not reach this server."""
