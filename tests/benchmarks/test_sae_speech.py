"""Conditions of the benchmark of training speech: what each trains on, and its table in the docs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sae_speech
from benchmarks.sae_speech import ALL, Condition, conditions, recordings_of
from docs.tools.sae_speech_tables import sae_speech_table
from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Recording
from sae_lens_audio.activations import ActivationStore, collect_activations
from sae_lens_audio.pretrained.runs import split_off_speakers

SPEAKERS = ("kokoro-a", "flite-b", "human-c", "kokoro-d", "flite-b", "human-c")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ActivationStore:
    """Activations of noise by four speakers of three kinds; the first has the least and is held out."""
    rng = np.random.default_rng(0)
    corpus = [
        Recording(str(k), (0.1 * rng.standard_normal(16_000 * (1 + 2 * bool(k)))).astype(np.float32), speaker=speaker)
        for k, speaker in enumerate(SPEAKERS)
    ]
    model = HookedWhisper.from_pretrained("demo", device="cpu")
    folder = tmp_path_factory.mktemp("speech") / "acts"
    return collect_activations(model, corpus, "encoder.blocks.0", folder, progress=False)


def test_conditions_are_those_with_enough_speech(store: ActivationStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sae_speech, "HOURS", {"flite": (3 / 3600, 9 / 3600), "human": (6 / 3600,)})
    enough = conditions([store])
    assert [(condition.kind, condition.hours * 3600) for condition in enough[:-1]] == [("flite", 3), ("human", 6)]
    assert enough[-1].kind == ALL


def test_more_hours_contain_fewer_hours(store: ActivationStore) -> None:
    short, long, everything = (
        set(recordings_of(condition, [store])[0])
        for condition in (Condition("flite", 2 / 3600), Condition("flite", 5 / 3600), Condition(ALL, 1.0))
    )
    assert short < long < everything
    assert {store.recordings[k].speaker for k in long} == {"flite-b"}
    assert everything == set(split_off_speakers([store])[0].train)  # held-out speakers are in no condition


def test_table_has_a_row_for_each_condition(tmp_path: Path) -> None:
    estimate = {"value": 0.8123, "low": 0.8, "high": 0.8231}
    row = {"kind": "human", "hours": 0.5, "explained_variance": estimate, "phone_f1": estimate}
    (tmp_path / "sae_speech.json").write_text(json.dumps({"conditions": [row, row | {"kind": "all", "hours": 7.9}]}))
    lines = sae_speech_table(tmp_path / "sae_speech.json").splitlines()
    assert len(lines) == 4
    assert "human prompts | 0.5 | 0.812 [0.8, 0.823]" in lines[2] and "all | 7.9" in lines[3]
