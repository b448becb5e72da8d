"""Models from and to the hub: the only code of the package that touches the network.

Everything goes through ``huggingface_hub``, so that HF_ENDPOINT, HF_HUB_OFFLINE, HF_HOME, HF_TOKEN and proxies mean
what they mean everywhere; no URL is built here. Files are asked for one by one, because ``snapshot_download`` lists the
repository first, while the config of a model names its files. What is cached is looked up on disk first: the client
asks the network even for a cached file (it identifies its user in the headers it prepares).
"""

from __future__ import annotations

import errno
import inspect
import os
import re
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoperi._version import __version__
from autoperi.data.files import publish
from autoperi.errors import HubError, WeightsError, one_line
from autoperi.hub.bundle import CARD_FILE, CONFIG_FILE, Bundle, files_of, load_bundle, read_config, save_bundle, verify
from autoperi.hub.store import resolve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DISK_ERRORS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.ENOTDIR, errno.EDQUOT}
_TRANSPORTS = {"httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3"}
"""Packages whose exceptions come from the connection."""

PathLike = str | os.PathLike[str]


def load_pretrained(
    name_or_path: PathLike = "autoperi-base",
    *,
    revision: str | None = None,
    cache_dir: PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    verify: bool = True,
) -> Bundle:
    """Read a model by bundled name, directory or hub repository ``owner/name``.

    Args:
        name_or_path: see :func:`autoperi.hub.store.resolve`.
        revision: branch, tag or commit of a hub repository; a full commit hash is never looked up again.
        cache_dir: where downloads are kept; the cache of huggingface_hub where None.
        token: access token; True or None for the one of HF_TOKEN or of the login, False for none.
        local_files_only: never touch the network.
        verify: compare the sha256 of every file with the config.

    Raises:
        HubError: the repository, revision or file cannot be had; the message says what to do.
        WeightsError: an unknown name, or a directory that is no sound model.
    """
    path, commit = _located(name_or_path, revision, cache_dir=cache_dir, token=token, local_files_only=local_files_only)
    return load_bundle(path, verify=verify, revision=commit)


