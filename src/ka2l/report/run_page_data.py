"""What the report shows, as plain values: the pipeline fills it, the page never opens a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ka2l.common.intervals import Interval
from ka2l.knowledge.reliability import ReliabilityBin


@dataclass(frozen=True, slots=True)
class LayerScore:
    """AUROC of one probe for what it was trained on."""

    layer: int  # -1: all of them
    kind: str  # linear | mlp | mix | ensemble
    validation_auroc: float
    test_auroc: float
    chosen: bool


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One way of telling unknown questions apart, against both targets, on the test rows."""

    name: str
    metrics: Mapping[str, Mapping[str, Interval]]  # se_label | wrong_answer → auroc, auprc, … → value
    p_values: Mapping[str, float] = field(
        default_factory=dict
    )  # target → of the difference from the kept probe


@dataclass(frozen=True, slots=True)
class PerturbedThreshold:
    """The probe trained and tested anew with the threshold moved (paper, Table 10)."""

    delta: float  # nats
    threshold: float
    relabelled: int  # questions whose label changed
    auroc: Interval | None  # None where one side is empty
    auroc_kept: Interval | None  # of the kept probe, against the moved labels


@dataclass(frozen=True, slots=True)
class Case:
    """One question with all its answers, for the case table (paper, Table 11)."""

    level: str  # low | middle | high
    question: str
    gold: Sequence[str]
    semantic_entropy: float
    low_temperature_answer: str | None  # None where nobody asked
    correct: bool | None
    samples: Sequence[str]
    clusters: Sequence[int]


@dataclass(frozen=True, slots=True)
class DecodedExample:
    """One question decoded out of a hidden state, and what became of it."""

    source: str  # the question whose state it was
    question: str
    noise: float  # standard deviations
    p_unknown: float | None  # None where it was dropped before the probe saw it
    similarity: float | None  # cosine with the nearest question it may copy
    kept: bool
    reason: str  # of ka2l.augmentation.filters.REASONS; empty where it was kept


@dataclass(frozen=True, slots=True)
class Augmentation:
    """New questions decoded out of the states of the bought ones (paper, Section 3.3)."""

    kind: str  # soft_prompt | t5
    layer: int
    trained_on: int | None  # None where a decoder from elsewhere does not say, as the next four
    exact: (
        float | None
    )  # share of held-out questions said again from their state; f1 and bleu between 0 and 1 too
    f1: float | None
    bleu: float | None
    n_validation: int | None
    sources: int
    candidates: int
    kept: int
    taught: int
    noise: float  # standard deviations
    temperature: float
    reasons: Mapping[str, int]  # reason → dropped, in the order of ka2l.augmentation.filters.REASONS
    distinct: float  # share of distinct texts among the candidates
    in_decoder_set: int | None  # kept ones that stand among the decoder's own training questions
    examples: Sequence[DecodedExample]


@dataclass(frozen=True, slots=True)
class StageCost:
    """What one stage took."""

    name: str
    seconds: float
    counts: Mapping[str, int]
    tokens: Mapping[str, int]
    tokens_per_second: float = 0.0
    memory_mb: Mapping[str, int] = field(default_factory=dict)  # highest, of the process and of the GPU


@dataclass(frozen=True, slots=True)
class ReportData:
    """Everything on the page. Parts a run has not reached are None or empty, and the page leaves them out."""

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
    threshold: float | None = None
    threshold_rule: str = ""
    threshold_range: tuple[float, float, float] | None = (
        None  # 95 % interval, and the share of labels that flip
    )
    perturbed: Sequence[PerturbedThreshold] = ()
    reliability: Sequence[ReliabilityBin] = ()
    calibration: str = ""  # platt | isotonic | none
    probe_target: str = "label"
    probe_event: str = "unknown"  # what its probability is of
    given_probe: str = ""  # the probe trained before that the pool was mapped with
    n_ambiguous: int | None = None  # questions whose answers are all plausible; None where nobody asked
    greedy_accuracy: Interval | None = None
    layers: Sequence[LayerScore] = ()
    scores: Sequence[ScoreRow] = ()
    probe_kind: str = ""
    probe_layer: int = -1
    pca: Sequence[tuple[float, float, bool]] = ()
    pca_variance: tuple[float, float] = (0.0, 0.0)
    cases: Sequence[Case] = ()
    p_unknown: Sequence[float] = ()  # histogram input, at most a few thousand values
    n_pool: int = 0
    n_pool_unknown: int = 0
    # arm -> (question, score, answer), first rows
    bought: Mapping[str, Sequence[tuple[str, float, str]]] | None = None
    augmentation: Augmentation | None = None
    evaluation: Mapping[str, Any] | None = None  # evaluation.json as written by ka2l.evaluation.protocol
    stages: Sequence[StageCost] = ()
    libraries: Mapping[str, str] | None = None
    probe_auroc: Interval | None = None  # the kept probe on test rows, against the known/unknown label
    probe_position: str = ""  # tbg | mean_prompt
    stand_in: str = ""  # the model whose states the probe reads, where it is not the one that answered
    engine: str = ""  # where the answers come from, if not from the model in the process
    ends: str = ""  # where this run has to end, and why
