"""F15: contents of fragments, precision, scores; the experiment runs, draws and refuses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper.findings import word_fragments
from hooked_whisper.findings.word_fragments import Fragment, WordFragments, contains, fragments_of, labels_of, score
from hooked_whisper.findings.words.ranks import rank
from hooked_whisper.protocols import Interval
from tests.core.twins import listeners
from tests.findings.worlds import WORDS, small_context


def test_a_fragment_contains_words_of_which_half_lies_in_it() -> None:
    words = [Interval(0.0, 0.4, "a"), Interval(0.4, 0.8, "b"), Interval(0.8, 1.2, "c"), Interval(0.6, 0.6, "d")]
    assert contains(words, 0.5, 1.0) == {"b", "c"}
    assert contains(words, 0.0, 0.5) == {"a"}
    assert contains(words, 2.0, 2.5) == set()


def test_fragments_are_whole_and_their_number_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    context = small_context(count=3)  # of 1.2 s
    assert fragments_of(context) == [Fragment(i, s) for i in range(3) for s in (0, 8000)]
    monkeypatch.setattr(word_fragments, "MOST", 4)
    few = fragments_of(context)
    assert len(few) == 4 and few == fragments_of(context)


@given(st.integers(0, 10_000))
def test_precision_matches_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((30, 4))
    labels = rng.random((30, 4)) < np.array([0.05, 0.15, 0.3, 0.6])
    ranked = rank(scores, labels, ["a", "b", "c", "d"])
    slow = {}
    for w, name in enumerate("abcd"):
        n = int(labels[:, w].sum())
        if n >= 3:
            k = min(n, 10)
            slow[name] = labels[np.argsort(-scores[:, w])[:k], w].mean()
    assert dict(zip(ranked.words, ranked.precision.tolist(), strict=True)) == pytest.approx(slow)
    perfect = rank(labels + 0.1 * rng.random(labels.shape), labels, ["a", "b", "c", "d"])
    assert (perfect.precision == 1).all()


def test_scores_are_the_largest_logits_of_the_first_five_tokens() -> None:
    context = small_context(count=1)
    model, ids = context.model, context.truth.tokens.tolist()
    scores = score(context, model, [Fragment(0, 0), Fragment(0, 8000)], ids)
    tokens = context.transcriber().prompt()
    with torch.no_grad():
        encoded = model.embed_audio(model.to_mel(context.utterances[0].samples[8000:16000]))
        rows = []
        for _ in range(5):
            logits = model.logits(tokens, encoded)[0, -1]
            rows.append(logits[ids])
            step = logits.argmax()
            if int(step) == model.tokenizer.eot:
                break
            tokens = torch.cat([tokens, step.view(1, 1)], 1)
    np.testing.assert_allclose(scores[1], torch.stack(rows).amax(0), atol=1e-4)
    assert not listeners(model)


def test_it_runs_and_draws() -> None:
    context = small_context(count=8)
    assert labels_of(context, fragments_of(context), WORDS).any(0).sum() == 4  # the red cat sat
    finding = WordFragments().run(context)
    assert finding.status == "measured, no verdict" and "gate" in finding.status_reason
    assert {c.name for c in finding.controls} == {"shuffled labels", "untrained model"}
    assert len(finding.draw()) == 2


def test_without_speech_it_is_not_testable() -> None:
    finding = WordFragments().run(small_context())
    assert finding.status == "not testable" and finding.draw() == []
