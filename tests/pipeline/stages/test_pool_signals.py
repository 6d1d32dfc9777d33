"""The pool's signals: each computed once, sorted by id, memory-mapped, and after any interruption the same."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ka2l
from ka2l.common import atomic_files
from ka2l.errors import ConfigError, RunError
from ka2l.knowledge.uncertainty.semantic_clusters import Pair
from ka2l.models.interface import Answer, Prompt, SampledQuestion, Usage
from ka2l.models.judges.kept_judgements import Judged
from ka2l.pipeline.commands.dry_run import dry_run
from ka2l.pipeline.context import Context
from ka2l.pipeline.run import context_of, run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.shared.artifact_tables import answer_batches, compact, gather, read_answers, write_signals
from ka2l.pipeline.shared.pool_signal_files import pool_signals
from ka2l.questions.question import Question
from ka2l.selection.select import needs, select
from runs import BUDGET, WRITES, Ear, assert_same, content, copy_of, questions_file, times, tiny_config
from tiny import TinyWorld

POOL = 29
ALONE = "select.baseline=null"


def opened(finished: RunDirectory, folder: Path, *changes: str) -> RunDirectory:
    return RunDirectory.open(copy_of(finished, folder).path, [ALONE, *changes])


def signals(directory: RunDirectory, *names: str) -> Any:
    """As `Signals`, without the None of what was not asked for."""
    return pool_signals(context_of(directory, Ear()), names)


def pool_prompts(directory: RunDirectory) -> tuple[Context, list[Prompt]]:
    """Of the pool's questions in the order of their ids."""
    context = context_of(directory, Ear())
    questions = sorted(context.questions("pool"), key=lambda question: question.id)
    return context, [Prompt(one.id, context.prompts.sensing(one.question)) for one in questions]


def test_signals_of_the_model_stand_by_id_as_it_gives_them(finished: RunDirectory, tmp_path: Path) -> None:
    directory = opened(finished, tmp_path, "select.strategy=badge")
    table = atomic_files.read_table(directory.file("questions.parquet"))
    pool_last = [*table.filter(pc.field("role") != "pool").to_pylist()]
    pool_last += table.filter(pc.field("role") == "pool").to_pylist()[::-1]
    atomic_files.write_table(
        directory.file("questions.parquet"), pa.Table.from_pylist(pool_last, table.schema)
    )
    atomic_files.remove(directory.file("pool_signals"))
    assert run_verb("map", directory, Ear()) == ["map", "signals"]
    names = ("p_unknown", "embedding", "next_token_entropy", "top_probability", "margin")
    found = signals(directory, *names)
    context, prompts = pool_prompts(directory)
    assert found.ids.tolist() == [prompt.question_id for prompt in prompts]
    mapped = atomic_files.read_table(directory.file("knowledge_map.parquet")).to_pydict()
    assert (
        mapped["question_id"] == found.ids[::-1].tolist()
    )  # as the questions stand, which puts it to the test
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
        run_verb(verb, directory, Ear())
    answers = read_answers(directory.file("pool_answers"), 4)
    assert {tuple(rows) for rows in answers.values()} == {(1, 2, 3, 4)}
    questions = context_of(directory, Ear()).questions_by_id(set(answers))
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
    run_verb("map", few, Ear())
    before, entropy = (
        times(few.file("pool_answers")),
        signals(few, "semantic_entropy").semantic_entropy.copy(),
    )
    more = RunDirectory.open(few.path, ["sample.n=6"])
    for verb in ("sample", "measure", "probe", "map"):
        run_verb(verb, more, Ear())
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


def test_likelihood_is_the_mean_over_the_low_temperature_answer(
    finished: RunDirectory, tmp_path: Path
) -> None:
    directory = opened(finished, tmp_path, "select.strategy=likelihood")
    assert run_verb("map", directory, Ear()) == ["map", "pool_likelihood"]
    context, prompts = pool_prompts(directory)
    said = {
        result.question_id: result.answers[0].token_logprobs
        for result in context.prepared_model().sample(prompts, {0: 0.1}, seed=0, max_new_tokens=8)
    }
    found = signals(directory, "sequence_log_likelihood")
    expected = [np.mean(said[i]) for i in found.ids]
    np.testing.assert_allclose(found.sequence_log_likelihood, expected, atol=1e-3)
    assert not directory.file("pool_answers").exists()  # ten further answers would tell it nothing
    run_verb("select", directory, Ear())
    bought = atomic_files.read_table(directory.file("selection.parquet"))["question_id"].to_pylist()
    ranked = found.ids[np.argsort(found.sequence_log_likelihood, kind="stable")]
    assert bought == ranked[:BUDGET].tolist()


