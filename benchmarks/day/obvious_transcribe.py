"""A folder of files transcribed with openai-whisper, one after another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import soundfile
import whisper


def run(model: whisper.Whisper, folder: Path, n: int) -> dict[str, Any]:
    files = sorted((folder / "files").glob("*.wav"))[:n]
    return {
        "texts": [
            model.transcribe(soundfile.read(file, dtype="float32")[0], language="en", fp16=False)["text"].strip()
            for file in files
        ]
    }
