"""Dashboards as Grafana's JSON, by Grafana's own builders (the extra `dashboards`)."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from grafana_foundation_sdk.builders import bargauge, common, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus as prometheus_build
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as prometheus_models

from fleet.dashboards.model import Dashboard, Draw, Note, Panel, Place, Query, Row, Variable, placed
from fleet.dashboards.shared import NOTES

TAG: Final = "fleet"
"""By which the dashboards find each other."""
DATASOURCE: Final = "${datasource}"
NOTE_STEP: Final = "5s"
"""How finely Grafana searches for notes: a worker is killed in an instant."""
RUNBOOKS: Final = "runbooks"
"""The variable that holds where the runbooks are."""
_AnyPanel = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel | statetimeline.Panel


def document(dashboard: Dashboard, *, runbooks: str) -> dict[str, Any]:
    """The dashboard's JSON.

    Args:
        dashboard: to be written.
        runbooks: URL that the runbooks lie under, one page an alert.
    """
    made = (
        build.Dashboard(dashboard.title)
        .uid(dashboard.uid)
        .description(dashboard.says)
        .tags([TAG])
        .editable()
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .refresh(dashboard.refresh)
        .time(dashboard.begin, "now")
        .link(
            build.DashboardLink("Fleet")
            .type(models.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(False)
            .include_vars(True)
            .keep_time(True)
            .icon("dashboard")
        )
    )
    made.with_variable(
        build.DatasourceVariable("datasource").label("Data source").description("A Prometheus.").type("prometheus")
    )
    for variable in dashboard.variables:
        made.with_variable(_variable(variable))
    made.with_variable(
        build.ConstantVariable(RUNBOOKS)
        .label("Runbooks")
        .description("Where the runbooks lie: `fleet dashboards build --runbooks URL`.")
        .value(runbooks)
    )
    for note in NOTES:
        made.annotation(_annotation(note))
    for number, (place, item) in enumerate(placed(dashboard), start=1):
        if isinstance(item, Row):
            made.with_row(build.Row(item.title).id(number).grid_pos(_grid(place)))
        else:
            made.with_panel(_panel(item, number, place))
    found: dict[str, Any] = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    # what Grafana's Prometheus source reads of an annotation, and the builders do not know
    for written, note in zip(found["annotations"]["list"], NOTES, strict=True):
        written |= {"titleFormat": note.title, "textFormat": note.text, "step": NOTE_STEP}
    return found


def text(dashboard: Dashboard, *, runbooks: str) -> str:
    """The dashboard's file: the same for the same dashboard, byte for byte."""
    return json.dumps(document(dashboard, runbooks=runbooks), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def read_back(found: dict[str, Any]) -> dict[str, Any]:
    """The document as Grafana's types understand it: what they do not know is gone."""
    again: dict[str, Any] = json.loads(json.dumps(models.Dashboard.from_json(found), cls=JSONEncoder))
    return again


def _source() -> models.DataSourceRef:
    return models.DataSourceRef(type_val="prometheus", uid=DATASOURCE)


def _grid(place: Place) -> models.GridPos:
    return models.GridPos(x=place.x, y=place.y, w=place.w, h=place.h)


def _variable(variable: Variable) -> build.QueryVariable:
    made = (
        build.QueryVariable(variable.name)
        .label(variable.label)
        .description(variable.says)
        .datasource(_source())
        .query({"qryType": 1, "query": variable.query, "refId": "PrometheusVariableQueryEditor-VariableQuery"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_CASE_INSENSITIVE_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))
    )
    return made.regex(variable.regex) if variable.regex else made


def _annotation(note: Note) -> build.AnnotationQuery:
    return (
        build.AnnotationQuery()
        .name(note.name)
        .datasource(_source())
        .enable(True)
        .expr(note.expr)
        .icon_color(note.colour)
    )


def _panel(panel: Panel, number: int, place: Place) -> _AnyPanel:
    made = _DRAWN[panel.draw](panel)
    made.id(number).title(panel.title).description(panel.says).unit(panel.unit).grid_pos(_grid(place))
    made.datasource(_source())
    for letter, query in zip("ABCDEFGHIJ", panel.queries, strict=False):
        made.with_target(_target(panel, query, letter))
    if panel.alert:
        made.links(
            [
                build.DashboardLink(f"Runbook: {panel.alert}")
                .type(models.DashboardLinkType.LINK)
                .url(f"${{{RUNBOOKS}:raw}}/{kebab(panel.alert)}.md")
                .target_blank(True)
            ]
        )
    if panel.thresholds or panel.draw is Draw.STAT:
        made.thresholds(_thresholds(panel))
    if panel.mappings:
        made.mappings(
            [
                models.ValueMap(
                    options={
                        str(one.value): models.ValueMappingResult(text=one.text, color=one.colour, index=index)
                        for index, one in enumerate(panel.mappings)
                    }
                )
            ]
        )
    if panel.none:
        made.no_value(panel.none)
    if panel.decimals is not None:
        made.decimals(panel.decimals)
    for name, colour in panel.colours.items():
        made.override_by_name(
            name, [models.DynamicConfigValue(id_val="color", value={"mode": "fixed", "fixedColor": colour})]
        )
    return made


def _target(panel: Panel, query: Query, letter: str) -> prometheus_build.Dataquery:
    made = prometheus_build.Dataquery().expr(query.expr).ref_id(letter).datasource(_source())
    if panel.draw is Draw.TABLE:
        return made.instant().format(prometheus_models.PromQueryFormat.TABLE)
    if query.instant:
        made.instant()
    else:
        made.range()
    if query.exemplars:
        made.exemplar(True)
    # one number has no legend; `__auto` names a series by all its labels
    return made.legend_format(query.legend or panel.title)


def _lines(panel: Panel) -> timeseries.Panel:
    stacked = panel.draw is Draw.STACK
    made = (
        timeseries.Panel()
        .draw_style(options.GraphDrawStyle.LINE)
        .line_interpolation(options.LineInterpolation.LINEAR)
        .line_width(1 if stacked else 1.5)
        .fill_opacity(45 if stacked else 0)
        .show_points(options.VisibilityMode.NEVER)
        .stacking(common.StackingConfig().mode(options.StackingMode.NORMAL if stacked else options.StackingMode.NONE))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
            .calcs([])
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI).sort(options.SortOrder.DESCENDING))
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.PALETTE_CLASSIC_BY_NAME))
    )
    if panel.least is not None:
        made.min(panel.least)
    if panel.most is not None:
        made.max(panel.most)
    if panel.thresholds:
        made.thresholds_style(common.GraphThresholdsStyleConfig().mode(options.GraphThresholdsStyleMode.DASHED))
    return made