class Speaker:
    """Answers with what it was given for a question, else with two likely tokens."""

    said: dict[str, Answer]

    def __init__(self, *_: object, **__: object):
        self.usage = Usage()

    def sample(
        self, prompts: Sequence[Prompt], temperatures: dict[int, float], **_: Any
    ) -> Iterator[SampledQuestion]:
        self.usage += Usage(prompt=len(prompts))
        for prompt in prompts:
            answer = self.said.get(prompt.question_id, Answer("Rome", [-0.25, -0.75], "stop"))
            yield SampledQuestion(prompt.question_id, [answer for _ in temperatures], None)


SERVER = ["sample.engine=server", "server.url=http://localhost:1/v1", "server.model=other"]


@pytest.fixture
def served(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., RunDirectory]:
    """A run mapped by a probe that was trained before, whose pool a server is asked about."""
    monkeypatch.setattr("ka2l.models.server.server_model.ServerModel", Speaker)

    def make(*changes: str) -> RunDirectory:
        Speaker.said = {}
        probe = f"map.probe={finished.file('probe')}"
        return opened(finished, tmp_path, *SERVER, probe, *changes)

    return make


def test_an_empty_answer_counts_as_the_least_likely(served: Callable[..., RunDirectory]) -> None:
    directory = served("select.strategy=likelihood")
    _, prompts = pool_prompts(directory)
    first, second = (prompt.question_id for prompt in prompts[:2])
    Speaker.said = {first: Answer("", [], "stop"), second: Answer("Oslo", [-3.0, -4.0], "stop")}
    run_verb("map", directory, Ear())
    found = signals(directory, "sequence_log_likelihood").sequence_log_likelihood
    assert found.tolist() == [-3.5, -3.5] + [-0.5] * (POOL - 2)
    record = directory.stages["pool_likelihood"]
    assert record.counts == {"questions": POOL, "empty_answers": 1}
    assert record.tokens == {"prompt": POOL, "prompt_saved": 0, "decoded": 0, "decoded_saved": 0}


def test_answers_without_log_probabilities_have_no_likelihood(served: Callable[..., RunDirectory]) -> None:
    directory = served("select.strategy=likelihood")
    _, prompts = pool_prompts(directory)
    Speaker.said = {prompts[3].question_id: Answer("Oslo", [], "stop")}
    with pytest.raises(
        RunError,
        match=rf"without token log-probabilities, first: {prompts[3].question_id}\. .*server\.logprobs",
    ):
        run_verb("map", directory, Ear())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            [*SERVER, "server.logprobs=false", "select.strategy=likelihood"],
            r"server\.logprobs=false the server does not return them",
        ),
        (
            ["measure.judge=embedding", "select.strategy=semantic_entropy", "map.probe=PROBE"],
            "fitted on the probe",
        ),
    ],
    ids=["likelihood", "cosine"],
)
def test_signals_that_cannot_be_had_are_refused_before_anything_is_written(
    finished: RunDirectory, tiny_world: TinyWorld, tmp_path: Path, changes: list[str], message: str
) -> None:
    placed = [change.replace("PROBE", str(finished.file("probe"))) for change in changes]
    config = tiny_config(tiny_world, questions_file(tiny_world, tmp_path), *placed)
    with pytest.raises(ConfigError, match=message):
        run(config, tmp_path / "run", Ear())
    assert not (tmp_path / "run").exists()


def test_a_pool_without_imported_answers_is_named(finished: RunDirectory, tmp_path: Path) -> None:
    rows = atomic_files.read_table(finished.file("questions.parquet")).to_pylist()
    given_ = [row for row in rows if row["role"] == "probe"]
    lines = [
        {"question": row["question"], "answers": ["a", "b"], "low_temperature_answer": "a"} for row in given_
    ]
    file = tmp_path / "answers.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    out = copy_of(finished, tmp_path).path
    settings_ = ["sample.states=same", "sample.n=2", ALONE]
    directory = ka2l.import_answers(out, file, settings_, replace=True, reporter=Ear())
    for strategy, what in (
        ("likelihood", r"low-temperature answer"),
        ("semantic_entropy", "sampled answers"),
    ):
        wanted = RunDirectory.open(
            directory.path, [f"select.strategy={strategy}", f"map.probe={finished.file('probe')}"]
        )
        with pytest.raises(RunError, match=rf"{POOL} of {POOL} pool questions have no imported {what}"):
            run_verb("map", wanted, Ear())


