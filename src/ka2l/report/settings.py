"""Settings of the report."""

from ka2l.common.settings_section import Positive, Section


class ReportConfig(Section):
    """The HTML page."""

    title: str = "What the model does not know"
    """Headline of the page."""
    cases: Positive = 3
    """Questions shown for each of low, middle and high entropy."""
