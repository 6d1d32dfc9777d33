"""What the command line shows before anything is done: the plan of a dry run, and the prompts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ka2l.cli.output import print_json
from ka2l.common.number_format import duration
from ka2l.config.run_config import RunConfig
from ka2l.pipeline.run_directory import RunDirectory
from ka2l.pipeline.stage import ANSWER_TOKENS

if TYPE_CHECKING:
    from ka2l.pipeline.commands.dry_run import DryRun


def print_plan(config: RunConfig, run: RunDirectory | None = None, *, as_json: bool = False) -> None:
    """What `run` would do, without doing it: stages, the first prompt in full, counts, tokens and time."""
    from ka2l.pipeline.commands.dry_run import dry_run

    found = dry_run(config, run)
    if as_json:
        print_json(found.as_json())
        return
    local = found.local
    shape = f" ({local.parameters / 1e6:,.0f} M parameters, {local.resolved.revision})" if local else ""
    if found.stand_in is not None:
        print(f"model       {found.model}\nstates of   {found.stand_in}{shape}, which stands in for it")
    else:
        print(f"model       {found.model}{shape}")
    roles = ", ".join(f"{count:,} {role}" for role, count in found.questions.items())
    print(f"questions   {roles}; {found.duplicates_merged} duplicates merged")
    if found.first_messages is not None:
        print("\nThe first sensing prompt, as the server gets it:\n")
        print_text("\n".join(f"{turn['role']}: {turn['content']}" for turn in found.first_messages))
    else:
        print("\nThe first sensing prompt:\n")
        print_text(found.first_prompt)
    if found.first_teaching_prompt is not None:
        print("\nThe first teaching prompt:\n")
        print_text(found.first_teaching_prompt)
    print(f"\n{'stage':<20}{'questions':>11}{'tokens':>13}{'time':>19}")
    for row in found.stages:
        tokens = f"{row.tokens:,}" if row.tokens else "–"
        time = "about " + duration(row.seconds, plain=True) if row.seconds else "–"
        print(f"{row.stage:<20}{row.questions:>11,}{tokens:>13}{'done before' if row.done else time:>19}")
    if found.seconds:
        print(
            f"{'in all':<20}{'':>11}{found.tokens:>13,}{'about ' + duration(found.seconds, plain=True):>19}"
        )
    print()
    print(_small_print(found))


def print_prompts(run: RunDirectory, count: int, *, as_json: bool = False) -> None:
    """The prompts of the first questions, to the letter; what they all begin with, once."""
    from ka2l.pipeline.commands.show_prompts import first_prompts

    shown = first_prompts(run, count)
    if as_json:
        print_json(shown)
        return
    turns = [prompt.get("messages", []) for prompt in shown]
    lines = [prompt["text"].split("\n") if "text" in prompt else [] for prompt in shown]
    same_turns, same_lines = _alike(turns), _alike(lines)
    if same_turns or same_lines:
        print("All of them begin with")
        _print_prompt(turns[0][:same_turns], lines[0][:same_lines])
        print("\nand go on with\n")
    for prompt, own_turns, own_lines in zip(shown, turns, lines, strict=True):
        tokens = f" ({prompt['tokens']} tokens in all)" if "tokens" in prompt else ""
        print(f"{prompt['question_id']}{tokens}")
        _print_prompt(own_turns[same_turns:], own_lines[same_lines:])
        print()
    print("Nothing was asked or sampled.")


def _alike(rows: Sequence[Sequence[Any]]) -> int:
    """How many items all rows begin with; the last item of a row is its own, and so is a single row."""
    most = min((len(row) - 1 for row in rows), default=0) if len(rows) > 1 else 0
    return next((i for i in range(most) if any(row[i] != rows[0][i] for row in rows)), max(most, 0))


def _print_prompt(turns: Sequence[dict[str, str]], lines: Sequence[str]) -> None:
    for turn in turns:
        print(f"  {turn['role']}:")
        print_text(turn["content"])
    if lines:
        if turns:
            print("  and for the hidden states:")
        print_text("\n".join(lines))


def print_text(text: str) -> None:
    """Text as it is, set off by a bar."""
    print("\n".join(f"  | {line}" for line in text.split("\n")))


def _small_print(found: "DryRun") -> str:
    """What the numbers are estimates of."""
    lines = []
    if found.server is not None:
        asked = found.server
        lines.append(
            f"Asked of the server: {asked.answers:,} answers in {asked.requests:,} requests; about "
            f"{asked.prompt_tokens:,} prompt tokens and {asked.answer_tokens:,} of answers are billed,\nless what "
            "was paid for before. How long it takes depends on the server."
        )
    if found.end is not None:
        lines.append(f"The run ends after `{found.end.last}`. {found.end.why}")
    if found.local is not None:
        lines.append(
            f"Estimates, for answers of {ANSWER_TOKENS} tokens, and for half of the {found.local.rate / 1e9:,.0f} "
            "GFLOP/s that a matrix\nproduct reached here just now."
        )
    return "\n".join([*lines, "Nothing was written."])
