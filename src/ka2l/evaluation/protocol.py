"""The evaluation protocol: which questions are asked after teaching, and what the answers say.

Four sets, never mixed: held_out (nothing was trained on them), bought (taught, in the wording that was taught),
bought_reworded (taught, in other words) and unbought (left in the pool); and a fifth where new questions were
decoded out of hidden states and taught beside the bought ones: decoded (as they were taught). The base model answers with the prompt
that serves it best, the tuned model with the teaching prompt; both answer the same questions and are compared
in pairs. Intervals are bootstrapped by question group. `ka2l evaluate` runs it.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ka2l.common.answer_text import is_correct
from ka2l.common.intervals import Interval, mean_interval
from ka2l.evaluation.answer_metrics import AnswerScores, corpus_bleu, score
from ka2l.evaluation.settings import EvaluateConfig
from ka2l.questions.question import DECODED, Question

Item = tuple[str, int, str]  # question id, wording (0 = as in the pool, 1… = rewordings), question text
Questions = Mapping[str, Question]  # by id
Answers = Mapping[str, Sequence[str]]  # accepted answers by question id, gold and annotated together
BASE_PROMPTS = ("sensing", "teaching")  # the first wins a tie


@dataclass(frozen=True, slots=True)
class Prediction:
    """One evaluated answer. `model` is `base:sensing`, `base:teaching` or an arm's name (`unknown`, `random`)."""

    model: str
    question_id: str
    wording: int  # 0 = as in the pool, 1… = rewordings
    question: str
    text: str


@dataclass(frozen=True, slots=True)
class ArmSelection:
    """What one strategy bought labels for, and what they cost together.

    `bought` are unique ids of questions of role pool and, where there are any, decoded: a label costs either way.
    """

    strategy: str
    bought: Sequence[str]
    cost: float


@dataclass(frozen=True, slots=True)
class Scores:
    """Means over a set of questions, all between 0 and 1, best alias each; BLEU is the corpus score / 100."""

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
    difference: Interval  # paired difference of the correctness rate, tuned − base


@dataclass(frozen=True, slots=True)
class Learned:
    """Taught questions, bought and decoded, that the base model had wrong and the tuned model has right."""

    wrong_before: int
    learned: int
    labels: int
    per_label: Interval  # learned / labels
    decoded: "Learned | None" = (
        None  # the decoded ones among them, None (and not in the JSON) where there are none
    )


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


def evaluation_sets(
    questions: Questions,
    bought: Sequence[str],
    config: EvaluateConfig,
    seed: int,
    answers: Answers | None = None,
    bought_elsewhere: Collection[str] = (),
) -> dict[str, list[Item]]:
    """The questions to ask, by set: held_out, bought, bought_reworded, unbought (a set may be empty).

    Decoded questions that were taught are a set `decoded` before `unbought`, which is there only if it is not empty.
    Questions that nobody has an answer to are left out. `unbought` leaves out questions that share a group with
    a bought or decoded one: that fact was taught. Its draw is ordered by a hash of (seed, id), so it does not depend on the
    order of rows, and a smaller sample is the beginning of a larger one.

    Args:
        bought: unique ids of the questions whose answers were bought, of role pool or decoded.
        config: `unbought` and `rewordings` say how many of each are asked.
        seed: seed of that draw.
        answers: questions that are not named here keep their gold answers.
        bought_elsewhere: ids other arms have bought; `unbought` leaves them out too, so that all arms are asked the
            same questions there.

    Raises:
        ValueError: a bought id is unknown, repeated, or held out, or shares its group with a held-out question.
    """
    _check_bought(questions, bought)
    answered = [q for q in questions.values() if _answers_of(q, answers)]
    taught_groups = {_group(questions[id_]) for id_ in (*bought, *bought_elsewhere)}
    taught = [questions[id_] for id_ in bought if _answers_of(questions[id_], answers)]
    decoded = [(q.id, 0, q.question) for q in taught if q.role == DECODED]
    taught = [q for q in taught if q.role != DECODED]
    unbought = [q for q in answered if q.role == "pool" and _group(q) not in taught_groups]
    unbought.sort(key=lambda q: hashlib.sha256(f"{seed}:{q.id}".encode()).digest())
    return {
        "held_out": [(q.id, 0, q.question) for q in answered if q.role == "eval"],
        "bought": [(q.id, 0, q.question) for q in taught],
        "bought_reworded": [
            (q.id, i, text)
            for q in taught
            for i, text in enumerate(q.rewordings[: config.rewordings], start=1)
        ],
        **({"decoded": decoded} if decoded else {}),
        "unbought": [(q.id, 0, q.question) for q in unbought[: config.unbought]],
    }


