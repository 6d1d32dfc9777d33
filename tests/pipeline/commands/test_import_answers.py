"""Answers made elsewhere: taken in whole or not at all, and measured without a model."""

import math
from pathlib import Path
from typing import Any

import pytest

from answer_rows import answered, good_rows, write
from console import Cli, assert_refused, strict_json
from ka2l import import_answers
from ka2l.cli.run_summary import summary
from ka2l.common.atomic_files import parts, read_json, read_table
from ka2l.config.recipes import to_yaml
from ka2l.errors import ConfigError, DataError, DegenerateError, Ka2lError, RunError
from ka2l.models import loading
from ka2l.pipeline.run import run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from runs import RecordingReporter, copy_of, questions_file, times, tiny_config
from tiny import TinyWorld


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks for a model here fails."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a model was looked for")

    monkeypatch.setattr("ka2l.pipeline.identities.resolve", refuse)
    monkeypatch.setattr("ka2l.pipeline.commands.dry_run.resolve", refuse)
    monkeypatch.setattr(loading, "load_causal_lm", refuse)


@pytest.mark.usefixtures("no_model")
def test_a_file_alone_is_measured_without_a_model(tmp_path: Path) -> None:
    rows = good_rows()
    rows[1]["answers"] = [{"text": text, "token_logprobs": [-0.5, -0.25]} for text in rows[1]["answers"]]
    rows[1]["low_temperature_answer"] = {"text": "Lima", "token_logprobs": [-0.1, -0.3]}
    directory = import_answers(tmp_path / "run", write(tmp_path / "a.jsonl", rows), reporter=RecordingReporter())
    run_verb("measure", directory, RecordingReporter())
    table = read_table(directory.file("entropy.parquet")).to_pydict()
    assert len(table["question_id"]) == 20
    assert table["semantic_entropy"][0] == 0
    assert table["semantic_entropy"][1] == pytest.approx(math.log(4))
    assert table["correct"][:2] == [False, True]
    assert table["negative_log_likelihood"][:2] == [None, pytest.approx(0.2)]
    assert table["predictive_entropy"][:2] == [None, pytest.approx(0.75)]
    assert directory.config.sample.n == 4
    assert not directory.file("states").exists()


@pytest.mark.usefixtures("no_model")
def test_without_a_low_temperature_answer_nothing_is_right_or_wrong(tmp_path: Path) -> None:
    rows = [{key: row[key] for key in ("question", "answers", "gold")} for row in good_rows()]
    directory = import_answers(tmp_path / "run", write(tmp_path / "a.jsonl", rows), reporter=RecordingReporter())
    run(directory.config, directory.path, RecordingReporter())
    table = read_table(directory.file("entropy.parquet")).to_pydict()
    assert set(table["low_temperature_answer"]) == set(table["correct"]) == {None}
    assert set(table["negative_log_likelihood"]) == {None}
    assert {round(value, 3) for value in table["semantic_entropy"]} == {0, 1.386}
    page = directory.file("report.html").read_text(encoding="utf-8")
    assert "City 2" in page
    assert "not judged" in page


@pytest.mark.usefixtures("no_model")
def test_a_run_of_imported_answers_ends_after_measure_and_says_why(tmp_path: Path) -> None:
    directory = import_answers(tmp_path / "run", write(tmp_path / "a.jsonl", good_rows()), reporter=RecordingReporter())
    directory = run(RunDirectory.open(directory.path).config, directory.path, RecordingReporter())
    assert summary(directory).values()["ends_after"] == "measure"
    assert summary(directory).values()["measured_unknown"] == 10
    page = directory.file("report.html").read_text(encoding="utf-8")
    assert "The run ends after “measure”" in page
    assert "the model behind the imported answers" in page
    for verb in ("probe", "map", "select", "finetune", "evaluate"):
        with pytest.raises(RunError, match=f"`{verb}` is not possible here.*sample.states=surrogate"):
            run_verb(verb, directory, RecordingReporter())
    before, again = times(directory.path), RecordingReporter()
    run(RunDirectory.open(directory.path).config, directory.path, again)
    assert again.messages[-1].startswith("Nothing to do")
    assert times(directory.path) == before


