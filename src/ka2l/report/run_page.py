"""The report: one self-contained HTML page without scripts or network access, for screens, dark mode and print.

    ka2l report runs/mine        # writes runs/mine/report.html

Questions and answers are untrusted input: the templates escape every string, and only figures are inserted as markup.
"""

import math
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from ka2l.common import number_format
from ka2l.report import augmentation, run_figures, score_tables
from ka2l.report.arms import METRICS, Comparison, arm_title, read_evaluation
from ka2l.report.headline import probe_auroc, tiles, unknown_share, verdict
from ka2l.report.reliability_diagram import reliability_diagram
from ka2l.report.run_page_data import Case, ReportData

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


# Rows of each arm's selection.
ROWS_SHOWN = 10
_LEVELS = {"low": "Low entropy", "middle": "Middle entropy", "high": "High entropy"}


class Wording(NamedTuple):
    """One wording of an answer, and how often it was sampled."""

    text: str
    times: int


class Cluster(NamedTuple):
    """Answers with the same meaning."""

    size: int
    wordings: tuple[Wording, ...]


class CaseView(NamedTuple):
    """A case with its answers grouped by meaning."""

    case: Case
    level: str
    clusters: tuple[Cluster, ...]


def render(data: ReportData) -> str:
    """Render the page; the same data gives the same bytes.

    Args:
        data: everything on the page; sections whose data is None or empty are left out.

    Returns:
        a complete HTML document, to be written as UTF-8.
    """
    comparison = read_evaluation(data.evaluation) if data.evaluation else None
    page = environment().get_template("page.html")
    html = page.render(
        data=data,
        comparison=comparison,
        metrics=METRICS,
        verdict=verdict(data, comparison),
        tiles=tiles(data, comparison),
        share=unknown_share(data),
        auroc=probe_auroc(data),
        cases=[_case(case) for case in data.cases],
        **score_tables.views(data),
        new=augmentation.view(data.augmentation) if data.augmentation is not None else None,
        accuracy=number_format.as_interval(data.greedy_accuracy),
        most_entropy=math.log(data.n_samples) if data.n_samples > 1 else None,
        seconds=sum(stage.seconds for stage in data.stages if number_format.is_number(stage.seconds)),
        rows_shown=ROWS_SHOWN,
        **_figures(data, comparison),
    )
    return number_format.clean(html)


def environment() -> "Environment":
    """The environment of the templates, which escapes every string, with the filters that format numbers."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("ka2l", "report/templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for write in (
        number_format.bounds,
        number_format.count,
        number_format.decimal,
        number_format.duration,
        number_format.p_value,
        number_format.percent,
        number_format.points,
        number_format.shorten,
        number_format.signed,
        number_format.span,
        arm_title,
    ):
        environment.filters[write.__name__] = write
    return environment


def _figures(data: ReportData, comparison: Comparison | None) -> dict[str, "Markup | None"]:
    """The figures whose data exists, marked as safe: all their text is our own labels, escaped by matplotlib."""
    from markupsafe import Markup

    def any_number(values: Iterable[object]) -> bool:
        return any(number_format.is_number(value) for value in values)

    figures = {
        "entropy_svg": any_number(data.entropies)
        and run_figures.entropy_histogram(data.entropies, data.threshold, data.n_samples),
        "layers_svg": any_number(row.test_auroc for row in data.layers if row.layer >= 0)
        and run_figures.layer_curve([row for row in data.layers if row.layer >= 0]),
        "reliability_svg": bool(data.reliability) and reliability_diagram(data.reliability, data.probe_event),
        "states_svg": bool(data.pca) and run_figures.state_scatter(data.pca, data.pca_variance),
        "pool_svg": any_number(data.p_unknown) and run_figures.pool_histogram(data.p_unknown),
        "gain_svg": comparison is not None
        and any(arm.sets for arm in comparison.arms)
        and run_figures.teaching_gain(comparison),
    }
    return {name: Markup(svg) if isinstance(svg, str) else None for name, svg in figures.items()}


def _case(case: Case) -> CaseView:
    """Group the answers of a case by cluster, the largest first, repeated wordings counted."""
    members: dict[int, Counter[str]] = {}
    for text, cluster in zip(case.samples, case.clusters, strict=False):
        members.setdefault(cluster, Counter())[number_format.shorten(text)] += 1
    clusters = [
        Cluster(wordings.total(), tuple(Wording(text, times) for text, times in wordings.most_common()))
        for wordings in members.values()
    ]
    clusters.sort(key=lambda cluster: -cluster.size)
    return CaseView(case, _LEVELS.get(case.level, case.level), tuple(clusters))
