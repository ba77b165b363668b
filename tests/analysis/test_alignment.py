"""Word times: equal to openai-whisper's, paths and boundaries of known maps, and accuracy on the demo corpus."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import whisper.timing
from hypothesis import given
from hypothesis import strategies as st

from hooked_whisper import HookedWhisper
from hooked_whisper.analysis import alignment_heads
from hooked_whisper.analysis.alignment import (
    TOP_HEADS,
    Script,
    align,
    cross_scores,
    head_maps,
    path_starts,
    script,
    word_times,
)
from hooked_whisper.analysis.alignment_heads import choose_heads, clip_maps, score_alignment_heads, set_counts
from hooked_whisper.analysis.boundaries import boundaries, boundary_counts, boundary_errors, boundary_f1, r_value_of
from hooked_whisper.errors import AlignmentError
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic.synthetic_corpus import Clip, SyntheticCorpus

times = st.lists(st.floats(0, 5), max_size=7)


@pytest.fixture(scope="module")
def demo() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return SyntheticCorpus.default().clips("speakers")[:6]


@pytest.fixture(scope="module")
def encoded(demo: HookedWhisper, clips: Sequence[Clip]) -> torch.Tensor:
    with torch.no_grad():
        return demo.embed_audio(demo.to_mel([c.samples for c in clips]))


def most_pairs(a: list[float], b: list[float], tolerance: float) -> int:
    """The largest number of pairs, by exhaustive search."""
    if not a or not b:
        return 0
    best = most_pairs(a[1:], b, tolerance)
    for k, other in enumerate(b):
        if abs(a[0] - other) <= tolerance + 1e-9:
            best = max(best, 1 + most_pairs(a[1:], b[:k] + b[k + 1 :], tolerance))
    return best


@given(times, st.lists(st.floats(0, 5), max_size=5), st.floats(0, 2))
def test_strict_hits_are_a_maximal_matching(a: list[float], b: list[float], tolerance: float) -> None:
    score = boundary_f1(a, b, tolerance)
    assert score.hits == most_pairs(a, b, tolerance)
    assert boundary_f1(b, a, tolerance).hits == score.hits
    assert score.hits <= boundary_f1(a, b, tolerance + 0.5).hits


def test_scores_of_known_counts() -> None:
    score = boundary_f1([0.0, 1.0, 1.02, 3.0], [1.01, 2.0], 0.05)
    assert (score.hits, score.predicted, score.truth) == (1, 4, 2)
    assert score.precision == 0.25 and score.recall == 0.5 and score.f1 == pytest.approx(1 / 3)
    # a perfect segmentation has R-value 1, over-segmentation less
    assert r_value_of(5, 5, 5) == 1
    assert r_value_of(5, 10, 5) == pytest.approx(1 - (1 + 1 / np.sqrt(2)) / 2)
    assert np.isnan(boundary_f1([], [], 0.1).f1)
    with pytest.raises(AlignmentError, match="0 s or more"):
        boundary_f1([], [], -1)


def test_shared_edges_count_once_and_the_first_start_not_at_all() -> None:
    words = (Interval(0.5, 1.0, "a"), Interval(1.0, 1.4, "b"), Interval(1.6, 2.0, "c"))
    assert boundaries(words).tolist() == [1.0, 1.4, 1.6, 2.0]
    later = tuple(w.shifted(0.03) for w in words)
    assert boundary_counts(later, words, (0.02, 0.04)).tolist() == [[0, 4, 4], [4, 4, 4]]
    assert boundary_errors(later, words) == pytest.approx(0.03)
    with pytest.raises(AlignmentError, match="2 predicted words and 3 true"):
        boundary_errors(words[1:], words)


def test_dtw_path_through_a_known_map() -> None:
    rows = (0, 0, 0, 1, 1, 2, 2, 2, 2, 3)
    matrix = -torch.ones(4, 10)
    matrix[list(rows), list(range(10))] = 1.0
    assert path_starts(matrix).tolist() == [0, 3, 5, 9]
    words = word_times(matrix, Script((0,) * 7, 3, ("one", "two"), (2, 3)), 0.02)
    assert [(w.start, w.end) for w in words] == [(0.0, 0.1), (0.1, 0.18)]


def test_same_times_as_openai_whisper(demo, clips, encoded) -> None:
    for clip, row in zip(clips[:3], encoded, strict=False):
        duration = len(clip.samples) / 16_000
        ids = demo.to_tokens(" " + clip.text, prompt=False)[0].tolist()
        frames = 2 * demo.time.n_positions(duration)
        theirs = whisper.timing.find_alignment(demo, demo.tokenizer, ids, demo.to_mel(clip.samples)[0], frames)
        ours = align(demo, row[None], clip.text, duration=duration)
        assert [(w.label, w.start, w.end) for w in ours.words] == [
            (w.word.strip(), pytest.approx(w.start), pytest.approx(w.end)) for w in theirs
        ]


def test_mel_or_encoder_output(demo, clips, encoded) -> None:
    clip = clips[0]
    a = align(demo, demo.to_mel(clip.samples), clip.text, duration=2.0)
    assert a.words == align(demo, encoded[:1], clip.text, duration=2.0).words
    assert a.matrix.shape[1] == 100 and "heads" in repr(a)
    assert a.plot().axes[0].get_xlabel() == "time (s)"


def test_characters(demo, clips, encoded) -> None:
    letters = script(demo, "cat sat", "character")
    assert demo.to_str_tokens(list(letters.tokens[letters.n_prompt : -1])) == [" c", "a", "t", " s", "a", "t"]
    assert letters.word_ends == (3, 6) and letters.rows == slice(letters.n_prompt - 1, len(letters.tokens) - 1)
    aligned = align(demo, encoded[:1], clips[0].text, duration=2.0, method="norms")
    assert aligned.unit == "character" and len(aligned.heads) == TOP_HEADS
    assert [w.label for w in aligned.words] == clips[0].text.split()


def test_punctuation_stays_with_its_word(demo) -> None:
    assert script(demo, "Well, now then.").words == ("Well,", "now", "then.")


def test_norms_method_in_numpy() -> None:
    scores = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    maps, strength = head_maps(scores, "norms")
    padded = np.pad(scores.numpy(), ((0, 0), (0, 0), (1, 1)), mode="reflect")
    median = np.median(np.stack([padded[..., k : k + 8] for k in range(3)]), axis=0)
    weights = np.exp(median) / np.exp(median).sum(-1, keepdims=True)
    columns, rows = np.sqrt((weights**2).sum(1)), np.sqrt((weights**2).sum(2))
    np.testing.assert_allclose(maps, weights / columns[:, None], rtol=1e-5)
    np.testing.assert_allclose(strength, columns.sum(1) + rows.sum(1), rtol=1e-5)


def test_scores_are_those_of_the_named_heads(demo, encoded) -> None:
    tokens = script(demo, "the cat").tokens
    every = cross_scores(demo, encoded[:1], tokens, 50)
    selected = cross_scores(demo, encoded[:1], tokens, 50, [(3, 1), (0, 2), (3, 0)])
    torch.testing.assert_close(selected, every[[13, 2, 12]])
    assert every.shape == (16, len(tokens), 50) and not demo.list_hooks()


def test_live_hooks_apply(demo, clips, encoded) -> None:
    def reverse(x):
        return x.flip(-1)

    plain = align(demo, encoded[:1], clips[0].text, duration=2.0)
    with demo.hooks(fwd_hooks=[("decoder.blocks.*.cross_attn.hook_attn_scores", reverse)]):
        turned = align(demo, encoded[:1], clips[0].text, duration=2.0)
    assert plain.words != turned.words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": " "}, "no words"),
        ({"text": "cat " * 500}, "in parts"),
        ({"heads": [(4, 0)]}, "no block 4"),
        ({"heads": []}, "at least one"),
        ({"method": "norm"}, "did you mean 'norms'"),
        ({"unit": "phone"}, "'character'"),
        ({"duration": 0}, "no audio"),
        ({"source": torch.zeros(1, 80, 30)}, "to_mel"),
    ],
)
def test_errors_explain_the_remedy(demo, encoded, unchecked, change, message) -> None:
    given_ = {"source": encoded[:1], "text": "the cat", **change}
    with pytest.raises(AlignmentError, match=message):
        align(demo, given_.pop("source"), given_.pop("text"), **given_)


def fake_scores(model, encoder_out, tokens, n_positions, heads=None):
    """Head (0, 1) attends to every word on time, head (1, 0) 0.25 s late; the others are noise."""
    pairs = heads or [(b, h) for b in range(4) for h in range(4)]
    out = torch.randn(16, len(tokens), n_positions, generator=torch.Generator().manual_seed(len(tokens)))
    n_words = len(tokens) - 5
    for block, head, late in ((0, 1, 0.0), (1, 0, 12.5)):
        for row in range(n_words + 1):
            end = round(50 + 25 * row + late)
            out[4 * block + head, 3 + row, (end - 25 if row else 0) : end] += 60
    return out[[4 * b + h for b, h in pairs]]


def test_the_aligning_head_is_selected(demo, encoded, monkeypatch) -> None:
    monkeypatch.setattr(alignment_heads, "cross_scores", fake_scores)
    words = tuple(Interval(0.5 * k, 0.5 * k + 0.5, w) for k, w in enumerate(["the", "cat", "sat", "on"]))
    truths = [Alignment(f"u{k}", "s", "", 3.0, tuple(w.shifted(0.5) for w in words)) for k in range(3)]
    scores = score_alignment_heads(demo, encoded[:3], truths)
    assert scores.counts.shape == (3, 4, 4, 5, 3)
    assert scores.best(1).pairs == ((0, 1),) and scores.best(1).values == (1.0,)
    assert scores.f1[0, 1].tolist() == [1.0] * 5 and scores.f1[1, 0, -1] == 0
    assert scores.r_value[0, 1, -1] == 1 and len(scores.to_rows()) == 80 and "X0.1" in repr(scores)
    assert choose_heads(demo, encoded[:3], truths).pairs == ((0, 1),)
    maps = list(clip_maps(demo, encoded[:3], truths, [(0, 1), (1, 0)]))
    assert (set_counts(maps, [0])[..., 0] == 4).all() and (set_counts(maps, [1])[..., 0] == 0).all()
    assert scores.plot().axes
    with pytest.raises(AlignmentError, match=r"tolerance of 0\.05"):
        scores.best(1, 0.05)
    with pytest.raises(AlignmentError, match="give one for each"):
        score_alignment_heads(demo, encoded[:2], truths)
    with pytest.raises(AlignmentError, match="no word times"):
        score_alignment_heads(demo, encoded[:1], [Alignment("u", "s", "a", 1.0)])


def even(clip: Clip) -> tuple[Interval, ...]:
    """Spread the words over the clip in proportion to their letters."""
    edges = np.cumsum([0, *(len(w.label) for w in clip.alignment.words)]) * 1.0
    edges *= len(clip.samples) / 16_000 / edges[-1]
    return tuple(
        Interval(float(a), float(b), w.label)
        for a, b, w in zip(edges[:-1], edges[1:], clip.alignment.words, strict=True)
    )


def test_word_times_of_the_demo_are_nearer_the_truth_than_even_spacing(demo) -> None:
    """All packaged clips; none of their speakers and sentences was used to select heads."""
    everything = SyntheticCorpus.default().clips()
    errors: dict[str, list[np.ndarray]] = {"ours": [], "even": []}
    counts = {"ours": np.zeros(3, int), "even": np.zeros(3, int)}
    with torch.no_grad():
        encoded = torch.cat([demo.embed_audio(demo.to_mel(c.samples)) for c in everything])
    for clip, row in zip(everything, encoded, strict=True):
        aligned = align(demo, row[None], clip.text, duration=len(clip.samples) / 16_000).words
        for name, words in (("ours", aligned), ("even", even(clip))):
            errors[name].append(boundary_errors(words, clip.alignment.words))
            counts[name] += boundary_counts(words, clip.alignment.words, (0.1,))[0]
    f1 = {name: 2 * c[0] / c[1:].sum() for name, c in counts.items()}
    median = {name: float(np.median(np.concatenate(e))) for name, e in errors.items()}
    assert demo.cfg.alignment_heads is not None
    assert median["ours"] < median["even"] and f1["ours"] > f1["even"]


def test_transcribe_gives_word_times_of_the_alignment_heads(demo) -> None:
    clip = SyntheticCorpus.default().clips("sentences")[0]
    result = demo.transcribe(clip.samples, language="en", temperature=0, word_timestamps=True)
    truth = {w.label: w for w in clip.alignment.words}
    aligned = [w for w in result.words if w["word"].strip() in truth]
    assert aligned
    assert np.median([abs(w["end"] - truth[w["word"].strip()].end) for w in aligned]) < 0.15
