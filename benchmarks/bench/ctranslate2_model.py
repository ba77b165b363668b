"""Write our weights in CTranslate2's format, for faster-whisper and its runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ctranslate2.specs import WhisperSpec
from torch import Tensor
from whisper.tokenizer import get_tokenizer

from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.loading.ctranslate2 import ctranslate2_name

_FUSED = ("query", "key", "value")


def write_ctranslate2(model: HookedWhisper, folder: Path) -> Path:
    """Write ``model.bin`` (float32), ``vocabulary.json`` and ``config.json``, and return the folder."""
    enc, dec = model.cfg.encoder, model.cfg.decoder
    spec = WhisperSpec(enc.n_layers, enc.n_heads, dec.n_layers, dec.n_heads)
    variables = _variables(model.state_dict())
    for path, array in variables.items():
        _set(spec, path, array)
    if "decoder/projection/weight" not in variables:
        spec.decoder.projection.weight = variables["decoder/embeddings/weight"]
    tokenizer = get_tokenizer(model.is_multilingual, num_languages=model.num_languages)
    spec.register_vocabulary(_vocabulary(tokenizer, dec.n_vocab))
    spec.config.suppress_ids = list(tokenizer.non_speech_tokens)
    spec.config.suppress_ids_begin = [*tokenizer.encode(" "), tokenizer.eot]
    spec.config.lang_ids = list(tokenizer.all_language_tokens)
    spec.validate()
    spec.optimize(quantization=None)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))
    return folder


def _variables(state: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Return the tensors under CTranslate2's names. Queries, keys and values are one product there."""
    variables: dict[str, np.ndarray] = {}
    parts: dict[str, dict[str, np.ndarray]] = {}
    for name, tensor in state.items():
        path, _, projection = ctranslate2_name(name).rstrip("]").partition("[")
        array = tensor.detach().float().numpy()
        if projection:
            parts.setdefault(path, {})[projection] = array
        else:
            variables[path] = array
    for path, arrays in parts.items():
        if path.endswith("bias"):  # keys have none
            arrays.setdefault("key", np.zeros_like(arrays["value"]))
        variables[path] = np.concatenate([arrays[projection] for projection in _FUSED if projection in arrays])
    return variables


def _set(spec: Any, path: str, array: np.ndarray) -> None:
    *modules, attribute = path.split("/")
    for module in modules:
        group, _, index = module.rpartition("_")
        spec = getattr(spec, module) if hasattr(spec, module) else getattr(spec, group)[int(index)]
    setattr(spec, attribute, array)


def _vocabulary(tokenizer: Any, n_vocab: int) -> list[str]:
    """Return one text per token. The runtime reads only those of special tokens."""
    texts = [f"#{token}" for token in range(n_vocab)]
    for text, token in tokenizer.special_tokens.items():
        texts[token] = text
    return texts
