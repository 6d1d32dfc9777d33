"""Child processes that start with the libraries imported, for scripts that need several processes.

Importing takes longer than a tiny run. So a script imports the libraries once and forks its children afterwards. Tests
start such scripts instead of forking themselves, because the child of a process with threads may hang.
"""

import gc
import importlib
import os
import traceback
from collections.abc import Callable

# The libraries that a run imports. The list only saves time: a child imports what is missing.
LIBRARIES = (
    "datasets",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "nltk",
    "pandas",
    "peft",
    "pyarrow.pandas_compat",
    "rich.progress",
    "rouge_score.rouge_scorer",
    "sacrebleu",
    "scipy.stats",
    "sklearn.decomposition",
    "sklearn.linear_model",
    "sklearn.metrics",
    "trl.trainer.sft_trainer",
    "ka2l.models.local.local_model",
    "ka2l.report.run_page",
    "ka2l.teaching.finetuning.lora",
)


def import_libraries() -> None:
    """Import the libraries, and exclude them from garbage collection in the children."""
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()


def start(work: Callable[[], None]) -> int:
    """Call `work` in a forked child with one torch thread; returns the child's process id.

    The child ends with 0, with the code of a SystemExit, or with 1 after printing the traceback of any other exception.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        import torch

        torch.set_num_threads(1)
        work()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_status(pid: int) -> int:
    """Wait for the child; returns the negative number of the signal that ended it, or its exit code."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
