"""What shorter and packed windows change, and what they save: the encoder without most of a short clip's padding.

    python -m benchmarks.windows [--model tiny.en base] [--clips 60] [--threads 1]

Whisper pads every clip to 30 s. "sound" runs the encoder on the sound and some padding after it; "packed" joins short
clips of one voice, with 0.25 s of silence between them, to windows of 30 s. Both change what a position can attend to.
For the packaged held-out voices, this measures the encoder's CPU time, the difference of the residual stream from the
padded window's (norm of the difference, relative to the norm of the centered activations), and the word error rate.
Writes ``benchmarks/windows.json`` and the table in ``docs/cluster.md``.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.bench.markdown import table
from hooked_whisper.corpora import Clip, packaged_speech
from hooked_whisper.corpora.packing import SPARE, join_samples, window_groups
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.transcriber import Transcriber, normalize_words
from hooked_whisper.text import word_errors

DOCS, RESULTS = Path(__file__).parents[1] / "docs" / "cluster.md", Path(__file__).with_name("windows.json")
BEGIN, END = "<!-- windows: begin -->", "<!-- windows: end -->"
BEYOND = (0, 50, 250, 500)  # positions of padding after the sound
FULL = "full window"


@dataclass(frozen=True, eq=False)
class Encoded:
    """One clip: its residual stream ``[block, position, d_model]`` without padding, and what the decoder is shown."""

    resid: Float[Tensor, "block position d_model"]
    out: Float[Tensor, "1 shown d_model"]


@dataclass(frozen=True)
class WindowRow:
    """One way to encode the clips.

    positions: encoded positions, relative to full windows. time: CPU time of the encoder, relative to full windows.
    deviation: of each block. wer, changed: word error rate, and the share of clips whose text is not the full window's.
    """

    way: str
    positions: float
    time: float
    deviation: tuple[float, ...]
    wer: float
    changed: float


@torch.no_grad()
def encode(model: HookedWhisper, mel: Float[Tensor, "1 mel frame"]) -> tuple[Tensor, Tensor]:
    """Return the residual stream after every block, and the output, of a window of any length."""
    resid: list[Tensor] = []
    n = mel.shape[2] // 2
    with model.hooks(fwd_hooks=[("encoder.blocks.*.hook_resid_post", lambda x: resid.append(x[0].clone()))]):
        out = model.encoder(mel, None if n == model.cfg.encoder.n_ctx else slice(0, n))
    return torch.stack(resid), out


def with_padding(model: HookedWhisper, clips: Sequence[Clip], beyond: int) -> Iterator[Encoded]:
    """Encode each clip with ``beyond`` positions of padding, or to the end of the window."""
    for clip in clips:
        n = model.time.n_positions(clip.duration)
        mel = model.to_mel(clip.samples)[..., : 2 * min(n + beyond, model.cfg.encoder.n_ctx)]
        resid, out = encode(model, mel)
        yield Encoded(resid[:, :n], out)


def packed(model: HookedWhisper, clips: Sequence[Clip]) -> Iterator[Encoded]:
    """Encode groups of clips together; the decoder is shown the positions of one clip."""
    step = round(model.time.seconds_per_position * model.time.sample_rate)
    by_clip: dict[int, Encoded] = {}
    for group in window_groups(clips, model.time.duration - SPARE):
        samples, starts = join_samples([clips[i] for i in group], multiple=step)
        resid, out = encode(model, model.to_mel(samples))
        for i, start in zip(group, starts, strict=True):
            rows = slice(start // step, start // step + model.time.n_positions(clips[i].duration))
            by_clip[i] = Encoded(resid[:, rows], out[:, rows])
    yield from (by_clip[i] for i in range(len(clips)))


def measure(model: HookedWhisper, clips: Sequence[Clip]) -> list[WindowRow]:
    """Return a row for each way. The first is the full window."""
    n_ctx = model.cfg.encoder.n_ctx
    lengths = [model.time.n_positions(clip.duration) for clip in clips]
    n_groups = len(window_groups(clips, model.time.duration - SPARE))
    ways: dict[str, tuple[Callable[[], Iterator[Encoded]], int]] = {
        FULL: (lambda: with_padding(model, clips, n_ctx), n_ctx * len(clips))
    }
    for beyond in BEYOND:
        seconds = beyond * model.time.seconds_per_position
        ways[f"sound and {seconds:g} s"] = (
            lambda beyond=beyond: with_padding(model, clips, beyond),  # type: ignore[misc]
            sum(min(n + beyond, n_ctx) for n in lengths),
        )
    ways["packed"] = (lambda: packed(model, clips), n_groups * n_ctx)
    references = [normalize_words(clip.text) for clip in clips]
    transcriber = Transcriber(model)
    rows: list[WindowRow] = []
    full: list[Encoded] = []
    full_texts: list[str] = []
    seconds_full = 0.0
    for way, (encoded, positions) in ways.items():
        began = time.process_time()
        results = list(encoded())
        seconds = time.process_time() - began
        texts = [text for result in results for text in transcriber(result.out)]
        if way == FULL:
            full, full_texts, seconds_full = results, texts, seconds
        errors = word_errors(references, texts, normalizer=None)
        rows.append(
            WindowRow(
                way,
                round(positions / (n_ctx * len(clips)), 3),
                round(seconds / seconds_full, 3),
                deviation(full, results),
                round(sum(e.errors for e in errors) / sum(e.n_reference for e in errors), 4),
                round(sum(a != b for a, b in zip(texts, full_texts, strict=True)) / len(clips), 3),
            )
        )
    return rows


def deviation(full: Sequence[Encoded], other: Sequence[Encoded]) -> tuple[float, ...]:
    """Return each block's RMS difference, relative to the RMS of the full window's activations about their mean."""
    a, b = (torch.cat([clip.resid for clip in clips], dim=1).double() for clips in (full, other))
    size = (a - a.mean(1, keepdim=True)).square().sum((1, 2))
    return tuple(round(float(x), 4) for x in ((b - a).square().sum((1, 2)) / size).sqrt())


def rendered(results: dict[str, Any]) -> str:
    parts = [
        f"{results['clips']} recordings of the packaged held-out voices ({results['seconds']:.0f} s, "
        f"{results['seconds'] / results['clips']:.1f} s each). Deviation: norm of the difference of the residual "
        "stream, relative to the norm of the centered activations, where there is sound. Time: CPU time of log-mels "
        "and encoder, relative to full windows."
    ]
    head = ("window", "positions encoded", "time", "deviation, first to last block", "WER", "texts that change")
    for name, rows in results["models"].items():
        cells = [
            (
                row["way"],
                f"{row['positions']:.0%}",
                f"{row['time']:.2f}",
                ", ".join(f"{value:.1%}" for value in row["deviation"]),
                f"{row['wer']:.1%}",
                f"{row['changed']:.0%}",
            )
            for row in rows
        ]
        parts += [f"**{name}**", table(head, cells)]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="+", default=["tiny.en", "base"])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    clips = [Clip.load(recording) for recording in packaged_speech("prose", split="held-out")[: args.clips]]
    seconds = sum(clip.duration for clip in clips)
    results: dict[str, Any] = {"clips": len(clips), "seconds": round(seconds, 1), "models": {}}
    for name in args.model:
        model = HookedWhisper.from_pretrained(name)
        results["models"][name] = [asdict(row) for row in measure(model, clips)]
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    text = rendered(results)
    before, begin, after = DOCS.read_text().partition(BEGIN)
    _, end, after = after.partition(END)
    if not begin or not end:
        raise ValueError(f"{DOCS} has no {BEGIN} ... {END}")
    DOCS.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
    print(text)


if __name__ == "__main__":
    main()