def fetch(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """Bring a hub repository into the cache and return its directory, whose name is the commit hash.

    ``config.json`` is read first and fixes the commit; then exactly the files it names follow, from that commit, so
    that a push in between cannot mix two versions. With a commit hash as ``revision`` a cached model causes no network
    call; with a branch it causes one, and none answering, the cached state of the branch is used.

    Raises:
        HubError: see :func:`load_pretrained`.
        WeightsError: the repository is not an AutoPeri model.
    """
    repository = _Repository(repo_id, revision, cache_dir, token, local_files_only, force_download)
    directory = repository.file(CONFIG_FILE, revision=revision or "main").parent
    for name in files_of(read_config(directory)):
        repository.file(name, revision=directory.name)
    with suppress(HubError):  # A model without a card is still a model.
        repository.file(CARD_FILE, revision=directory.name)
    return directory


def download_to(
    name_or_path: PathLike,
    directory: PathLike,
    *,
    revision: str | None = None,
    cache_dir: PathLike | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force: bool = False,
) -> Path:
    """Copy a model, wherever it is, into ``directory``, to be carried to a machine without network; checked after the
    copy.

    ``force`` overwrites another model there and downloads anew what the cache holds.

    Raises:
        HubError: see :func:`load_pretrained`.
        WeightsError: ``directory`` is not empty (without ``force``) or cannot be written, or the model is damaged.
    """
    options = {"cache_dir": cache_dir, "token": token, "local_files_only": local_files_only}
    source, _ = _located(name_or_path, revision, **options, force_download=force)
    target = Path(directory).expanduser()
    load_bundle(source)
    files = _contents(source)
    if target.is_dir() and any(target.iterdir()) and not force:
        if all((target / name).is_file() and (target / name).read_bytes() == data for name, data in files.items()):
            return target
        raise WeightsError(
            f"'{target}' is not empty; choose a new directory, or overwrite it with force=True (--force)"
        )
    publish(files, target, error=WeightsError)
    bad = [row.file for row in verify(target) if not row.ok]
    if bad:
        raise WeightsError(f"'{target / bad[0]}' is damaged after copying; check the disk and copy again")
    return target


def push_bundle(
    bundle: Bundle, repo_id: str, *, token: str | bool | None = None, private: bool = False, revision: str | None = None
) -> str:
    """Upload a model, see :func:`push`."""
    with tempfile.TemporaryDirectory() as directory:
        target = Path(directory) / bundle.name
        save_bundle(bundle, target)
        return push(target, repo_id, token=token, private=private, revision=revision)


def push(
    directory: PathLike,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool = False,
    revision: str | None = None,
) -> str:
    """Upload a model directory in one commit, creating the repository (and the branch ``revision``) where needed.

    Returns:
        The URL of the commit.

    Raises:
        HubError: no token, no right to write, or the hub cannot be reached.
        WeightsError: the directory is not a sound model.
    """
    path = Path(directory).expanduser()
    name = load_bundle(path).name
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(token=token, library_name="autoperi", library_version=__version__)
    try:
        with _silent(api.create_commit):
            api.create_repo(repo_id, private=private, exist_ok=True)
            if revision not in (None, "main"):
                api.create_branch(repo_id, branch=str(revision), exist_ok=True)
            # create_commit and not upload_folder: one commit, so that no reader sees half a model; bytes, so that no
            # bar is drawn.
            operations = [CommitOperationAdd(file, data) for file, data in _contents(path).items()]
            message = f"Upload {name} with AutoPeri {__version__}"
            return str(api.create_commit(repo_id, operations, commit_message=message, revision=revision).commit_url)
    except Exception as error:
        # The client wraps what stops the transfer of one file into a RuntimeError.
        cause = error.__cause__ if type(error) is RuntimeError and error.__cause__ is not None else error
        fallback = f"upload to hub repository '{repo_id}' failed ({one_line(error)}); correct this or try again"
        raise _Repository(repo_id, revision, token=token).explain(cause) or HubError(fallback) from error


def _located(name_or_path: PathLike, revision: str | None, **options: Any) -> tuple[Path, str | None]:
    """The directory of a model, fetched where it is on the hub, and its commit there."""
    found = resolve(name_or_path)
    if found.path is None:
        path = fetch(found.name, revision=revision, **options)
        return path, path.name
    if revision is not None:
        raise WeightsError(
            f"revision={revision!r} applies to hub repositories only and {found.name!r} is a {found.kind} model; "
            "leave it out"
        )
    return found.path, None


def _contents(directory: Path) -> dict[str, bytes]:
    """The files that make up a model, the config last."""
    names = [*files_of(read_config(directory)), CARD_FILE, CONFIG_FILE]
    return {name: (directory / name).read_bytes() for name in names if (directory / name).is_file()}


@dataclass(frozen=True)
class _Repository:
    """One repository as asked for: gets single files and puts the client's errors into one line."""

    repo_id: str
    revision: str | None = None
    cache_dir: PathLike | None = None
    token: str | bool | None = None
    local_files_only: bool = False
    force_download: bool = False

    def file(self, name: str, *, revision: str) -> Path:
        """The cached path of one file, downloaded where needed."""
        from huggingface_hub import constants, hf_hub_download

        offline = self.local_files_only or constants.HF_HUB_OFFLINE
        pinned = _COMMIT.fullmatch(revision) and not self.force_download
        if (offline or pinned) and (cached := self._cached(name, revision)):
            return cached
        if offline:
            why = "local_files_only=True" if self.local_files_only else "HF_HUB_OFFLINE is set"
            raise HubError(
                f"{name} of '{self.repo_id}'{_at(revision)} is not in the cache '{self._cache}' and {why}; "
                f"{self._recipe}"
            )
        try:
            with _silent(hf_hub_download) as options:
                path = hf_hub_download(
                    self.repo_id,
                    name,
                    revision=revision,
                    cache_dir=None if self.cache_dir is None else self._cache,
                    token=self.token,
                    force_download=self.force_download,
                    library_name="autoperi",
                    library_version=__version__,
                    **options,
                )
            return Path(path)
        except Exception as error:
            if not self.force_download and _is_transport(error) and (cached := self._cached(name, revision)):
                return cached
            explained = self.explain(error, name=name)
            if explained is None:
                raise
            raise explained from error

    def explain(self, error: BaseException | None, *, name: str | None = None) -> WeightsError | None:
        """``error`` of the client in one line that says what to do, or None where it is not one of the client's.

        Args:
            error: what the client raised.
            name: the file that was to be read, None where the model was to be written.
        """
        if error is None:
            return None
        from huggingface_hub import constants, get_token
        from huggingface_hub import errors as hub

        def is_a(*kinds: str) -> bool:
            return isinstance(error, tuple(getattr(hub, kind) for kind in kinds))

        what, said = f"hub repository '{self.repo_id}'", one_line(error)
        status = getattr(getattr(error, "response", None), "status_code", None)
        if is_a("LocalEntryNotFoundError") and (explained := self.explain(error.__cause__, name=name)):
            return explained
        if is_a("GatedRepoError"):
            text = f"{what} is gated; accept its terms on its page, then pass token= or set HF_TOKEN"
        elif is_a("RepositoryNotFoundError") or (status == 401 and name is not None):
            known = isinstance(self.token, str) or (self.token is not False and get_token() is not None)
            text = f"{what} does not exist" + (
                ", or your token may not read it; check the name and the rights of the token"
                if known
                else " or is private; check the name, or pass token= (or set HF_TOKEN) if it is private"
            )
        elif is_a("RevisionNotFoundError"):
            remedy = "give a branch, tag or full commit hash, or leave revision out"
            text = f"{what} has no revision {self.revision!r}; {remedy}"
        elif is_a("EntryNotFoundError") and not is_a("LocalEntryNotFoundError"):
            remedy = "it is not an AutoPeri model" if name == CONFIG_FILE else "ask its owner to push the model again"
            text = (
                f"{what}{_at(self.revision)} holds no {name}; {remedy}, or give another revision; "
                "`autoperi models list` shows the models that need no hub"
            )
        elif is_a("LocalTokenNotFoundError") or (name is None and status in (401, 403)):
            text = f"no right to write to {what}; pass token= (or set HF_TOKEN) of an account with write access"
        elif is_a("HFValidationError"):
            text = f"{self.repo_id!r} is not a repository name ({said}); give 'owner/name'"
        elif is_a("OfflineModeIsEnabled"):
            text = f"{what} needs the network but HF_HUB_OFFLINE is set; {self._recipe if name else 'unset it to push'}"
        elif is_a("FileMetadataError"):
            text = f"the answer for {what} is not that of a hub ({said}); check HF_ENDPOINT and the proxy"
        elif status is not None:
            remedy = "try again later" if status in (408, 429) or status >= 500 else "check the rights of your token"
            text = f"the hub answered {status} for {what} ({said}); {remedy}"
        elif is_a("LocalEntryNotFoundError") or _is_transport(error):
            text = f"cannot reach the hub at {constants.ENDPOINT} for '{self.repo_id}' ({said}); {self._recipe}"
        elif _is_disk(error):
            place = "pass cache_dir= or set HF_HOME to a place you may write to"
            return WeightsError(f"cannot write the cache '{self._cache}' ({said}); {place}")
        else:
            return None
        return HubError(text)

    def _cached(self, name: str, revision: str) -> Path | None:
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(self.repo_id, name, cache_dir=self._cache, revision=revision)
        return Path(path) if isinstance(path, str) else None

    @property
    def _cache(self) -> str:
        from huggingface_hub import constants

        return str(Path(constants.HF_HUB_CACHE if self.cache_dir is None else self.cache_dir).expanduser())

    @property
    def _recipe(self) -> str:
        """How to get the model onto a machine without network, word by word."""
        revision = f" --revision {self.revision}" if self.revision else ""
        return (
            f"on a machine with network run `autoperi models download {self.repo_id}{revision} --to DIR`, copy DIR "
            "here and use from_pretrained('DIR')"
        )


def _at(revision: str | None) -> str:
    return "" if revision in (None, "main") else f" at revision {revision!r}"


def _is_disk(error: BaseException) -> bool:
    """Whether ``error`` comes from the disk; those of connections name no file."""
    return isinstance(error, OSError) and (error.errno in _DISK_ERRORS or error.filename is not None)


def _is_transport(error: BaseException) -> bool:
    """Whether ``error`` comes from the connection and not from an answer of the hub or from the disk."""
    if _is_disk(error) or getattr(error, "response", None) is not None:
        return False
    return isinstance(error, OSError) or any(
        kind.__module__.split(".")[0] in _TRANSPORTS for kind in type(error).__mro__
    )


@contextmanager
def _silent(function: Callable[..., object]) -> Iterator[dict[str, Any]]:
    """Keep the client from drawing progress bars; yields what to pass to ``function`` to that end.

    HF_HUB_DISABLE_PROGRESS_BARS, where set, has the last word. The switch of the client is process-wide and therefore
    used only where a call takes no class of bars: for uploads and in clients before 1.0.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars, tqdm

    class NoBar(tqdm):  # type: ignore[misc, unused-ignore]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{**kwargs, "disable": True})

    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not None or are_progress_bars_disabled():
        yield {}
    elif "tqdm_class" in inspect.signature(function).parameters:
        yield {"tqdm_class": NoBar}
    else:
        disable_progress_bars()
        try:
            yield {}
        finally:
            enable_progress_bars()
