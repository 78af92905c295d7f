"""The API in the cluster: one replica or several, which keep nothing but what they learned of the replicas' caches.

What outlives them is in the database.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from starlette.types import ASGIApp

from llmapi_kit.api.app import create_app
from llmapi_kit.api.auth import KeyCheck
from llmapi_kit.api.state import ApiState
from llmapi_kit.cluster import deployment
from llmapi_kit.cluster.arguments import Arguments
from llmapi_kit.cluster.engine import ClusterEngine
from llmapi_kit.cluster.replica import Outcome
from llmapi_kit.engines.catalog import Catalog
from llmapi_kit.server.sharing import open_keys
from llmapi_kit.store.store import open_store


class Ingress:
    """See the module. Serve makes it, and asks it for the application.

    Args:
        arguments: of the app.
        names: of the models' deployments.
        handles: of these.

    Attributes:
        api_key: the key that opens it.
        name: that keys for teammates are kept for.
        url: unknown here, as Serve's proxies answer; empty.
        base_url: likewise.
        public_url: likewise.
    """

    url = base_url = ""
    public_url: str | None = None

    async def __init__(self, arguments: Arguments, names: Sequence[str], *handles: Any) -> None:  # type: ignore[misc]
        from ray import serve

        self.api_key = arguments.api_key
        self.name: str | None = arguments.name
        self._aliases = arguments.aliases
        app = serve.get_replica_context().app_name
        engines = []
        for model, name, handle in zip(arguments.models, names, handles, strict=True):
            outcome: Outcome = await handle.describe.remote()
            find = partial(deployment.readiness, app, name)
            most = model.replicas.most_requests(model.request.settings)
            engines.append(ClusterEngine(handle, outcome.value, find_readiness=find, max_requests=most))
        settings = arguments.settings
        self._store = await asyncio.to_thread(open_store, settings)
        catalog = Catalog(engines, arguments.aliases, arguments.default)
        check = KeyCheck(arguments.api_key)
        self._state = ApiState(catalog, check, settings, self._store)
        loop = asyncio.get_running_loop()
        self._keys, self._key_watch = await asyncio.to_thread(open_keys, self, self._state, loop.call_soon_threadsafe)
        self._key_watch.start()

    def __serve_build_asgi_app__(self) -> ASGIApp:
        return create_app(self._state)

    @property
    def models(self) -> list[str]:
        """Names of the models."""
        return [engine.info.id for engine in self._state.catalog.listed()]

    @property
    def aliases(self) -> Mapping[str, str]:
        """Further names."""
        return self._aliases

    def __del__(self) -> None:
        with suppress(AttributeError):  # it was never made
            self._key_watch.stop()
            self._store.close()
