"""The README of a probe: what it is, how to use it, how it was trained, its quality and its limits.

    readme(card, "me/my-probe")      # Markdown; what the card lacks is left out, or reported as missing

The keys of the card that are read here: model, revision, answered_by, stand_in, kind, layer, n_layers, width, position,
target, calibration, prompt {instruction, template, shots}, samples, threshold {value, rule, judge, share_unknown},
split {train, validation, test}, scores {method: {target: {metric: {value, low, high, n}}}}, layers {method: layer},
license, base_model, ka2l.
"""

from collections.abc import Mapping
from typing import Any

from ka2l.common.number_format import MISSING, as_interval, count, decimal, is_number, percent, span
from ka2l.common.readme_parts import code, front_matter, model_of, place_of, prompt_section
from ka2l.knowledge.score_titles import score_title

TAGS = ["ka2l", "probe", "semantic-entropy", "uncertainty"]
FEW = 300  # test questions; with fewer, the interval of an AUROC is about ± 0.05 and more
_METRICS = {
    "auroc": "AUROC ↑",
    "auprc": "AUPRC ↑",
    "aurc": "AURC ↓",
    "accuracy_at_80": "free of it at 80 % ↑",
    "brier": "Brier ↓",
    "ece": "ECE ↓",
}
_EXPLAINED = {
    "aurc": "AURC is the rate of the event among the k least uncertain, averaged over all k.",
    "accuracy_at_80": "`free of it at 80 %` is the share without the event among the 80 % least uncertain.",
}
_TARGETS = {"se_label": "Telling unknown questions", "wrong_answer": "Telling wrong answers"}
_KINDS = {
    "linear": "linear probe",
    "mlp": "SwiGLU probe",
    "mix": "linear probe on a mix of layers",
    "ensemble": "mean of linear probes",
}
_EVENTS = {
    "label": "the model does not know the answer",
    "value": "the model does not know the answer",
    "correct": "the model answers wrong",
    "both": "the model does not know the answer, or answers wrong",
}
_CALIBRATIONS = {
    "platt": "calibrated on validation questions (Platt)",
    "isotonic": "calibrated on validation questions (isotonic)",
    "none": "not calibrated: it ranks questions, and its numbers are no probabilities",
}


def readme(card: Mapping[str, Any], name: str = "FOLDER") -> str:
    """The model card, with YAML front matter for the Hub.

    Args:
        card: the content of probe.json.
        name: the probe's Hub id or folder, for the examples.
    """
    parts = [
        front_matter(card, TAGS),
        _summary(card),
        _usage(card, name),
        _training(card),
        _quality(card),
        _limits(card),
    ]
    return "\n\n".join(part for part in [*parts, prompt_section(card)] if part) + "\n"


def _summary(card: Mapping[str, Any]) -> str:
    model, kind = model_of(card), _KINDS.get(card["kind"], card["kind"])
    whose = code(card["answered_by"]) if card.get("stand_in") and card.get("answered_by") else model
    revision = f" (revision {code(card['revision'])})" if card.get("revision") else ""
    where = "all layers" if card["layer"] < 0 else f"layer {card['layer']}{_of(card.get('n_layers'))}"
    position = place_of(card)
    lines = [
        f"# What {whose} does not know: a {kind}",
        f"From {'the hidden states' if card['layer'] < 0 else 'one hidden state'} of {model}{revision}, before it "
        f"answers, this probe says how likely it is that {_EVENTS.get(card['target'], card['target'])}. It reads "
        f"{where} {position} ({card.get('width', MISSING)} numbers{' a layer' if card['layer'] < 0 else ''}). "
        f"What it says is {_CALIBRATIONS.get(card['calibration'], card['calibration'])}.",
    ]
    if card.get("stand_in"):
        lines.append(
            f"The answers are those of {whose}; {model} only lends its hidden states: it stands in for a model whose "
            "states nobody can read."
        )
    return "\n\n".join(lines)


def _usage(card: Mapping[str, Any], name: str) -> str:
    layer = card["layer"]
    token = ":, -1" if card.get("position") != "mean_prompt" else ":, first:last].mean(1"
    close = ")" if "mean" in token else "]"
    read = f"states[{layer}][{token}{close}"
    if layer < 0:
        read = f"torch.stack([state[{token}{close} for state in states], 1)"
    imports = "import torch\n" if layer < 0 else ""
    # The text of a chat template already contains its special tokens.
    special = ", add_special_tokens=False" if (card.get("prompt") or {}).get("template") == "chat" else ""
    note = "  # first:last are the question's tokens" if "mean" in token else ""
    return f"""## Use

Map a pool of questions with KA2L, which brings the model, the prompt and the position (DIR is the new run's folder):

```bash
ka2l map DIR --probe {name} --questions questions.jsonl
```

Or in Python, with the model and tokenizer of transformers and the prompt at the end of this page:

```python
{imports}from ka2l import Probe
probe = Probe.from_pretrained("{name}")
inputs = tokenizer(prompt, return_tensors="pt"{special})
states = model(**inputs, output_hidden_states=True).hidden_states
probe.predict({read}.float().detach().numpy()){note}
```"""


