"""Configuration section `report`."""

from ka2l.common.settings_section import Positive, Section


class ReportConfig(Section):
    """The HTML page."""

    title: str = "What the model does not know"
    """Title of the page."""
    cases: Positive = 3
    """Questions shown with low, with middle and with high semantic entropy each."""
