"""Upload SAEs to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from hooked_whisper.loading.hub_upload import CARD, HubUpload, check_repo_id, folder_files, has_file, upload
from sae_lens_audio.architectures import SAE, NormalizedSAE
from sae_lens_audio.formats.card import collection_card, sae_card
from sae_lens_audio.formats.metadata import Metadata
from sae_lens_audio.formats.saelens import save_sae


def push_to_hub(
    sae: SAE | NormalizedSAE,
    repo_id: str,
    folder: str = "",
    metadata: Metadata | None = None,
    log_sparsity: Float[Tensor, "d_sae"] | None = None,
    private: bool = True,
    *,
    license: str | None = None,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload an SAE with sae_lens_audio",
    dry_run: bool = False,
) -> HubUpload:
    """Upload an SAE with a card to ``folder`` of a repository, in one commit.

    Args:
        repo_id: ``"owner/name"``; created if it does not exist, and private unless ``private=False``.
        folder: of the SAE, for repositories with several. A repository without a card gets one.
        metadata: default: ``sae.metadata``. The card has its training recipe and held-out scores.
        license: of the weights, such as ``"mit"``, for the card.
        token: of the hub; default: that of ``hf auth login`` or ``HF_TOKEN``.
        dry_run: return the list of files without contacting the hub.

    Raises:
        ArgumentError: an invalid ``repo_id``, or metadata that looks like a secret.
        CheckpointError: the weights cannot be saved.
        UploadError: the hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    folder, metadata = folder.strip("/"), metadata or sae.metadata
    with tempfile.TemporaryDirectory() as temporary:
        save_sae(sae, temporary, metadata, log_sparsity)
        files: dict[str, Path | bytes] = {**folder_files(temporary, folder)}
        saelens = sae.inner.to_saelens().architecture
        files[f"{folder}/{CARD}" if folder else CARD] = sae_card(sae, metadata, repo_id, folder, license, saelens)
        if folder and (dry_run or not has_file(repo_id, CARD, token=token)):
            files[CARD] = collection_card(repo_id, license)
        return upload(
            files, repo_id, private=private, token=token, revision=revision, commit_message=commit_message,
            dry_run=dry_run,
        )  # fmt: skip
