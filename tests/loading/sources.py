"""The same weights in every format, and a comparison of what is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from transformers import WhisperForConditionalGeneration
from whisper.model import ModelDimensions, Whisper

from hooked_whisper.loading import Checkpoint, load_into
from hooked_whisper.model import WhisperCore
from tests.core.parity import relative_l2
from tests.core.twins import Twins, random_openai, to_core, to_hf

TOLERANCE = 1e-5


def small_twins(n_vocab: int = 67) -> Twins:
    openai = random_openai(ModelDimensions(80, 12, 16, 1, 1, n_vocab, 9, 16, 1, 2), seed=1)
    return Twins(openai, to_hf(openai), to_core(openai))


def loaded(checkpoint: Checkpoint) -> WhisperCore:
    model = WhisperCore(checkpoint.config).eval()
    load_into(model, checkpoint)
    return model


@torch.no_grad()
def logits_error(checkpoint: Checkpoint, twins: Twins, batch: int = 2) -> float:
    """Relative L2 distance of the loaded model's logits from openai-whisper's."""
    mel, tokens = twins.mel(batch), twins.tokens(7, batch=batch)
    return relative_l2(loaded(checkpoint)(mel, tokens), twins.openai(mel, tokens))


def save_openai(model: Whisper, path: Path, dtype: torch.dtype | None = None) -> Path:
    state = {name: tensor.to(dtype or tensor.dtype) for name, tensor in model.state_dict().items()}
    torch.save({"dims": asdict(model.dims), "model_state_dict": state}, path)
    return path


def _safetensors(model: WhisperForConditionalGeneration, folder: Path) -> None:
    model.save_pretrained(folder)


def _sharded_safetensors(model: WhisperForConditionalGeneration, folder: Path) -> None:
    model.save_pretrained(folder, max_shard_size="300KB")
    assert (folder / "model.safetensors.index.json").is_file()


def _bare(model: WhisperForConditionalGeneration, folder: Path) -> None:
    model.model.save_pretrained(folder)  # a WhisperModel: no "model." before the names


def _bin(model: WhisperForConditionalGeneration, folder: Path) -> None:
    write_bin(model.state_dict(), model, folder)  # with proj_out.weight, as old versions saved it


def _legacy_bin(model: WhisperForConditionalGeneration, folder: Path) -> None:
    write_bin(model.state_dict(), model, folder, zipped=False)


def _sharded_bin(model: WhisperForConditionalGeneration, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "proj_out.weight"}
    names = list(state)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[:9], names[9:])):
        file = f"pytorch_model-{i + 1:05}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


HF_LAYOUTS: dict[str, Callable[[WhisperForConditionalGeneration, Path], None]] = {
    "safetensors": _safetensors,
    "sharded safetensors": _sharded_safetensors,
    "WhisperModel": _bare,
    "bin": _bin,
    "bin of old PyTorch": _legacy_bin,
    "sharded bin": _sharded_bin,
}


def write_bin(
    state: dict[str, Tensor], model: WhisperForConditionalGeneration, folder: Path, zipped: bool = True
) -> None:
    folder.mkdir(exist_ok=True)
    model.config.save_pretrained(folder)
    torch.save(state, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)


def edit_json(path: Path, **changes: object) -> None:
    """Change fields of a JSON file; ``None`` removes one."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))