class Letters:
    """Embeds texts by the letters in them, and counts how often it was asked."""

    asked = 0

    def __init__(self, name: str, *, device: str, setting: str):
        assert (name, device, setting) == ("letters", "cpu", "select.encoder")
        self.key = "letters@1"

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        type(self).asked += len(texts)
        rows = np.array(
            [[text.lower().count(letter) for letter in "abcdefghij"] for text in texts], np.float32
        )
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> type[Letters]:
    Letters.asked = 0
    monkeypatch.setattr("ka2l.models.sentence_encoder.SentenceEncoder", Letters)
    monkeypatch.setattr("ka2l.models.sentence_encoder.encoder_key", lambda name, _setting: f"{name}@1")
    return Letters


class Interrupter(Ear):
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
    run_verb("map", once, Ear())
    directory = opened(finished, tmp_path, *changes)
    letters.asked = 0
    for left in (2, 1, 1):  # parts of 9 questions: two, then one at a time
        with pytest.raises(KeyboardInterrupt):
            run_verb("map", directory, Interrupter(stage, left))
        directory = RunDirectory.open(directory.path, changes)
    run_verb("map", directory, Ear())
    assert letters.asked == (POOL if stage == "sentences" else 0)
    assert_same(content(directory.path), content(once.path))
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr("ka2l.pipeline.stages.pool_signals.gather", _interrupted)
        patch.setattr("ka2l.pipeline.stages.pool_signals.save_signal", _interrupted)
        directory.file(WRITES[stage][0].path).unlink()  # whoever deletes an array gets it again
        run_verb("map", directory, Ear())
    run_verb("map", RunDirectory.open(directory.path, changes), Ear())
    assert_same(content(directory.path), content(once.path))


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_sentences_are_those_of_the_encoder(
    finished: RunDirectory, letters: type[Letters], tmp_path: Path
) -> None:
    directory = opened(
        finished, tmp_path, "select.near_copy=0.999", "select.space=sentence", "select.encoder=letters"
    )
    assert run_verb("map", directory, Ear()) == ["map", "sentences"]
    found = signals(directory, "sentence_embedding")
    questions = context_of(directory, Ear()).questions_by_id(set(found.ids))
    encoder = letters("letters", device="cpu", setting="select.encoder")
    expected = encoder.encode([questions[i].question for i in found.ids])
    np.testing.assert_allclose(found.sentence_embedding, expected, atol=1e-3)
    assert found.sentence_embedding.dtype == np.float16
    run_verb("select", directory, Ear())
    assert directory.stages["select"].inputs.keys() == {"map", "sentences"}


def test_the_plan_shows_what_signals_cost(
    finished: RunDirectory, tiny_world: TinyWorld, tmp_path: Path
) -> None:
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
def test_a_strategy_buys_by_the_signals_of_the_run(
    finished: RunDirectory, tmp_path: Path, strategy: str
) -> None:
    directory = opened(finished, tmp_path, f"select.strategy={strategy}")
    for verb in ("map", "select"):
        run_verb(verb, directory, Ear())
    bought = atomic_files.read_table(directory.file("selection.parquet")).to_pydict()
    expected = select(strategy, signals(directory, *needs(strategy)), BUDGET, directory.config.seed)
    assert bought["question_id"] == expected.ids
    assert bought["score"] == pytest.approx(expected.scores)
    before = times(directory.path)
    run_verb("map", directory, Ear())
    assert times(directory.path) == before


def test_a_signal_no_stage_computes_is_named(finished: RunDirectory) -> None:
    with pytest.raises(RunError, match=r"class_probabilities is not there .*ka2l map"):
        signals(finished, "class_probabilities")


