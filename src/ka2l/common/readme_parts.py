"""Parts of the READMEs of both probes and decoders: front matter, names, the prompt."""

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
    """Front matter in YAML for the Hub; it names the base model only if that is a Hub id."""
    fields: dict[str, Any] = {"library_name": "ka2l", "tags": list(tags)}
    if card.get("license"):
        fields["license"] = str(card["license"])
    base = card.get("base_model") or str(card.get("model", ""))
    # Only a Hub id: the path of a local folder would reveal details of this machine.
    if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", str(base)):
        fields["base_model"] = str(base)
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)}---"


def prompt_section(card: Mapping[str, Any]) -> str:
    """The sensing prompt, for users who do not run KA2L; empty if the card has none."""
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
    """Name of the model whose states are read, as code."""
    return named(card.get("model") or "the model")


def place_of(card: Mapping[str, Any]) -> str:
    """The position in the prompt at which the state is read, in words."""
    return _POSITIONS.get(card.get("position", ""), "at the position it was trained on")


def named(name: Any) -> str:
    """A model's short name as code."""
    return code(short_name(str(name)))


def short_name(name: str) -> str:
    """A Hub id unchanged; for a folder the last part of its path, because the rest only describes a machine."""
    return name.rstrip("/").rsplit("/", 1)[-1] if name.startswith(("/", ".", "~")) else name


def code(text: Any) -> str:
    """Text as code in Markdown, on one line."""
    return f"`{shorten(str(text).replace('`', ''), 120)}`"
