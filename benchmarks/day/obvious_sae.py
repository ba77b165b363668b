"""An SAE trained on a hook of openai-whisper: rows in memory, then a plain TopK autoencoder in torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile
import torch
import torch.nn.functional as F
import whisper
from torch import Tensor

from benchmarks.day.settings import BATCH, FACTOR, LR, STEPS_PER_WINDOW, K


@torch.no_grad()
def rows_of(model: whisper.Whisper, files: list[Path]) -> Tensor:
    rows: list[Tensor] = []
    block = model.encoder.blocks[model.dims.n_audio_layer // 2]
    hook = block.register_forward_hook(lambda module, args, out: rows.append(out[0].clone()))
    for file in files:
        audio = whisper.pad_or_trim(soundfile.read(file, dtype="float32")[0])
        model.encoder(whisper.log_mel_spectrogram(audio, model.dims.n_mels)[None])
    hook.remove()
    return torch.cat(rows)


def run(model: whisper.Whisper, folder: Path, n: int) -> dict[str, Any]:
    rows = rows_of(model, sorted((folder / "hour").glob("*.wav"))[:n])
    torch.manual_seed(0)
    mean = rows.mean(0)
    scale = ((rows - mean).square().sum(1).mean() / rows.shape[1]).sqrt()
    rows /= scale
    d = rows.shape[1]
    W_dec = F.normalize(torch.randn(FACTOR * d, d), dim=1).requires_grad_()
    W_enc = W_dec.detach().T.clone().requires_grad_()
    b_enc, b_dec = torch.zeros(FACTOR * d, requires_grad=True), (mean / scale).clone().requires_grad_()
    optimizer = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], LR)

    def reconstruct(x: Tensor) -> Tensor:
        pre = F.relu((x - b_dec) @ W_enc + b_enc)
        top = pre.topk(K, dim=1)
        return torch.zeros_like(pre).scatter(1, top.indices, top.values) @ W_dec + b_dec

    for _ in range(STEPS_PER_WINDOW * n):
        x = rows[torch.randint(len(rows), (BATCH,))]
        loss = (reconstruct(x) - x).square().sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        W_dec.data = F.normalize(W_dec.data, dim=1)
    with torch.no_grad():
        x = rows[::16]
        error = (reconstruct(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    return {"explained": 1 - float(error)}
