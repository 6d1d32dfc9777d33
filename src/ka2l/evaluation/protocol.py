"""The evaluation protocol as typed values (contract; the functions that fill it are to be written)."""

from dataclasses import dataclass, field

from ka2l.statistics import Interval


@dataclass(frozen=True, slots=True)
class Prediction:
    """One evaluated answer. `model` is `base:sensing`, `base:teaching` or an arm's name (`unknown`, `random`)."""

    model: str
    question_id: str
    wording: int  # 0 = as in the pool, 1… = rewordings
    question: str
    text: str


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over a set of questions, all between 0 and 1, best alias each; BLEU is the corpus score / 100."""

    exact_match: Interval
    f1: Interval
    rouge_l: Interval
    bleu: float


@dataclass(frozen=True, slots=True)
class SetComparison:
    """Base against tuned on one set: held_out, bought, bought_reworded or unbought."""

    n: int
    base: Scores
    tuned: Scores
    difference: Interval  # paired difference of the correctness rate, tuned − base


@dataclass(frozen=True, slots=True)
class Learned:
    """Bought questions the base model had wrong and the tuned model has right."""

    wrong_before: int
    learned: int
    labels: int
    per_label: Interval  # learned / labels


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Held-out questions the base model had right and the tuned model has wrong."""

    right_before: int
    forgotten: int
    share: Interval  # forgotten / right_before


@dataclass(frozen=True, slots=True)
class ArmEvaluation:
    """What one selection of questions has bought."""

    strategy: str
    labels: int
    cost: float
    sets: dict[str, SetComparison]
    learned: Learned
    forgotten: Forgotten


@dataclass(frozen=True, slots=True)
class Evaluation:
    """evaluation.json: `base_prompt` is the prompt that serves the base model best on held-out questions."""

    correct: str
    base_prompt: str
    base: dict[str, Scores]  # held-out scores of the base model by prompt: sensing, teaching
    arms: dict[str, ArmEvaluation] = field(default_factory=dict)
