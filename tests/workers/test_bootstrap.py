"""From the manifest to the limiter's words."""

from datetime import timedelta
from pathlib import Path

import pytest

from fleet import manifest as manifests
from workers.bootstrap import quotas

AZURE = """
[pools.agents]
slots = 4

[pools.llm]
slots = 4

[providers.azure]
kind = "openai"
counts = "azure"
base_url = "http://127.0.0.1:1/v1"
api_key = "env:KEY"

[agents.a]
model = "azure/m"
instructions = "x"

[quotas."azure/m"]
requests = "600/m"
tokens = "90k/m"
"""


@pytest.fixture
def azure(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text(AZURE)
    return path


def test_requests_that_a_provider_counts_in_short_windows_come_evenly(azure: Path) -> None:
    quota = quotas(manifests.load(azure))["azure/m"]
    requests = quota.limits["requests"]
    window = timedelta(seconds=10)
    # whenever the window begins: what is there at once, and what returns meanwhile
    most = quota.burst("requests") + quota.rate("requests") * window.total_seconds()
    assert most <= 1.1 * requests.capacity * (window / requests.period)
    assert quota.limits["tokens"].burst is None


def test_the_pace_returns_as_slowly_as_the_provider_wants(azure: Path) -> None:
    assert quotas(manifests.load(azure))["azure/m"].recovery == timedelta(minutes=1)
    azure.write_text(AZURE.replace('kind = "openai"\ncounts = "azure"', 'kind = "anthropic"'))
    assert quotas(manifests.load(azure))["azure/m"].recovery == timedelta(minutes=2)
