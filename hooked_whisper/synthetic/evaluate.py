"""Word error rates of a model on the test splits, with bootstrap intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from hooked_whisper.audio import log_mel_spectrogram
from hooked_whisper.model.whisper import WhisperCore
from hooked_whisper.synthetic.augment import noise
from hooked_whisper.synthetic.corpus import Corpus
from hooked_whisper.synthetic.data import POSITION, WINDOW, specials

MAX_WORDS = 16
Clips = Sequence[Float[np.ndarray, "_"]]  # 16 kHz samples; clips differ in length


def greedy(model: WhisperCore, audio: Clips, full: bool = True, batch: int = 20) -> list[str]:
    """Return greedy transcripts of clips, in 30 s windows or (``full=False``) in windows of the longest clip."""
    from whisper.tokenizer import get_tokenizer

    tokenizer, s = get_tokenizer(multilingual=True), specials()
    texts: list[str] = []
    for start in range(0, len(audio), batch):
        clips = audio[start : start + batch]
        size = WINDOW if full else -(-max(len(c) for c in clips) // POSITION) * POSITION
        window = torch.zeros(len(clips), size)
        for k, clip in enumerate(clips):
            window[k, : len(clip)] = torch.from_numpy(np.asarray(clip[:size], np.float32))
        with torch.inference_mode():
            encoded = model.encoder(log_mel_spectrogram(window), positions=slice(0, size // POSITION))
            tokens = torch.tensor([[s.sot, s.en, s.transcribe, s.no_timestamps]] * len(clips))
            ended = torch.zeros(len(clips), dtype=torch.bool)
            for _ in range(MAX_WORDS):
                hidden = model.decoder.hidden(tokens, encoded)[:, -1]
                following = (hidden @ model.decoder.token_embedding.weight.T).argmax(-1)
                following[ended] = s.eot
                ended |= following == s.eot
                tokens = torch.cat([tokens, following[:, None]], 1)
                if ended.all():
                    break
        texts += [tokenizer.decode([t for t in row[4:].tolist() if t < s.eot]).strip().lower() for row in tokens]
    return texts


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """Return the number of substitutions, deletions and insertions, and the number of words of the reference."""
    import jiwer

    measured = jiwer.process_words(reference, heard)
    return measured.substitutions + measured.deletions + measured.insertions, len(reference.split())


@dataclass(frozen=True)
class WordErrorRate:
    """Errors per reference word, with a 95 % bootstrap interval over utterances."""

    wer: float
    low: float
    high: float
    utterances: int
    words: int


def summarize(errors: Sequence[int], words: Sequence[int], seed: int = 0, draws: int = 2000) -> WordErrorRate:
    """Return the word error rate over all utterances, with a bootstrap over utterances."""
    e, w = np.asarray(errors), np.asarray(words)
    rng = np.random.default_rng([seed, 5])
    picks = rng.integers(len(e), size=(draws, len(e)))
    low, high = np.percentile(e[picks].sum(1) / w[picks].sum(1), [2.5, 97.5])
    return WordErrorRate(
        round(float(e.sum() / w.sum()), 4), round(float(low), 4), round(float(high), 4), len(e), int(w.sum())
    )


def evaluate(
    model: WhisperCore,
    corpus_folder: Path,
    splits: Sequence[str] = ("sentences", "speakers", "bigrams"),
    limit: int | None = None,
) -> dict[str, Any]:
    """Return word error rates by split and speaker, on 30 s windows without noise, and results on clips without
    speech."""
    model.eval()
    results: dict[str, Any] = {}
    for split in splits:
        corpus = Corpus(corpus_folder, split)
        count = len(corpus) if limit is None else min(limit, len(corpus))
        heard = transcribe(model, [corpus.audio(i) for i in tqdm(range(count), desc=split, unit="clip")])
        pairs = [word_errors(corpus.texts[i], heard[i]) for i in range(count)]
        results[split] = asdict(summarize([e for e, _ in pairs], [w for _, w in pairs]))
        by_speaker: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, pair in enumerate(pairs):
            by_speaker[corpus.alignment(i).speaker].append(pair)
        results[split]["by_speaker"] = {
            name: round(sum(e for e, _ in counts) / sum(w for _, w in counts), 4)
            for name, counts in sorted(by_speaker.items())
        }
    results["no_speech"] = _no_speech(model, 40 if limit is None else limit)
    return results


def transcribe(model: WhisperCore, audio: Clips) -> list[str]:
    """Return stripped lower-case transcripts, by ``model.decode`` or by :func:`greedy` if the model has none."""
    decode = getattr(model, "decode", None)
    if decode is None:
        return greedy(model, audio)
    from whisper import DecodingOptions

    options = DecodingOptions(language="en", without_timestamps=True, fp16=False)
    texts: list[str] = []
    for start in range(0, len(audio), 10):
        window = torch.zeros(len(audio[start : start + 10]), WINDOW)
        for k, clip in enumerate(audio[start : start + 10]):
            window[k, : len(clip)] = torch.from_numpy(np.asarray(clip[:WINDOW], np.float32))
        texts += [result.text.strip().lower() for result in decode(log_mel_spectrogram(window), options)]
    return texts


def _no_speech(model: WhisperCore, count: int) -> dict[str, int | float]:
    """Return the share of silent or noisy clips with an empty transcript. Whisper's decoding rules do not allow an
    empty transcript, so this uses :func:`greedy`."""
    rng = np.random.default_rng(7)
    clips = [np.zeros(32_000, np.float32)]
    for k in range(count - 1):
        level = np.float32(10 ** rng.uniform(-3.5, -0.7))
        clips.append(level * noise(rng, int(rng.integers(16_000, 64_000)), ("white", "pink")[k % 2]))
    return {"clips": count, "empty": sum(not text for text in greedy(model, clips)) / count}
