"""Runs several commands of the program at once, each in its own process.

    python tests/helpers/commands_at_once.py FOLDER '[["compare", "recipe.yaml"], ["compare", "recipe.yaml"]]'

Prints the list of exit codes. The output of the first command is in FOLDER/0.out and FOLDER/0.err, and so on.
"""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import forked
from ka2l.cli import main


def command(folder: Path, number: int, arguments: Sequence[str]) -> None:
    for descriptor, kind in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{number}.{kind}", os.O_WRONLY | os.O_CREAT), descriptor)
    sys.argv = ["ka2l", *arguments]
    try:
        main.main()
    finally:
        # the child ends without the interpreter's cleanup
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    forked.import_libraries()
    pids = [
        forked.start(partial(command, Path(sys.argv[1]), number, arguments))
        for number, arguments in enumerate(json.loads(sys.argv[2]))
    ]
    print(json.dumps([forked.exit_status(pid) for pid in pids]))
