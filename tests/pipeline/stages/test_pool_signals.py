"""The pool's signals: each is computed once, sorted by id, memory-mapped, and the same after an interruption."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import ka2l
from ka2l.common import atomic_files
from ka2l.knowledge.uncertainty.semantic_clusters import Pair
from ka2l.models.judges.kept_judgements import Judged
from ka2l.pipeline.commands.dry_run import dry_run
from ka2l.pipeline.run import context_of, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.artifact_tables import answer_batches, read_answers
from ka2l.selection.select import needs, select
from pool_runs import ALONE, POOL, SERVER, opened, pool_prompts, signals
from runs import BUDGET, WRITES, RecordingReporter, assert_same, content, questions_file, times, tiny_config
from tiny import TinyWorld


def test_signals_of_the_model_stand_by_id_as_it_gives_them(finished: RunDirectory, tmp_path: Path) -> None:
    directory = opened(finished, tmp_path, "select.strategy=badge")
    table = atomic_files.read_table(directory.file("questions.parquet"))
    pool_last = [*table.filter(pc.field("role") != "pool").to_pylist()]
    pool_last += table.filter(pc.field("role") == "pool").to_pylist()[::-1]
    atomic_files.write_table(directory.file("questions.parquet"), pa.Table.from_pylist(pool_last, table.schema))
    atomic_files.remove(directory.file("pool_signals"))
    assert run_verb("map", directory, RecordingReporter()) == ["map", "signals"]
    names = ("p_unknown", "embedding", "next_token_entropy", "top_probability", "margin")
    found = signals(directory, *names)
    context, prompts = pool_prompts(directory)
    assert found.ids.tolist() == [prompt.question_id for prompt in prompts]
    mapped = atomic_files.read_table(directory.file("knowledge_map.parquet")).to_pydict()
    assert mapped["question_id"] == found.ids[::-1].tolist()  # as the questions stand, which puts it to the test
    assert found.p_unknown.tolist() == mapped["p_unknown"][::-1]
    model, card = context.prepared_model(), atomic_files.read_json(directory.file("probe") / "probe.json")
    states = model.states(prompts, card["layer"], position=card["position"])
    assert found.embedding.dtype == np.float16
    np.testing.assert_allclose(found.embedding, states, rtol=2e-3, atol=2e-3)
    for name, values in zip(names[2:], model.next_token_signals(prompts), strict=True):
        np.testing.assert_allclose(getattr(found, name), values, rtol=1e-4, atol=1e-5)
        assert getattr(found, name).dtype == np.float32
    for name in names[1:]:
        assert isinstance(getattr(found, name), np.memmap)
        assert not getattr(found, name).flags.writeable
    assert found.semantic_entropy is None  # nobody asked for it
    assert sorted(path.name for path in directory.file("pool_signals").iterdir()) == sorted(
        ["ids.parquet", *(f"{name}.npy" for name in names[1:])]
    )


@pytest.mark.parametrize("judge", ["lexical", "nli"])
def test_sampled_entropy_is_that_of_measuring_the_same_answers(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: str
) -> None:
    class SameFirstLetter:
        """Judges that answers with the same first letter entail each other."""

        key, symmetric = "letters", False

        def __init__(self, *_: object, **__: object):
            pass

        def batches(self, pairs: Sequence[Pair]) -> Iterator[Judged]:
            alike = [pair.premise[:1] == pair.hypothesis[:1] for pair in pairs]
            yield Judged(range(len(pairs)), ["entailment" if held else "neutral" for held in alike])

        def relations(self, pairs: Sequence[Pair]) -> Sequence[Any]:
            return [relation for judged in self.batches(pairs) for relation in judged.relations]

    monkeypatch.setattr("ka2l.models.judges.entailment.EntailmentModel", SameFirstLetter)
    monkeypatch.setattr("ka2l.pipeline.identities.revision_of", lambda name: f"{name}@1")
    changes = [f"measure.judge={judge}", "measure.nli_model=some/nli", "select.strategy=semantic_entropy"]
    directory = opened(finished, tmp_path, *changes)
    for verb in ("measure", "probe", "map"):
        run_verb(verb, directory, RecordingReporter())
    answers = read_answers(directory.file("pool_answers"), 4)
    assert {tuple(rows) for rows in answers.values()} == {(1, 2, 3, 4)}
    questions = context_of(directory, RecordingReporter()).questions_by_id(set(answers))
    found = signals(directory, "semantic_entropy")
    measured = ka2l.measure(
        [questions[i].question for i in found.ids],
        [[row["text"] for row in answers[i].values()] for i in found.ids],
        judge=None if judge == "lexical" else SameFirstLetter(),
        threshold=None,
    )
    np.testing.assert_allclose(found.semantic_entropy, measured.scores["semantic_entropy"], atol=1e-6)
    assert len(np.unique(found.semantic_entropy)) > 2
    counts = directory.stages["pool_entropy"].counts
    assert counts["questions"] == POOL
    assert ("pairs_judged" in counts) == (judge == "nli")


def test_more_samples_are_added_to_those_of_the_pool(finished: RunDirectory, tmp_path: Path) -> None:
    few = opened(finished, tmp_path, "select.strategy=semantic_entropy")
    run_verb("map", few, RecordingReporter())
    before, entropy = (
        times(few.file("pool_answers")),
        signals(few, "semantic_entropy").semantic_entropy.copy(),
    )
    more = RunDirectory.open(few.path, ["sample.n=6"])
    for verb in ("sample", "measure", "probe", "map"):
        run_verb(verb, more, RecordingReporter())
    assert before.items() <= times(more.file("pool_answers")).items()
    numbers = [
        sorted(set(atomic_files.read_table(part)["sample"].to_pylist()))
        for part in atomic_files.parts(more.file("pool_answers"), ".parquet")
    ]
    assert numbers == [[1, 2, 3, 4]] * 3 + [[5, 6]] * 3
    assert more.stages["pool_answers"].counts == {"questions": POOL, "answers": POOL * 6}
    batches = list(answer_batches(more.file("pool_answers"), 6))
    assert [len(batch) for batch in batches] == [12, 12, 5]
    assert {tuple(rows) for batch in batches for rows in batch.values()} == {(1, 2, 3, 4, 5, 6)}
    grown = signals(more, "semantic_entropy").semantic_entropy
    assert grown.max() > np.log(4) + 1e-6 >= entropy.max()


class Letters:
    """Embeds texts by the letters in them, and counts how often it was asked."""

    asked = 0

    def __init__(self, name: str, *, device: str, setting: str):
        assert (name, device, setting) == ("letters", "cpu", "select.encoder")
        self.key = "letters@1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        type(self).asked += len(texts)
        rows = np.array([[text.lower().count(letter) for letter in "abcdefghij"] for text in texts], np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> type[Letters]:
    Letters.asked = 0
    monkeypatch.setattr("ka2l.models.sentence_encoder.SentenceEncoder", Letters)
    monkeypatch.setattr("ka2l.models.sentence_encoder.encoder_key", lambda name, _setting: f"{name}@1")
    return Letters


class Interrupter(RecordingReporter):
    """Ctrl-C at the Nth step of a stage."""

    def __init__(self, stage: str, left: int):
        super().__init__()
        self.stage, self.left = stage, left

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Callable[[int], None]]:  # noqa: ARG002
        def advance(_count: int) -> None:
            self.left -= title == self.stage
            if self.left == 0:
                raise KeyboardInterrupt

        yield advance


@pytest.mark.parametrize("stage", ["sentences", "pool_likelihood"])
def test_an_interruption_costs_one_part_and_changes_nothing(
    finished: RunDirectory, letters: type[Letters], tmp_path: Path, stage: str
) -> None:
    changes = ["select.strategy=likelihood"] if stage == "pool_likelihood" else ["select.strategy=kmeans"]
    changes += ["select.space=sentence", "select.encoder=letters"]
    (tmp_path / "once").mkdir()
    once = opened(finished, tmp_path / "once", *changes)
    run_verb("map", once, RecordingReporter())
    directory = opened(finished, tmp_path, *changes)
    letters.asked = 0
    for left in (2, 1, 1):  # parts of 9 questions: two, then one at a time
        with pytest.raises(KeyboardInterrupt):
            run_verb("map", directory, Interrupter(stage, left))
        directory = RunDirectory.open(directory.path, changes)
    run_verb("map", directory, RecordingReporter())
    assert letters.asked == (POOL if stage == "sentences" else 0)
    assert_same(content(directory.path), content(once.path))
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ka2l.pipeline.stages.pool_signals.gather", _interrupted)
        patch.setattr("ka2l.pipeline.stages.pool_signals.save_signal", _interrupted)
        directory.file(WRITES[stage][0].path).unlink()  # whoever deletes an array gets it again
        run_verb("map", directory, RecordingReporter())
    run_verb("map", RunDirectory.open(directory.path, changes), RecordingReporter())
    assert_same(content(directory.path), content(once.path))


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_sentences_are_those_of_the_encoder(finished: RunDirectory, letters: type[Letters], tmp_path: Path) -> None:
    directory = opened(finished, tmp_path, "select.near_copy=0.999", "select.space=sentence", "select.encoder=letters")
    assert run_verb("map", directory, RecordingReporter()) == ["map", "sentences"]
    found = signals(directory, "sentence_embedding")
    questions = context_of(directory, RecordingReporter()).questions_by_id(set(found.ids))
    encoder = letters("letters", device="cpu", setting="select.encoder")
    expected = encoder.encode([questions[i].question for i in found.ids])
    np.testing.assert_allclose(found.sentence_embedding, expected, atol=1e-3)
    assert found.sentence_embedding.dtype == np.float16
    run_verb("select", directory, RecordingReporter())
    assert directory.stages["select"].inputs.keys() == {"map", "sentences"}


def test_the_plan_shows_what_signals_cost(finished: RunDirectory, tiny_world: TinyWorld, tmp_path: Path) -> None:
    directory = opened(finished, tmp_path, "select.strategy=semantic_entropy")
    rows = {row["stage"]: row for row in dry_run(directory.config, directory).as_json()["stages"]}
    assert [stage for stage in rows if not rows[stage]["done"]][:3] == [
        "pool_answers",
        "pool_entropy",
        "select",
    ]
    assert (rows["pool_answers"]["questions"], rows["pool_entropy"]["tokens"]) == (POOL, 0)
    assert rows["pool_answers"]["tokens"] > POOL * 4 * 6 > rows["map"]["tokens"] == 0
    settings_ = [*SERVER, "sample.states=surrogate", "select.strategy=likelihood", ALONE]
    config = tiny_config(tiny_world, questions_file(tiny_world, tmp_path), *settings_)
    probe = finished.stages["load"].counts["probe"]
    asked = dry_run(config).as_json()["server"]
    assert asked["answers"] == probe * 5 + POOL
    assert asked["requests"] == probe * 2 + POOL


@pytest.mark.parametrize(
    "strategy", ["least_confidence", "margin", "semantic_entropy", "unknown_diverse", "badge_gradient"]
)
def test_a_strategy_buys_by_the_signals_of_the_run(finished: RunDirectory, tmp_path: Path, strategy: str) -> None:
    directory = opened(finished, tmp_path, f"select.strategy={strategy}")
    for verb in ("map", "select"):
        run_verb(verb, directory, RecordingReporter())
    bought = atomic_files.read_table(directory.file("selection.parquet")).to_pydict()
    expected = select(strategy, signals(directory, *needs(strategy)), BUDGET, directory.config.seed)
    assert bought["question_id"] == expected.ids
    assert bought["score"] == pytest.approx(expected.scores)
    before = times(directory.path)
    run_verb("map", directory, RecordingReporter())
    assert times(directory.path) == before
