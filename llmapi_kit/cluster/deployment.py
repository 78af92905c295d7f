"""A model as a deployment of Ray Serve: how it is described to Serve, brought up, watched and taken down."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmapi_kit import errors
from llmapi_kit.cluster import connection
from llmapi_kit.cluster.replica import EngineReplica
from llmapi_kit.cluster.replicas import Replicas
from llmapi_kit.config import Settings
from llmapi_kit.engines.base import Engine
from llmapi_kit.errors import ClusterError, LlmApiKitError
from llmapi_kit.loading.load_request import LoadRequest
from llmapi_kit.progress import report
from llmapi_kit.types import Readiness

ROUTER = "llmapi_kit.cluster.router.PrefixAwareRouter"
MAX_START_TRIES = 3
NO_ROOM_S = 60.0  # until a replica that finds no place is given up, where the cluster can't grow
POLL_S = 0.1
HEALTH_CHECK_S = 5.0  # between two looks of Serve at a replica; one that died is replaced after the next
UPSCALE_DELAY_S, DOWNSCALE_DELAY_S, LOOK_BACK_S = 10.0, 300.0, 15.0
ERROR = re.compile(r"^(?:ray\.exceptions\.\S+: )?llmapi_kit\.errors\.(\w+): (.+)$", re.MULTILINE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DeployedModel:
    """A model in the cluster.

    Attributes:
        make_engine: makes the engine of a replica; picklable.
        name: of the model.
        settings: of the model and of those who wait for it.
        replicas: how many.
        can_use_gpu: whether a replica is to have one, where the cluster has any and `replicas` does not say.
        router: the class of Serve's request router.
        is_owned: whether it ends with whoever deploys it; see `llmapi_kit.cluster.owner`.
        ends_serve: whether Serve ends with the last such application.
    """

    make_engine: Callable[[], Engine]
    name: str
    settings: Settings
    replicas: Replicas
    can_use_gpu: bool = False
    router: str = ROUTER
    is_owned: bool = False
    ends_serve: bool = False

    def bind(self) -> Any:
        """The node of a Serve application's graph that stands for it."""
        from ray import serve

        replicas, settings = self.replicas, self.settings
        num_gpus = self._num_gpus()
        options: dict[str, Any] = {"num_replicas": replicas.least}
        if replicas.most > replicas.least:
            options = {"autoscaling_config": self._autoscaling()}
        return serve.deployment(
            EngineReplica,
            name=deployment_name(self.name),
            ray_actor_options={"num_cpus": replicas.num_cpus, "num_gpus": num_gpus},
            max_ongoing_requests=replicas.num_ongoing(settings),
            # Counts also those that are on their way to a free replica, so it can't be what is to wait at most
            max_queued_requests=replicas.most_requests(settings),
            graceful_shutdown_timeout_s=max(1.0, settings.total_timeout_s),
            graceful_shutdown_wait_loop_s=0.5,
            health_check_period_s=HEALTH_CHECK_S,
            max_constructor_retry_count=MAX_START_TRIES,
            # The old replicas answer until the new ones are there, unless those need the same GPU
            max_surge_percent=0 if num_gpus else 100,
            request_router_config={
                "request_router_class": self.router,
                "request_router_kwargs": {"num_slots": settings.max_slots},
                "initial_backoff_s": 0.01,
                "max_backoff_s": 0.1,
            },
            **options,
        ).bind(self.make_engine, is_owned=self.is_owned, ends_serve=self.ends_serve)

    def _num_gpus(self) -> float:
        if self.replicas.num_gpus is not None:
            return self.replicas.num_gpus
        import ray

        return float(self.can_use_gpu and ray.cluster_resources().get("GPU", 0) > 0)

    def _autoscaling(self) -> dict[str, Any]:
        """By requests that run and that wait: a replica for each number of them that it has slots for."""
        return {
            "min_replicas": self.replicas.least,
            "max_replicas": self.replicas.most,
            "target_ongoing_requests": self.settings.max_slots,
            "upscale_delay_s": UPSCALE_DELAY_S,
            "downscale_delay_s": DOWNSCALE_DELAY_S,
            "look_back_period_s": LOOK_BACK_S,
        }


def can_use_gpu(request: LoadRequest) -> bool:
    """Whether a load would take a GPU that is there."""
    return not request.source.is_light and not str(request.options.get("device") or "").startswith("cpu")


