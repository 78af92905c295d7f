"""What ``serve run llmapi_kit.cluster:app`` was told: models, how many replicas of each, and the server's settings.

Loads nothing and knows nothing of Ray.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmapi_kit.cluster.replicas import Replicas, read_replicas
from llmapi_kit.config import KEY_VARIABLE, Settings, load_settings
from llmapi_kit.did_you_mean import did_you_mean
from llmapi_kit.engines.catalog import check_names
from llmapi_kit.errors import ConfigError
from llmapi_kit.loading.load_request import LoadRequest, resolve
from llmapi_kit.loading.options import LaunchSettings
from llmapi_kit.server.endpoint import check_key

OWN = ("models", "replicas", "ingress_replicas", "aliases", "default", "api_key", "api_key_file", "name")
ANYWHERE = "0.0.0.0"  # noqa: S104 - nothing is bound to it: where Serve's proxies answer


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model, and how many replicas of it.

    Attributes:
        request: loads it, in a replica.
        replicas: how many.
    """

    request: LoadRequest
    replicas: Replicas


@dataclass(frozen=True, slots=True)
class Arguments:
    """See `read_arguments`."""

    models: Sequence[ServedModel]
    settings: Settings
    ingress_replicas: int = 1
    aliases: Mapping[str, str] = field(default_factory=dict)
    default: str | None = None
    api_key: str | None = field(default=None, repr=False)
    name: str = "cluster"


def read_arguments(given: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> Arguments:
    """The arguments, checked as far as that can be done before anything is loaded.

    Args:
        given: ``models`` (a name, or a list of names and of dictionaries with a ``name``, options of `kit.load` and
            ``replicas``), ``replicas`` (of each model that does not say; see
            `llmapi_kit.cluster.replicas.read_replicas`), ``ingress_replicas`` (that serve the API), ``aliases`` and
            ``default`` (see `kit.launch`), ``api_key_file`` (with the key to ask for; without it
            ``LLMAPI_KIT_API_KEY`` has the key), ``api_key`` (False: ask for none), ``name`` (that keys for teammates
            are kept for), and settings of `kit.launch`. Values of a command line are read as YAML.
        environ: the environment; None for this process's.

    Raises:
        ConfigError: an argument is not known, or can't be followed.
        ModelError: there is no such model.
    """
    values = {name: yaml.safe_load(value) if isinstance(value, str) else value for name, value in given.items()}
    known = (*OWN, *LaunchSettings.__annotations__)
    for name in values:
        if name not in known:
            raise ConfigError(
                f"The cluster's app has no argument {name!r}.{did_you_mean(name, known)} It takes {', '.join(known)}."
            )
    server = {name: value for name, value in values.items() if name not in OWN}
    settings = load_settings(**server)
    models = [_model(each, values.get("replicas"), server) for each in _listed(values.get("models", "pocket"))]
    aliases, default = values.get("aliases") or {}, values.get("default")
    if not isinstance(aliases, Mapping):
        raise ConfigError(f"aliases is {aliases!r}; it must be a dictionary of names and models.")
    check_names([each.request.spec.id for each in models], aliases, default)
    num = values.get("ingress_replicas", 1)
    if not isinstance(num, int) or isinstance(num, bool) or num < 1:
        raise ConfigError(f"ingress_replicas is {num!r}; it must be a number, 1 or more.")
    if num > 1 and not settings.database_url.get_secret_value().startswith("postgres"):
        raise ConfigError(
            f"ingress_replicas is {num}, and they need a database in common: set database_url, or "
            "LLMAPI_KIT_DATABASE_URL, to postgresql://user:password@host/database."
        )
    key = _key(values, os.environ if environ is None else environ)
    return Arguments(models, settings, num, aliases, default, key, str(values.get("name", "cluster")))


def _listed(given: Any) -> list[Any]:
    if isinstance(given, str):
        return [each.strip() for each in given.split(",")]
    if isinstance(given, Sequence) and given:
        return list(given)
    raise ConfigError(f"models is {given!r}; it must be a model's name, or a list of names and of dictionaries.")


def _model(given: Any, replicas: Any, settings: Mapping[str, Any]) -> ServedModel:
    options = {"name": given} if isinstance(given, str) else given
    if not isinstance(options, Mapping) or not isinstance(options.get("name"), str):
        raise ConfigError(f"models has {given!r}; each is a name, or a dictionary with a name and options of load().")
    rest = {key: value for key, value in options.items() if key not in ("name", "served_name", "replicas")}
    numbers = read_replicas(options.get("replicas", replicas))
    request = resolve(options["name"], options.get("served_name"), rest, settings)
    return ServedModel(request, numbers)


def _key(values: Mapping[str, Any], environ: Mapping[str, str]) -> str | None:
    """The key to ask for; None for none.

    Raises:
        ConfigError: nobody said, or it is not fit for others to reach.
    """
    given, file = values.get("api_key"), values.get("api_key_file")
    if given is False:
        return None
    if given is not None:
        raise ConfigError(
            "api_key can only be false here: arguments are shown by Ray. Set LLMAPI_KIT_API_KEY where the app is "
            "built, or name a file with api_key_file."
        )
    if file is not None:
        try:
            key = Path(str(file)).expanduser().read_text().strip()
        except OSError as exc:
            raise ConfigError(f"The key file {file} can't be read: {exc.strerror or exc}.") from exc
    else:
        key = environ.get(KEY_VARIABLE, "")
    if not key:
        raise ConfigError(
            f"There is no API key. Set {KEY_VARIABLE}, or api_key_file; api_key=false lets everybody in who reaches "
            "the cluster."
        )
    check_key(key, ANYWHERE)
    return key
