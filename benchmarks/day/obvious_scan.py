"""Largest activations of every neuron with openai-whisper: a hook, and a heap for each neuron, as in published code."""

from __future__ import annotations

import heapq
from pathlib import Path
from typing import Any

import soundfile
import torch
import whisper

Examples = list[list[tuple[float, int, int]]]


@torch.no_grad()
def scan(model: whisper.Whisper, files: list[Path], block: int, k: int = 20) -> Examples:
    """Return each neuron's largest activations, one per file: value, file, position."""
    heaps: Examples = [[] for _ in range(4 * model.dims.n_audio_state)]
    seen: list[torch.Tensor] = []
    hook = model.encoder.blocks[block].mlp[1].register_forward_hook(lambda module, args, out: seen.append(out))
    for number, file in enumerate(files):
        audio = soundfile.read(file, dtype="float32")[0]
        mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), model.dims.n_mels)
        model.encoder(mel[None])
        values, positions = seen.pop()[0, : -(-len(audio) // 320)].max(0)
        for neuron, (value, position) in enumerate(zip(values.tolist(), positions.tolist(), strict=True)):
            item = (value, -number, -position)
            if len(heaps[neuron]) < k:
                heapq.heappush(heaps[neuron], item)
            else:
                heapq.heappushpop(heaps[neuron], item)
    hook.remove()
    return [[(value, -number, -position) for value, number, position in sorted(heap)[::-1]] for heap in heaps]


def run(model: whisper.Whisper, folder: Path, n: int) -> dict[str, Any]:
    examples = scan(model, sorted((folder / "hour").glob("*.wav"))[:n], model.dims.n_audio_layer // 2)
    return {"largest": [[value for value, _, _ in neuron] for neuron in examples[:64]]}
