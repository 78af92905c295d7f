"""A load whose engine is to run in a cluster: what `kit.launch` does with ``cluster=``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

from llmapi_kit.checkpoints.fit import MemoryNeed
from llmapi_kit.cluster import connection, deployment
from llmapi_kit.cluster.bridge import Bridge, BridgedHandle
from llmapi_kit.cluster.connection import check_address
from llmapi_kit.cluster.engine import ClusterEngine
from llmapi_kit.cluster.owner import APP_PREFIX, Owner, appoint, dismiss
from llmapi_kit.cluster.replica import Outcome
from llmapi_kit.cluster.replicas import Replicas, read_replicas
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.engines.process.engine import STEP_TIMEOUT_S
from llmapi_kit.errors import ConfigError
from llmapi_kit.ids import random_hex
from llmapi_kit.loading.load_request import LoadRequest
from llmapi_kit.loading.placement import EngineMaker, Placement
from llmapi_kit.loading.servable import Servable
from llmapi_kit.server import log_buffer

ONE = Replicas()


@dataclass(frozen=True, slots=True)
class ClusterPlacement(Placement):
    """In a cluster.

    Attributes:
        address: of the cluster; see `llmapi_kit.cluster.connection`.
        replicas: how many.
        settings: of the model and of those who wait for it.
        can_use_gpu: see `llmapi_kit.cluster.deployment.DeployedModel`.
    """

    address: str = "auto"
    replicas: Replicas = ONE
    settings: Settings | None = None
    can_use_gpu: bool = False

    def make(
        self, make_engine: EngineMaker, options: Mapping[str, Any], name: str, step_timeout_s: float = STEP_TIMEOUT_S
    ) -> Engine:
        """Deploy the model; see `Placement.make`. Serve watches the replicas, by checks of its own.

        Raises:
            LlmApiKitError: it can't be loaded there, or the cluster can't be used.
        """
        app = f"{APP_PREFIX}{deployment.deployment_name(name)}-{random_hex(6)}"
        settings = self.settings or Settings()
        log_buffer.install()  # what replicas tell while they load is there before the server is
        connection.connect(self.address, app, partial(_end, app))
        try:
            is_outside = self.address.startswith("ray://")
            owner = appoint(app, Bridge if is_outside else Owner)
            handle = deployment.start(self._model(partial(make_engine, options), name, settings), app)
            if is_outside:
                handle = BridgedHandle(owner)
            outcome: Outcome = handle.options(method_name="describe").remote().result()
        except BaseException:
            _end(app)
            raise
        info = outcome.value
        return ClusterEngine(
            handle,
            replace(info, description=f"{info.description} In a cluster.".strip()),
            find_readiness=partial(deployment.readiness, app, deployment.deployment_name(name)),
            find_loss=connection.why_lost,
            max_requests=self.replicas.most_requests(settings),
            on_close=partial(_end, app),
        )

    def _model(self, make_engine: Callable[[], Engine], name: str, settings: Settings) -> deployment.DeployedModel:
        return deployment.DeployedModel(
            make_engine,
            name,
            settings,
            self.replicas,
            self.can_use_gpu,
            is_owned=True,
            ends_serve=connection.has_started_serve(),
        )


class ClusterLoadRequest(LoadRequest):
    """A load that takes no memory here."""

    def need(self) -> MemoryNeed:
        """See `LoadRequest.need`."""
        return MemoryNeed()


def all_in_cluster(wanted: Sequence[Servable], cluster: Any, replicas: Any, limits: Settings) -> list[Servable]:
    """What `kit.launch` was given, to be loaded in a cluster.

    Args:
        wanted: the models.
        cluster: its address; see `llmapi_kit.cluster.connection.check_address`.
        replicas: see `llmapi_kit.cluster.replicas.read_replicas`.
        limits: of the server that answers.

    Raises:
        ConfigError: it can't be.
        MissingDependencyError: Ray is not installed.
    """
    if cluster is None:
        raise ConfigError(
            f"replicas is {replicas!r} and goes with cluster=…: launch(…, cluster='auto', replicas=2). For processes "
            "of this machine it is an argument of load()."
        )
    requests = [each for each in wanted if isinstance(each, LoadRequest)]
    if len(requests) < len(wanted):
        raise ConfigError(
            "cluster takes models by name, as they are loaded there: launch('pocket', cluster='auto'). One that is "
            "loaded here runs here. With options of load(), pass Choice('pocket', {'dtype': 'bfloat16'})."
        )
    address, numbers = check_address(cluster), read_replicas(replicas)
    return [in_cluster(request, address, numbers, limits) for request in requests]


def in_cluster(request: LoadRequest, address: str, replicas: Replicas, limits: Settings) -> LoadRequest:
    """The same load, in a cluster.

    Args:
        request: made for this process.
        address: of the cluster.
        replicas: how many.
        limits: of the server that answers.

    Raises:
        ConfigError: it says already where it runs, or there is nothing to compute.
    """
    if request.placement.devices:
        raise ConfigError(
            f"{request.spec.name!r} has options for processes of this machine (process, replicas, devices or "
            "tensor_parallel), and cluster says that it runs elsewhere. Leave those out; launch() takes replicas for "
            "the cluster."
        )
    if request.spec.kind == "upstream":
        raise ConfigError(f"{request.spec.name!r} is computed by its provider, so cluster has no effect. Leave it out.")
    settings = deployment.settings_of(request, replicas)
    waiting = settings.model_copy(update={"total_timeout_s": limits.total_timeout_s})
    placement = ClusterPlacement(
        address=address, replicas=replicas, settings=waiting, can_use_gpu=deployment.can_use_gpu(request)
    )
    values = {each.name: getattr(request, each.name) for each in fields(LoadRequest)}
    who, rest = request.key
    values |= {"placement": placement, "settings": settings, "key": (("cluster", address, replicas, who), rest)}
    return ClusterLoadRequest(**values)


def _end(app: str) -> None:
    deployment.stop(app)
    dismiss(app)
    connection.disconnect(app)
