"""Arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="SECTION.KEY=VALUE", help="Settings that override the recipe, such as sample.n=5."),
]
RunArgument = Annotated[Path, typer.Argument(metavar="DIR", help="The run directory.")]
OutOption = Annotated[Path | None, typer.Option("--out", help="The run directory; created, or resumed.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only, no progress.")]
