"""Entailment by a sequence-classification model with a label for it.

    judge = EntailmentModel("microsoft/deberta-large-mnli")
    judge.relations([Pair("What is the capital of France?", "Paris", "the city of Paris")])   # ["entailment"]

Pairs of similar length are computed together; each distinct text is tokenised once per call.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ka2l.errors import ModelError
from ka2l.knowledge.uncertainty.semantic_clusters import Equivalence, Pair, Relation
from ka2l.models.judges.first_token_only import compute_first_token_only
from ka2l.models.judges.kept_judgements import Judged, gathered, model_key
from ka2l.models.loading import ResolvedModel, first_line, quiet_transformers, resolve
from ka2l.models.local.cpu_workers import in_groups, workers_for
from ka2l.models.local.memory_budget import Budget
from ka2l.models.settings import ModelConfig

# Version of the way in which two answers become the model's input; part of the cache key.
_INPUT = 1
# Most tokens of a pair, if a model does not say how many it reads.
_MOST_TOKENS = 512
# Tokens of one pass on a CPU, and the fewest tokens for which another worker is worth its start. Measured: a matrix
# product has reached its full rate by then, and the activations still fit into the core's own cache.
_CPU_TOKENS = 512


class EntailmentModel:
    """Implements `ka2l.knowledge.uncertainty.semantic_clusters.Judge` with a cross-encoder, in float32.

    Args:
        name: a folder or Hub id.
        equivalence: how the relations will be used; the model is refused at once if its labels are not sufficient.
        device: of PyTorch.
        batch_tokens: tokens, padding included, in one pass; halved if memory runs out.

    Raises:
        ModelError: the model cannot be loaded, or its labels are not sufficient.
    """

    symmetric = False

    def __init__(
        self,
        name: str,
        *,
        equivalence: Equivalence = "strict",
        device: str = "cpu",
        batch_tokens: int = 4096,
    ):
        from safetensors import SafetensorError
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._resolved = _resolve(name)
        source = _source(self._resolved)
        with quiet_transformers():
            try:
                # DeBERTa overflows in float16, and NaN would count as label 0.
                dtype = torch.float32
                model = AutoModelForSequenceClassification.from_pretrained(**source, dtype=dtype)
                self.tokenizer: Any = AutoTokenizer.from_pretrained(**source)
            except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
                raise _cannot_load(name, error) from error
        self.model: Any = model.to(device).eval()
        self.labels = label_relations(self.model.config.id2label, name, equivalence)
        self.batch_tokens = batch_tokens
        self._limit = _longest(self.tokenizer, self.model.config)
        trial = [
            Pair("Who?", "She", "He"),
            Pair("Which of the two is it, then?", "This one", "That other one"),
        ]
        compute_first_token_only(self.model, self._padded(self._encode(trial)))

    @property
    def revision(self) -> str:
        """Identifies the weights: a commit of the Hub, or a hash of the folder's files."""
        return self._resolved.revision

    @property
    def key(self) -> str:
        """Identifies its judgements in a cache; a folder that is moved keeps its key."""
        return f"nli-{_INPUT} {model_key(self._resolved)}"

    def relations(self, pairs: Sequence[Pair]) -> list[Relation]:
        """The likeliest label of each pair; see `Judge.relations`."""
        return gathered(self.batches(pairs), len(pairs))

    @torch.inference_mode()
    def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
        """The relations in the order in which they are computed, which is not the order of the pairs."""
        encoded = self._encode(pairs)
        device = self.model.device
        total = sum(len(ids) for ids, _ in encoded)
        workers = max(1, min(workers_for(device, len(pairs)), total // _CPU_TOKENS))
        tokens = self.batch_tokens
        if device.type == "cpu":
            tokens = min(tokens, _CPU_TOKENS * workers)

        def work(rows: list[int]) -> list[Relation]:
            batch = [encoded[i] for i in rows]
            logits = self.model(**self._padded(batch)).logits
            if not bool(torch.isfinite(logits).all()):
                raise ModelError(f"measure.nli_model={self._resolved.name}: its output holds NaN or infinite values.")
            return [self.labels[label] for label in logits.argmax(dim=-1).tolist()]

        parts = [ids for ids, _ in encoded]
        for rows, relations in in_groups(parts, work, Budget(tokens, tokens), workers=workers):
            yield Judged(rows, relations)

    def _encode(self, pairs: Sequence[Pair]) -> list[tuple[list[int], list[int]]]:
        """Token and type ids of each pair, equal to those of `tokenizer(premise, hypothesis, truncation=True)`."""
        texts = [(_context(p.question, p.premise), _context(p.question, p.hypothesis)) for p in pairs]
        if not self.tokenizer.is_fast:
            made = [self.tokenizer(*both, truncation=True, max_length=self._limit) for both in texts]
            return [(one["input_ids"], one.get("token_type_ids", [])) for one in made]
        backend = self.tokenizer.backend_tokenizer
        backend.no_padding()
        backend.no_truncation()
        distinct = list(dict.fromkeys(text for both in texts for text in both))
        alone = dict(zip(distinct, backend.encode_batch(distinct, add_special_tokens=False), strict=True))
        backend.enable_truncation(self._limit)
        joined = (backend.post_process(alone[premise], alone[hypothesis]) for premise, hypothesis in texts)
        return [(one.ids, one.type_ids) for one in joined]

    def _padded(self, batch: Sequence[tuple[list[int], list[int]]]) -> dict[str, torch.Tensor]:
        """The model's inputs, [rows, tokens] each."""
        names = self.tokenizer.model_input_names
        fields = {
            "input_ids": [ids for ids, _ in batch],
            "token_type_ids": [types for _, types in batch],
            "attention_mask": [[1] * len(ids) for ids, _ in batch],
        }
        padded = self.tokenizer.pad({name: rows for name, rows in fields.items() if name in names}, return_tensors="pt")
        return {name: tensor.to(self.model.device) for name, tensor in padded.items()}


def label_relations(id2label: Mapping[Any, str], name: str, equivalence: Equivalence = "strict") -> dict[int, Relation]:
    """The meaning of each label: entailment, contradiction, or neutral (all others, also `not_entailment`).

    Args:
        id2label: from the model's config.
        name: of the model, for messages.
        equivalence: how the relations will be used.

    Raises:
        ModelError: not exactly one label is entailment, or none is contradiction and `equivalence` needs it.
    """
    labels = {int(i): str(label).strip().lower() for i, label in id2label.items()}
    meanings: dict[int, Relation] = dict.fromkeys(labels, "neutral")
    meanings |= {i: "entailment" for i, label in labels.items() if label in ("entailment", "entail")}
    meanings |= {i: "contradiction" for i, label in labels.items() if label in ("contradiction", "contradict")}
    relations = list(meanings.values())
    if relations.count("entailment") != 1:
        raise ModelError(
            f"measure.nli_model={name}: its labels are {list(id2label.values())}, but exactly one must be "
            "entailment. Use a model trained on natural language inference, or set id2label in its config.json."
        )
    if equivalence != "strict" and relations.count("contradiction") != 1:
        raise ModelError(
            f"measure.equivalence={equivalence} needs a model that distinguishes contradiction from neutral, but the "
            f"labels of measure.nli_model={name} are {list(id2label.values())}. Use measure.equivalence=strict or "
            "another model."
        )
    return meanings


def check_nli_model(name: str, equivalence: Equivalence = "strict") -> None:
    """Refuse an NLI model that does not exist or whose labels are not sufficient, from its config alone.

    Raises:
        ModelError: as `EntailmentModel`.
    """
    from transformers import AutoConfig

    resolved = _resolve(name)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(**_source(resolved))
        except (OSError, ValueError) as error:
            raise _cannot_load(name, error) from error
    label_relations(config.id2label, name, equivalence)


def _context(question: str, answer: str) -> str:
    """One side of the NLI input: question and answer together (paper, Section 3.2.2)."""
    return f"{question.strip()} {answer}"


def _resolve(name: str) -> ResolvedModel:
    try:
        return resolve(ModelConfig(name=name))
    except ModelError as error:
        raise _cannot_load(name, error) from error


def _source(resolved: ResolvedModel) -> dict[str, Any]:
    """Arguments of `from_pretrained`; with the commit, so that all files are of the same version."""
    pinned = {} if Path(resolved.path).is_dir() else {"revision": resolved.revision}
    return {"pretrained_model_name_or_path": resolved.path, **pinned}


def _cannot_load(name: str, error: Exception) -> ModelError:
    return ModelError(
        f"measure.nli_model={name}: cannot load this model ({first_line(error)}). Give a folder or Hub id of a "
        "sequence-classification model, or use measure.judge=lexical."
    )


def _longest(tokenizer: Any, config: Any) -> int:
    """Most tokens of a pair that the model reads."""
    limits = [tokenizer.model_max_length, getattr(config, "max_position_embeddings", None) or _MOST_TOKENS]
    return min([*limits, *([_MOST_TOKENS] if tokenizer.model_max_length > 1 << 20 else [])])
