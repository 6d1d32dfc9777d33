"""The README of a decoder: what it generates from which state, how to use it, its quality, and its limits.

    readme(card, "me/my-decoder")      # Markdown; what the card lacks is left out or marked as missing

Keys of the card that are read here: kind, model, revision, layer, position, width, base, settings {epochs,
learning_rate, lora_rank, soft_tokens, pseudo_tokens}, trained_on, validation, quality {exact, f1, bleu, n}, history,
seconds, prompt {instruction, template, shots}, license, ka2l.
"""

import math
from collections.abc import Mapping
from typing import Any

from ka2l.augmentation.validation_checks import best_check
from ka2l.common.number_format import MISSING, count, decimal, duration, is_number, percent
from ka2l.common.readme_parts import code, front_matter, model_of, named, place_of, prompt_section

TAGS = ["ka2l", "hidden-states", "question-generation"]


def readme(card: Mapping[str, Any], name: str = "FOLDER") -> str:
    """The model card, with YAML front matter as the Hub reads it.

    Args:
        card: the content of decoder.json.
        name: the decoder's Hub id or folder, for the examples.
    """
    base = card.get("base") or card.get("model")
    parts = [
        front_matter({"base_model": base, **card}, TAGS),
        _summary(card),
        _usage(card, name),
        _training(card),
        _quality(card),
        _limits(card),
        prompt_section(card),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _summary(card: Mapping[str, Any]) -> str:
    model = model_of(card)
    revision = f" (revision {code(card['revision'])})" if card.get("revision") else ""
    return f"""# Questions out of the hidden states of {model}

From one hidden state of {model}{revision}, this decoder says the question the model has before it. With noise on the \
state, it says others that the model sees alike: new questions it probably does not know either, where the state is of \
one it does not know. It reads layer {card["layer"]} {place_of(card)} ({card.get("width", MISSING)} numbers). \
{_network_text(card)}"""


def _network_text(card: Mapping[str, Any]) -> str:
    settings = card.get("settings") or {}
    if card["kind"] == "t5":
        read_as = f"{settings.get('pseudo_tokens', MISSING)} pseudo-tokens"
        return f"It is {named(card.get('base') or 'a T5')}, fully fine-tuned, which reads the state as {read_as}."
    read_as = f"{settings.get('soft_tokens', MISSING)} soft tokens"
    return (
        f"It is {model_of(card)} itself, which reads its own state as {read_as} with the help of an adapter (LoRA, "
        f"rank {settings.get('lora_rank', MISSING)}). The model's own weights are not here: KA2L fetches them."
    )


def _usage(card: Mapping[str, Any], name: str) -> str:
    loader = "" if card["kind"] == "t5" else ", model_loader=lambda: (model, tokenizer)"
    needs = "" if card["kind"] == "t5" else ", with the model and tokenizer of transformers (it gets the adapter)"
    return f"""## Use

Decode new questions in a run of KA2L whose probe judges the same state (DIR is the run's folder):

```bash
ka2l augment DIR decoder.pretrained={name} augment.per_question=8
```

Or in Python{needs}; `states` are [questions, {card.get("width", "width")}] hidden states, `names` the questions' ids:

```python
from ka2l import Decoder
decoder = Decoder.from_pretrained("{name}"{loader})
decoder.decode(states, names, samples=range(8), noise=0.3, temperature=1.0, seed=0, max_new_tokens=48)
```"""


def _training(card: Mapping[str, Any]) -> str:
    settings, history = card.get("settings") or {}, card.get("history") or []
    lines = []
    if is_number(card.get("trained_on")):
        lines.append(
            f"It learned to say {count(card['trained_on'])} questions from their states. "
            f"{count(card.get('validation', 0))} others were held out, to stop in time and for the numbers below; "
            "wordings of one fact are never on two sides."
        )
    if history:
        best = best_check(history)
        lines.append(
            f"It was looked at {len(history)} times in {count(history[-1]['step'])} steps, and the best look, after "
            f"{count(best['step'])}, is kept."
        )
    if is_number(settings.get("learning_rate")):
        epochs = settings.get("epochs", MISSING)
        lines.append(f"AdamW, peak learning rate {settings['learning_rate']:g}, at most {epochs} epochs.")
    if is_number(card.get("seconds")):
        lines.append(f"It took {duration(card['seconds'])}.")
    return "## How it was trained\n\n" + " ".join(lines) if lines else ""


def _quality(card: Mapping[str, Any]) -> str:
    quality = card.get("quality") or {}
    if not is_number(quality.get("f1")):
        return "## What comes back\n\nNobody knows: it was not tried on questions that were held out."
    n = quality.get("n", 0)
    text = f"""## What comes back

Held-out questions said from their states, greedily and without noise (n = {count(n)}):

| | |
|---|---|
| the same question | {percent(quality.get("exact"))} |
| token F1 | {decimal(quality["f1"])} |
| BLEU | {decimal(quality.get("bleu"))} |

The best look was chosen by the same questions, so the numbers flatter a little."""
    if n:
        text += (
            f" A share of {count(n)} questions is uncertain by up to ± {count(math.ceil(98 / math.sqrt(n)))} points."
        )
    return text


def _limits(card: Mapping[str, Any]) -> str:
    lines = [
        f"It reads the states of {model_of(card)} at this revision, under this prompt, at this layer and position, and "
        "no others. KA2L refuses to use it elsewhere.",
        "It says questions of the kind it was trained on, whatever the state is of.",
        "What it says need not make sense: names that do not exist, premises that are wrong. KA2L filters and asks the "
        "model again; without that, read before you use.",
        "It may say questions word for word that it was trained on. If those were private, so is the decoder.",
        "It says nothing about answers.",
    ]
    return "## Where not to trust it\n\n" + "\n".join(f"- {line}" for line in lines)
