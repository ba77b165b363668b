"""Scores of an unfinished benchmark, so that it resumes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hooked_whisper._support.storage import write_atomic
from sae_lens_audio.benchmark.metric import Score
from sae_lens_audio.benchmark.results import scores_from_json
from sae_lens_audio.evals.serialization import plain, to_text


@dataclass(frozen=True)
class ScoreStore:
    """Scores by name of subject, in a folder; without one, nothing is stored.

    key: of everything that the scores depend on besides the name. Scores with another key are computed again.
    """

    folder: Path | None = None
    key: str = ""

    def has(self, name: str) -> bool:
        return self._read(name) is not None

    def get(self, name: str, compute: Callable[[], dict[str, Score]]) -> dict[str, Score]:
        """Return the stored scores; without any, compute and store them."""
        stored = self._read(name)
        if stored is not None:
            return stored
        scores = compute()
        if self.folder is not None:
            text = to_text({"key": self.key, "name": name, "scores": plain(scores)})
            write_atomic(self._path(self.folder, name), text.encode())
        return scores

    def _read(self, name: str) -> dict[str, Score] | None:
        if self.folder is None:
            return None
        try:
            data = json.loads(self._path(self.folder, name).read_text(encoding="utf-8"))
            return scores_from_json(data["scores"]) if (data["key"], data["name"]) == (self.key, name) else None
        except (OSError, ValueError, KeyError, TypeError):  # missing, or of an interrupted run: compute again
            return None

    def _path(self, folder: Path, name: str) -> Path:
        return folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.json"
