"""Check whether a run's model knows the answer to one question, according to its probe: `ka2l check`."""

from typing import Any

from ka2l.common.progress import Reporter
from ka2l.common.unknown_from import UNKNOWN_FROM
from ka2l.errors import DataError
from ka2l.models.interface import Prompt
from ka2l.pipeline.run import context_of
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.run_probe import read_probe


def check_question(run: RunDirectory, text: str) -> dict[str, Any]:
    """Whether the run's model knows the answer to a question, according to its probe.

    It takes one forward pass; no answer is generated.

    Raises:
        DataError: the question is empty.
        RunError: no probe, or it does not fit the run.
    """
    if not text.strip():
        raise DataError("The question is empty.")
    context = context_of(run, Reporter(quiet=True))
    probe, card = read_probe(context)
    model = context.prepared_model()
    prompt = Prompt("check", context.prompts.sensing(text.strip()))
    state = model.states([prompt], None if probe.layer < 0 else probe.layer, position=card["position"])
    p_unknown = float(probe.predict(state)[0])
    return {
        "question": text.strip(),
        "unknown": p_unknown >= UNKNOWN_FROM,
        "p_unknown": p_unknown,
        "model": context.resolved.name,
        "layer": probe.layer,
        "stands_in_for": card["answered_by"] if card["stand_in"] else None,
    }
