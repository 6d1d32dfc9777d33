"""What the report of a run shows, as plain values: the pipeline fills it in, and the page reads no file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ka2l.common.intervals import Interval
from ka2l.knowledge.reliability import ReliabilityBin


@dataclass(frozen=True, slots=True)
class LayerScore:
    """AUROC of one probe for the target it was trained on."""

    layer: int
    """-1: all layers."""
    kind: str
    """linear, mlp, mix or ensemble."""
    validation_auroc: float
    test_auroc: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One score for unknown questions, evaluated against both targets on the test rows."""

    name: str
    metrics: Mapping[str, Mapping[str, Interval]]
    """Values by target (se_label, wrong_answer) and metric (auroc, auprc, …)."""
    p_values: Mapping[str, float] = field(default_factory=dict)
    """By target: of the difference from the kept probe."""


@dataclass(frozen=True, slots=True)
class PerturbedThreshold:
    """The probe trained and tested again with the threshold moved (paper, Table 10)."""

    delta: float
    """In nats."""
    threshold: float
    """In nats, moved by `delta`."""
    relabelled: int
    """Questions whose label changed."""
    auroc: Interval | None
    """None: all labels are equal."""
    auroc_kept: Interval | None
    """Of the kept probe, against the labels of the moved threshold."""


@dataclass(frozen=True, slots=True)
class Case:
    """One question with all its answers, for the case table (paper, Table 11)."""

    level: str
    """Of semantic entropy: low, middle or high."""
    question: str
    gold: Sequence[str]
    semantic_entropy: float
    """In nats."""
    low_temperature_answer: str | None
    """None: not sampled."""
    correct: bool | None
    """Of the low-temperature answer; None: no gold answer."""
    samples: Sequence[str]
    """The sampled answers."""
    clusters: Sequence[int]
    """The semantic cluster of each sampled answer."""


@dataclass(frozen=True, slots=True)
class DecodedExample:
    """One question decoded from a hidden state, and whether it was kept."""

    source: str
    """The question whose state was decoded."""
    question: str
    noise: float
    """In standard deviations of the states."""
    p_unknown: float | None
    """None: dropped before the probe was asked."""
    similarity: float | None
    """Cosine with the nearest question that it may be a copy of."""
    kept: bool
    reason: str
    """One of `ka2l.augmentation.filters.REASONS`; empty if kept."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """New questions decoded from the states of the bought questions (paper, Section 3.3).

    The decoder's quality is None in the fields that the card of a given decoder does not have.
    """

    kind: str
    """soft_prompt or t5."""
    layer: int
    trained_on: int | None
    """Questions the decoder was trained on."""
    exact: float | None
    """Share of the validation questions reconstructed exactly."""
    f1: float | None
    """Mean token F1 of the reconstruction, 0 to 1."""
    bleu: float | None
    """Corpus BLEU / 100 of the reconstruction."""
    n_validation: int | None
    sources: int
    """Questions whose states were decoded."""
    candidates: int
    """Questions decoded."""
    kept: int
    taught: int
    noise: float
    """In standard deviations of the states."""
    temperature: float
    reasons: Mapping[str, int]
    """Number of dropped candidates by reason, in the order of `ka2l.augmentation.filters.REASONS`."""
    distinct: float
    """Share of distinct texts among the candidates."""
    in_decoder_set: int | None
    """Kept questions that are also training questions of the decoder."""
    examples: Sequence[DecodedExample]


@dataclass(frozen=True, slots=True)
class StageCost:
    """Time, counts, tokens and memory of one stage."""

    name: str
    seconds: float
    counts: Mapping[str, int]
    tokens: Mapping[str, int]
    tokens_per_second: float = 0.0
    memory_mb: Mapping[str, int] = field(default_factory=dict)
    """Highest use, of the process and of the GPU."""


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page. Parts that the run has not reached are None or empty, and the page leaves them out."""

    title: str
    created: str
    version: str
    model: str
    revision: str
    device: str
    role_counts: Mapping[str, int]
    duplicates_merged: int
    sensing_prompt: str
    teaching_prompt: str
    config_yaml: str
    n_samples: int = 0
    entropies: Sequence[float] = ()
    """Semantic entropies in nats."""
    threshold: float | None = None
    """In nats."""
    threshold_rule: str = ""
    threshold_range: tuple[float, float, float] | None = None
    """95 % interval of the threshold, and the share of labels that change within it."""
    perturbed: Sequence[PerturbedThreshold] = ()
    reliability: Sequence[ReliabilityBin] = ()
    calibration: str = ""
    """platt, isotonic or none."""
    probe_target: str = "label"
    probe_event: str = "unknown"
    """The event whose probability the probe predicts."""
    given_probe: str = ""
    """The trained probe that the pool was mapped with, if it is not the run's own."""
    n_ambiguous: int | None = None
    """Questions whose answers are all plausible; None: not measured."""
    greedy_accuracy: Interval | None = None
    layers: Sequence[LayerScore] = ()
    scores: Sequence[ScoreRow] = ()
    probe_kind: str = ""
    probe_layer: int = -1
    pca: Sequence[tuple[float, float, bool]] = ()
    pca_variance: tuple[float, float] = (0.0, 0.0)
    cases: Sequence[Case] = ()
    p_unknown: Sequence[float] = ()
    """For the histogram: at most a few thousand values."""
    n_pool: int = 0
    n_pool_unknown: int = 0
    bought: Mapping[str, Sequence[tuple[str, float, str]]] | None = None
    """By arm: question, score and answer of the first rows."""
    augmentation: Augmentation | None = None
    evaluation: Mapping[str, Any] | None = None
    """evaluation.json, or `dataclasses.asdict` of `ka2l.evaluation.protocol.Evaluation`."""
    stages: Sequence[StageCost] = ()
    libraries: Mapping[str, str] | None = None
    probe_auroc: Interval | None = None
    """Of the kept probe on the test rows, against the known/unknown label."""
    probe_position: str = ""
    """tbg or mean_prompt."""
    stand_in: str = ""
    """The model whose states the probe reads, if it is not the model that answered."""
    engine: str = ""
    """Where the answers come from, if not from a model in this process."""
    ends: str = ""
    """The stage this run has to end at, and why."""
