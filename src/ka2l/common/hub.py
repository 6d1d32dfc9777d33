"""The Hub: files of one commit down, files in one commit up, and its errors in words that say what to do; and what comes
from there or from a folder: where it lies, and whether this version knows it.

Tokens come from the caller or from the login of the Hub's own client, and never reach a file, a log or an error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ka2l.common import atomic_files
from ka2l.common.version import __version__
from ka2l.errors import ModelError


def local_folder(name: str, revision: str | None, what: str) -> Path | None:
    """The folder of this name, or None where it is a Hub id.

    Args:
        name: a folder, else a Hub id.
        revision: of the Hub; a folder has none.
        what: what is looked for, for messages.

    Raises:
        ModelError: a folder with a revision, or a path that is not there.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"{name} is a folder, and revision {revision} is of the Hub. Leave the revision out."
            )
        return folder
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelError(f"{name}: no such folder. Give the folder of a {what} or a Hub id (owner/name).")
    return None


def check_format(card: Any, what: str, newest: int, where: str, make_one: str) -> None:
    """Refuse a card that is none, or that a newer version has written.

    Raises:
        ModelError: the card is no JSON object, or its format_version is not known here.
    """
    if not isinstance(card, dict):
        raise ModelError(f"{where}: a {what}'s card is a JSON object, not {type(card).__name__}. {make_one}")
    version = card.get("format_version")
    if not isinstance(version, int) or version > newest:
        raise ModelError(
            f"{where}: format_version is {version!r}, and KA2L {__version__} reads {newest}. "
            + (f"Install KA2L {card.get('ka2l', '')} or newer." if isinstance(version, int) else make_one)
        )


def download(
    repo_id: str,
    names: Sequence[str],
    revision: str | None = None,
    *,
    token: str | None = None,
    endpoint: str | None = None,
) -> list[Path]:
    """These files, all of one commit, in the cache of the Hub's client (where they are found offline, too).

    Raises:
        ModelError: the repository, revision or a file does not exist, is not open to this token, or the Hub is away.
    """
    from huggingface_hub import hf_hub_download

    where = repo_id if revision is None else f"{repo_id} at revision {revision}"
    found: list[Path] = []
    with _told(f"{where}: cannot load {', '.join(names)}", token):
        for name in names:
            # The first file says which commit it is, snapshots/<commit>/<name>: a push in between must not mix two.
            commit = found[0].parent.name if found else revision
            path = hf_hub_download(
                repo_id, name, revision=commit, token=token, endpoint=endpoint,
                library_name="ka2l", library_version=__version__,
            )  # fmt: skip
            found.append(Path(path))
    return found


def upload(
    paths: Sequence[Path],
    repo_id: str,
    *,
    message: str,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    endpoint: str | None = None,
    root: Path | None = None,
) -> str:
    """Put these files in a repository, made where it is missing, in one commit; returns its address.

    They lie there as they lie under `root`; without one, all at the top.

    Raises:
        ModelError: the Hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    with _told(f"{repo_id}: cannot push {', '.join(path.name for path in paths)}", token):
        api = HfApi(endpoint=endpoint, token=token, library_name="ka2l", library_version=__version__)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        if revision is not None:
            api.create_branch(address.repo_id, branch=revision, exist_ok=True)
        # Not upload_folder: it may cut its work into several commits, and a reader could meet half of it.
        places = [path.relative_to(root).as_posix() if root else path.name for path in paths]
        parts = [CommitOperationAdd(place, str(path)) for place, path in zip(places, paths, strict=True)]
        api.create_commit(address.repo_id, parts, commit_message=message, revision=revision)
    return str(address) if revision is None else f"{address}/tree/{revision}"


@contextmanager
def _told(what: str, token: str | None) -> Iterator[None]:
    import httpx2
    from huggingface_hub import errors, get_token

    try:
        yield
    except (httpx2.HTTPError, OSError, ValueError, RuntimeError) as error:
        if atomic_files.is_disk_full(error):
            raise
        cause: BaseException = error
        if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ is not None:
            cause = error.__cause__  # why the client looked in its cache
        said = " ".join(str(cause).split())[:300]
        for secret in filter(None, (token, get_token())):  # whatever the server answered
            said = said.replace(secret, "***")
        raise ModelError(f"{what}: {_advice(cause)} (The Hub's client: {said})") from None


def _advice(error: BaseException) -> str:
    import httpx2
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return "this is not a Hub id. Give owner/name."
    if isinstance(error, errors.RevisionNotFoundError):
        return "the repository has no such revision."
    if isinstance(error, errors.GatedRepoError):
        return "its owner must let you in first: ask on its page on the Hub."
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            "there is no such repository on the Hub, or it is private: run `hf auth login`, or give a token."
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return "the repository does not have this file."
    if isinstance(error, errors.LocalEntryNotFoundError | httpx2.TransportError | ConnectionError):
        return "the Hub cannot be reached, and it is not in the cache here. Go online, or give a folder."
    if isinstance(error, errors.HfHubHTTPError) and error.response.status_code in (401, 403):
        return "the Hub wants a token that may do this: run `hf auth login`, or give one."
    return "the Hub's client failed."