def test_other_answers_take_the_place_only_on_request(tmp_path: Path) -> None:
    rows, out = good_rows(), tmp_path / "run"
    file = write(tmp_path / "a.jsonl", rows)
    import_answers(out, file, reporter=RecordingReporter())
    before, reporter = times(out), RecordingReporter()
    import_answers(out, file, reporter=reporter)  # the same again: nothing to do
    assert times(out / "answers") == {k[8:]: v for k, v in before.items() if k.startswith("answers/")}
    assert reporter.messages[-1].endswith("(done before)")
    other = write(tmp_path / "b.jsonl", rows[:10])
    with pytest.raises(RunError, match=r"has answers already \(100\).*--replace"):
        import_answers(out, other, reporter=RecordingReporter())
    directory = import_answers(out, other, replace=True, reporter=RecordingReporter())
    run_verb("measure", directory, RecordingReporter())
    assert directory.stages["measure"].counts["questions"] == 10


def test_an_interrupted_import_can_be_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    file = write(tmp_path / "a.jsonl", good_rows())
    monkeypatch.setattr("ka2l.pipeline.commands.import_answers.run_verb", stop)
    with pytest.raises(KeyboardInterrupt):
        import_answers(tmp_path / "run", file, reporter=RecordingReporter())
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["imported.parquet"]
    monkeypatch.undo()
    assert import_answers(tmp_path / "run", file, reporter=RecordingReporter()).stages["sample"].state == "done"


def loaded_run(world: TinyWorld, folder: Path) -> RunDirectory:
    directory = RunDirectory.create(folder / "run", tiny_config(world, questions_file(world, folder)))
    run_verb("load", directory, RecordingReporter())
    return directory


def exported(finished: RunDirectory, path: Path, by: str) -> Path:
    """The answers of a finished run as somebody else would write them."""
    questions = {row["id"]: row["question"] for row in read_table(finished.file("questions.parquet")).to_pylist()}
    rows: dict[str, dict[str, Any]] = {}
    for part in parts(finished.file("answers"), ".parquet"):
        for row in read_table(part).to_pylist():
            name = row["question_id"]
            key = {"id": name} if by == "id" else {"question": questions[name].upper()}
            mine = rows.setdefault(name, {**key, "answers": []})
            answer = {k: row[k] for k in ("text", "token_logprobs", "finish_reason")}
            if row["sample"] == 0:
                mine["low_temperature_answer"] = answer
            else:
                mine["answers"].append(answer)
    return write(path, list(rows.values()))


@pytest.mark.parametrize("by", ["id", "question"])
@pytest.mark.usefixtures("no_model")
def test_answers_to_the_questions_of_a_run_measure_the_same(finished: RunDirectory, tmp_path: Path, by: str) -> None:
    directory = copy_of(finished, tmp_path)
    file = exported(finished, tmp_path / "a.jsonl", by)
    with pytest.raises(RunError, match=r"has answers already \(185\)"):
        import_answers(directory.path, file, reporter=RecordingReporter())
    taken = import_answers(directory.path, file, replace=True, reporter=RecordingReporter())
    run_verb("measure", taken, RecordingReporter())
    assert taken.config.questions.source.endswith("questions.jsonl")
    ours, theirs = (read_table(run.file("entropy.parquet")).to_pydict() for run in (taken, finished))
    assert ours == theirs


