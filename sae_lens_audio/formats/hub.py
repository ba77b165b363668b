"""Download from and upload to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hooked_whisper._support.files import reason
from hooked_whisper.errors import CheckpointError
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.formats.files import LoadedSAE
from sae_lens_audio.formats.load import FILES, load_sae
from sae_lens_audio.formats.metadata import Metadata
from sae_lens_audio.formats.saelens import save_sae


def from_pretrained(
    repo_id: str,
    folder: str = "",
    revision: str | None = None,
    scaling_factor: float | int | None = None,
) -> LoadedSAE:
    """Load the SAE in ``folder`` of a repository, through the hub's cache. Other folders are not downloaded.

    Raises:
        CheckpointError: the download fails, or the folder cannot be read.
    """
    import huggingface_hub  # an optional dependency

    prefix = folder.strip("/") + "/" if folder.strip("/") else ""
    try:
        patterns = [prefix + name for name in FILES]
        root = huggingface_hub.snapshot_download(repo_id, revision=revision, allow_patterns=patterns)
    except Exception as error:  # the client raises its own errors, and those of the HTTP library and the system
        raise CheckpointError(
            f"{repo_id!r} cannot be fetched from the hub ({reason(error)}): check its name, or give a local folder to "
            "load_sae"
        ) from None
    return load_sae(Path(root) / prefix, scaling_factor)


def push_to_hub(
    sae: SAE | NormalizedSAE,
    repo_id: str,
    folder: str = "",
    metadata: Metadata | None = None,
    log_sparsity: Float[Tensor, "d_sae"] | None = None,
    private: bool = True,
) -> str:
    """Upload an SAE to ``folder`` of a repository, created if needed. Return the URL of the commit.

    Raises:
        CheckpointError: the weights cannot be saved, or the hub refuses; the message has the reason.
    """
    import huggingface_hub

    with tempfile.TemporaryDirectory() as temporary:
        save_sae(sae, temporary, metadata, log_sparsity)
        try:
            api = huggingface_hub.HfApi()
            api.create_repo(repo_id, private=private, exist_ok=True)
            commit = api.upload_folder(repo_id=repo_id, folder_path=temporary, path_in_repo=folder.strip("/") or ".")
        except Exception as error:  # see from_pretrained
            raise CheckpointError(
                f"{repo_id!r} could not be uploaded to the hub ({reason(error)}): log in, and check the name"
            ) from None
    return str(commit.commit_url)
