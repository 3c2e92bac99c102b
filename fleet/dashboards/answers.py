"""What Prometheus answers: its HTTP API, and the variables that Grafana fills in before it asks.

https://prometheus.io/docs/prometheus/2.42/querying/api/
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any, Final
from urllib.error import HTTPError
from urllib.parse import urlencode, urlsplit
from urllib.request import Request, urlopen

from fleet.errors import BadInput, Unreachable

TIMEOUT_S: Final = 30.0
SCRAPE_S: Final = 15.0
"""How often Prometheus is expected to scrape where it does not tell."""
EVERYTHING: Final = ".*"
"""What `All` stands for in every variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Values of one set of labels."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """Instants in seconds of the Unix epoch, and values. NaN and infinity are left out."""


class Refused(BadInput):
    """Prometheus does not take the expression."""


@dataclass(frozen=True, slots=True)
class Prometheus:
    """One server."""

    url: str
    """As in http://localhost:9090. A path is kept, credentials are not understood."""

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:
            sound = False
        if not sound or re.search(r"[\s?#]", self.url):
            raise BadInput(f"{self.url!r} is no address of a Prometheus: name one as in http://localhost:9090")
        if parts.username or parts.password:
            # never shown: it may be a password
            raise BadInput("an address of Prometheus with credentials is not understood: name one without")

    def instant(self, expression: str, at: float) -> list[Series]:
        """What an expression was at an instant.

        Raises:
            Refused: the expression is no PromQL.
            Unreachable: no answer.
        """
        found = self._ask("query", query=expression, time=f"{at:.3f}")
        if found["resultType"] in ("scalar", "string"):
            return [Series(labels={}, points=_points([found["result"]]))]
        return [Series(labels=_labels(one), points=_points([one["value"]])) for one in found["result"]]

    def range(self, expression: str, begin: float, end: float, step: float) -> list[Series]:
        """What it was from `begin` to `end`, every `step` seconds.

        Raises:
            Refused: the expression is no PromQL, or more than 11,000 points are asked for.
            Unreachable: no answer.
        """
        found = self._ask("query_range", query=expression, start=f"{begin:.3f}", end=f"{end:.3f}", step=f"{step:.3f}")
        return [Series(labels=_labels(one), points=_points(one["values"])) for one in found["result"]]

    def scrape_s(self) -> float:
        """How often the fleet is scraped: the longest interval of its targets, or a guess where there is none."""
        told = [
            _duration(one.get("scrapeInterval", "")) for one in self._ask("targets", state="active")["activeTargets"]
        ]
        return max((one for one in told if one), default=SCRAPE_S)

    def _ask(self, verb: str, **parameters: str) -> dict[str, Any]:
        # nothing but http and https: see above
        request = Request(f"{self.url.rstrip('/')}/api/v1/{verb}?{urlencode(parameters)}")  # noqa: S310
        try:
            with urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
                answer = json.load(response)
        except HTTPError as error:
            with error:
                raise self._refusal(error, parameters.get("query", verb)) from None
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Unreachable(
                f"Prometheus at {self.url} does not answer ({reason}): start it, or name another"
            ) from None
        except ValueError:
            raise Unreachable(f"{self.url} answers, but not as Prometheus does: name another") from None
        if not isinstance(answer, dict) or not isinstance(answer.get("data"), dict):
            raise Unreachable(f"{self.url} answers, but not as Prometheus does: name another")
        found: dict[str, Any] = answer["data"]
        return found

    def _refusal(self, error: HTTPError, asked: str) -> BadInput | Unreachable:
        try:
            said = json.load(error)["error"]
        except (ValueError, KeyError, TypeError, OSError):
            return Unreachable(f"{self.url} answers {error.code}: is it a Prometheus? Name its base address")
        return Refused(f"{said}: {asked}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filling:
    """What stands for Grafana's variables."""

    range_s: float
    """From the begin of the dashboard's range to its end."""
    step_s: float
    """Between two points of a chart."""
    scrape_s: float = SCRAPE_S
    values: Mapping[str, str] = field(default_factory=dict)
    """By name of a variable a regular expression. Those that are not named are `All`."""

    def __call__(self, text: str) -> str:
        """The text without variables."""
        built = {
            # as Grafana computes it: a rate needs four scrapes to survive a lost one
            "__rate_interval": _seconds(max(self.step_s + self.scrape_s, 4 * self.scrape_s)),
            "__interval": _seconds(max(self.step_s, self.scrape_s)),
            "__range": _seconds(self.range_s),
        }
        return re.sub(
            r"\$(?:\{(\w+)(?::\w+)?\}|(\w+))",
            lambda found: built.get(name := found[1] or found[2]) or self.values.get(name, EVERYTHING),
            text,
        )


def _seconds(value: float) -> str:
    return f"{max(1, math.ceil(value))}s"


def _labels(one: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): str(value) for name, value in one["metric"].items()}


def _points(values: Sequence[Sequence[Any]]) -> list[tuple[float, float]]:
    found = [(float(at), float(value)) for at, value in values]
    return [(at, value) for at, value in found if math.isfinite(value)]


def _duration(text: str) -> float:
    """Prometheus' durations, as in `1m30s`; 0 for what is none."""
    scale = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
    return sum(float(number) * scale[unit] for number, unit in re.findall(r"(\d+)(ms|s|m|h|d)", text))