def test_states_come_later_and_give_the_same_probe_and_map(
    finished: RunDirectory, tmp_path: Path, tiny_world: TinyWorld
) -> None:
    directory = loaded_run(tiny_world, tmp_path)
    import_answers(directory.path, exported(finished, tmp_path / "a.jsonl", "id"), reporter=RecordingReporter())
    assert RunDirectory.open(directory.path).config.sample.states == "none"
    same = RunDirectory.open(directory.path, ["sample.states=same", f"model.name={tiny_world.folder}"])
    for verb in ("sample", "measure", "probe", "map"):
        run_verb(verb, same, RecordingReporter())
    cards = [read_json(run.file("probe") / "probe.json") for run in (same, finished)]
    assert cards[0]["layer"] == cards[1]["layer"]
    assert cards[0]["scores"]["probe"]["se_label"]["auroc"]["value"] == pytest.approx(
        cards[1]["scores"]["probe"]["se_label"]["auroc"]["value"], abs=0.02
    )
    maps = [read_table(run.file("knowledge_map.parquet")).to_pydict() for run in (same, finished)]
    assert maps[0]["question_id"] == maps[1]["question_id"]
    assert maps[0]["p_unknown"] == pytest.approx(maps[1]["p_unknown"], abs=0.05)


def test_questions_the_run_does_not_have_are_listed(tiny_world: TinyWorld, tmp_path: Path) -> None:
    directory = loaded_run(tiny_world, tmp_path)
    probes = [q for q in read_table(directory.file("questions.parquet")).to_pylist() if q["role"] == "probe"]
    mine = [{"id": q["id"], "question": q["question"], "answers": ["a", "b"]} for q in probes]
    wrong = [
        {"id": "nobody", "answers": ["a", "b"]},
        {**mine[0], "question": "Another one?", "id": mine[1]["id"]},
    ]
    with pytest.raises(DataError) as caught:
        import_answers(directory.path, write(tmp_path / "a.jsonl", [*mine[2:], *wrong]), reporter=RecordingReporter())
    assert "the run has no question 'nobody'" in str(caught.value)
    assert f"id {mine[1]['id']!r} is another question in the run" in str(caught.value)
    assert not directory.file("imported.parquet").exists()
    assert RunDirectory.open(directory.path).config.sample.engine == "local"

    pool = next(q for q in read_table(directory.file("questions.parquet")).to_pylist() if q["role"] == "pool")
    reporter = RecordingReporter()
    some = [*mine[2:], {"id": pool["id"], "answers": ["a", "b"]}]
    import_answers(directory.path, write(tmp_path / "a.jsonl", some), reporter=reporter)
    assert "Rows that answer questions of other roles than probe and are not used: 1." in reporter.messages
    assert "Probe questions that have no answers and are left out: 2 of 37." in reporter.messages


def test_what_cannot_be_meant_is_refused(tmp_path: Path, tiny_world: TinyWorld) -> None:
    file = write(tmp_path / "a.jsonl", good_rows())
    cases: list[tuple[type[Ka2lError], str, Path, list[str]]] = [
        (DataError, "cannot read the answers", tmp_path / "none.jsonl", []),
        (DataError, "the file has no answers", write(tmp_path / "empty.jsonl", [""]), []),
        (ConfigError, "start the run first: ka2l load", file, ["questions.source=geonames"]),
        (ConfigError, "smaple: no such key", file, ["smaple.n=3"]),
    ]
    for kind, message, path, settings in cases:
        with pytest.raises(kind, match=message):
            import_answers(tmp_path / "run", path, settings, reporter=RecordingReporter())
    assert not (tmp_path / "run").exists()
    recipe = tmp_path / "recipe.yaml"
    source = questions_file(tiny_world, tmp_path)
    config = tiny_config(tiny_world, source, "sample.engine=imported", "sample.states=none")
    recipe.write_text(to_yaml(config), encoding="utf-8")
    with pytest.raises(RunError, match=r"no answers have been imported yet\. Import them: ka2l import"):
        run(config, tmp_path / "bare", RecordingReporter())


