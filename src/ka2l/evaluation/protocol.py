"""The evaluation protocol: the base model against the fine-tuned one, on five sets of questions (`question_sets`).

    ka2l evaluate runs/mine

The sets are never mixed: held_out (nothing was trained on them), bought (taught, in the wording that was taught),
bought_reworded (taught, in another wording), unbought (left in the pool), and decoded (new questions decoded from
hidden states and taught, if the run has any). The base model answers with the prompt that gives it the most correct
answers, the fine-tuned model with the teaching prompt. Both answer the same questions, and differences are paired.
Intervals are bootstrapped by question group.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ka2l.common.answer_text import is_correct
from ka2l.common.intervals import Interval, mean_interval
from ka2l.evaluation.answer_metrics import AnswerScores, corpus_bleu, score
from ka2l.evaluation.question_sets import (
    Answers,
    Item,
    Questions,
    answers_of,
    evaluation_sets,
)
from ka2l.evaluation.settings import EvaluateConfig
from ka2l.questions.question import DECODED, Question

BASE_PROMPTS = ("sensing", "teaching")
"""Prompts of the base model; the first is used if both give as many correct answers."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One answer to be evaluated."""

    model: str
    """`base:sensing`, `base:teaching` or an arm's name (`unknown`, `random`)."""
    question_id: str
    wording: int
    """0: as in the pool, 1…: rewordings."""
    question: str
    text: str


@dataclass(frozen=True, slots=True)
class ArmSelection:
    """The questions one strategy bought labels for."""

    strategy: str
    bought: Sequence[str]
    """Unique ids of questions of role pool or decoded: both cost a label."""
    cost: float
    """Of all labels together."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over a set of questions, all between 0 and 1, by the best alias; BLEU is the corpus score / 100."""

    exact_match: Interval
    f1: Interval
    rouge_l: Interval
    bleu: float


@dataclass(frozen=True, slots=True)
class SetComparison:
    """Base against tuned on one set: held_out, bought, bought_reworded, decoded or unbought."""

    n: int
    base: Scores
    tuned: Scores
    difference: Interval
    """Paired difference of the share of correct answers, tuned − base."""


@dataclass(frozen=True, slots=True)
class Learned:
    """Taught questions, bought and decoded, that the base model answered wrong and the tuned model answers right."""

    wrong_before: int
    """Answered wrong by the base model."""
    learned: int
    labels: int
    per_label: Interval
    """learned / labels."""
    decoded: "Learned | None" = None
    """The decoded questions among them; None (and not in the JSON) if there are none."""


@dataclass(frozen=True, slots=True)
class Forgotten:
    """Held-out questions that the base model answered right and the tuned model answers wrong."""

    right_before: int
    """Answered right by the base model."""
    forgotten: int
    share: Interval
    """forgotten / right_before."""


@dataclass(frozen=True, slots=True)
class ArmEvaluation:
    """The results of one arm."""

    strategy: str
    labels: int
    cost: float
    sets: dict[str, SetComparison]
    learned: Learned
    forgotten: Forgotten


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The content of evaluation.json."""

    correct: str
    """Rule by which an answer counts as correct: `exact_match` or `f1`."""
    base_prompt: str
    """The prompt with which the base model has the most correct answers to held-out questions."""
    base: dict[str, Scores]
    """Held-out scores of the base model by prompt: sensing, teaching."""
    arms: dict[str, ArmEvaluation] = field(default_factory=dict)


def best_base_prompt(
    predictions: Iterable[Prediction], questions: Questions, answers: Answers | None, correct: str
) -> str:
    """`sensing` or `teaching`: the prompt with which the base model has more correct held-out answers (tie: sensing).

    The base model answers held_out with both prompts, and the other sets with the prompt returned here. The choice is
    made on questions that are also scored. That favours the base model, so it cannot make the gain larger.

    Raises:
        ValueError: a held-out question is not answered with both prompts.
    """
    return _best_prompt(_held_out_rows(_Judge(_by_key(predictions), questions, answers, correct, 0, 0)))


def evaluate(
    predictions: Iterable[Prediction],
    arms: Mapping[str, ArmSelection],
    questions: Questions,
    answers: Answers,
    config: EvaluateConfig,
    correct: str,
    seed: int,
    replayed: Collection[str] = (),
) -> Evaluation:
    """Compare the base model with each arm's tuned model on the sets of `evaluation_sets`.

    Args:
        predictions: answers of `base:sensing` and `base:teaching` to held_out, of the better of the two to the sets of
            all arms, and of each arm (`Prediction.model` is the arm's name) to its sets. Others are ignored.
        arms: what each arm has bought, by the arm's name.
        questions: all questions of the run, or those of `asked_ids`.
        answers: questions that are not in it have their gold answers.
        config: `unbought`, `rewordings` and `bootstrap` are read.
        correct: `exact_match` or `f1`.
        seed: of the unbought draw and of the bootstrap.
        replayed: ids of questions that were taught without a label; they are not part of `unbought`.

    Raises:
        ValueError: a prediction is missing, or given twice with different texts (how many, and an example).
    """
    judge = _Judge(_by_key(predictions), questions, answers, correct, config.bootstrap, seed)
    held_out = _held_out_rows(judge)
    base_prompt = _best_prompt(held_out)
    base = {prompt: judge.summarize(rows) for prompt, rows in held_out.items() if rows}
    all_bought = {id_ for arm in arms.values() for id_ in arm.bought} | set(replayed)
    by_arm = {name: _evaluate_arm(judge, base_prompt, name, arm, config, all_bought) for name, arm in arms.items()}
    return Evaluation(correct=correct, base_prompt=base_prompt, base=base, arms=by_arm)


class _Row(NamedTuple):
    """One judged answer."""

    text: str
    answers: Sequence[str]
    group: str
    scores: AnswerScores
    right: bool


# Rows of the base and of the tuned model, for the same questions.
_Pair = tuple[Sequence[_Row], Sequence[_Row]]


@dataclass(frozen=True, slots=True)
class _Judge:
    """The predictions by (model, question id, wording), and the rules by which they are judged."""

    texts: Mapping[tuple[str, str, int], str]
    questions: Questions
    answers: Answers | None
    correct: str
    resamples: int
    seed: int

    def rows(self, model: str, items: Sequence[Item]) -> list[_Row]:
        """Judge the model's answers to the items, in their order."""
        missing = [(id_, wording) for id_, wording, _ in items if (model, id_, wording) not in self.texts]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(items)} predictions of {model!r} are missing, "
                f"for example question {missing[0][0]!r}, wording {missing[0][1]}"
            )
        return [self._row(self.texts[model, id_, wording], self.questions[id_]) for id_, wording, _ in items]

    def _row(self, text: str, question: Question) -> _Row:
        accepted = answers_of(question, self.answers)
        right = is_correct(text, accepted, self.correct)
        return _Row(text, accepted, question.fact, score(text, accepted), right)

    def mean(self, values: Sequence[float], rows: Sequence[_Row]) -> Interval:
        """Mean with its interval, resampled by the group of each row."""
        return mean_interval(values, [row.group for row in rows], self.resamples, self.seed)

    def summarize(self, rows: Sequence[_Row]) -> Scores:
        """Means of all metrics over a set that is not empty."""
        return Scores(
            exact_match=self.mean([row.scores.exact_match for row in rows], rows),
            f1=self.mean([row.scores.f1 for row in rows], rows),
            rouge_l=self.mean([row.scores.rouge_l for row in rows], rows),
            bleu=corpus_bleu([row.text for row in rows], [row.answers for row in rows]),
        )