def _training(card: Mapping[str, Any]) -> str:
    split, threshold = card.get("split") or {}, card.get("threshold") or {}
    lines = []
    if card.get("samples"):
        judge = f" (judge {code(threshold['judge'])})" if threshold.get("judge") else ""
        lines.append(
            f"Each question was answered {card['samples']} times. Answers that mean the same{judge} form a class, and "
            "the entropy of the classes, semantic entropy, is high where the model does not know."
        )
    if is_number(threshold.get("value")):
        rule = f" (rule {code(threshold['rule'])}, from training questions only)" if threshold.get("rule") else ""
        share = threshold.get("share_unknown")
        much = f"; that is {percent(share)} of the questions" if is_number(share) else ""
        lines.append(f"A question is unknown from {decimal(threshold['value'], 3)} nats on{rule}{much}.")
    if split:
        lines.append(
            f"It was trained on {count(split.get('train', 0))} questions; layer, kind and calibration were chosen on "
            f"{count(split.get('validation', 0))} others; {count(split.get('test', 0))} more were read once, for the "
            "numbers below. Wordings of one fact are never on two sides."
        )
    return "## How it was trained\n\n" + " ".join(lines) if lines else ""


def _quality(card: Mapping[str, Any]) -> str:
    scores = card.get("scores") or {}
    tables = []
    for target, title in _TARGETS.items():
        rows = {name: by_target[target] for name, by_target in scores.items() if (by_target or {}).get(target)}
        if rows:
            tables.append(f"### {title}\n\n{_table(rows, card.get('layers') or {})}")
    if not tables:
        return "## What it is worth\n\nNobody knows: it was not scored on test questions."
    intro = [
        "On test questions, with 95 % bootstrap intervals (questions drawn by fact). Higher scores mean less certain."
    ]
    intro += [text for key, text in _EXPLAINED.items() if any(_METRICS[key] in table for table in tables)]
    return "\n\n".join(["## What it is worth", " ".join(intro), *tables])


def _table(rows: Mapping[str, Mapping[str, Any]], layers: Mapping[str, int]) -> str:
    columns = [key for key in _METRICS if any(as_interval(row.get(key)) for row in rows.values())]
    lines = [
        "| | " + " | ".join(_METRICS[key] for key in columns) + " | n |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for name, row in rows.items():
        cells = [_cell(row.get(key)) for key in columns]
        known = [interval.n for key in columns if (interval := as_interval(row.get(key)))]
        title = score_title(name, layers.get(name)).replace("|", "\\|")
        lines.append(f"| {title} | " + " | ".join(cells) + f" | {count(known[0]) if known else MISSING} |")
    return "\n".join(lines)


def _cell(value: Any) -> str:
    interval = as_interval(value)
    if interval is None:
        return MISSING
    bounds = span(interval)
    return decimal(interval.value) + (f" ({bounds})" if bounds else "")


def _limits(card: Mapping[str, Any]) -> str:
    scores, tests = card.get("scores") or {}, (card.get("split") or {}).get("test")
    model = model_of(card)
    lines = [
        f"It knows the states of {model} at this revision, under this prompt, at this position, and no others. KA2L "
        "refuses to use it elsewhere.",
        "It was trained on questions of one kind. On others it may say anything: measure before you trust it.",
    ]
    if tests is not None and tests < FEW:
        lines.append(f"{count(tests)} test questions are few. Read the intervals, not the values.")
    if card["target"] != "correct":
        lines.append(
            "Unknown means that sampled answers disagree. A wrong answer given every time counts as known, and a "
            "question with several right answers as unknown."
        )
    if scores and not any((row or {}).get("wrong_answer") for row in scores.values()):
        lines.append("There were no gold answers: whether it tells wrong answers was not measured.")
    if card.get("stand_in"):
        lines.append(f"{model} stands in for another model, and may know what that one does not.")
    if card["calibration"] == "none":
        lines.append("Its numbers are not calibrated: 0.8 does not mean four of five.")
    return "## Where not to trust it\n\n" + "\n".join(f"- {line}" for line in lines)


def _of(layers: Any) -> str:
    return f" of {layers}" if is_number(layers) else ""