def best_base_prompt(
    predictions: Iterable[Prediction], questions: Questions, answers: Answers | None, correct: str
) -> str:
    """`sensing` or `teaching`: with which the base model is right more often on held-out questions (tie: sensing).

    The base model is asked with both prompts on held_out, and with the one returned here on the other sets. That
    the choice sees the questions it is scored on favours the base model: the gain is not made larger by it.
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
    taught_beside: Collection[str] = (),
) -> Evaluation:
    """Compare the base model with each arm's tuned model on the sets of `evaluation_sets`.

    Args:
        predictions: answers of `base:sensing` and `base:teaching` to held_out, of the better of the two and of
            each arm (`Prediction.model` is the arm's name) to all sets of that arm. Others are not looked at.
        config: `unbought` and `bootstrap` are used here.
        correct: `exact_match` or `f1`.
        seed: of the unbought draw and of the bootstrap.
        taught_beside: ids that were taught without being bought; they are no part of `unbought`.

    Raises:
        ValueError: a prediction is missing, or given twice with different texts (how many, and an example).
    """
    judge = _Judge(_by_key(predictions), questions, answers, correct, config.bootstrap, seed)
    held_out = _held_out_rows(judge)
    base_prompt = _best_prompt(held_out)
    base = {prompt: judge.summarize(rows) for prompt, rows in held_out.items() if rows}
    all_bought = {id_ for arm in arms.values() for id_ in arm.bought} | set(taught_beside)
    after = {
        name: _evaluate_arm(judge, base_prompt, name, arm, config, all_bought) for name, arm in arms.items()
    }
    return Evaluation(correct=correct, base_prompt=base_prompt, base=base, arms=after)


class _Row(NamedTuple):
    """One judged answer."""

    text: str
    answers: Sequence[str]
    group: str
    scores: AnswerScores
    right: bool


_Pair = tuple[Sequence[_Row], Sequence[_Row]]  # of the base and of the tuned model, the same questions


@dataclass(frozen=True, slots=True)
class _Judge:
    """The predictions by (model, question, wording), and the rules by which they are judged."""

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
        accepted = _answers_of(question, self.answers)
        right = is_correct(text, accepted, self.correct)
        return _Row(text, accepted, _group(question), score(text, accepted), right)

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


def _check_bought(questions: Questions, bought: Sequence[str]) -> None:
    for id_, times in Counter(bought).items():
        if id_ not in questions:
            raise ValueError(f"bought question {id_!r} is not among the {len(questions)} questions")
        if times > 1 or questions[id_].role == "eval":
            raise ValueError(f"{id_!r} was bought {times} times and has role {questions[id_].role!r}")
    held_out = {_group(question): question.id for question in questions.values() if question.role == "eval"}
    for id_ in bought:
        if _group(questions[id_]) in held_out:
            fact = _group(questions[id_])
            raise ValueError(f"{id_!r} teaches the fact {fact!r}, which {held_out[fact]!r} holds out")


def _answers_of(question: Question, answers: Answers | None) -> Sequence[str]:
    return (answers or {}).get(question.id) or question.answers


def _group(question: Question) -> str:
    return question.group or question.id
