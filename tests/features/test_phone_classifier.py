"""The frame classifier: separable phones are learned, labels follow the alignment, errors name the value."""

from __future__ import annotations

import pytest
import torch

from hooked_whisper.audio import log_mel_spectrogram
from hooked_whisper.errors import AlignmentError
from hooked_whisper.features.phones.classifier import frame_labels, phone_classifier
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus


def spoken(phones: list[tuple[float, float, str]]) -> Alignment:
    return Alignment(
        "u", "s", "", float(phones[-1][1]), (), tuple(Interval(float(a), float(b), p) for a, b, p in phones)
    )


def test_labels_are_those_at_the_centers_of_frames() -> None:
    alignment = spoken([(0.0, 0.02, "a"), (0.02, 0.055, "b"), (0.06, 0.08, "z")])
    assert frame_labels(alignment, 10, ("a", "b")).tolist() == [0, 0, 1, 1, 1, 1, -2, -2, -1, -1]


def test_separable_phones_are_learned() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a": torch.randn(80, generator=generator), "b": torch.randn(80, generator=generator)}
    mels, alignments = [], []
    for _ in range(6):
        mels.append(
            torch.cat([shapes[p][:, None].expand(80, 20) for p in "abab"], 1)
            + 0.3 * torch.randn(80, 80, generator=generator)
        )
        alignments.append(spoken([(0.2 * k, 0.2 * k + 0.2, p) for k, p in enumerate("abab")]))
    classifier = phone_classifier(mels[:4], alignments[:4])
    assert classifier.labels == ("a", "b") and classifier.accuracy(mels[4:], alignments[4:]) > 0.95
    log_probs = classifier.log_probs(torch.stack(mels[4:]))
    assert log_probs.shape == (2, 80, 2)
    torch.testing.assert_close(log_probs[0], classifier.log_probs(mels[4]))
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(2, 80))
    again = phone_classifier(mels[:4], alignments[:4])
    assert torch.equal(classifier.weight, again.weight)


def test_unknown_phones_count_as_errors() -> None:
    mel = torch.randn(80, 40, generator=torch.Generator().manual_seed(1))
    mel[:, 20:] += 3
    classifier = phone_classifier([mel], [spoken([(0, 0.2, "a"), (0.2, 0.4, "b")])])
    assert classifier.accuracy([mel], [spoken([(0, 0.2, "a"), (0.2, 0.4, "c")])]) == pytest.approx(0.5, abs=0.1)


def test_real_speech_beats_the_commonest_phone_on_other_utterances() -> None:
    clips = SyntheticCorpus.default().clips()
    mels = [log_mel_spectrogram(torch.from_numpy(c.samples)) for c in clips]
    alignments = [c.alignment for c in clips]
    classifier = phone_classifier(mels[::2], alignments[::2])
    truth = torch.cat(
        [frame_labels(a, m.shape[1], classifier.labels) for a, m in zip(alignments, mels, strict=True)][1::2]
    )
    commonest = float(truth[truth >= 0].bincount().max() / (truth != -1).sum())
    assert classifier.accuracy(mels[1::2], alignments[1::2]) > commonest + 0.15


def test_errors() -> None:
    mel = torch.zeros(80, 10)
    with pytest.raises(AlignmentError, match="1 different phones"):
        phone_classifier([mel], [spoken([(0, 0.1, "a")])])
    with pytest.raises(AlignmentError, match="give one for each"):
        phone_classifier([mel, mel], [spoken([(0, 0.05, "a"), (0.05, 0.1, "b")])])