def test_a_map_of_another_pool_is_refused(finished: RunDirectory, tmp_path: Path) -> None:
    directory = copy_of(finished, tmp_path)
    table = atomic_files.read_table(directory.file("knowledge_map.parquet"))
    atomic_files.write_table(directory.file("knowledge_map.parquet"), table.slice(1))
    with pytest.raises(RunError, match="hold different questions"):
        signals(directory, "p_unknown")


def test_a_run_of_format_3_is_gathered_and_nothing_asked_again(
    finished: RunDirectory, tmp_path: Path
) -> None:
    """Its signals lie in parts in the order of the pool, and its manifest counts them."""
    directory = copy_of(finished, tmp_path)
    embedding, ids = (directory.file(f"pool_signals/{name}") for name in ("embedding.npy", "ids.parquet"))
    row_of = {i: row for row, i in enumerate(atomic_files.read_table(ids)["question_id"].to_pylist())}
    table = atomic_files.read_table(directory.file("knowledge_map.parquet")).to_pydict()
    rows, folder = np.load(embedding), directory.file("pool_signals/states")
    for start in range(0, POOL, 9):
        chunk = [Question(i, "?", (), role="pool") for i in table["question_id"][start : start + 9]]
        p_unknown = np.float32(table["p_unknown"][start : start + 9])
        arrays = {"p_unknown": p_unknown, "embedding": rows[[row_of[one.id] for one in chunk]]}
        write_signals(atomic_files.next_part(folder, ".safetensors"), chunk, arrays)
    embedding.unlink()
    ids.unlink()
    manifest = atomic_files.read_json(directory.file("manifest.json")) | {"format": 3}
    manifest["stages"]["map"]["facts"] = {"parts": {"pool_signals/states": 4}}
    atomic_files.write_json(directory.file("manifest.json"), manifest)
    run(directory.config, directory.path, Ear())
    assert_same(content(directory.path), content(finished.path))
    again = atomic_files.read_json(directory.file("manifest.json"))
    assert again["format"] == 4
    assert again["stages"]["map"]["tokens"] == manifest["stages"]["map"]["tokens"]


@given(
    st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=12, unique=True).flatmap(
        lambda ids: st.tuples(st.just(ids), st.lists(st.integers(1, 4), min_size=len(ids), max_size=len(ids)))
    ),
    st.integers(1, 3),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_parts_of_any_cut_are_gathered_by_id(
    tmp_path_factory: pytest.TempPathFactory, cut: tuple[list[str], list[int]], width: int, large: bool
) -> None:
    ids, sizes = cut
    folder = tmp_path_factory.mktemp("parts")
    values = np.arange(len(ids) * width, dtype=np.float32).reshape(len(ids), width)
    if large:
        values[-1, -1] = 1e6  # out of float16's range: the last part is float32
    start = 0
    for size in sizes:
        rows = slice(start, start + size)
        if ids[rows]:
            chunk = [Question(i, "?", ()) for i in ids[rows]]
            arrays = {"wide": compact(values[rows]), "flat": values[rows, 0].copy()}
            write_signals(atomic_files.next_part(folder, ".safetensors"), chunk, arrays)
        start += size
    targets = {name: folder / f"{name}.npy" for name in ("wide", "flat")}
    assert gather(folder, targets) == sorted(ids)
    order = np.argsort(np.asarray(ids, dtype=str), kind="stable")
    wide, flat = (atomic_files.read_array(path) for path in targets.values())
    assert wide.dtype == (np.float32 if large else np.float16)
    np.testing.assert_array_equal(wide, values[order])
    np.testing.assert_array_equal(flat, values[order, 0])


def test_a_failing_gather_leaves_no_array(tmp_path: Path) -> None:
    form = np.empty((0, 3), dtype=np.float16)
    with (
        pytest.raises(ValueError, match="shorter"),
        atomic_files.array_of_rows(tmp_path / "x.npy", 2, form) as write,
    ):
        write([0, 1], np.ones((1, 3)))
    assert list(tmp_path.iterdir()) == []


def test_arrays_are_plain_files_without_a_pickle(finished: RunDirectory) -> None:
    assert [w.working for w in WRITES["map"] if w.path == "pool_signals/states"] == [True]
    assert not finished.file("pool_signals/states").exists()
    array = np.load(finished.file("pool_signals/embedding.npy"), mmap_mode="r", allow_pickle=False)
    assert array.shape == (POOL, 64)
    assert array.flags.c_contiguous
