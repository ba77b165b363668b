"""Load models of every supported layout from the Hugging Face hub, through its cache."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hooked_whisper._support.files import LOCAL_HINT, reason
from hooked_whisper.errors import CheckpointError, MissingWeightsError, UnknownModelError
from hooked_whisper.loading.checkpoint import Checkpoint
from hooked_whisper.loading.formats import load_path
from hooked_whisper.loading.huggingface import CONFIG, WEIGHT_FILES, shards
from hooked_whisper.loading.vocabulary import GENERATION_CONFIG, TOKENIZER_FILES, vocabulary_of

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
HUB_FILE = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*)/(ggml-[\w.-]+\.bin)")  # ggerganov/whisper.cpp/ggml-tiny.en.bin
_TIMEOUT = 5.0  # seconds
# of transformers, CTranslate2 (faster-whisper) and MLX; the first that a repository has is used
_ALL_WEIGHT_FILES = (*WEIGHT_FILES, "model.bin", "weights.safetensors", "weights.npz")


def load_from_hub(
    repo_id: str,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> Checkpoint:
    """Load a model from the Hugging Face hub through its cache, downloading only the files that are required.

    A repository may have the layout of transformers, of CTranslate2 (``Systran/faster-whisper-tiny.en``) or of MLX
    (``mlx-community/whisper-tiny.en-mlx``). For a whisper.cpp repository, add the file name
    (``ggerganov/whisper.cpp/ggml-tiny.en.bin``). ``HF_HUB_OFFLINE``, ``HF_HOME``, ``HF_ENDPOINT`` and stored tokens
    work as usual. Without a connection, the cached files are used.

    Raises:
        UnknownModelError: the hub has no such repository.
        MissingWeightsError: the model is not cached and cannot be downloaded.
        CheckpointError: the repository has no weights in a supported format, or they are damaged.
    """
    repo, file = _split(repo_id)
    problem = "downloading was not allowed"
    if not local_files_only:
        try:
            return download_from_hub(repo_id, revision=revision, cache_dir=cache_dir)
        except ConnectionError as error:
            problem = reason(error)
    cached = cached_model(repo, file, revision=revision, cache_dir=cache_dir)
    if cached is None:
        revision_note = f" at revision {revision!r}" if revision else ""
        raise MissingWeightsError(
            f"model {repo_id!r}{revision_note} is not in the Hugging Face cache and cannot be downloaded ({problem}). "
            f"{LOCAL_HINT}"
        ) from None
    return _loaded(cached, repo_id, "Hugging Face cache")


def download_from_hub(repo_id: str, *, revision: str | None = None, cache_dir: str | Path | None = None) -> Checkpoint:
    """Load the current version of a model from the hub, without downloading cached files again.

    Raises:
        ConnectionError: the hub cannot be reached within a few seconds.
        UnknownModelError, CheckpointError: as for :func:`load_from_hub`.
    """
    repo, file = _split(repo_id)
    path = _download(repo, file, revision, _files(repo, revision), cache_dir)
    return _loaded(path, repo_id, "Hugging Face hub")


def cached_model(
    repo_id: str, file: str | None = None, *, revision: str | None = None, cache_dir: str | Path | None = None
) -> Path | None:
    """Return the folder of a model in the Hugging Face cache, or the path of one ``file`` in it; None if it is absent.

    A folder without weights, such as one with only a tokenizer, counts as absent.
    """
    try:
        path = hf_hub_download(repo_id, file or CONFIG, revision=revision, cache_dir=cache_dir, local_files_only=True)
    except (OSError, EntryNotFoundError, HFValidationError):
        return None
    if file:
        return Path(path)
    folder = Path(path).parent
    return folder if any((folder / name).is_file() for name in _ALL_WEIGHT_FILES) else None


def load_cached(repo_id: str, *, cache_dir: str | Path | None = None) -> Checkpoint | None:
    """Load a model from the Hugging Face cache; return None if it is not cached."""
    folder = cached_model(repo_id, cache_dir=cache_dir)
    return None if folder is None else _loaded(folder, repo_id, "Hugging Face cache")


def _split(repo_id: str) -> tuple[str, str | None]:
    """Split an id into the repository and the file, if it names one."""
    match = HUB_FILE.fullmatch(repo_id)
    return (match[1], match[2]) if match else (repo_id, None)


def _loaded(path: Path, repo_id: str, place: str) -> Checkpoint:
    checkpoint = load_path(path, name=repo_id)
    return replace(checkpoint, metadata={**checkpoint.metadata, "source": f"{place} ({repo_id})"})


def _files(repo_id: str, revision: str | None) -> set[str]:
    """Return the names of the files in a repository on the hub.

    This single request comes first because a download without a connection retries for half a minute.

    Raises:
        ConnectionError: the hub cannot be reached.
        UnknownModelError: the hub has no such repository, or the id is invalid.
        CheckpointError: the repository is gated, or has no such revision.
    """
    try:
        info = HfApi().model_info(repo_id, revision=revision, timeout=_TIMEOUT)
    except HFValidationError as error:
        raise UnknownModelError(f"{repo_id!r} is not a Hugging Face id: {reason(error)}") from None
    except GatedRepoError:
        raise CheckpointError(f"model {repo_id!r} is gated: accept its terms on the hub and log in") from None
    except RevisionNotFoundError:
        raise CheckpointError(f"model {repo_id!r} has no revision {revision!r} on the Hugging Face hub") from None
    except RepositoryNotFoundError:
        raise UnknownModelError(
            f"the Hugging Face hub has no model {repo_id!r} (or it is private), and there is no such folder here. "
            f"{LOCAL_HINT}"
        ) from None
    except Exception as error:  # the client raises its own errors, the HTTP library's and the system's
        raise ConnectionError(reason(error)) from None
    return {file.rfilename for file in info.siblings or ()}


def _download(
    repo_id: str, file: str | None, revision: str | None, listed: set[str], cache_dir: str | Path | None
) -> Path:
    """Download the required ones of the ``listed`` files; return their folder in the cache, or the path of ``file``."""

    def fetch(name: str, commit: str | None) -> Path:
        try:
            return Path(hf_hub_download(repo_id, name, revision=commit, cache_dir=cache_dir))
        except Exception as error:  # as in _files
            raise CheckpointError(f"{name} of model {repo_id!r} cannot be downloaded ({reason(error)})") from None

    if file is not None:
        if file not in listed:
            known = ", ".join(sorted(name for name in listed if name.endswith(".bin"))) or "none"
            raise UnknownModelError(f"repository {repo_id!r} has no file {file!r}; its .bin files: {known}")
        return fetch(file, revision)
    weights = next((name for name in _ALL_WEIGHT_FILES if name in listed), None)
    if weights is None or CONFIG not in listed:
        hint = next((f"; name one of its files, as in '{repo_id}/{n}'" for n in sorted(listed) if "ggml-" in n), "")
        raise CheckpointError(
            f"model {repo_id!r} of the Hugging Face hub lacks {CONFIG} or weights ({' or '.join(_ALL_WEIGHT_FILES)})"
            f"{hint}"
        )
    folder = fetch(CONFIG, revision).parent
    commit = folder.name  # fetch all files from the same commit, even if the branch moves
    if GENERATION_CONFIG in listed:
        fetch(GENERATION_CONFIG, commit)
    for name in TOKENIZER_FILES:
        if name in listed and vocabulary_of(folder) is None:
            fetch(name, commit)
    path = fetch(weights, commit)
    for shard in shards(path) if path.suffix == ".json" else ():
        fetch(shard, commit)
    return folder