def settings_of(request: LoadRequest, replicas: Replicas) -> Settings:
    """A load's settings, with as many threads as a replica has CPUs where they don't say."""
    settings = request.settings
    if settings.num_threads or replicas.num_cpus < 1:
        return settings
    return settings.model_copy(update={"num_threads": int(replicas.num_cpus)})


def deployment_name(model: str) -> str:
    """What Serve calls a model's deployment: Serve's own separator, and slashes, can't be in it."""
    return re.sub(r"[^\w.:-]", "-", model)


def start(model: DeployedModel, app: str) -> Any:
    """Deploy a model as an application of its own, and wait until a replica answers. On failure it is taken back.

    Returns:
        Its handle.

    Raises:
        LlmApiKitError: what loading it raised.
        ClusterError: the cluster has no room for it, or does not run it for another reason.
    """
    from ray import serve

    report(f"starting {model.name} in the cluster")
    target = serve.RunTarget(model.bind(), name=app, route_prefix=None)
    try:
        handle = serve.run_many([target], wait_for_applications_running=False)[0]
        _wait(model, app)
    except BaseException:  # also an interrupt
        stop(app)
        raise
    return handle


def stop(app: str) -> None:
    """Delete an application; what its replicas are answering may finish."""
    from ray import serve

    if not connection.is_there():
        return  # or Serve would start a cluster to look for it in
    try:
        serve.delete(app, _blocking=False)
    except Exception as exc:  # the cluster may be gone, and the application with it
        logger.warning("The deployment %s could not be deleted: %s", app, exc)


def readiness(app: str, deployment: str) -> Readiness:
    """Whether a replica of a deployment runs."""
    num_running, message = _look(app, deployment)[1:]
    if num_running:
        return Readiness(True)
    return Readiness(False, f"No replica runs. {message}".strip())


def _look(app: str, deployment: str) -> tuple[str, int, str]:
    """The deployment's status, how many replicas run, and what Serve says of it."""
    from ray import serve

    if not connection.is_there():
        return "DELETED", 0, "This process is connected to no cluster."
    found = serve.status().applications.get(app)
    if found is None:
        return "DELETED", 0, f"The cluster has no application {app!r}."
    its = found.deployments.get(deployment)
    if its is None:
        return str(found.status.value), 0, found.message
    return str(its.status.value), its.replica_states.get("RUNNING", 0), its.message or found.message


def _wait(model: DeployedModel, app: str) -> None:
    name = deployment_name(model.name)
    began = time.monotonic()
    while True:
        status, num_running, message = _look(app, name)
        if num_running >= model.replicas.least:
            return
        # One that is unhealthy comes back, unless its model does not load
        if status in ("DEPLOY_FAILED", "DELETED") or (status == "UNHEALTHY" and ERROR.search(message)):
            raise _failure(model, message)
        if time.monotonic() - began > NO_ROOM_S and (lack := _lack(model)):
            raise ClusterError(lack)
        time.sleep(POLL_S)  # Serve tells nobody of a change


def _failure(model: DeployedModel, message: str) -> LlmApiKitError:
    """What a replica raised when it was made, as the error that it was; else what Serve says."""
    found = ERROR.findall(message)
    if found:
        kind = getattr(errors, found[-1][0], None)
        if isinstance(kind, type) and issubclass(kind, errors.ModelError | errors.ConfigError):
            return kind(found[-1][1])
        return errors.ModelLoadError(found[-1][1])
    last = message.strip().splitlines()[-1] if message.strip() else "Serve does not say why."
    return ClusterError(f"The cluster can't run {model.name!r}: {last}")


def _lack(model: DeployedModel) -> str:
    """Why a replica has no place, where that is so."""
    import ray

    replicas = model.replicas
    total = ray.cluster_resources()
    for resource, needed in (("CPU", replicas.num_cpus), ("GPU", model._num_gpus())):
        if needed * replicas.least > total.get(resource, 0):
            return (
                f"The cluster has no room for {model.name!r}: {replicas.least} replicas need "
                f"{needed * replicas.least:g} {resource}s, and it has {total.get(resource, 0):g}. Ask for fewer "
                f'replicas, or say what each takes: replicas={{"min": 1, "num_{resource.lower()}s": 0.5}}.'
            )
    return ""
