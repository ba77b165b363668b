"""Load SAEs from the Hugging Face hub."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from hooked_whisper._support.files import reason
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.formats.files import LoadedSAE
from sae_lens_audio.formats.load import FILES, load_sae

SAE_WEIGHTS = "*sae*.safetensors"


def from_pretrained(
    repo_id: str,
    folder: str = "",
    revision: str | None = None,
    scaling_factor: float | int | None = None,
) -> LoadedSAE:
    """Load the SAE in ``folder`` of a repository, through the hub's cache. Other folders are not downloaded.

    Raises:
        CheckpointError: the download fails, the repository has no such folder (the message lists those with an SAE), or
            the folder cannot be read.
    """
    import huggingface_hub  # takes long to import

    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    try:
        patterns = [prefix + name for name in FILES]
        root = huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns)
    except Exception as error:  # the client raises its own errors, and those of the HTTP library and the system
        raise CheckpointError(
            f"{repo_id!r} cannot be fetched from the hub ({reason(error)}): check its name, or give a local folder to "
            "load_sae"
        ) from None
    if not (Path(root) / prefix).is_dir() or not any((Path(root) / prefix).iterdir()):
        raise CheckpointError(
            f"repository {repo_id!r} has no folder {folder!r} with an SAE{_folders_of(repo_id, revision)}"
        )
    return load_sae(Path(root) / prefix, scaling_factor)


def _folders_of(repo_id: str, revision: str | None) -> str:
    """Return a hint with the folders of a repository that have an SAE; empty if they are not known."""
    import huggingface_hub

    try:
        names = huggingface_hub.HfApi().list_repo_files(repo_id, revision=revision)
    except Exception:  # as in from_pretrained
        return ""
    folders = sorted(
        {str(PurePosixPath(name).parent) for name in names if fnmatch(PurePosixPath(name).name, SAE_WEIGHTS)}
    )
    return f"; its SAEs are in {', '.join(folders[:12])}{', ...' if len(folders) > 12 else ''}" if folders else ""