def _evaluate_arm(
    judge: _Judge, prompt: str, name: str, arm: ArmSelection, config: EvaluateConfig, all_bought: set[str]
) -> ArmEvaluation:
    sets = evaluation_sets(judge.questions, arm.bought, config, judge.seed, judge.answers, all_bought)
    base_name = f"base:{prompt}"
    pairs = {key: (judge.rows(base_name, items), judge.rows(name, items)) for key, items in sets.items()}
    learned = _learned(judge, pairs["bought"], pairs.get(DECODED))
    return ArmEvaluation(
        strategy=arm.strategy,
        labels=learned.labels,
        cost=arm.cost,
        sets={key: _compare(judge, base, tuned) for key, (base, tuned) in pairs.items() if base},
        learned=learned,
        forgotten=_forgotten(judge, *pairs["held_out"]),
    )


def _compare(judge: _Judge, base: Sequence[_Row], tuned: Sequence[_Row]) -> SetComparison:
    gains = [float(after.right) - float(before.right) for before, after in zip(base, tuned, strict=True)]
    return SetComparison(len(base), judge.summarize(base), judge.summarize(tuned), judge.mean(gains, base))


def _learned(judge: _Judge, bought: _Pair, decoded: _Pair | None = None) -> Learned:
    parts = [bought] if decoded is None else [bought, decoded]
    base, tuned = ([row for part in parts for row in part[side]] for side in (0, 1))
    turned = [not before.right and after.right for before, after in zip(base, tuned, strict=True)]
    wrong_before = sum(not row.right for row in base)
    of_them = None if decoded is None else _learned(judge, decoded)
    return Learned(wrong_before, sum(turned), len(base), judge.mean(turned, base), of_them)


def _forgotten(judge: _Judge, base: Sequence[_Row], tuned: Sequence[_Row]) -> Forgotten:
    pairs = [(before, after) for before, after in zip(base, tuned, strict=True) if before.right]
    lost = [not after.right for _, after in pairs]
    return Forgotten(len(pairs), sum(lost), judge.mean(lost, [before for before, _ in pairs]))


def _held_out_rows(judge: _Judge) -> dict[str, list[_Row]]:
    items = evaluation_sets(judge.questions, (), EvaluateConfig(), judge.seed, judge.answers)["held_out"]
    return {prompt: judge.rows(f"base:{prompt}", items) for prompt in BASE_PROMPTS}


def _best_prompt(held_out: Mapping[str, Sequence[_Row]]) -> str:
    return max(BASE_PROMPTS, key=lambda prompt: sum(row.right for row in held_out[prompt]))


def _by_key(predictions: Iterable[Prediction]) -> dict[tuple[str, str, int], str]:
    texts: dict[tuple[str, str, int], str] = {}
    for prediction in predictions:
        key = (prediction.model, prediction.question_id, prediction.wording)
        if texts.setdefault(key, prediction.text) != prediction.text:
            raise ValueError(f"two different predictions for (model, question, wording) {key}")
    return texts
