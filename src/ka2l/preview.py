"""What the command line shows before anything is done: the plan of a dry run, and the prompts."""

from typing import Any

from ka2l.config import RunConfig
from ka2l.progress import duration
from ka2l.store import RunDirectory
from ka2l.summary import print_json


def print_plan(config: RunConfig, run: RunDirectory | None = None, *, as_json: bool = False) -> None:
    """What `run` would do, without doing it: stages, the first prompt in full, counts, tokens and time."""
    from ka2l.plan import plan

    values = plan(config, run)
    if as_json:
        print_json(values)
        return
    shape = (
        f" ({values['parameters'] / 1e6:,.0f} M parameters, {values['revision']})"
        if "revision" in values
        else ""
    )
    if "stand_in" in values:
        print(
            f"model       {values['model']}\nstates of   {values['stand_in']}{shape}, which stands in for it"
        )
    else:
        print(f"model       {values['model']}{shape}")
    roles = ", ".join(f"{count:,} {role}" for role, count in values["questions"].items())
    print(f"questions   {roles}; {values['duplicates_merged']} duplicates merged")
    if "first_messages" in values:
        print("\nThe first sensing prompt, as the server gets it:\n")
        print_text("\n".join(f"{turn['role']}: {turn['content']}" for turn in values["first_messages"]))
    else:
        print("\nThe first sensing prompt:\n")
        print_text(values["first_prompt"])
    if "first_teaching_prompt" in values:
        print("\nThe first teaching prompt:\n")
        print_text(values["first_teaching_prompt"])
    print(f"\n{'stage':<20}{'questions':>11}{'tokens':>13}{'time':>17}")
    for row in values["stages"]:
        tokens = f"{row['tokens']:,}" if row["tokens"] else "–"
        time = "about " + duration(row["seconds"]) if row["seconds"] else "–"
        print(
            f"{row['stage']:<20}{row['questions']:>11,}{tokens:>13}{'done before' if row['done'] else time:>17}"
        )
    if values["seconds"]:
        print(f"{'in all':<20}{'':>11}{values['tokens']:>13,}{'about ' + duration(values['seconds']):>17}")
    print()
    print(_small_print(values))


def print_prompts(run: RunDirectory, count: int, *, as_json: bool = False) -> None:
    """The prompts of the first questions, to the letter."""
    from ka2l.pipeline.people import first_prompts

    shown = first_prompts(run, count)
    if as_json:
        print_json(shown)
        return
    for prompt in shown:
        print(
            f"{prompt['question_id']}{' (' + str(prompt['tokens']) + ' tokens)' if 'tokens' in prompt else ''}"
        )
        for turn in prompt.get("messages", ()):
            print(f"  {turn['role']}:")
            print_text(turn["content"])
        if "text" in prompt:
            if "messages" in prompt:
                print("  and for the hidden states:")
            print_text(prompt["text"])
        print()


def print_text(text: str) -> None:
    """Text as it is, set off by a bar."""
    print("\n".join(f"  | {line}" for line in text.split("\n")))


def _small_print(values: dict[str, Any]) -> str:
    lines = []
    if "server" in values:
        asked = values["server"]
        lines.append(
            f"Asked of the server: {asked['answers']:,} answers in {asked['requests']:,} requests; about "
            f"{asked['prompt_tokens']:,} prompt tokens and {asked['answer_tokens']:,} of answers are billed,\nless what "
            "was paid for before. How long it takes is the server's to say."
        )
    if "ends_after" in values:
        lines.append(f"The run ends after `{values['ends_after']}`. {values['why']}")
    if "gflops" in values:
        lines.append(
            f"Estimates, for answers of {values['answer_tokens']} tokens, and for half of the {values['gflops']:,.0f} "
            "GFLOP/s that a matrix\nproduct reached here just now."
        )
    return "\n".join([*lines, "Nothing was written."])
