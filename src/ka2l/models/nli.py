"""Entailment by any sequence-classification model that says which of its labels means it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ka2l.errors import ModelError
from ka2l.models.load import first_line, quiet_transformers


class EntailmentModel:
    """Loads the model once; `entails` answers batches of (premise, hypothesis) pairs.

    Raises:
        ModelError: the model cannot be loaded, or no label of its config says entailment.
    """

    def __init__(self, name: str, *, device: str = "cpu", batch_size: int = 64):
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        path = str(Path(name).expanduser()) if Path(name).expanduser().is_dir() else name
        with quiet_transformers():
            try:
                dtype = torch.float32  # DeBERTa overflows in float16, and NaN would pass for label 0
                self.model: Any = (
                    AutoModelForSequenceClassification.from_pretrained(path, dtype=dtype).to(device).eval()
                )
                self.tokenizer: Any = AutoTokenizer.from_pretrained(path)
            except (OSError, ValueError) as error:
                first = str(error).strip().split("\n", 1)[0][:300]
                raise ModelError(
                    f"measure.nli_model={name}: cannot load this model ({first}). Give a folder or Hub id of a "
                    "sequence-classification model, or use measure.judge=lexical."
                ) from error
        self.batch_size = batch_size
        self.pairs_scored = 0
        self.entailment = entailment_label(self.model.config.id2label, name)

    @torch.inference_mode()
    def entails(
        self, pairs: Sequence[tuple[str, str]], on_batch: Callable[[int], None] | None = None
    ) -> list[bool]:
        """Whether entailment is the likeliest label of each pair; sorted by length, results in the given order.

        `on_batch` is told the number of pairs after each batch.
        """
        order = sorted(range(len(pairs)), key=lambda i: len(pairs[i][0]) + len(pairs[i][1]))
        held = [False] * len(pairs)
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.tokenizer(
                [pairs[i][0] for i in rows],
                [pairs[i][1] for i in rows],
                padding=True,
                truncation=True,
                return_tensors="pt",
            ).to(self.model.device)
            for i, label in zip(rows, self.model(**batch).logits.argmax(dim=-1).tolist(), strict=True):
                held[i] = label == self.entailment
            if on_batch is not None:
                on_batch(len(rows))
        self.pairs_scored += len(pairs)
        return held


def entailment_label(id2label: Mapping[Any, str], name: str) -> int:
    """The index whose label says entailment; `not_entailment` does not.

    Raises:
        ModelError: none of the labels does, or more than one.
    """
    found = [
        int(i) for i, label in id2label.items() if str(label).strip().lower() in ("entailment", "entail")
    ]
    if len(found) != 1:
        raise ModelError(
            f"measure.nli_model={name}: its labels are {list(id2label.values())}, none of which says entailment. "
            "Use a model trained on natural language inference, or set id2label in its config.json."
        )
    return found[0]


def check_nli_model(name: str) -> None:
    """Refuse, from its config alone, an NLI model that is not there or has no label for entailment."""
    from transformers import AutoConfig

    folder = Path(name).expanduser()
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(str(folder) if folder.is_dir() else name)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"measure.nli_model={name}: cannot load this model ({first_line(error)}). Give a folder or Hub id of a "
                "sequence-classification model, or use measure.judge=lexical."
            ) from error
    entailment_label(config.id2label, name)