def test_import_from_the_command_line(ka2l: Cli, tmp_path: Path) -> None:
    file, out = write(tmp_path / "a.jsonl", good_rows()), tmp_path / "run"
    taken = strict_json(ka2l("import", out, file, "--json", "--quiet").out)
    assert taken == {"run": str(out), "questions": 20, "answers": 100, "samples": 4}
    assert ka2l("measure", out, "--quiet").code == 0
    assert_refused(ka2l("probe", out), "`probe` is not possible here. A probe reads hidden states", "model.name")
    assert_refused(ka2l("check", "Who?", "--run", out), "this run cannot have a probe")
    assert_refused(ka2l("sample", out, "--show-prompts", "1"), "there is no prompt")
    none = ka2l("sample", out, "--show-prompts", "0")
    assert (none.code, "--show-prompts" in none.err) == (2, True)
    shown = ka2l("run", "--out", out, "--dry-run")
    assert (shown.code, "ends after `measure`" in shown.out, "M parameters" in shown.out) == (0, True, False)
    ended = ka2l("run", "--out", out)
    assert ended.code == 0
    text = " ".join(ended.out.split())
    assert "the model behind the imported answers does not know 50% of the 20 questions it was asked" in text
    assert "The run ends after `measure`. A probe reads hidden states" in text
    assert "ends after" not in ended.err  # once is enough
    assert "Sampling: 100 answers to 20 questions; at most" in text  # and no rate: nothing was generated
    assert_refused(ka2l("import", out, write(tmp_path / "b.jsonl", good_rows(6))), "--replace")


def test_entropies_are_there_where_no_threshold_parts_them(ka2l: Cli, tmp_path: Path) -> None:
    rows, out = [answered(i, 3) for i in range(4)], tmp_path / "run"
    import_answers(out, write(tmp_path / "a.jsonl", rows), reporter=RecordingReporter())
    measured = ka2l("measure", out)
    assert measured.code == 0
    assert "All 2 training questions of 4 have the same semantic entropy (1.386 nats)" in measured.err
    table = read_table(out / "entropy.parquet").to_pydict()
    assert table["semantic_entropy"] == [pytest.approx(math.log(4))] * 4
    assert table["unknown"] == [None] * 4
    cut = read_json(out / "threshold.json")
    assert (cut["value"], cut["share_unknown"], cut["fitted_on"]) == (None, None, 2)
    assert "same semantic entropy" in cut["why"]
    ended = ka2l("run", "--out", out)
    assert ended.code == 0
    assert "No threshold parts known from unknown" in " ".join(ended.out.split())
    assert "City 2" in (out / "report.html").read_text(encoding="utf-8")


def test_without_a_threshold_nothing_goes_on_to_a_probe(tmp_path: Path, tiny_world: TinyWorld) -> None:
    rows = [answered(i, 3) for i in range(12)]
    directory = import_answers(tmp_path / "run", write(tmp_path / "a.jsonl", rows), reporter=RecordingReporter())
    run_verb("measure", directory, RecordingReporter())
    settings = ["sample.states=same", f"model.name={tiny_world.folder}"]
    seen = RunDirectory.open(directory.path, settings)
    run_verb("sample", seen, RecordingReporter())
    with pytest.raises(RunError, match="`measure` writes, and that is out of date"):
        run_verb("probe", seen, RecordingReporter())
    with pytest.raises(DegenerateError, match="same semantic entropy"):
        run_verb("measure", seen, RecordingReporter())


def test_measure_reads_more_of_the_imported_answers_by_itself(ka2l: Cli, tmp_path: Path) -> None:
    rows = [row | {"answers": [*row["answers"], "Lima"]} for row in good_rows()]
    file, out = write(tmp_path / "a.jsonl", rows), tmp_path / "run"
    assert ka2l("import", out, file, "sample.n=3").code == 0
    assert ka2l("measure", out).code == 0
    assert ka2l("measure", out, "sample.n=5").code == 0
    assert {len(row) for row in read_table(out / "entropy.parquet")["cluster_ids"].to_pylist()} == {5}
    assert RunDirectory.open(out).stages["sample"].counts == {"questions": 20, "answers": 120}
    assert_refused(ka2l("measure", out, "sample.n=6"), "there are 5 imported answers per question", "sample.n=5")
    assert ka2l("measure", out, "sample.n=2").code == 0
