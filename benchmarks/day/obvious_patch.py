"""Word-swap patching with openai-whisper and torch hooks: a forward pass for every patch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import soundfile
import torch
import whisper
from torch import Tensor, nn

from benchmarks.day.speech import read_pairs


class Patching:
    """Patches of one pair: clean activations into the corrupt run."""

    def __init__(self, model: whisper.Whisper, clean: Tensor, corrupt: Tensor, tokens: Tensor) -> None:
        self.model, self.corrupt, self.tokens = model, corrupt, tokens
        self.clean: dict[nn.Module, Tensor] = {}
        blocks = [*model.encoder.blocks, *model.decoder.blocks]
        hooks = [block.register_forward_hook(self._keep) for block in blocks]
        hooks += [block.cross_attn.out.register_forward_hook(self._keep_input) for block in model.decoder.blocks]
        model(clean, tokens)
        for hook in hooks:
            hook.remove()

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        self.clean[module] = out.clone()

    def _keep_input(self, module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
        self.clean[module] = args[0].clone()

    def resid(self, block: nn.Module, positions: slice, metric: Callable[[Tensor], float]) -> float:
        def patch(module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
            out = out.clone()
            out[:, positions] = self.clean[block][:, positions]
            return out

        hook = block.register_forward_hook(patch)
        value = metric(self.model(self.corrupt, self.tokens))
        hook.remove()
        return value

    def cross_head(self, block: nn.Module, head: int, metric: Callable[[Tensor], float]) -> float:
        inner, width = block.cross_attn.out, self.model.dims.n_text_state // self.model.dims.n_text_head
        of_head = slice(head * width, (head + 1) * width)

        def patch(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
            z = args[0].clone()
            z[..., of_head] = self.clean[inner][..., of_head]
            return (z,)

        hook = inner.register_forward_pre_hook(patch)
        value = metric(self.model(self.corrupt, self.tokens))
        hook.remove()
        return value


@torch.no_grad()
def run(model: whisper.Whisper, folder: Path, n: int) -> dict[str, Any]:
    tokenizer = whisper.tokenizer.get_tokenizer(model.is_multilingual, language="en", task="transcribe")
    values = []
    for number, pair in enumerate(read_pairs(folder)[:n]):
        paths = [folder / "pairs" / f"{number:04d}-{name}.wav" for name in ("clean", "corrupt")]
        audio = [whisper.pad_or_trim(soundfile.read(path, dtype="float32")[0]) for path in paths]
        clean, corrupt = (whisper.log_mel_spectrogram(samples, model.dims.n_mels)[None] for samples in audio)
        tokens = torch.tensor([[*tokenizer.sot_sequence_including_notimestamps, *tokenizer.encode(pair["before"])]])
        answer, foil = (tokenizer.encode(pair[name])[0] for name in ("answer", "foil"))

        def metric(logits: Tensor, answer: int = answer, foil: int = foil) -> float:
            return float(logits[0, -1, answer] - logits[0, -1, foil])

        patching = Patching(model, clean, corrupt, tokens)
        word = slice(int(pair["start"] * 50), int(pair["end"] * 50) + 1)
        decoder = model.decoder.blocks
        row = [patching.resid(block, word, metric) for block in model.encoder.blocks]
        row += [patching.resid(b, slice(t, t + 1), metric) for b in decoder for t in range(tokens.shape[1])]
        row += [patching.cross_head(b, head, metric) for b in decoder for head in range(model.dims.n_text_head)]
        values.append(row)
    return {"values": values}
