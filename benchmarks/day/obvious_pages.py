"""A page per neuron with openai-whisper, matplotlib and soundfile: the scan, then plots and sound, unit by unit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import soundfile
import torch
import whisper

from benchmarks.day.obvious_scan import scan
from benchmarks.day.settings import CLIPS, EXAMPLES


@torch.no_grad()
def run(model: whisper.Whisper, folder: Path, n: int) -> dict[str, Any]:
    block, out = model.dims.n_audio_layer // 2, folder / "obvious_pages"
    out.mkdir(exist_ok=True)
    files = sorted((folder / "hour").glob("*.wav"))[:CLIPS]
    wall, cpu = time.perf_counter(), time.process_time()
    examples = scan(model, files, block, EXAMPLES)
    fixed = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    seen: list[torch.Tensor] = []
    hook = model.encoder.blocks[block].mlp[1].register_forward_hook(lambda module, args, out: seen.append(out))
    for unit in range(n):
        cards = []
        for rank, (value, number, position) in enumerate(examples[unit]):
            audio = soundfile.read(files[number], dtype="float32")[0]
            start = max(0, position - 50)
            soundfile.write(out / f"{unit}-{rank}.wav", audio[320 * start : 320 * (position + 50)], 16000)
            mel = whisper.log_mel_spectrogram(whisper.pad_or_trim(audio), model.dims.n_mels)
            model.encoder(mel[None])
            trace = seen.pop()[0, start : position + 50, unit]
            figure, (top, bottom) = plt.subplots(2, 1, figsize=(4, 3))
            top.imshow(mel[:, 2 * start : 2 * (position + 50)], origin="lower", aspect="auto")
            bottom.plot(trace)
            figure.savefig(out / f"{unit}-{rank}.png")
            plt.close(figure)
            cards.append(f"<p>{value:.3f} <img src={unit}-{rank}.png><audio controls src={unit}-{rank}.wav></audio>")
        (out / f"{unit}.html").write_text("\n".join(cards))
    hook.remove()
    return {"largest": [[value for value, _, _ in neuron] for neuron in examples[:64]], "fixed": fixed}
