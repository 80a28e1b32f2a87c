"""One dashboard: panels flow from left to right, and all look alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import heatmap, stat, statetimeline, timeseries
from grafana_foundation_sdk.builders.dashboard import (
    AnnotationQuery,
    Dashboard,
    DashboardLink,
    QueryVariable,
    Row,
    ThresholdsConfig,
)
from grafana_foundation_sdk.builders.prometheus import Dataquery
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.common import DataSourceRef
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

DATASOURCE: Final = DataSourceRef(type_val="prometheus", uid="chat-prometheus")
"""Fixed, and the same in `templates/grafana/datasource.yml.j2`."""
COLUMNS: Final = 24
TAG: Final = "chat-service"

Queries = Sequence[tuple[str, str]]
"""What each query's series are called (`{{label}}` is the value of a label), and the query."""
Steps = Sequence[tuple[float | None, str]]
"""From which value on (None: from the beginning) which colour."""
Panel = timeseries.Panel | stat.Panel | statetimeline.Panel | heatmap.Panel

NEUTRAL: Final[Steps] = ((None, "blue"),)


class Board:
    """Builds one dashboard."""

    def __init__(self, uid: str, title: str, description: str) -> None:
        self.uid = uid
        self._next = 1
        self._x = self._y = self._row_height = 0
        self._dashboard = (
            Dashboard(title)
            .uid(uid)
            .description(description)
            .tags([TAG])
            .timezone("browser")
            .time("now-3h", "now")
            .refresh("30s")
            .readonly()
            .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
            .with_variable(
                QueryVariable("environment")
                .label("Environment")
                .datasource(DATASOURCE)
                .query("label_values(up{job=\"chat\"}, environment)")
                .definition("label_values(up{job=\"chat\"}, environment)")
                .refresh(dashboard.VariableRefresh.ON_DASHBOARD_LOAD)
                .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
            )
            .annotation(
                AnnotationQuery()
                .name("Deployments")
                .datasource(DATASOURCE)
                .enable(True)
                .icon_color("purple")
                .expr(
                    "max by (environment) "
                    '(opskit_deploy_timestamp_seconds{environment="$environment"}) * 1000'
                )
                .use_value_for_time(True)
                .title_format("Deployed to {{environment}}")
            )
            .link(
                DashboardLink("Chat service")
                .type(dashboard.DashboardLinkType.DASHBOARDS)
                .tags([TAG])
                .as_dropdown(True)
                .include_vars(True)
                .keep_time(True)
            )
        )  # fmt: skip

    def row(self, title: str) -> None:
        """Begin a part of the dashboard, under a heading."""
        self._break()
        row = Row(title).id(self._number()).grid_pos(
            dashboard.GridPos(h=1, w=COLUMNS, x=0, y=self._y)
        )  # fmt: skip
        self._dashboard.with_row(row)
        self._y += 1

    def stat(
        self,
        title: str,
        description: str,
        unit: str,
        query: str,
        *,
        legend: str = "",
        steps: Steps = NEUTRAL,
        values: Mapping[str, tuple[str, str]] | None = None,
        width: int = 4,
        decimals: int | None = None,
        name: bool = False,
        nothing: str = "–",
    ) -> None:
        """Add one large number.

        Args:
            title: what it is.
            description: what it means.
            unit: Grafana's name of it.
            query: what is asked.
            legend: what the series is called.
            steps: the colours.
            values: words (and colours) in place of values.
            width: of the 24 columns.
            decimals: digits after the point.
            name: whether the legend is shown in place of the number.
            nothing: what is said where there is no such series.
        """
        panel = (
            stat.Panel()
            .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
            .graph_mode(common.BigValueGraphMode.NONE)
            .color_mode(common.BigValueColorMode.VALUE)
            .text_mode(common.BigValueTextMode.NAME if name else common.BigValueTextMode.VALUE)
            .thresholds(_thresholds(steps))
            .no_value(nothing)
        )
        if values:
            panel.mappings(_mappings(values))
        if decimals is not None:
            panel.decimals(decimals)
        self._add(panel, title, description, unit, [(legend, query)], width, 4)

    def series(
        self,
        title: str,
        description: str,
        unit: str,
        queries: Queries,
        *,
        width: int = 12,
        stacked: bool = False,
        bars: bool = False,
        maximum: float | None = None,
    ) -> None:
        """Add a graph over time."""
        panel = (
            timeseries.Panel()
            .line_width(1.5)
            .fill_opacity(25 if stacked else 8)
            .gradient_mode(common.GraphGradientMode.OPACITY)
            .show_points(common.VisibilityMode.NEVER)
            .draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
            .axis_soft_min(0)
            .min(0)
            .tooltip(
                common_builders.VizTooltipOptions()
                .mode(common.TooltipDisplayMode.MULTI)
                .sort(common.SortOrder.DESCENDING)
            )
            .legend(
                common_builders.VizLegendOptions()
                .display_mode(common.LegendDisplayMode.TABLE)
                .placement(common.LegendPlacement.BOTTOM)
                .show_legend(True)
                .calcs(["lastNotNull", "max"])
            )
        )
        if stacked:
            panel.stacking(
                common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A")
            )
        if maximum is not None:
            panel.max(maximum)
        self._add(panel, title, description, unit, queries, width, 8)

    def states(
        self,
        title: str,
        description: str,
        queries: Queries,
        values: Mapping[str, tuple[str, str]],
        *,
        width: int = 12,
        height: int = 8,
    ) -> None:
        """Add a band for each series whose colour is its state."""
        panel = (
            statetimeline.Panel()
            .mappings(_mappings(values))
            .show_value(common.VisibilityMode.NEVER)
            .row_height(0.8)
            .fill_opacity(80)
            .line_width(0)
            .legend(
                common_builders.VizLegendOptions()
                .display_mode(common.LegendDisplayMode.LIST)
                .placement(common.LegendPlacement.BOTTOM)
                .show_legend(False)
            )
        )
        self._add(panel, title, description, "none", queries, width, height)

    def heat(self, title: str, description: str, unit: str, query: str, *, width: int = 12) -> None:
        """Add how a histogram's observations are spread, over time."""
        panel = (
            heatmap.Panel()
            .calculate(False)
            .color(
                heatmap.HeatmapColorOptions()
                .mode(HeatmapColorMode.SCHEME)
                .scheme("Blues")
                .steps(64)
            )
            .show_legend()
        )  # fmt: skip
        self._add(panel, title, description, unit, [("{{le}}", query)], width, 8, heat=True)

    def build(self) -> dashboard.Dashboard:
        """Give the dashboard."""
        return self._dashboard.build()

    # --- inside -------------------------------------------------------------------------------

    def _add(
        self,
        panel: Panel,
        title: str,
        description: str,
        unit: str,
        queries: Queries,
        width: int,
        height: int,
        *,
        heat: bool = False,
    ) -> None:
        if self._x + width > COLUMNS:
            self._break()
        panel.id(self._number()).title(title).description(description).unit(unit)
        panel.datasource(DATASOURCE)
        panel.grid_pos(dashboard.GridPos(h=height, w=width, x=self._x, y=self._y))
        for index, (legend, expr) in enumerate(queries):
            query = Dataquery().expr(expr).legend_format(legend).ref_id(chr(ord("A") + index))
            query.datasource(DATASOURCE).range()
            if heat:
                query.format(PromQueryFormat.HEATMAP)
            panel.with_target(query)
        self._dashboard.with_panel(panel)
        self._x += width
        self._row_height = max(self._row_height, height)

    def _break(self) -> None:
        self._x, self._y, self._row_height = 0, self._y + self._row_height, 0

    def _number(self) -> int:
        number, self._next = self._next, self._next + 1
        return number


