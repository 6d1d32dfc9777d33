"""Six questions of an evaluation whose numbers can be counted by hand, and three decoded ones."""

from collections.abc import Sequence

from ka2l.evaluation.protocol import ArmSelection
from ka2l.evaluation.settings import EvaluateConfig
from ka2l.questions.question import Question

CONFIG = EvaluateConfig(unbought=10, rewordings=2, bootstrap=100)


def ask(id_: str, role: str, *answers: str, group: str = "", rewordings: Sequence[str] = ()) -> Question:
    return Question(id_, f"What is {id_}?", answers, role, group or id_, {"rewordings": list(rewordings)})


def by_id(*questions: Question) -> dict[str, Question]:
    return {question.id: question for question in questions}


QUESTIONS = by_id(
    ask("e1", "eval", "A1 x"),
    ask("e2", "eval", "A2 x"),
    ask("e3", "eval", "A3 x"),
    ask("p1", "pool", "B1 x", rewordings=["Name p1.", "And p1?"]),
    ask("p2", "pool", "B2 x"),
    ask("p3", "pool"),
    ask("p4", "pool", "B4 x"),
    ask("p5", "pool"),
    ask("s1", "probe", "C1 x"),
)


ANSWERS = {**{q.id: q.answers for q in QUESTIONS.values() if q.answers}, "p3": ("B3 x",)}


ARM = ArmSelection("unknown", ("p1", "p2", "p3", "p5"), 7.5)


DECODED = by_id(
    *QUESTIONS.values(),
    ask("d1", "decoded", group="p4", rewordings=["Name d1."]),  # the fact of p4, in other words than p4's
    ask("d2", "decoded"),
    ask("d3", "decoded"),  # nobody has an answer to it
)


DECODED_ANSWERS = {**ANSWERS, "d1": ("D1 x",), "d2": ("D2 x",)}


DECODED_ARM = ArmSelection("unknown", ("p1", "p2", "p3", "p5", "d1", "d2", "d3"), 9.5)
