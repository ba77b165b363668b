"""Write a model as a transformers folder: ``config.json``, ``generation_config.json``, ``model.safetensors``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from hooked_whisper.errors import CheckpointError
from hooked_whisper.loading.checkpoint import UNEMBED_BIAS, UNEMBED_WEIGHT
from hooked_whisper.loading.huggingface import CONFIG, DECODER_SIZES, ENCODER_SIZES, huggingface_name
from hooked_whisper.loading.own import stored_tensor
from hooked_whisper.loading.vocabulary import GENERATION_CONFIG, special_ids_of
from hooked_whisper.model import WhisperCore

WEIGHTS = "model.safetensors"


def save_huggingface(model: WhisperCore, folder: str | Path, dtype: torch.dtype | None = None) -> None:
    """Write a folder that transformers' ``WhisperForConditionalGeneration.from_pretrained`` reads.

    The folder has no tokenizer and no feature extractor: use the processor of the released model. Loading it with
    :meth:`HookedWhisper.from_pretrained` gives the same weights.

    Args:
        folder: created if needed.
        dtype: of the stored weights.

    Raises:
        CheckpointError: the unembedding has a bias (after ``fold_ln``), which transformers does not have.
        ValueError: weights are too large for ``dtype``.
    """
    folder = Path(folder)
    state = model.state_dict()
    if UNEMBED_BIAS in state:
        raise CheckpointError(
            "transformers' Whisper has no bias in the unembedding, which fold_ln adds: save the model without weight "
            "processing, or use save_pretrained"
        )
    tensors = {huggingface_name(name): stored_tensor(name, tensor, dtype) for name, tensor in state.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(_config(model, dtype, tied=UNEMBED_WEIGHT not in state), indent=2) + "\n")
    (folder / GENERATION_CONFIG).write_text(json.dumps(_generation_config(model), indent=2) + "\n")
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})  # transformers reads the format


def _config(model: WhisperCore, dtype: torch.dtype | None, tied: bool) -> dict[str, Any]:
    encoder, decoder = model.cfg.encoder, model.cfg.decoder
    sizes = dict(zip(ENCODER_SIZES, vars(encoder).values(), strict=True))
    sizes |= dict(zip(DECODER_SIZES, vars(decoder).values(), strict=True))
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "activation_function": "gelu",
        "scale_embedding": False,
        "tie_word_embeddings": tied,
        "torch_dtype": str(dtype or model.dtype).removeprefix("torch."),
        **sizes,
        **_special_tokens(model),
    }


def _special_tokens(model: WhisperCore) -> dict[str, int | None]:
    """Return special ids; ``None`` if they are unknown, since transformers' defaults may exceed the vocabulary."""
    special = special_ids_of(model.cfg.token_layout)
    start = None if special is None else special[0]
    end = None if start is None else start - 1
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    return ids if start is None else ids | {"decoder_start_token_id": start}


def _generation_config(model: WhisperCore) -> dict[str, Any]:
    values: dict[str, Any] = dict(_special_tokens(model))
    special = special_ids_of(model.cfg.token_layout)
    if special is not None:
        values |= {"no_timestamps_token_id": special[1], "is_multilingual": model.cfg.token_layout != 51864}
        values["max_length"] = model.cfg.decoder.n_ctx
    if model.cfg.alignment_heads is not None:
        values["alignment_heads"] = [list(head) for head in model.cfg.alignment_heads]
    return values
