"""What ``serve run`` and Serve's configuration files deploy: the API, and one deployment a model behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmapi_kit.cluster.arguments import Arguments, ServedModel, read_arguments
from llmapi_kit.cluster.deployment import DeployedModel, can_use_gpu, deployment_name, settings_of
from llmapi_kit.cluster.ingress import Ingress

MAX_CONNECTIONS = 2000  # of an ingress replica


def application(args: Mapping[str, Any]) -> Any:
    """See `llmapi_kit.cluster.app`."""
    from ray import serve

    arguments = read_arguments(args)
    nodes = [_deployed(model, arguments).bind() for model in arguments.models]
    names = [deployment_name(model.request.spec.id) for model in arguments.models]
    ingress = serve.deployment(
        serve.ingress()(Ingress),
        name="ingress",
        num_replicas=arguments.ingress_replicas,
        max_ongoing_requests=MAX_CONNECTIONS,
        graceful_shutdown_timeout_s=max(1.0, arguments.settings.total_timeout_s),
        max_surge_percent=100,
        ray_actor_options={"num_cpus": 1},
    )
    return ingress.bind(arguments, names, *nodes)


def _deployed(model: ServedModel, arguments: Arguments) -> DeployedModel:
    request = replace(model.request, settings=settings_of(model.request, model.replicas))
    waiting = request.settings.model_copy(update={"total_timeout_s": arguments.settings.total_timeout_s})
    return DeployedModel(request.make, request.spec.id, waiting, model.replicas, can_use_gpu=can_use_gpu(request))
