"""F1 to F4 with openai-whisper, the encoder's attention replaced by a function that masks, and keeps the patterns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile
import torch
import whisper
from torch import Tensor, nn

from benchmarks.day.settings import HEAD_WINDOW, WINDOWS
from benchmarks.day.speech import read_words


class Attention:
    """Attention of one encoder block, written out: ``mask`` (True: visible) and the last pattern are attributes."""

    def __init__(self, inner: nn.Module) -> None:
        self.heads = inner.n_head
        self.mask: Tensor | None = None
        self.pattern: Tensor
        inner.qkv_attention = self

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, None]:
        q, k, v = (x.view(*x.shape[:2], self.heads, -1).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if self.mask is not None:
            scores = scores.masked_fill(~self.mask, -torch.inf)
        self.pattern = scores.softmax(-1)
        return (self.pattern @ v).transpose(1, 2).flatten(2), None


def relevance(model: whisper.Whisper, blocks: list[Attention], mel: Tensor, tokens: Tensor, n_prompt: int) -> Tensor:
    """Chefer's rules for the encoder; the target is the log-probability of the transcript."""
    logits = model(mel.requires_grad_(), tokens)
    log_probs = logits[0, n_prompt - 1 : -1].log_softmax(-1).gather(-1, tokens[0, n_prompt:, None])
    patterns = [block.pattern for block in blocks]
    grads = torch.autograd.grad(log_probs.sum(), patterns)
    r = torch.eye(patterns[0].shape[-1])
    for pattern, grad in zip(patterns, grads, strict=True):
        r = r + (grad * pattern).relu().mean(1)[0] @ r
    return r.detach() - torch.eye(len(r))


def run(model: whisper.Whisper, folder: Path, n: int) -> dict[str, Any]:
    blocks = [Attention(block.attn) for block in model.encoder.blocks]
    options = whisper.DecodingOptions(language="en", without_timestamps=True, fp16=False)
    prompt = whisper.decoding.DecodingTask(model, options).initial_tokens
    index = torch.arange(model.dims.n_audio_ctx)
    apart = (index[:, None] - index).abs()
    n_local = round(2 / 3 * model.dims.n_audio_head)
    silence = model.embed_audio(whisper.log_mel_spectrogram(torch.zeros(480_000), model.dims.n_mels)[None])
    values, texts = [], []
    heads: list[tuple[Tensor, int]] = []
    for path, words in list(read_words(folder))[:n]:
        audio = soundfile.read(path, dtype="float32")[0]
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), model.dims.n_mels)[None]
        speech = slice(0, int(len(audio) / 320))
        with torch.no_grad():
            encoded = model.embed_audio(mel)
            distance = torch.stack([(b.pattern[0, :, speech] * apart[speech]).sum(-1).mean(-1) for b in blocks])
        clean = model.decode(encoded, options)[0]

        # F1: where positions of the speech look
        tokens = torch.tensor([[*prompt, *clean.tokens]])
        r = relevance(model, blocks, mel, tokens, len(prompt))[speech]
        values.append((r.argmax(-1) - index[speech]).abs().float().median().item())

        # F2: windows in all heads; F3: windows in the local heads of each block, or in the others
        if not heads:
            local = torch.zeros(distance.shape, dtype=torch.bool).scatter(1, distance.argsort(1)[:, :n_local], True)
            heads = [(torch.ones_like(local), k) for k in WINDOWS] + [(local, HEAD_WINDOW), (~local, HEAD_WINDOW)]
        for masked, k in heads:
            for block, narrow in zip(blocks, masked, strict=True):
                block.mask = (apart <= k) | ~narrow[:, None, None]
            texts.append(model.decode(mel, options)[0].text.strip())
        for block in blocks:
            block.mask = None

        # F4: each word replaced by silence
        for start, end in words:
            edited = encoded.clone()
            edited[:, start:end] = silence[:, start:end]
            texts.append(model.decode(edited, options)[0].text.strip())
    return {"values": values, "texts": texts}