def _thresholds(steps: Steps) -> ThresholdsConfig:
    return ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(
        [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    )  # fmt: skip


def _mappings(values: Mapping[str, tuple[str, str]]) -> list[dashboard.ValueMapping]:
    options = {
        value: dashboard.ValueMappingResult(text=text, color=colour, index=index)
        for index, (value, (text, colour)) in enumerate(values.items())
    }
    return [dashboard.ValueMap(options=options)]


def quantiles(histogram: str, by: str = "", *quantile: float) -> Queries:
    """Give the queries for quantiles of a histogram, in this environment.

    Args:
        histogram: its name, without `_bucket`.
        by: a label to tell apart by; empty for none.
        quantile: which, by default the median and one in a hundred.
    """
    labels = f"le, {by}" if by else "le"
    of = f'rate({histogram}_bucket{{environment="$environment"}}[$__rate_interval])'
    return [
        (
            " ".join([f"{{{{{by}}}}}"] * bool(by) + [f"p{q * 100:g}"]),
            f"histogram_quantile({q:g}, sum by ({labels}) ({of}))",
        )
        for q in quantile or (0.5, 0.99)
    ]


def rate(metric: str, by: str = "", selector: str = "") -> str:
    """Give how fast a counter grows in this environment, summed up by a label."""
    chosen = ", ".join(['environment="$environment"', *([selector] if selector else [])])
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped} (rate({metric}{{{chosen}}}[$__rate_interval]))"


UP_OR_DOWN: Final[Mapping[str, tuple[str, str]]] = {
    "0": ("failing", "red"),
    "1": ("well", "green"),
}
