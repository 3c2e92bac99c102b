"""Families as the registry has them."""

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from fleet.contracts.metrics import QUOTA_GRANTS, QUOTA_PACE, REGISTRY, Source
from workers.exporter.collector import Readings
from workers.exporter.looking import Sample


def test_every_metric_of_the_exporter_is_there_and_no_other():
    registry = CollectorRegistry()
    samples = [Sample(QUOTA_GRANTS, ('odd "scope"\\',), 7), Sample(QUOTA_PACE, ("a/b",), 0.25)]
    registry.register(Readings(lambda: samples))
    found = {family.name: family for family in text_string_to_metric_families(generate_latest(registry).decode())}
    wanted = {metric.name: metric for metric in REGISTRY.values() if metric.source is Source.EXPORTER}
    assert {name: (family.type, family.documentation) for name, family in found.items()} == {
        name: (metric.kind.value, metric.says) for name, metric in wanted.items()
    }
    told = [sample for family in found.values() for sample in family.samples]
    assert sorted((one.name, *one.labels.items(), one.value) for one in told) == [
        ("fleet_quota_grants_total", ("scope", 'odd "scope"\\'), 7),
        ("fleet_quota_pace_ratio", ("scope", "a/b"), 0.25),
    ]
    assert {one.name for one in told} == {QUOTA_GRANTS.exposed, QUOTA_PACE.exposed}
