"""Known questions taught with the model's own answers, through the whole run on the tiny world."""

import json
from pathlib import Path

from ka2l.common import atomic_files
from ka2l.pipeline.commands.export_training_data import export
from ka2l.pipeline.run import run, run_verb
from ka2l.pipeline.run_directory import RunDirectory
from runs import RecordingReporter, copy_of, questions_file, tiny_config
from tiny import TinyWorld


def test_replay_teaches_what_the_map_calls_known_and_nobody_bought(finished: RunDirectory, tmp_path: Path) -> None:
    there = copy_of(finished, tmp_path)
    config = RunDirectory.open(there.path, ["finetune.replay=0.5", "finetune.epochs=1"]).config
    directory = run(config, there.path, RecordingReporter())
    known = {
        row["question_id"]
        for row in atomic_files.read_table(directory.file("knowledge_map.parquet")).to_pylist()
        if not row["unknown"]
    }
    answers = {
        row["id"]: row["answers"] for row in atomic_files.read_table(directory.file("questions.parquet")).to_pylist()
    }
    for arm in ("main", "random"):
        bought = atomic_files.read_table(directory.file("annotations.parquet", arm))["question_id"].to_pylist()
        own = atomic_files.read_table(directory.file("replayed.parquet", arm)).to_pylist()
        taught = {row["question_id"] for row in own}
        assert len(own) == len(taught) == len(bought) // 2
        assert taught <= known - set(bought)
        suffix = "" if arm == "main" else f"@{arm}"
        counts = directory.stages[f"finetune{suffix}"].counts
        assert (counts["examples"], counts["replayed"]) == (len(bought) + len(own), len(own))
        assert directory.stages[f"annotate{suffix}"].counts["labels"] == len(bought)  # none was paid for
        # The tiny model truly knows what it is sure of: its own answers are right, gold was never read.
        assert sum(row["answer"].strip() in answers[row["question_id"]] for row in own) >= len(own) - 1
    written = export(directory.path, tmp_path / "out", "jsonl")
    assert written["train.jsonl"] == len(bought) + len(own)


def test_as_many_as_there_are(finished: RunDirectory, tmp_path: Path) -> None:
    there, reporter = copy_of(finished, tmp_path), RecordingReporter()
    settings = ["finetune.replay=9", "finetune.epochs=1", "select.baseline=null"]
    directory = run(RunDirectory.open(there.path, settings).config, there.path, reporter)
    table = atomic_files.read_table(directory.file("knowledge_map.parquet")).to_pylist()
    bought = set(atomic_files.read_table(directory.file("annotations.parquet"))["question_id"].to_pylist())
    known = {row["question_id"] for row in table if not row["unknown"]} - bought
    assert any(f"has {len(known)} that were not selected" in line for line in reporter.messages)
    own = atomic_files.read_table(directory.file("replayed.parquet"))["question_id"].to_pylist()
    assert set(own) == known
    # Another share is another teaching, and nothing before it is done again.
    less = RunDirectory.open(directory.path, ["finetune.replay=0"])
    assert run_verb("finetune", less, RecordingReporter()) == ["finetune"]
    assert less.stages["finetune"].counts["examples"] == len(bought)
    assert "replayed" not in less.stages["finetune"].counts


def test_a_fact_that_is_bought_is_not_taught_in_other_words_with_what_the_model_says(
    tiny_world: TinyWorld, tmp_path: Path
) -> None:
    """Two questions of one group in the pool: one bought with gold, the other called known."""
    rows = [json.loads(line) for line in questions_file(tiny_world, tmp_path).read_text().splitlines()]
    twins = []
    for row in rows:
        twins += [
            {**row, "group": row["id"]},
            {
                **row,
                "id": f"{row['id']}-again",
                "question": row["rewordings"][0],
                "group": row["id"],
                "rewordings": [],
            },
        ]
    source = tmp_path / "twins.jsonl"
    source.write_text("\n".join(json.dumps(row) for row in twins), encoding="utf-8")
    settings = ("select.strategy=random", "select.baseline=null", "finetune.replay=2", "finetune.epochs=1")
    directory = run(tiny_config(tiny_world, source, *settings), tmp_path / "run", RecordingReporter())
    groups = {
        row["id"]: row["group"] for row in atomic_files.read_table(directory.file("questions.parquet")).to_pylist()
    }
    bought = {
        groups[i] for i in atomic_files.read_table(directory.file("annotations.parquet"))["question_id"].to_pylist()
    }
    own = atomic_files.read_table(directory.file("replayed.parquet"))["question_id"].to_pylist()
    assert own
    assert not {groups[i] for i in own} & bought
    # Nor does what was taught count among the questions nobody bought.
    asked = atomic_files.read_table(directory.file("predictions.parquet")).to_pylist()
    held = {
        row["id"]
        for row in atomic_files.read_table(directory.file("questions.parquet")).to_pylist()
        if row["role"] == "eval"
    }
    left = {row["question_id"] for row in asked if row["model"] == "random"} - held
    taught = bought | {groups[i] for i in own}
    assert all(groups[i] in bought for i in left if groups[i] in taught)
