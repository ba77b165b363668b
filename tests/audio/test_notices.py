"""Notices about audio: true advice, one summary for many files, two rows of samples."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from hooked_whisper._support.audio_notices import summaries
from hooked_whisper.audio import AudioNotice, AudioWarning, collected_notices, load_audio
from hooked_whisper.corpora import Loader, audio_folder

TONE = np.sin(np.arange(8_000) / 10).astype(np.float32)


@pytest.mark.parametrize(
    ("peak", "advice", "other"), [(1.98, "would clip", "32768"), (12_000.0, "32768", "would clip")]
)
def test_a_loud_recording_and_unscaled_integers_get_different_advice(peak: float, advice: str, other: str) -> None:
    with pytest.warns(AudioWarning, match=f"peak {peak:g}") as caught:
        load_audio(TONE * peak)
    assert advice in str(caught[0].message) and other not in str(caught[0].message)


def test_two_rows_are_averaged_with_a_warning_that_names_the_fix() -> None:
    stereo = np.stack([TONE, np.zeros_like(TONE)])
    for array in (stereo, torch.from_numpy(stereo)):
        with pytest.warns(AudioWarning, match=r"\(2, 8000\).*list\(x\).*x.mean\(0\)"):
            assert np.allclose(load_audio(array), TONE / 2, atol=1e-6)


def test_unambiguous_channels_do_not_warn(tmp_path: Path) -> None:
    stereo = np.stack([TONE, TONE])
    soundfile.write(tmp_path / "a.wav", stereo.T, 16_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for source in (stereo.T, TONE[None], stereo.mean(0), (stereo, 16_000), tmp_path / "a.wav"):
            load_audio(source)


def test_notices_are_collected_instead_of_warned() -> None:
    with warnings.catch_warnings(), collected_notices() as notices:
        warnings.simplefilter("error")
        load_audio(TONE * 3)
    assert [notice.name for notice in notices] == ["audio array"]


@pytest.fixture
def loud_folder(tmp_path: Path) -> Path:
    """56 files, all of them louder than full scale."""
    for k in range(56):
        soundfile.write(tmp_path / f"{k:02d}.wav", TONE * 1.98, 16_000, "FLOAT")
    return tmp_path


def test_a_folder_of_56_files_gives_one_summary(loud_folder: Path) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        assert len(list(Loader(audio_folder(loud_folder)))) == 56
    (message,) = [str(warning.message) for warning in caught]
    assert message.startswith("56 files: ") and "00.wav (peak 1.98)" in message and "and 53 more" in message
    assert "32768" not in message


def test_three_passes_in_a_run_give_one_summary(loud_folder: Path) -> None:
    with collected_notices() as notices:
        for _ in range(3):
            assert len(list(Loader(audio_folder(loud_folder)))) == 56
    (line,) = summaries(notices)
    assert line.startswith("56 files: ")


def test_a_pass_that_stops_early_warns_of_the_files_it_read(loud_folder: Path) -> None:
    loader = iter(Loader(audio_folder(loud_folder)))
    next(loader)
    with pytest.warns(AudioWarning, match="00.wav"):
        loader.close()


def test_summaries_count_each_file_once_and_separate_problems() -> None:
    loud = [AudioNotice(f"/a/b/{k}.wav", "too loud", f"peak {k}", "turn it down") for k in (2, 3, 4, 5)]
    lines = summaries([*loud, *loud, AudioNotice("c.ogg", "cut", "at 2 s", "fetch it again")])
    assert lines == [
        "4 files: too loud: 2.wav (peak 2), 3.wav (peak 3), 4.wav (peak 4) and 1 more: turn it down",
        "c.ogg: cut (at 2 s): fetch it again",
    ]


def test_reading_activations_of_loud_files_warns_once(loud_folder: Path) -> None:
    from hooked_whisper.activations import iter_activations
    from tests.findings.worlds import small_model

    corpus = audio_folder(loud_folder)[:6]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert sum(1 for _ in iter_activations(small_model(), corpus, ["encoder.blocks.0"])) > 0
    assert [str(w.message)[:8] for w in caught if issubclass(w.category, AudioWarning)] == ["6 files:"]
