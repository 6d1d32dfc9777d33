"""NLI models as judges: what labels mean is read from the model, batches change nothing, and a real small one
judges.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    MPNetConfig,
    MPNetForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from ka2l.errors import ModelError
from ka2l.knowledge.uncertainty.semantic_clusters import Pair, Relation, cluster_by_meaning
from ka2l.models.judges.entailment import EntailmentModel, check_nli_model, label_relations
from ka2l.models.judges.first_token_only import compute_first_token_only
from places import SHARED

MINILM = SHARED / "models" / "nli-minilm"
THREE = {0: "CONTRADICTION", 1: "NEUTRAL", 2: "ENTAILMENT"}
WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "who",
    "what",
    "is",
    "the",
    "capital",
    "of",
    "france",
    "paris",
    "lyon",
    "city",
    "a",
    "?",
]
LIMIT = 24
PAIRS = [
    Pair("what is the capital of france ?", "paris", "lyon"),
    Pair("what is the capital of france ?", "paris", "the city of paris"),
    Pair("who ?", "a", "paris"),
    Pair("who ?", "", "paris lyon paris"),
    Pair(" who ? ", "what " * 50, "is " * 19),  # longer than the model reads
    Pair("who ?", "paris lyon paris", "unheard of"),
    Pair("what is the capital of france ?", "lyon", "paris"),
]


# Labels


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (THREE, {0: "contradiction", 1: "neutral", 2: "entailment"}),
        (
            {0: "entailment", 1: "neutral", 2: "contradiction"},
            {0: "entailment", 1: "neutral", 2: "contradiction"},
        ),
        ({"0": "Contradict", "1": " Entailment "}, {0: "contradiction", 1: "entailment"}),  # JSON keys
        ({0: "not_entailment", 1: "entailment"}, {0: "neutral", 1: "entailment"}),
        ({1: "not_entailment", 0: "entail"}, {0: "entailment", 1: "neutral"}),
    ],
)
def test_labels_are_read_at_any_index(labels: dict[Any, str], expected: dict[int, Relation]) -> None:
    assert label_relations(labels, "m") == expected


@pytest.mark.parametrize(
    "labels",
    [
        {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"},
        {0: "not_entailment", 1: "contradiction"},
        {0: "POSITIVE", 1: "NEGATIVE"},
        {0: "entailment", 1: "Entailment"},
    ],
)
def test_models_without_the_label_are_refused(labels: dict[Any, str]) -> None:
    with pytest.raises(ModelError, match=r"measure\.nli_model=some/model.*exactly one must be entailment"):
        label_relations(labels, "some/model")


@pytest.mark.parametrize("mode", ["lenient", "no_contradiction"])
def test_contradiction_is_needed_where_it_counts(mode: Any, tmp_path: Path) -> None:
    assert label_relations(THREE, "m", mode)[0] == "contradiction"
    folder = nli_folder(tmp_path / "two", id2label={0: "entailment", 1: "not_entailment"})
    check_nli_model(str(folder))
    EntailmentModel(str(folder))
    for refuses in (
        lambda: check_nli_model(str(folder), mode),
        lambda: EntailmentModel(str(folder), equivalence=mode),
    ):
        with pytest.raises(ModelError, match=rf"measure\.equivalence={mode} .*measure\.nli_model=.*two .*not_entail"):
            refuses()


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    for refuses in (lambda: EntailmentModel(str(tmp_path)), lambda: check_nli_model(str(tmp_path))):
        with pytest.raises(ModelError, match=r"measure\.nli_model=.*cannot load this model"):
            refuses()
    nli_folder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match=r"measure\.nli_model=.*cannot load this model"):
        EntailmentModel(str(tmp_path))


# A model of random weights: exact whatever the batch


def nli_folder(folder: Path, id2label: dict[int, str] = THREE, types: bool = True, seed: int = 0) -> Path:
    """A small BERT with a word tokenizer, its weights random and far from uniform."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.enable_truncation(5)  # a saved tokenizer may carry one; the ordinary call overrules it
    names = ["input_ids", *(["token_type_ids"] if types else []), "attention_mask"]
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=LIMIT, model_input_names=names, **special
    ).save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = BertConfig(
            **SMALL,
            max_position_embeddings=LIMIT,
            id2label=id2label,
            label2id={v: k for k, v in id2label.items()},
        )
        BertForSequenceClassification(config).save_pretrained(folder)
    return folder


