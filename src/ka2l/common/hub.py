"""Folders with a JSON card and weights (probes and decoders): found, checked, and exchanged with the Hub.

Downloads take all files from one commit, uploads put all files into one commit, and errors of the Hub's client become
errors that say what to do. Tokens come from the caller or from the login of the Hub's own client, and never reach a
file, a log or an error.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ka2l.common import atomic_files
from ka2l.common.version import __version__
from ka2l.errors import ModelError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def local_folder(name: str, revision: str | None, what: str) -> Path | None:
    """The folder of this name, or None if the name is a Hub id.

    Args:
        name: a folder, or else a Hub id.
        revision: branch, tag or commit on the Hub; not allowed with a folder.
        what: "probe" or "decoder", for messages.

    Raises:
        ModelError: a folder with a revision, or a path that does not exist.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(f"{name} is a folder, and revision {revision} is of the Hub. Leave the revision out.")
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: no such folder. Give the folder of a {what} or a Hub id (owner/name).")
    return None


def check_format(card: Any, what: str, newest: int, where: str, make_one: str) -> None:
    """Refuse a card that is not a JSON object, or that a newer version of KA2L has written.

    Args:
        card: the content of the card's file.
        what: "probe" or "decoder", for messages.
        newest: the highest format_version that this version reads.
        where: the card's file, for messages.
        make_one: a sentence that says how to make what the folder should contain.

    Raises:
        ModelError: the card is not a JSON object, or its format_version is not known to this version.
    """
    if not isinstance(card, dict):
        raise ModelError(f"{where}: a {what}'s card is a JSON object, not {type(card).__name__}. {make_one}")
    version = card.get("format_version")
    if not isinstance(version, int) or version > newest:
        raise ModelError(
            f"{where}: format_version is {version!r}, and KA2L {__version__} reads {newest}. "
            + (f"Install KA2L {card.get('ka2l', '')} or newer." if isinstance(version, int) else make_one)
        )


def check_files(folder: Path, names: Sequence[str], what: str, make_one: str) -> None:
    """Refuse a folder that lacks one of these files; a run's folder is refused with a hint at the right one in it.

    Args:
        folder: an existing folder.
        names: files that it must have, the card first.
        what: "probe" or "decoder", for messages; also the name of the folder in a run.
        make_one: a sentence that says how to make what the folder should contain.

    Raises:
        ModelError: a file is missing.
    """
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        inside = folder / what
        hint = f"Give {inside}." if (inside / names[0]).is_file() else make_one
        raise ModelError(f"{folder}: this folder holds no {what} ({' and '.join(missing)} missing). {hint}")


def read_card(file: Path, what: str) -> Any:
    """The content of a card's file; see also `check_format`.

    Raises:
        ModelError: it is not JSON.
    """
    try:
        return atomic_files.read_json(file)
    except ValueError as error:
        raise ModelError(f"{file}: not valid JSON ({error}). Fetch or save the {what} again.") from error


def read_weights(file: Path, what: str) -> "dict[str, NDArray[Any]]":
    """The arrays of a safetensors file by name.

    Raises:
        ModelError: it is not a safetensors file.
    """
    from safetensors import SafetensorError

    try:
        arrays, _ = atomic_files.read_tensors(file)
    except SafetensorError as error:
        raise ModelError(f"{file}: not a safetensors file ({error}). Fetch or save the {what} again.") from error
    return arrays


def download(
    repo_id: str,
    names: Sequence[str],
    revision: str | None = None,
    *,
    token: str | None = None,
    endpoint: str | None = None,
) -> list[Path]:
    """Fetch these files, all from one commit, into the cache of the Hub's client, which also serves them offline.

    Args:
        repo_id: owner/name.
        names: files, relative to the repository's root.
        revision: branch, tag or commit; none: the default branch.
        token: of the Hub; none: the one the Hub's client is logged in with.
        endpoint: of the Hub, if it is not the public one.

    Returns:
        the paths of the files in the cache, in the order of `names`.

    Raises:
        ModelError: the repository, revision or a file does not exist, this token may not read it, or the Hub cannot be
            reached.
    """
    from huggingface_hub import hf_hub_download

    where = repo_id if revision is None else f"{repo_id} at revision {revision}"
    found: list[Path] = []
    with _hub_errors(f"{where}: cannot load {', '.join(names)}", token):
        for name in names:
            # The path of the first file, snapshots/<commit>/<name>, names the commit. The other files are taken from
            # the same commit, so that a push in between cannot mix two versions.
            commit = found[0].parent.name if found else revision
            path = hf_hub_download(
                repo_id, name, revision=commit, token=token, endpoint=endpoint,
                library_name="ka2l", library_version=__version__,
            )  # fmt: skip
            found.append(Path(path))
    return found


