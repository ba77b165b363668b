"""Upload models and folders of pages to the Hugging Face hub."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from hooked_whisper.errors import ArgumentError, check_option
from hooked_whisper.loading.hub_cards import card, model_card, package_version
from hooked_whisper.loading.hub_upload import CARD, HubUpload, check_repo_id, folder_files, upload
from hooked_whisper.loading.huggingface_save import save_huggingface
from hooked_whisper.model import WhisperCore

SiteKind = Literal["space", "dataset"]
INDEX = "index.html"


def push_model(
    model: WhisperCore,
    repo_id: str,
    *,
    license: str | None = None,
    metadata: Mapping[str, str] | None = None,
    dtype: torch.dtype | None = None,
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload a Whisper model with hooked_whisper",
    dry_run: bool = False,
) -> HubUpload:
    """Upload a model in transformers' format with a card.

    Args:
        repo_id: ``"owner/name"``; created if it does not exist, and private unless ``private=False``.
        license: of the weights, such as ``"mit"``, for the card.
        metadata: facts for the card; default: ``model.metadata`` without the place where the weights were found.
        dtype: of the stored weights.
        token, revision, dry_run: see :func:`~hooked_whisper.loading.hub_upload.upload`.

    Raises:
        ArgumentError: an invalid ``repo_id``.
        CheckpointError: transformers cannot represent the model, see :func:`save_huggingface`.
        UploadError: the hub cannot be reached or refuses.
    """
    check_repo_id(repo_id)
    facts = getattr(model, "metadata", {}) if metadata is None else metadata
    facts = {key: value for key, value in facts.items() if metadata is not None or key != "source"}
    with tempfile.TemporaryDirectory() as temporary:
        save_huggingface(model, temporary, dtype)
        files: dict[str, Path | bytes] = {CARD: model_card(model, facts, repo_id, license), **folder_files(temporary)}
        return upload(
            files, repo_id, private=private, token=token, revision=revision, commit_message=commit_message,
            dry_run=dry_run,
        )  # fmt: skip


def push_site(
    folder: str | Path,
    repo_id: str,
    *,
    kind: SiteKind = "space",
    title: str = "",
    license: str | None = None,
    private: bool = True,
    token: str | None = None,
    commit_message: str = "Upload pages with hooked_whisper",
    dry_run: bool = False,
) -> HubUpload:
    """Upload a folder of pages, such as the feature pages or the report, with a card.

    Args:
        folder: with ``index.html``. Hidden files are left out. A ``README.md`` in it is used as the card.
        repo_id: ``"owner/name"``; created if it does not exist, and private unless ``private=False``.
        kind: ``"space"`` serves the pages as a static Space; ``"dataset"`` stores them.
        title: of the card; default: the name of the repository.
        token, dry_run: see :func:`~hooked_whisper.loading.hub_upload.upload`.

    Raises:
        ArgumentError: an invalid ``repo_id``, a folder without ``index.html``, or a file that looks like a secret.
        UploadError: the hub cannot be reached or refuses.
    """
    check_option("kind", kind, get_args(SiteKind))
    check_repo_id(repo_id)
    files: dict[str, Path | bytes] = {**folder_files(folder)}
    if INDEX not in files:
        raise ArgumentError(
            f"{folder} has no {INDEX}: give the folder that `hooked-whisper features` or `reproduce` wrote"
        )
    notes: tuple[str, ...] = ()
    if kind == "space" and CARD in files and b"sdk:" not in Path(folder, CARD).read_bytes():
        notes = (
            f"note: {CARD} is used as the card, but a Space is only served with 'sdk: static' in its front matter",
        )
    front: dict[str, Any] = {
        "title": title or repo_id.partition("/")[2],
        "license": license,
        "tags": ["whisper", "hooked_whisper", "interpretability", "audio"],
    }
    if kind == "space":
        front |= {"sdk": "static", "app_file": INDEX, "colorFrom": "blue", "colorTo": "gray"}
    files.setdefault(CARD, card(front, _site_text(front["title"], kind)))
    result = upload(
        files, repo_id, repo_type=kind, private=private, token=token, commit_message=commit_message, dry_run=dry_run
    )
    return replace(result, notes=(*result.notes, *notes))


def _site_text(title: str, kind: SiteKind) -> str:
    opening = "" if kind == "space" else f" Download the repository and open `{INDEX}`."
    return f"# {title}\n\nPages about a Whisper model, written by hooked_whisper {package_version()}.{opening}"
