"""Transcribe several recordings with ``whisper.transcribe``, with their first windows encoded and decoded as batches.

``whisper.transcribe`` asks the model for one window at a time. Most recordings are one window, so batches of windows of
different recordings save about half of the time: the decoder reads its weights once per token for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from whisper.audio import N_FRAMES, N_SAMPLES, log_mel_spectrogram, pad_or_trim
from whisper.decoding import DecodingOptions, DecodingResult

from hooked_whisper.model import WhisperCore


class FirstWindows:
    """A model for ``whisper.transcribe`` that answers requests about first windows from batches.

    The first request for a recording's first window is also made for the recordings after it. Everything else goes to
    the model alone: later windows, higher temperatures, and parts that ``clip_timestamps`` select.
    """

    def __init__(self, model: WhisperCore, samples: Sequence[Tensor]) -> None:
        self._model = model
        self._current = 0
        self._answers: list[tuple[tuple[str, Any], dict[int, Any]]] = []
        self._languages: dict[int, str] = {}
        windows = [_first_windows(clip, model.cfg.encoder.n_mels) for clip in samples]
        self._windows = {name: [of_clip[name] for of_clip in windows] for name in ("decode", "detect")}

    def of(self, clip: int) -> FirstWindows:
        """Return this model, for the recording that is transcribed next."""
        self._current = clip
        return self

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self._model(*args, **options)

    def decode(self, segment: Tensor, options: DecodingOptions) -> DecodingResult:
        if options.temperature > 0:  # sampling: results depend on the rows of a batch
            return self._model.decode(segment, options)
        return self._answer("decode", segment, options, lambda mel: self._model.decode(mel, options))

    def detect_language(self, segment: Tensor) -> Any:
        return self._answer("detect", segment, None, self._detect)

    def _detect(self, mel: Tensor) -> list[Any]:
        tokens, probabilities = self._model.detect_language(mel)
        return list(zip(tokens, probabilities, strict=True))

    def _answer(self, request: str, segment: Tensor, options: Any, ask: Callable[[Tensor], Sequence[Any]]) -> Any:
        windows = self._windows[request]
        if not torch.equal(windows[self._current].to(segment), segment):
            return ask(segment[None])[0]
        for asked, answers in self._answers:
            if asked == (request, options) and self._current in answers:
                return answers.pop(self._current)
        clips = [clip for clip in range(self._current, len(windows)) if self._is_in(clip, options)]
        answers = dict(zip(clips, ask(torch.stack([windows[clip] for clip in clips]).to(segment)), strict=True))
        if request == "detect":
            self._languages |= {clip: max(p, key=p.get) for clip, (_, p) in answers.items()}
        self._answers.append(((request, options), answers))
        return answers.pop(self._current)

    def _is_in(self, clip: int, options: DecodingOptions | None) -> bool:
        """Whether the recording, as far as its language is known, will ask for the same."""
        return options is None or self._languages.get(clip, options.language) == options.language


def _first_windows(samples: Tensor, n_mels: int) -> dict[str, Tensor]:
    """Return what ``whisper.transcribe`` gives to ``decode`` and ``detect_language``: padded with 0 or with silence."""
    mel = log_mel_spectrogram(samples, n_mels, padding=N_SAMPLES)
    sound = mel[:, : min(N_FRAMES, mel.shape[-1] - N_FRAMES)]
    return {"decode": pad_or_trim(sound, N_FRAMES).clone(), "detect": mel[:, :N_FRAMES].clone()}