def push_folder(
    write: Callable[[Path], Sequence[str]],
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Write files into a temporary folder and upload them in one commit; returns the repository's address.

    Args:
        write: writes into the folder it is given, and returns the names of the files to upload, relative to it.
        repo_id: as for `upload`, like all other arguments.
        message: first line of the commit.
        token: one that may write.
        private: of a new repository.
        revision: a branch.
        endpoint: of the Hub, if it is not the public one.

    Raises:
        ModelError: the Hub refuses or cannot be reached; and whatever `write` raises.
    """
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        return upload(
            [root / name for name in write(root)],
            repo_id,
            message=message,
            token=token,
            private=private,
            revision=revision,
            endpoint=endpoint,
            root=root,
        )


def upload(
    paths: Sequence[Path],
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    root: Path,
) -> str:
    """Put these files into a repository in one commit; returns its address. A missing repository is created.

    Args:
        paths: the files.
        repo_id: owner/name, or a name under the account of the token.
        message: first line of the commit.
        token: one that may write; none: the one the Hub's client is logged in with.
        private: of a new repository; none: the account's default.
        revision: a branch, created if it is missing; none: the default branch.
        endpoint: of the Hub, if it is not the public one.
        root: files keep their paths relative to this folder.

    Raises:
        ModelError: the Hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _hub_errors(f"{repo_id}: cannot push {', '.join(path.name for path in paths)}", token):
        api = HfApi(endpoint=endpoint, token=token, library_name="ka2l", library_version=__version__)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(address.repo_id, branch=revision, exist_ok=True)
        # Not upload_folder: it may split the upload into several commits, and a reader could get half of the files.
        places = [path.relative_to(root).as_posix() for path in paths]
        parts = [CommitOperationAdd(place, str(path)) for place, path in zip(places, paths, strict=True)]
        api.create_commit(address.repo_id, parts, commit_message=message, revision=revision)
    return str(address) if revision is None else f"{address}/tree/{revision}"


@contextmanager
def _hub_errors(action: str, token: str | None) -> Iterator[None]:
    """Turn errors of the Hub's client inside into a ModelError about `action`, without any token in it."""
    import httpx2
    from huggingface_hub import errors, get_token

    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        if atomic_files.is_disk_full(error):
            raise
        cause: BaseException = error
        # If a file is neither on the Hub nor in the cache, the cause says why the client resorted to its cache.
        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            cause = error.__cause__
        original = " ".join(str(cause).split())[:300]
        for secret in filter(None, (token, get_token())):
            original = original.replace(secret, "***")
        raise ModelError(f"{action}: {_advice(cause)} (The Hub's client: {original})") from None


def _advice(error: BaseException) -> str:
    """What the error of the Hub's client means, and what to do about it."""
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return "this is not a Hub id. Give owner/name."
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision."
    if isinstance(error, errors.GatedRepoError):
        return "its owner must grant you access first: ask for it on the repository's page on the Hub."
    if isinstance(error, errors.RepositoryNotFoundError):
        return "there is no such repository on the Hub, or it is private: run `hf auth login`, or give a token."
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository does not have this file."
    if isinstance(error, errors.LocalEntryNotFoundError | httpx2.TransportError | ConnectionError):
        return "the Hub cannot be reached, and it is not in the cache here. Go online, or give a folder."
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return "the Hub wants a token that may do this: run `hf auth login`, or give one."
    return "the Hub's client failed."
