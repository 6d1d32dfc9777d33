"""What the READMEs of probes and decoders have in common: front matter, names, the prompt."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ka2l.common.number_format import shorten

_POSITIONS = {
    "tbg": "at the last token of the prompt, before anything is generated",
    "mean_prompt": "averaged over the tokens of the question",
}


def front_matter(card: Mapping[str, Any], tags: Sequence[str]) -> str:
    """YAML as the Hub reads it; the base model is there where it is one of the Hub."""
    fields: dict[str, Any] = {"library_name": "ka2l", "tags": list(tags)}
    if card.get("license"):
        fields["license"] = str(card["license"])
    base = card.get("base_model") or str(card.get("model", ""))
    # A Hub id; a folder of this machine is nobody's business.
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(base)):
        fields["base_model"] = str(base)
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def prompt_section(card: Mapping[str, Any]) -> str:
    """The sensing prompt, for whoever asks without KA2L; empty where the card has none."""
    prompt = card.get("prompt") or {}
    if not prompt:
        return ""
    instruction, shots = str(prompt.get("instruction", "")), prompt.get("shots") or []
    if prompt.get("template") == "chat":
        turns = [f"user: {instruction}\n{question}\n\nassistant: {answer}" for question, answer in shots]
        text = "\n\n".join([*turns, f"user: {instruction}\n…"])
    else:
        turns = [f"Question: {question}\nAnswer: {answer}" for question, answer in shots]
        text = "\n\n".join([instruction, *turns, "Question: …\nAnswer:"])
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    how = "as turns of the model's chat template" if prompt.get("template") == "chat" else "as plain text"
    return f"## The prompt\n\nGiven {how}:\n\n{fence}text\n{text}\n{fence}"


def model_of(card: Mapping[str, Any]) -> str:
    """The name of the model whose states are read."""
    return named(card.get("model") or "the model")


def place_of(card: Mapping[str, Any]) -> str:
    """Where in the prompt the state is read, in words."""
    return _POSITIONS.get(card.get("position", ""), "at the position it was trained on")


def named(name: Any) -> str:
    """A model's name as code."""
    return code(short_name(str(name)))


def short_name(name: str) -> str:
    """A Hub id as it is; of a folder its last part: its path tells about a machine, its name about the model."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) else name


def code(text: Any) -> str:
    """As code in Markdown, on one line."""
    return f"`{shorten(str(text).replace('`', ''), 120)}`"
