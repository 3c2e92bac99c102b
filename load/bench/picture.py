"""Draws a report: `python -m load.bench.picture FILE < report.json`, by the interpreter that has matplotlib."""

import json
import sys
from typing import Any

OURS, OTHERS = "#1b7f5c", "#9aa5b1"


def draw(rows: list[dict[str, Any]], file: str) -> None:
    """Throughput, fairness and use of the quota, of each contender."""
    import matplotlib

    matplotlib.use("Agg")
    # the same report is the same picture
    matplotlib.rcParams["svg.hashsalt"] = "fleet"
    from matplotlib import pyplot

    panels = [
        ("speed 4 x 64", "per_second", "acquires a second, 4 x 64 (log)", True),
        ("speed 1 x 1", "p50_us", "µs an acquire, p50, 1 x 1 (log)", True),
        ("saturation 4 x 100, headroom 1", "utilisation", "share of the quota used", False),
        ("saturation 4 x 100, headroom 1", "429_per_ok", "429s per success", False),
        ("saturation 4 x 100, headroom 1", "p99_wait_s", "p99 wait in s", False),
        ("saturation 4 x 100, headroom 1", "jain_agents", "Jain's index over agents", False),
    ]
    drawn = [(panel, found) for panel in panels if (found := [row for row in rows if row["trial"] == panel[0]])]
    figure, axes = pyplot.subplots((len(drawn) + 1) // 2, 2, figsize=(13, 2.2 * len(drawn)), squeeze=False)
    for axis in axes.flat[len(drawn) :]:
        axis.set_visible(False)
    for axis, ((_, key, title, log), found) in zip(axes.flat, drawn, strict=False):
        labels = [row["limiter"] for row in found]
        values = [row[key] for row in found]
        colours = [OURS if label.startswith("ours") else OTHERS for label in labels]
        bars = axis.barh(labels, values, color=colours)
        axis.bar_label(
            bars,
            labels=[f"{value:,.0f}" if value >= 1000 else f"{value:.3g}" for value in values],
            padding=3,
            fontsize=8,
        )
        axis.invert_yaxis()
        axis.set_title(title, fontsize=10, loc="left")
        axis.margins(x=0.18)
        if log:
            axis.set_xscale("log")
        else:
            axis.set_xlim(left=0, right=max(*values, 1e-9) * 1.18)
        axis.tick_params(labelsize=8)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, metadata={"Date": None} if file.endswith(".svg") else None)


if __name__ == "__main__":
    draw(json.load(sys.stdin)["rows"], sys.argv[1])
