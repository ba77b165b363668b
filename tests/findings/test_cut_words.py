"""F4 with a fake decoder that reads the words from the encoder positions."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pytest
import torch

from hooked_whisper.findings import cut_words
from hooked_whisper.findings.core.context import Context
from hooked_whisper.findings.core.transcripts import normalize_words, word_fates
from hooked_whisper.findings.cut_words import (
    COLLATERAL,
    DELETED,
    GONE,
    MARGINS,
    NEIGHBORS,
    OFFSETS,
    OTHER_ERRORS,
    OUTSIDE,
    PEAK,
    STATISTICS,
    UNDER,
    CutWords,
    peak,
)
from hooked_whisper.findings.cuts.spans import targets_of, with_margin
from hooked_whisper.interventions import replace_spans
from tests.findings.worlds import small_model, small_truth, utterance

TEXTS = ("the red cat sat", "the blue dog ran", "very red tea", "the hat sat")


@dataclass(frozen=True)
class FakeTranscriber:
    """Reads the words off the encoder output: position p of clip i holds (clip, word number) or nothing.

    ``fills``: it writes a guess for a word that is gone. ``threshold``: share of a word's positions that it needs.
    """

    texts: tuple[str, ...]
    fills: bool = False
    threshold: float = 0.6
    max_new_tokens: int = 20

    def prompt(self) -> torch.Tensor:
        return torch.tensor([[50258]])

    def __call__(self, encoder_out: torch.Tensor, track=iter) -> list[str]:
        texts = []
        for row in encoder_out:
            clip = int(row[:, 2].max()) - 1
            if clip < 0:
                texts.append("")
                continue
            heard = []
            for number, word in enumerate(self.texts[clip].split()):
                here = (row[:, 0] == clip + 1) & (row[:, 1] == number + 1)
                if int(here.sum()) > (1 - self.threshold) * int(row[0, 3 + number]):
                    heard.append(word)
                elif self.fills:
                    heard.append("guess")
            texts.append(" ".join(heard))
        return texts


@dataclass(frozen=True, eq=False)
class FakeContext(Context):
    fake: FakeTranscriber | None = None

    def transcriber(self, model=None):
        return self.fake

    @cached_property
    def encoded(self) -> torch.Tensor:
        n = self.model.cfg.encoder.n_ctx
        out = torch.zeros(len(self.utterances), n, 32)
        for i, clip in enumerate(self.utterances):
            for number, word in enumerate(clip.alignment.words):
                span = self.model.time.span(word.start, word.end)
                out[i, span, 0], out[i, span, 1] = i + 1, number + 1
                out[i, 0, 3 + number] = span.stop - span.start
            out[i, -1, 2] = i + 1
        return out

    @cached_property
    def transcripts(self) -> list[str]:
        return self.transcriber()(self.encoded)


def context(fills: bool = False, count: int = 24, exact: bool = False) -> FakeContext:
    model = small_model(n_ctx=150)
    clips = [utterance(f"u{k}", TEXTS[k % len(TEXTS)], 1.8, seed=k) for k in range(count)]
    fake = FakeTranscriber(tuple(u.text for u in clips), fills)
    truth = small_truth(model) if exact else None
    return FakeContext(model, small_model(1, n_ctx=150), tuple(clips), truth, fake=fake)


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(cut_words, "_untrained_share", lambda context: 0.0)
    monkeypatch.setattr(cut_words, "baseline_encoding", lambda model, kind: torch.zeros(1, 150, 32))
    monkeypatch.setattr(
        cut_words,
        "transcribe_cuts",
        lambda transcriber, clip, null, spans, limit: transcriber(replace_spans(clip, spans, null)),
    )


def values(finding) -> dict[str, float]:
    return {c.name: c.estimate.value for c in finding.criteria}


def test_cut_word_disappears() -> None:
    finding = CutWords().run(context())
    rates = values(finding)
    assert finding.status == "reproduced", finding.status_reason
    assert rates[GONE] == 1 and rates[OTHER_ERRORS] == rates[NEIGHBORS] == 0 and rates[PEAK] <= 30
    controls = {c.name: c for c in finding.controls}
    assert controls["cut at another word"].values[GONE].value == 0
    assert controls["cut in silence"].values[GONE].value == 0
    assert controls["untrained model"].values[GONE].value is None
    assert len(finding.draw()) == 3
    assert finding.examples[0].transcripts[0] == ("as it is", finding.examples[0].reference)
    span = finding.examples[0].spans[0]
    assert span.label in finding.examples[0].reference.split() and span.end > span.start + 0.2


def test_verdict_on_exact_times_uses_no_margin() -> None:
    finding = CutWords().run(context(exact=True))
    assert finding.status == "reproduced" and finding.parameters["verdict_margin_ms"] == 0
    assert values(finding)[DELETED] == 1 and values(finding)[COLLATERAL] == 0


def test_model_that_writes_another_word_reproduces_it_partly() -> None:
    finding = CutWords().run(context(fills=True, exact=True))
    rates = values(finding)
    assert rates[GONE] == 1 and rates[DELETED] == 0
    assert finding.status == "partly"


def test_larger_margin_removes_neighbors() -> None:
    clips = context()
    target = targets_of(clips)[1]
    wide = with_margin(clips, target, 100)
    assert wide.span == slice(target.span.start - 5, target.span.stop + 5)
    assert with_margin(clips, target, 10_000).span == slice(0, 150)
    # neighbors are 0.4 or 0.5 s long here and need 60 % of their positions: only the wide cuts take these from most
    needy = replace(clips, fake=replace(clips.fake, threshold=0.4))
    finding = CutWords().run(needy)
    sweep = finding.measurement("words gone by margin")
    assert sweep.axes[0].entries == MARGINS and sweep.axes[1].entries == STATISTICS
    by_margin = sweep.at(statistic=NEIGHBORS, bound="value")
    assert (np.diff(by_margin) >= 0).all() and by_margin[0] == 0 and by_margin[-1] > 0.5
    # the middle of a neighbor is within the widest cut only, which leaves some of them enough positions
    assert (sweep.at(statistic=UNDER, bound="value")[:-1] == 1).all()
    assert sweep.at(statistic=OUTSIDE, bound="value")[0] == 0
    assert [row[0] for row in finding.tables[0].rows][:3] == ["0 ms", "50 ms", "100 ms (verdict)"]
    assert any("margin 0" in note and "not met" not in note for note in finding.notes)


def test_model_that_loses_the_neighbors_does_not_reproduce_it(monkeypatch) -> None:
    monkeypatch.setattr(cut_words, "VERDICT_MARGIN", 200)
    clips = context()
    finding = CutWords().run(replace(clips, fake=replace(clips.fake, threshold=0.4)))
    assert finding.status == "not reproduced" and NEIGHBORS in finding.status_reason


def test_clips_with_transcription_errors_are_left_out() -> None:
    clips = context()
    wrong = replace(clips.fake, texts=("something else", *clips.fake.texts[1:]))
    finding = CutWords().run(replace(clips, fake=wrong))
    assert finding.inputs["clips_without_error"] == pytest.approx(23 / 24)
    assert all(e.utterance != "u0" for e in finding.examples)


def test_nothing_to_score_is_not_testable() -> None:
    clips = context(count=2)
    finding = CutWords().run(replace(clips, fake=replace(clips.fake, texts=("x", "y"))))
    assert finding.status == "not testable"
    assert CutWords().run(replace(clips, utterances=())).status == "not testable"


def test_few_words_have_no_verdict() -> None:
    finding = CutWords().run(context(count=4))
    assert finding.status == "measured, no verdict" and "words scored" in finding.status_reason


def test_the_peak_of_a_profile() -> None:
    offsets = np.array(OFFSETS)
    profile = np.tile((np.abs(offsets - 6) <= 3).astype(float), (20, 1))
    offset = peak(profile, 0.02, np.random.default_rng(0))
    assert offset.value == pytest.approx(120) and offset.low <= 120 <= offset.high
    assert peak(np.zeros((5, len(OFFSETS))), 0.02, np.random.default_rng(0)).value is None


def test_fates_of_words() -> None:
    assert word_fates("a b c", "a c").fates == ("kept", "deleted", "kept")
    assert word_fates("a b c", "a x c").fates == ("kept", "replaced", "kept")
    assert word_fates("a b", "a b b").inserted == 1
    assert word_fates("a", "").fates == ("deleted",)


def test_targets_keep_the_index_of_their_word() -> None:
    assert normalize_words("Hot ones. The SHOW – it's 5!") == "hot ones the show it's 5"
    assert normalize_words(" ... ") == ""
