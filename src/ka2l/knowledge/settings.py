"""The sections of the configuration for measuring knowledge: judges, entropy, threshold, probes, the map."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from ka2l.common.settings_section import Fraction, PathOr, Positive, Section

JudgeName = Literal["lexical", "nli", "embedding", "llm"]
Equivalence = Literal["strict", "lenient", "no_contradiction"]
ClusterRule = Literal["first_match", "components"]
ThresholdRule = Literal["two_means", "eq3", "median", "quantile"]
ModelScore = Literal["p_true", "ambiguity", "eigenscore", "kernel_entropy"]
ProbeKind = Literal["linear", "mlp", "mix", "ensemble"]
Target = Literal["label", "value", "correct", "both"]


class MeasureConfig(Section):
    """From answers to semantic entropy and the known/unknown label (Section 3.2.2)."""

    judge: JudgeName = "lexical"
    """When two answers mean the same: equal after normalisation, by entailment (`nli`, `llm`), or by cosine
    (`embedding`).
    """
    equivalence: Equivalence = "strict"
    """For `nli` and `llm`: entailment both ways; no contradiction and not neutral both ways; or no contradiction."""
    clusters: ClusterRule = "first_match"
    """`first_match`: each answer against the first answer of each cluster, in order; `components`: all answers that are
    linked, in any order.
    """
    nli_model: Annotated[str, PathOr()] = "microsoft/deberta-large-mnli"
    """A sequence-classification model with an entailment label, for judge `nli`."""
    embedding_model: Annotated[str, PathOr("minilm")] = "minilm"
    """A sentence-transformers model, for judge `embedding`: a folder, a Hub id, or `minilm` (packaged, offline)."""
    embedding_threshold: Annotated[float, Field(ge=-1.0, le=1.0)] | Literal["fit"] = "fit"
    """Cosine from which two answers mean the same; `fit`: fitted on the gold answers of training questions."""
    llm_model: Annotated[str, PathOr("smollm2-135m")] = ""
    """For judge `llm`: a folder or Hub id; empty: the run's own model. If judge_server.url is set, that server
    judges.
    """
    batch_tokens: Positive = 4096
    """Tokens (with padding) in one batch of the judge."""
    cache: Annotated[str, PathOr(created=True)] = ""
    """SQLite file of judgements, to share between runs; empty: judgements.sqlite in the run."""
    scores: list[ModelScore] = Field(default=[])
    """Additional scores, which take more calls of a model: p_true, ambiguity, eigenscore, kernel_entropy."""
    p_true_shots: Annotated[int, Field(ge=0, le=32)] = 6
    """Worked examples in the prompt of `p_true` and `ambiguity`; they are training questions, which then get no such
    score.
    """
    threshold: ThresholdRule | Annotated[float, Field(ge=0.0)] = "two_means"
    """Semantic entropy from which a question is unknown: a rule, or a number in nats."""
    quantile: Fraction = 0.5
    """For threshold `quantile`: the share of questions called known."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples of the threshold, for its stability."""
    correct: Literal["exact_match", "f1"] = "exact_match"
    """When an answer counts as right: exact match, or token F1 of 0.5 and more, against the best alias."""
    split: Annotated[tuple[Fraction, Fraction, Fraction], Field(strict=False)] = (0.6, 0.2, 0.2)
    """Train, validation and test share of the probe questions, by group."""

    @model_validator(mode="after")
    def _split_sums_to_one(self) -> "MeasureConfig":
        if abs(sum(self.split) - 1.0) > 1e-6 or min(self.split) <= 0:
            raise ValueError(f"split must be three positive shares that sum to 1, not {list(self.split)}")
        return self


class ProbeConfig(Section):
    """One probe per layer and kind; one is kept, chosen on validation rows (Section 3.2.3)."""

    kinds: list[ProbeKind] = Field(default=["linear", "mlp"])
    """`linear`: standardised logistic regression; `mlp`: the paper's SwiGLU network; `mix`: linear on a learned mix of
    layers; `ensemble`: the mean of the linear probes of the deeper half of the layers.
    """
    target: Target = "label"
    """The target: `label` (unknown), `value` (semantic entropy), `correct` (a wrong answer), or `both` (label and
    wrong).
    """
    choice: Literal["robust", "best"] = "robust"
    """How layer and kind are chosen: `best` takes the highest validation AUROC, `robust` cross-validates and allows for
    chance (see docs/probes.md).
    """
    calibration: Literal["platt", "isotonic", "none"] = "platt"
    """How scores become probabilities, fitted on validation rows."""
    layers: list[Annotated[int, Field(ge=0)]] | None = None
    """Train `linear` and `mlp` at these layers only (0: the embedding, L: after the final norm); none: at all
    layers.
    """
    position: Literal["tbg", "mean_prompt"] = "tbg"
    """`tbg`: last prompt token (before generation); `mean_prompt`: mean over the question's tokens."""
    standardize: bool = True
    """Standardise inputs of the MLP by training rows (the other kinds always do)."""
    mlp_width: Positive = 128
    """Width of gate and up (paper: 14336)."""
    mlp_lr: Annotated[float, Field(gt=0)] = 1e-3
    """Adam's learning rate (paper: 1e-5)."""
    mlp_epochs: Positive = 40
    """Maximum number of epochs; the epoch with the lowest validation loss is kept."""
    mlp_patience: Positive = 6
    """Stop when no layer's validation loss has improved for this many epochs."""
    mlp_batch_size: Positive = 32
    """Rows per step."""
    mlp_weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap resamples of the intervals."""

    @model_validator(mode="after")
    def _some_kind(self) -> "ProbeConfig":
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError("kinds must name at least one of linear, mlp, mix, ensemble, each once")
        return self

    @model_validator(mode="after")
    def _layers_are_some(self) -> "ProbeConfig":
        if self.layers is None:
            return self
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError("layers must name at least one layer, each once; leave it out for all layers")
        if reads_all := [kind for kind in self.kinds if kind in ("mix", "ensemble")]:
            raise ValueError(f"layers={self.layers} cannot be combined with kinds={reads_all}, which read all layers")
        return self


class MapConfig(Section):
    """The probe over the whole pool."""

    probe: Annotated[str, PathOr()] = ""
    """An existing probe, as a folder or Hub id: the pool is mapped with it, and Stage 1 is not run."""
    probe_revision: str | None = None
    """Hub revision of the probe."""
    part_size: Positive = 512
    """Questions in one part file."""