def _stat(panel: Panel) -> stat.Panel:
    return (
        stat.Panel()
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .graph_mode(options.BigValueGraphMode.AREA if panel.spark else options.BigValueGraphMode.NONE)
        .color_mode(options.BigValueColorMode.VALUE)
        .text_mode(options.BigValueTextMode.VALUE)
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    )


def _bars(panel: Panel) -> bargauge.Panel:
    return (
        bargauge.Panel()
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
        .show_unfilled(True)
        .min(0)
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    )


def _states(panel: Panel) -> statetimeline.Panel:
    return (
        statetimeline.Panel()
        .merge_values(True)
        .show_value(options.VisibilityMode.NEVER)
        .row_height(0.8)
        .line_width(0)
        .fill_opacity(85)
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(options.LegendDisplayMode.LIST)
            .placement(options.LegendPlacement.BOTTOM)
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.SINGLE))
        .color_scheme(build.FieldColor().mode(models.FieldColorModeId.THRESHOLDS))
    )


def _table(panel: Panel) -> table.Panel:
    made = table.Panel().show_header(True).cell_height(options.TableCellHeight.SM)
    # one query is a column `Value`, several become `Value #A` … once they are merged
    names = ["Value"] if len(panel.queries) == 1 else [f"Value #{letter}" for letter in "ABCDEFGHIJ"]
    renamed = {name: query.legend for name, query in zip(names, panel.queries, strict=False)}
    made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    made.with_transformation(
        models.DataTransformerConfig(
            id_val="organize",
            options={
                "excludeByName": {"Time": True},
                "indexByName": {name: index for index, name in enumerate([*panel.labels, *renamed])},
                "renameByName": renamed,
            },
        )
    )
    if panel.most_series:
        made.with_transformation(models.DataTransformerConfig(id_val="sortBy", options=_sorted(panel)))
        made.with_transformation(
            models.DataTransformerConfig(id_val="limit", options={"limitField": panel.most_series})
        )
    for query in panel.queries:
        changed: list[models.DynamicConfigValue] = []
        if query.unit:
            changed.append(models.DynamicConfigValue(id_val="unit", value=query.unit))
        if query.decimals is not None:
            changed.append(models.DynamicConfigValue(id_val="decimals", value=query.decimals))
        if changed:
            made.override_by_name(query.legend, changed)
        if panel.mappings:
            made.override_by_name(
                query.legend,
                [models.DynamicConfigValue(id_val="custom.cellOptions", value={"type": "color-text"})],
            )
    return made


def _sorted(panel: Panel) -> dict[str, Any]:
    return {"fields": {}, "sort": [{"field": panel.queries[0].legend, "desc": True}]}


def _thresholds(panel: Panel) -> build.ThresholdsConfig:
    steps = [models.Threshold(value=None, color=panel.base)]
    steps += [models.Threshold(value=value, color=colour) for value, colour in panel.thresholds]
    return build.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def kebab(alert: str) -> str:
    """Name of an alert's runbook: `FleetQuotaStarved` is `fleet-quota-starved`."""
    return "".join(f"-{c.lower()}" if c.isupper() else c for c in alert).removeprefix("-")


_DRAWN: Final[Mapping[Draw, Callable[[Panel], _AnyPanel]]] = {
    Draw.LINES: _lines,
    Draw.STACK: _lines,
    Draw.STAT: _stat,
    Draw.BARS: _bars,
    Draw.TABLE: _table,
    Draw.STATES: _states,
}
