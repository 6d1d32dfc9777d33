"""What the command line prints without running anything: the plan of a dry run, and the prompts."""

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
    """Print what `run` would do, without doing it: the first prompts in full, and questions, tokens and time of each
    stage.
    """
    from ka2l.pipeline.commands.dry_run import dry_run

    planned = dry_run(config, run)
    if as_json:
        print_json(planned.as_json())
        return
    local = planned.local
    shape = f" ({local.parameters / 1e6:,.0f} M parameters, {local.resolved.revision})" if local else ""
    if planned.stand_in is not None:
        print(f"model       {planned.model}\nstates of   {planned.stand_in}{shape}, in place of that model")
    else:
        print(f"model       {planned.model}{shape}")
    roles = ", ".join(f"{count:,} {role}" for role, count in planned.questions.items())
    print(f"questions   {roles}; {planned.duplicates_merged} duplicates merged")
    _print_first_prompts(planned)
    _print_stages(planned)
    print()
    print(_notes(planned))


def _print_first_prompts(planned: "DryRun") -> None:
    if planned.first_messages is not None:
        print("\nThe first sensing prompt, as the server gets it:\n")
        print_text("\n".join(f"{turn['role']}: {turn['content']}" for turn in planned.first_messages))
    else:
        print("\nThe first sensing prompt:\n")
        print_text(planned.first_prompt)
    if planned.first_teaching_prompt is not None:
        print("\nThe first teaching prompt:\n")
        print_text(planned.first_teaching_prompt)


def _print_stages(planned: "DryRun") -> None:
    print(f"\n{'stage':<20}{'questions':>11}{'tokens':>13}{'time':>19}")
    for row in planned.stages:
        tokens = f"{row.tokens:,}" if row.tokens else "–"
        time = "about " + duration(row.seconds, plain=True) if row.seconds else "–"
        print(f"{row.stage:<20}{row.questions:>11,}{tokens:>13}{'done before' if row.done else time:>19}")
    if planned.seconds:
        total = "about " + duration(planned.seconds, plain=True)
        print(f"{'total':<20}{'':>11}{planned.tokens:>13,}{total:>19}")


def print_prompts(run: RunDirectory, count: int, *, as_json: bool = False) -> None:
    """Print the prompts of the first questions exactly as they are sent; their common beginning is printed once."""
    from ka2l.pipeline.commands.show_prompts import first_prompts

    prompts = first_prompts(run, count)
    if as_json:
        print_json(prompts)
        return
    turns = [prompt.get("messages", []) for prompt in prompts]
    lines = [prompt["text"].split("\n") if "text" in prompt else [] for prompt in prompts]
    same_turns, same_lines = _common_prefix(turns), _common_prefix(lines)
    if same_turns or same_lines:
        print("All of them begin with")
        _print_prompt(turns[0][:same_turns], lines[0][:same_lines])
        print("\nand continue with\n")
    for prompt, own_turns, own_lines in zip(prompts, turns, lines, strict=True):
        tokens = f" ({prompt['tokens']} tokens in total)" if "tokens" in prompt else ""
        print(f"{prompt['question_id']}{tokens}")
        _print_prompt(own_turns[same_turns:], own_lines[same_lines:])
        print()
    print("Nothing was asked or sampled.")


def _common_prefix(rows: Sequence[Sequence[Any]]) -> int:
    """How many items all rows begin with, never counting a row's last item; 0 for a single row."""
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
    """Print a text unchanged, with a bar before each line."""
    print("\n".join(f"  | {line}" for line in text.split("\n")))


def _notes(planned: "DryRun") -> str:
    """The requests to a server, where the run ends, and the assumptions of the estimates."""
    lines = []
    if planned.server is not None:
        server = planned.server
        lines.append(
            f"Requested from the server: {server.answers:,} answers in {server.requests:,} requests; about "
            f"{server.prompt_tokens:,} prompt tokens and {server.answer_tokens:,} answer tokens are billed,\nminus "
            "what was paid for before. How long it takes depends on the server."
        )
    if planned.end is not None:
        lines.append(f"The run ends after `{planned.end.last}`. {planned.end.why}")
    if planned.local is not None:
        lines.append(
            f"These are estimates, for answers of {ANSWER_TOKENS} tokens and half of the "
            f"{planned.local.rate / 1e9:,.0f} GFLOP/s of a matrix\nproduct measured here just now."
        )
    return "\n".join([*lines, "Nothing was written."])
