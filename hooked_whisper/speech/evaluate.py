"""Word error rates of a model on the test splits, with bootstrap intervals."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float

from hooked_whisper.audio import log_mel_spectrogram
from hooked_whisper.model.whisper import WhisperCore
from hooked_whisper.speech.data import POSITION, WINDOW, specials

MAX_WORDS = 16


def greedy(
    model: WhisperCore, audio: list[Float[np.ndarray, "sample"]], full: bool = True, batch: int = 20
) -> list[str]:
    """Transcribe clips greedily, on 30 s windows or (``full=False``) on windows just long enough."""
    from whisper.tokenizer import get_tokenizer

    tokenizer, s = get_tokenizer(multilingual=True), specials()
    texts: list[str] = []
    for at in range(0, len(audio), batch):
        clips = audio[at : at + batch]
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
    """(substitutions + deletions + insertions, words of the reference)."""
    import jiwer

    measured = jiwer.process_words(reference, heard)
    return measured.substitutions + measured.deletions + measured.insertions, len(reference.split())
