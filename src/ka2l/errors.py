"""Errors a user can fix: each message says what is wrong, where, and what to do about it.

The command line prints them without a traceback and ends with exit code 2. Any other exception is a bug in KA2L and
keeps its traceback.
"""

from collections.abc import Sequence


class Ka2lError(Exception):
    """Base of all errors that a user can fix."""


class ConfigError(Ka2lError):
    """A recipe or an override is wrong; the message names the key's path and what is allowed."""


class DataError(Ka2lError):
    """A file of questions, answers or annotations is wrong; the message names file, row and value."""


class ModelError(Ka2lError):
    """A model cannot be loaded, or does not support what is requested."""


class RunError(Ka2lError):
    """A run directory is missing something, was made by another version, or is in use."""


class DegenerateError(Ka2lError):
    """The data cannot be separated: no threshold, only one class, an empty pool."""


class WaitingForPeople(Ka2lError):  # noqa: N818  (a pause, not an error)
    """The run continues when people have answered the selected questions; the command line ends with exit code 3."""


def bad_rows(where: str, problems: Sequence[str], fix: str, shown: int = 20) -> DataError:
    """One error for all bad rows of a file: the first `shown` of them, and the count.

    Args:
        where: the file.
        problems: a description of each bad row.
        fix: what to do about them.
        shown: most rows in the message.
    """
    lines = [f"{where}: {len(problems)} bad row{'s' if len(problems) != 1 else ''}"]
    lines += [f"  {problem}" for problem in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more")
    lines.append(f"Fix: {fix}")
    return DataError("\n".join(lines))