SMALL: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "initializer_range": 0.5,
}


@pytest.fixture(scope="module", params=[True, False], ids=["types", "no types"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nli_folder(tmp_path_factory.mktemp("nli"), types=request.param)


def plainly(folder: Path, pairs: list[Pair]) -> list[Relation]:
    """One pair at a time, the ordinary way."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found: list[Relation] = []
    for question, premise, hypothesis in pairs:
        both = f"{question.strip()} {premise}", f"{question.strip()} {hypothesis}"
        with torch.inference_mode():
            label = model(**tokenizer(*both, truncation=True, return_tensors="pt")).logits.argmax().item()
        found.append(THREE[int(label)].lower())  # type: ignore[arg-type]
    return found


@pytest.mark.parametrize("batch_tokens", [1, 40, 4096])
def test_equal_to_one_pair_at_a_time(folder: Path, batch_tokens: int) -> None:
    judge = EntailmentModel(str(folder), batch_tokens=batch_tokens)
    expected = plainly(folder, PAIRS)
    assert len(set(expected)) > 1
    assert judge.relations(PAIRS) == expected
    assert judge.relations(PAIRS[::-1]) == expected[::-1]
    assert judge.relations([]) == []


def test_side_by_side(folder: Path) -> None:
    torch.set_num_threads(2)
    assert EntailmentModel(str(folder)).relations(PAIRS * 3) == plainly(folder, PAIRS) * 3


def test_pairs_are_tokenised_as_the_tokenizer_does(folder: Path) -> None:
    judge = EntailmentModel(str(folder))
    for pair, (ids, types) in zip(PAIRS, judge._encode(PAIRS), strict=True):
        both = f"{pair.question.strip()} {pair.premise}", f"{pair.question.strip()} {pair.hypothesis}"
        expected = judge.tokenizer(*both, truncation=True)
        assert ids == expected["input_ids"]
        assert types == expected.get("token_type_ids", types)
        assert len(ids) <= LIMIT


def test_a_tokenizer_in_plain_python_gives_the_same(folder: Path) -> None:
    class Slow:
        """The same tokenizer without its fast inside."""

        is_fast = False

        def __init__(self, tokenizer: Any):
            self._whole, self.pad = tokenizer, tokenizer.pad
            self.model_input_names = tokenizer.model_input_names

        def __call__(self, *texts: str, **how: Any) -> Any:
            return self._whole(*texts, **how)

    judge = EntailmentModel(str(folder))
    judge.tokenizer = Slow(judge.tokenizer)
    assert judge.relations(PAIRS) == plainly(folder, PAIRS)


def test_batches_hold_no_more_than_they_may(folder: Path) -> None:
    judge = EntailmentModel(str(folder), batch_tokens=40)
    sizes = []
    judge.model.register_forward_pre_hook(
        lambda _module, _args, inputs: sizes.append(inputs["input_ids"].shape), with_kwargs=True
    )
    batches = list(judge.batches(PAIRS))
    assert sorted(place for batch in batches for place in batch.places) == list(range(len(PAIRS)))
    assert [rows for rows, _ in sizes] == [len(batch.places) for batch in batches]
    assert all(rows * width <= 40 for rows, width in sizes)
    assert max(rows for rows, _ in sizes) > 1


def test_half_as_much_where_memory_runs_out(folder: Path) -> None:
    judge = EntailmentModel(str(folder), batch_tokens=4096)
    sizes: list[int] = []

    def small_memory(_module: Any, _args: Any, inputs: dict[str, torch.Tensor]) -> None:
        sizes.append(len(inputs["input_ids"]))
        if inputs["input_ids"].numel() > 50:
            raise torch.OutOfMemoryError("too much")

    judge.model.register_forward_pre_hook(small_memory, with_kwargs=True)
    assert judge.relations(PAIRS) == plainly(folder, PAIRS)
    assert sizes[0] == len(PAIRS)


def test_a_model_that_overflows_is_refused(folder: Path) -> None:
    judge = EntailmentModel(str(folder))
    with torch.no_grad():
        judge.model.classifier.bias.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"measure\.nli_model=.*NaN"):
        judge.relations(PAIRS)


def test_the_key_follows_the_weights_and_not_the_place(tmp_path: Path) -> None:
    first, moved = (nli_folder(tmp_path / name) for name in ("one", "moved"))
    assert EntailmentModel(str(first)).key == EntailmentModel(str(moved)).key
    other = nli_folder(tmp_path / "other", seed=1)
    assert EntailmentModel(str(other)).revision != EntailmentModel(str(first)).revision
    assert EntailmentModel(str(other)).key != EntailmentModel(str(first)).key


# What the head does not read


@pytest.mark.parametrize(
    ("build", "config", "shortened"),
    [
        (BertForSequenceClassification, BertConfig, True),
        (RobertaForSequenceClassification, RobertaConfig, True),
        (
            DebertaV2ForSequenceClassification,
            lambda **how: DebertaV2Config(**how, relative_attention=True, pos_att_type=["c2p", "p2c"]),
            True,
        ),
        (MPNetForSequenceClassification, MPNetConfig, False),  # built otherwise
    ],
)
def test_the_last_layer_is_shortened_where_that_changes_nothing(build: Any, config: Any, shortened: bool) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build(config(**SMALL)).eval()
    inputs = {
        "input_ids": torch.randint(4, len(WORDS), (3, 9)),
        "attention_mask": torch.ones(3, 9, dtype=torch.long),
    }
    inputs["attention_mask"][1, 5:] = 0
    widths: list[int] = []
    model.base_model.encoder.layer[-1].register_forward_hook(lambda *told: widths.append(_tensor(told[2]).shape[1]))
    with torch.inference_mode():
        whole = model(**inputs).logits
        assert compute_first_token_only(model, inputs) is shortened
        torch.testing.assert_close(model(**inputs).logits, whole, rtol=1e-5, atol=1e-5)
    assert widths[-1] == (1 if shortened else 9)


def test_a_head_that_reads_all_tokens_keeps_them() -> None:
    class Mean(torch.nn.Module):
        def forward(self, states: torch.Tensor) -> torch.Tensor:
            return states.mean(dim=1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = BertForSequenceClassification(BertConfig(**SMALL)).eval()
    model.bert.pooler = Mean()
    inputs = {"input_ids": torch.randint(4, len(WORDS), (3, 9))}
    with torch.inference_mode():
        whole = model(**inputs).logits
        assert compute_first_token_only(model, inputs) is False
        assert torch.equal(model(**inputs).logits, whole)


def _tensor(told: Any) -> torch.Tensor:
    return told if isinstance(told, torch.Tensor) else told[0]


# A real small model


@pytest.fixture(scope="module")
def minilm() -> EntailmentModel:
    if not (MINILM / "config.json").exists():
        pytest.skip(f"no NLI model at {MINILM}")
    return EntailmentModel(str(MINILM), batch_tokens=100)


OBVIOUS = [
    (Pair("", "A man is sleeping on the sofa.", "A man is asleep."), "entailment"),
    (Pair("", "A man is sleeping on the sofa.", "A man is running a marathon."), "contradiction"),
    (Pair("", "A dog runs through the park in the morning.", "An animal is moving."), "entailment"),
    (Pair("What is the capital of France?", "Paris", "London"), "contradiction"),
    (Pair("What is the capital of France?", "Paris", "The city of Paris"), "entailment"),
    (Pair("", "A woman plays the violin.", "A person plays an instrument."), "entailment"),
    (Pair("", "A man is eating.", "A man is eating at a friend's house."), "neutral"),
]


def test_obvious_pairs(minilm: EntailmentModel) -> None:
    assert minilm.relations([pair for pair, _ in OBVIOUS]) == [said for _, said in OBVIOUS]
    assert [minilm.relations([pair])[0] for pair, _ in OBVIOUS] == [said for _, said in OBVIOUS]


def test_a_real_tokenizer_is_followed_to_the_token(minilm: EntailmentModel) -> None:
    pairs = [pair for pair, _ in OBVIOUS] + [
        Pair("Ünïcode?", "word " * 2000, "Wörter " * 600),
        Pair("", "", "x"),
    ]
    for pair, (ids, types) in zip(pairs, minilm._encode(pairs), strict=True):
        both = f"{pair.question} {pair.premise}", f"{pair.question} {pair.hypothesis}"
        expected = minilm.tokenizer(*both, truncation=True)
        assert (ids, types) == (expected["input_ids"], expected["token_type_ids"])


def test_clusters_with_a_real_judge(minilm: EntailmentModel) -> None:
    answers = ["Paris", "the city of Paris", "London", "Paris", "London, England"]
    made = cluster_by_meaning(["What is the capital of France?"], [answers], minilm)
    assert made.ids == [[0, 0, 1, 0, 1]]
