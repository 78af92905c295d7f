"""What Prometheus and Grafana are told to ask for is what a live server's /metrics has."""

from __future__ import annotations

import json

import promql_parser
import pytest
from prometheus_client.parser import text_string_to_metric_families

from .files import DEPLOY, documents

DASHBOARD = json.loads((DEPLOY / "grafana" / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
EXPRESSIONS = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
SCRAPES = {name: documents(f"prometheus/{name}.yml")[0]["scrape_configs"] for name in ("compose", "kubernetes")}
JOB = "llmapi-kit"


@pytest.fixture(scope="module")
def samples(live_server):
    """The labels that each series has, by its name."""
    found = {"up": {"job"}}  # Prometheus' own
    for family in text_string_to_metric_families(live_server.get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {"job"}).update(sample.labels)
    return found


def selectors(expression):
    """(name, names of labels) of each series that an expression reads."""
    found = []

    def look(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append((node.name, {matcher.name for matcher in node.matchers.matchers}))
        return True

    known = expression.replace("$__rate_interval", "5m").replace("$__range", "1h")
    promql_parser.walk(promql_parser.parse(known), look)
    return found


@pytest.mark.parametrize(("title", "expression"), EXPRESSIONS)
def test_a_panel_asks_for_series_that_a_server_has(title, expression, samples):
    read = selectors(expression)
    assert read, title
    for name, labels in read:
        assert labels <= samples[name]


def test_an_expression_that_is_none_is_found():
    with pytest.raises(ValueError, match="parenthesis"):
        selectors("sum(rate(llmapi_kit_slots[5m])")


def test_counters_are_read_as_rates_and_histograms_as_quantiles():
    for title, expression in EXPRESSIONS:
        for name, _ in selectors(expression):
            is_counted = name.endswith(("_total", "_bucket"))
            assert is_counted == (f"rate({name}" in expression or f"increase({name}" in expression), title


def test_panels_stand_beside_each_other():
    taken = set()
    for panel in PANELS:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
    assert len({panel["id"] for panel in PANELS}) == len({panel["title"] for panel in PANELS}) == len(PANELS)


def test_variables_of_the_dashboard_are_read_from_what_there_is(samples):
    variables = {each["name"]: each["query"] for each in DASHBOARD["templating"]["list"]}
    assert variables.keys() == {"datasource", "job", "model"}
    for name in ("job", "model"):
        selector, label = variables[name].removeprefix("label_values(").removesuffix(")").rsplit(", ", 1)
        ((series, _),) = selectors(selector)
        assert label == name
        assert label in samples[series]


@pytest.mark.parametrize("name", SCRAPES)
def test_the_scrape_brings_the_key_that_the_metrics_ask_for(name, live_server):
    (scrape,) = SCRAPES[name]
    path = scrape.get("metrics_path", "/metrics")
    assert live_server.get(path, headers={"Authorization": ""}).status_code == 401
    key = live_server.headers["Authorization"].removeprefix("Bearer ")
    kind = scrape["authorization"].get("type", "Bearer")
    assert live_server.get(path, headers={"Authorization": f"{kind} {key}"}).status_code == 200
    assert scrape["job_name"] == JOB


def test_the_scrape_of_compose_asks_the_service_with_the_secret_that_it_has():
    (compose,) = documents("compose.yaml")
    (scrape,) = SCRAPES["compose"]
    (found,) = scrape["dns_sd_configs"]
    assert found["names"][0] in compose["services"]
    assert f":{found['port']}" in compose["services"][found["names"][0]]["ports"][0]
    (secret,) = compose["services"]["prometheus"]["secrets"]
    assert scrape["authorization"]["credentials_file"] == f"/run/secrets/{secret}"
    assert compose["secrets"][secret] == {"environment": "LLMAPI_KIT_API_KEY"}


def test_the_scrape_of_kubernetes_asks_the_service_without_an_address():
    (scrape,) = SCRAPES["kubernetes"]
    (found,) = scrape["dns_sd_configs"]
    service = documents("kubernetes/service.yaml")[1]
    assert found["names"][0].split(".")[0] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in service["spec"]["ports"]] == [found["port"]]
    assert scrape["authorization"]["credentials_file"].endswith("/api-key")


def test_grafana_is_given_the_dashboard_and_its_source():
    (compose,) = documents("compose.yaml")
    (provider,) = documents("grafana/provisioning/dashboards.yaml")[0]["providers"]
    (source,) = documents("grafana/provisioning/datasource.yaml")[0]["datasources"]
    volumes = compose["services"]["grafana"]["volumes"]
    (dashboard,) = [volume for volume in volumes if volume.startswith("./grafana/dashboard.json")]
    assert dashboard.split(":")[1].startswith(provider["options"]["path"])
    assert source["type"] == DASHBOARD["templating"]["list"][0]["query"]
    assert source["url"].removeprefix("http://").split(":")[0] in compose["services"]
