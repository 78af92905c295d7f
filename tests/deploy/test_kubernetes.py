"""Manifests follow Kubernetes' schema and name each other, the kit's flags and the server's paths as they are."""

from __future__ import annotations

import importlib.metadata

import kubernetes_validate
import pytest
import yaml

from llmapi_kit.cli.serve_flags import KEY_VARIABLE
from llmapi_kit.cluster.arguments import read_arguments
from llmapi_kit.config import Settings
from llmapi_kit.version import __version__

from .files import documents, instructions, parsed, unknown_variables

VERSIONS = ("1.30", kubernetes_validate.latest_version())
PLAIN = [
    document
    for path in ("deployment.yaml", "service.yaml", "volume.yaml", "secret.yaml.example")
    for document in documents(f"kubernetes/{path}")
]
BY_KIND = {document["kind"]: document for document in PLAIN}
POD = BY_KIND["Deployment"]["spec"]["template"]
SERVER = POD["spec"]["containers"][0]
PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
(RAY,) = documents("ray/rayservice.yaml")
CLUSTER = RAY["spec"]["rayClusterConfig"]
GROUPS = [CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"]]
APPLICATIONS = yaml.safe_load(RAY["spec"]["serveConfigV2"])["applications"]
TEMPLATES = [POD, *(group["template"] for group in GROUPS)]
CONTAINERS = [container for template in TEMPLATES for container in template["spec"]["containers"]]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("document", PLAIN, ids=lambda document: f"{document['kind']} {document['metadata']['name']}")
def test_a_manifest_follows_the_schema(document, version):
    kubernetes_validate.validate(document, version, strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**document, "specs": {}}, version, strict=True)


@pytest.mark.parametrize("template", [group["template"] for group in GROUPS], ids=["head", "worker"])
def test_a_pod_of_the_cluster_follows_the_schema(template):
    pod = {"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "it"}, "template": template}
    kubernetes_validate.validate(pod, VERSIONS[-1], strict=True)


def test_the_server_is_started_as_the_kit_understands():
    options = parsed(SERVER["args"])
    assert (options["host"], options["process"]) == ("0.0.0.0", True)
    assert [port["containerPort"] for port in SERVER["ports"]] == [options["port"]]


@pytest.mark.parametrize("container", CONTAINERS, ids=["server", "head", "worker"])
def test_variables_are_read_by_something_and_secrets_come_from_the_secret(container):
    assert unknown_variables(variable["name"] for variable in container["env"]) == set()
    values = {variable["name"]: variable.get("valueFrom", {}).get("secretKeyRef") for variable in container["env"]}
    secret = BY_KIND["Secret"]
    for name in ("LLMAPI_KIT_API_KEY", "LLMAPI_KIT_DATABASE_URL", "HF_TOKEN"):
        assert values[name]["name"] == secret["metadata"]["name"]
        assert values[name]["key"] in secret["stringData"]


def test_the_secret_of_the_example_is_one_that_a_server_refuses():
    assert len(BY_KIND["Secret"]["stringData"]["api-key"]) < 16


@pytest.mark.parametrize("name", PROBES)
def test_probes_ask_what_answers(name, live_server):
    probe = SERVER[name]
    if "exec" in probe:
        copied = [rest.split()[-1] for word, rest in instructions() if word == "COPY"]
        assert f"/usr/local/bin/{probe['exec']['command'][0]}" in copied
        assert live_server.get("/readyz").status_code == 200
        assert live_server.get("/readyz", headers={"Authorization": ""}).status_code == 401, "so no httpGet would do"
    else:
        path = probe["httpGet"]["path"]
        assert live_server.get(path, headers={"Authorization": ""}).status_code == 200
        assert probe["httpGet"]["port"] in {port["name"] for port in SERVER["ports"]}


def test_services_lead_to_the_pods():
    ports = {port["name"]: port["containerPort"] for port in SERVER["ports"]}
    services = [document for document in PLAIN if document["kind"] == "Service"]
    assert [service["spec"].get("clusterIP") for service in services] == [None, "None"]
    for service in services:
        assert service["spec"]["selector"].items() <= POD["metadata"]["labels"].items()
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= set(ports)
    assert BY_KIND["Deployment"]["spec"]["selector"]["matchLabels"] == POD["metadata"]["labels"]


def test_the_volume_is_the_one_that_is_claimed():
    claims = [v["persistentVolumeClaim"]["claimName"] for v in POD["spec"]["volumes"] if "persistentVolumeClaim" in v]
    assert claims == [BY_KIND["PersistentVolumeClaim"]["metadata"]["name"]]
    mounts = {mount["mountPath"] for mount in SERVER["volumeMounts"]}
    (folders,) = [rest for word, rest in instructions() if word == "ENV" and "HOME=" in rest]
    assert {f"/{folder.split('=')[1].split('/')[1]}" for folder in folders.split() if "=/" in folder} <= mounts


@pytest.mark.parametrize("template", TEMPLATES, ids=["server", "head", "worker"])
def test_pods_run_as_the_image_says_and_with_no_more_rights(template):
    (user,) = [rest for word, rest in instructions() if word == "USER"]
    context = template["spec"]["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context["runAsNonRoot"]
    for container in template["spec"]["containers"]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {"requests", "limits"} <= container["resources"].keys()


def test_a_pod_may_finish_its_requests_when_it_is_stopped():
    (_, waited) = SERVER["lifecycle"]["preStop"]["exec"]["command"]
    drain_s = Settings.model_fields["drain_s"].default
    assert POD["spec"]["terminationGracePeriodSeconds"] > int(waited) + drain_s


def test_images_have_the_version():
    assert {container["image"].removesuffix("-ray") for container in CONTAINERS} == {f"llmapi-kit:{__version__}"}


def test_the_cluster_serves_the_kits_application():
    assert [application["import_path"] for application in APPLICATIONS] == ["llmapi_kit.cluster:app"]
    for application in APPLICATIONS:
        read_arguments(application["args"], {KEY_VARIABLE: "sk-llmapi-of-the-secret"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray's own models, as it is imported
def test_the_clusters_configuration_is_one_of_serve():
    from ray.serve.schema import ServeDeploySchema  # takes seconds to import

    ServeDeploySchema.model_validate(yaml.safe_load(RAY["spec"]["serveConfigV2"]))
    assert CLUSTER["rayVersion"] == importlib.metadata.version("ray")
