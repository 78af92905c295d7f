"""Compose files follow their schema and name what there is."""

from __future__ import annotations

import jsonschema
import pytest
from check_jsonschema.builtin_schemas import get_builtin_schema
from sqlalchemy.engine import make_url

from llmapi_kit.config import Settings
from llmapi_kit.version import __version__

from .files import DEPLOY, ROOT, VARIABLE, defaults, documents, parsed, unknown_variables

FILES = ("compose.yaml", "compose.cuda.yaml")
(COMPOSE,) = documents("compose.yaml")
SERVER = COMPOSE["services"]["server"]
SECRETS = {"LLMAPI_KIT_API_KEY", "PGPASSWORD", "POSTGRES_PASSWORD"}


@pytest.fixture(scope="module")
def schema():
    return get_builtin_schema("vendor.compose-spec")


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES)
def test_a_file_follows_the_schema(path, schema):
    (document,) = documents(path)
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "servics": {}}, schema)


def test_the_server_is_started_as_the_kit_understands():
    options = parsed(defaults(SERVER["command"]))
    assert (options["models"], options["host"], options["process"]) == (["pocket"], "0.0.0.0", True)
    assert SERVER["ports"] == [f"127.0.0.1:${{PORT:-8000}}:{options['port']}"]


def test_every_variable_of_the_server_is_read_by_something():
    assert unknown_variables(SERVER["environment"]) == set()


def test_secrets_come_from_outside_and_have_to_be_there():
    environments = [service.get("environment", {}) for service in COMPOSE["services"].values()]
    found = {name: value for each in environments for name, value in each.items() if name in SECRETS}
    assert found.keys() == SECRETS
    assert {VARIABLE.fullmatch(value)["kind"] for value in found.values()} == {"?"}


def test_the_database_is_the_one_that_is_started():
    url = make_url(SERVER["environment"]["LLMAPI_KIT_DATABASE_URL"])
    postgres = COMPOSE["services"][url.host]["environment"]
    assert (url.username, url.database) == (postgres["POSTGRES_USER"], postgres["POSTGRES_DB"])
    assert url.password is None
    assert SERVER["environment"]["PGPASSWORD"] == postgres["POSTGRES_PASSWORD"]


def test_the_server_may_finish_its_requests_when_it_is_stopped():
    assert int(SERVER["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_s"].default


def test_what_is_mounted_and_built_is_there():
    volumes = [volume for service in COMPOSE["services"].values() for volume in service.get("volumes", ())]
    files = [volume.split(":")[0] for volume in volumes if volume.startswith(".")]
    assert [path for path in files if not (DEPLOY / path).is_file()] == []
    named = {volume.split(":")[0] for volume in volumes} - set(files)
    assert named == set(COMPOSE["volumes"])
    context = DEPLOY / SERVER["build"]["context"]
    assert context.resolve() == ROOT
    assert (context / SERVER["build"]["dockerfile"]).is_file()


@pytest.mark.parametrize("path", FILES)
def test_images_have_the_version(path):
    image = documents(path)[0]["services"]["server"]["image"]
    assert image.removesuffix("-cuda") == f"llmapi-kit:{__version__}"
