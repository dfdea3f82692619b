"""What is in deploy, against a server and the documents. That Prometheus takes the
expressions, and that the alerts come when they should, is tested in tools/prometheus."""

import json
import re

import harness
import pytest
import yaml
from harness import get

pytestmark = pytest.mark.s3storage

DEPLOY = harness.ROOT / "deploy"
METRIC = re.compile(r"\bs3storage_[a-z_]+")


@pytest.fixture
def served(new_bucket, new_server):
    """The names of all series that a server shows, with the kinds of their metrics."""
    server = new_server(new_bucket(), arguments=["--http=127.0.0.1:0", "--cache-dir=cache"])
    [address] = re.findall(r"url=http://(.+?)/metrics", server.stderr())
    kinds = {}
    for name, kind in re.findall(r"^# TYPE (s3storage_\S+) (\S+)$", get(address, "/metrics")[1], re.M):
        for suffix in ("_bucket", "_sum", "_count") if kind == "histogram" else ("",):
            kinds[name + suffix] = kind
    return kinds


def expressions():
    """All expressions in deploy."""
    alerts = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())
    yield from (rule["expr"] for group in alerts["groups"] for rule in group["rules"])
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        yield variable["query"]


def test_alerts_and_dashboard_ask_for_what_a_server_shows(served):
    asked = {name for expression in expressions() for name in METRIC.findall(expression)}
    assert asked <= set(served)
    for expression in expressions():
        for name in METRIC.findall(expression):
            # A counter alone says nothing: it begins anew with each start of a server.
            counts = served[name] != "gauge"
            changes = re.search(r"\b(rate|increase)\(" + name + r"\b", expression)
            assert bool(changes) == counts, expression
    # Its examples are of series that there are.
    tested = (harness.ROOT / "tools" / "prometheus" / "deploy_test.go").read_text()
    examples = set(METRIC.findall(tested)) - {"s3storage_"}
    assert examples <= set(served)
    # Every metric is to be seen, or the difference of the two.
    missing = {re.sub("_(bucket|sum|count)$", "", name) for name in served} - {
        re.sub("_(bucket|sum|count)$", "", name) for name in asked}
    assert missing == {"s3storage_log_applied_slot", "s3storage_log_end_slot"}


def test_every_alert_is_explained_and_no_other():
    text = (harness.ROOT / "doc" / "operations.md").read_text()
    section = text.split("\n## Alarms\n")[1].split("\n## ")[0]
    explained = re.findall(r"^\*\*`(S3storage\w+)`\*\*", section, re.M)
    alerts = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())
    rules = [rule for group in alerts["groups"] for rule in group["rules"]]
    assert explained == [rule["alert"] for rule in rules]
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]


def test_panels_of_the_dashboard_do_not_overlap():
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    taken = {}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]


def test_the_manifests_fit_together_and_the_server_takes_their_arguments(new_bucket, new_server):
    manifests = {m["kind"]: m for m in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
    pod = manifests["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    for selector in (manifests["Deployment"]["spec"]["selector"]["matchLabels"], manifests["Service"]["spec"]["selector"],
                     manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]):
        assert selector == labels
    assert pod["spec"]["serviceAccountName"] == manifests["ServiceAccount"]["metadata"]["name"]
    [container] = pod["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["spec"]["volumes"]}
    assert {port["targetPort"] for port in manifests["Service"]["spec"]["ports"]} <= set(ports)
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["http"])

    command, *arguments = container["args"]
    options = dict(argument.split("=", 1) for argument in arguments)
    assert command == "serve"
    assert options["--listen"] == f":{ports['zeo']}" and options["--http"] == f":{ports['http']}"
    assert options["--cache-dir"] in {mount["mountPath"] for mount in container["volumeMounts"]}
    here = {"--http": "127.0.0.1:0", "--cache-dir": "cache", "--advertise": options["--advertise"].replace("$(POD_IP)", "127.0.0.1")}
    for taken in "--bucket", "--listen":  # the test's server has its own
        del options[taken]
    server = new_server(new_bucket(), arguments=[f"{name}={here.get(name, value)}" for name, value in options.items()])
    [address] = re.findall(r'"url":"http://(.+?)/metrics"', server.stderr())
    for probe in "startupProbe", "livenessProbe", "readinessProbe":
        asked = container[probe]["httpGet"]
        assert asked["port"] in ports
        assert get(address, asked["path"]) == (200, "ok\n")


def test_messages_that_are_explained_are_those_that_the_server_has():
    text = (harness.ROOT / "doc" / "operations.md").read_text()
    section = text.split("\n## What the log says\n")[1].split("\n## ")[0]
    messages = re.findall(r"^\| `(.+?)` \|", section, re.M)
    assert len(messages) > 10
    sources = "".join(path.read_text() for top in ("internal", "cmd") for path in (harness.ROOT / top).rglob("*.go")
                      if not path.name.endswith("_test.go"))
    assert [message for message in messages if message not in sources] == []


def test_links_in_the_document_lead_somewhere():
    doc = harness.ROOT / "doc" / "operations.md"
    for target in re.findall(r"\]\(([^)]+)\)", doc.read_text()):
        path, _, heading = target.partition("#")
        file = (doc.parent / path).resolve() if path else doc
        assert file.exists(), target
        if heading:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.M)
            assert heading in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target
