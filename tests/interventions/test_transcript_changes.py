"""Transcript changes: texts, fates, times, log-probabilities, and how often the encoder runs."""

from __future__ import annotations

import html
from dataclasses import replace

import pytest
import torch

from hooked_whisper.errors import PatchError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.ablate import ablate, ablate_heads
from hooked_whisper.interventions.forced_text import aligned_times, attention_times, words_of_tokens
from hooked_whisper.interventions.masks import window_masks
from hooked_whisper.interventions.replace import replace_encoder
from hooked_whisper.interventions.transcriber import normalize_words
from hooked_whisper.interventions.transcript_changes import (
    TranscriptChanges,
    WordChange,
    compare_transcript,
    compare_transcripts,
)
from hooked_whisper.protocols import Alignment, Interval
from hooked_whisper.synthetic.synthetic_corpus import SyntheticCorpus

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def demo() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def clips() -> list:
    return SyntheticCorpus.default().clips()[1:3]


@pytest.fixture(scope="module")
def mel(demo, clips) -> torch.Tensor:
    return demo.to_mel([c.samples for c in clips])


@pytest.fixture(scope="module")
def encoded(demo, mel) -> torch.Tensor:
    with torch.no_grad():
        return demo.embed_audio(mel)


def test_no_intervention_changes_nothing(demo, encoded, clips) -> None:
    references = [c.alignment.text for c in clips]
    changes = compare_transcripts(demo, encoded, references=references, alignments=[c.alignment for c in clips])
    assert changes.wer == 0 and all(o.before == o.after for o in changes)
    assert [normalize_words(o.before) for o in changes] == references  # the demo model hears these two clips
    assert all(w.fate == "kept" and w.logprob_change == pytest.approx(0, abs=1e-5) for o in changes for w in o.words)
    times = [(w.start, w.end) for w in changes[0].words]
    assert times == [(w.start, w.end) for w in clips[0].alignment.words]


def test_cut_word_disappears_at_its_time_and_loses_probability(demo, encoded, clips) -> None:
    alignment = clips[0].alignment
    word = alignment.words[-1]
    edit = replace_encoder(demo, {0: Interval(max(word.start - 0.02, 0), word.end + 0.02, word.label)})
    changes = compare_transcripts(demo, encoded, encoder_edit=edit, alignments=[c.alignment for c in clips])
    (lost,) = [w for w in changes[0].words if w.fate != "kept" and w.before]
    assert lost.before == word.label and (lost.start, lost.end) == (word.start, word.end)
    assert lost.logprob_change < -1 and changes[0].error.errors >= 1 and changes[0].reference is None
    assert changes[1].before == changes[1].after  # the other clip was left alone
    again = compare_transcripts(demo, encoded, fwd_hooks=edit.hooks)
    assert [o.after for o in again] == [o.after for o in changes]
    assert compare_transcript(demo, encoded[1:], encoder_edit=replace_encoder(demo, (1400, 1500))).label == ""


def test_log_probabilities_are_those_of_one_pass(demo, encoded) -> None:
    hooks = ablate_heads(demo, [(2, 0), (2, 1), (1, 3)], stack="cross")
    text = "thank you very much"
    (changes,) = compare_transcripts(demo, encoded[:1], fwd_hooks=hooks, texts=[text])
    tokens = demo.to_tokens(f" {text}")
    with torch.no_grad(), demo.hooks(fwd_hooks=hooks):
        logprobs = demo.logits(tokens, encoded[:1]).log_softmax(-1)
    ids = tokens[0, 4:].tolist()
    each = [float(logprobs[0, 3 + k, i]) for k, i in enumerate(ids)]
    assert [w.word for w in changes.forced] == text.split()
    assert sum(w.after for w in changes.forced) == pytest.approx(sum(each), abs=1e-4)
    assert any(abs(w.change) > 1e-3 for w in changes.forced)
    assert all(w.logprob_before is None for w in changes.words)  # another text was forced


@pytest.mark.parametrize(
    ("how", "passes"),
    [
        (lambda m: {"fwd_hooks": ablate_heads(m, [(1, 0)], stack="cross")}, 1),
        (lambda m: {"fwd_hooks": ablate(m, "encoder.hook_out", positions=(0, 9))}, 1),
        (lambda m: {"encoder_edit": lambda x: x * 0.5}, 1),
        (lambda m: {"attn_masks": window_masks(m, 5, stack="decoder")}, 1),
        (lambda m: {"fwd_hooks": ablate_heads(m, [(1, 0)])}, 2),
        (lambda m: {"attn_masks": window_masks(m, 40)}, 2),
    ],
)
def test_the_encoder_runs_again_only_if_something_in_it_changed(demo, mel, monkeypatch, how, passes) -> None:
    count = []
    original = demo.encoder.forward
    monkeypatch.setattr(demo.encoder, "forward", lambda *a, **k: (count.append(1), original(*a, **k))[1])
    compare_transcript(demo, mel[:1], max_new_tokens=3, **how(demo))
    assert len(count) == passes
    assert not any(demo.list_hooks().values())


def test_hooks_at_the_output_are_the_same_on_a_mel_and_on_its_encoding(demo, mel, encoded) -> None:
    hooks = ablate(demo, "encoder.hook_out", positions=(0.3, 0.6), unit="seconds")
    a, b = (compare_transcript(demo, x[:1], fwd_hooks=hooks) for x in (mel, encoded))
    assert a.after == b.after and a.forced[0].after == pytest.approx(b.forced[0].after, abs=1e-3)


def test_times_by_attention_are_in_the_clip_and_rise(demo, mel, clips, monkeypatch) -> None:
    changes = compare_transcript(demo, mel[:1], alignment="attention")
    starts = [w.start for w in changes.words]
    assert starts == sorted(starts) and starts[0] >= 0 and max(w.end for w in changes.words) < 5
    spoken = [w.start for w in clips[0].alignment.words]
    assert sum(abs(a - b) for a, b in zip(starts, spoken, strict=True)) / len(spoken) < 0.25
    if demo.cfg.alignment_heads is not None:
        assert compare_transcript(demo, mel[:1]).words == changes.words
    monkeypatch.setattr(demo, "cfg", replace(demo.cfg, alignment_heads=None))
    assert compare_transcript(demo, mel[:1]).words[0].start is None


def test_tokens_belong_to_the_words_of_the_text(demo) -> None:
    text = "Hello, antidisestablishmentarianism naïve 東京 ok"
    ids = demo.tokenizer.encode(" " + text)
    of_word = words_of_tokens(demo, ids)
    assert of_word == sorted(of_word) and set(of_word) == set(range(5)) and len(of_word) == len(ids)
    for number, word in enumerate(text.split()):
        word_ids = [i for i, w in zip(ids, of_word, strict=True) if w == number]
        assert demo.tokenizer.decode(word_ids).strip() == word
    assert words_of_tokens(demo, []) == [] and attention_times(demo, torch.zeros(1500, 128), []) == []


def test_times_follow_the_spoken_words() -> None:
    spoken = Alignment(
        "u", "s", "a b c", 3.0, tuple(Interval(k, k + 1.0, w) for k, w in ((0.0, "a"), (1.0, "b"), (2.0, "c")))
    )
    assert aligned_times("a x c", spoken) == [(0, 1), (1, 2), (2, 3)]
    assert aligned_times("a c", spoken) == [(0, 1), (2, 3)]
    assert aligned_times("a b c d", spoken) == [(0, 1), (1, 2), (2, 3), None]


def test_rows_and_html(demo, encoded) -> None:
    changes = compare_transcript(demo, encoded[:1], label="<b>")
    words = (*changes.words, WordChange("new", "", "<script>"))
    page = replace(changes, words=words)._repr_html_()
    assert "<script>" not in page and "&lt;script&gt;" in page and html.escape("<b>") in page
    both = TranscriptChanges((changes, changes))
    rows = both.to_rows()
    assert len(rows) == 2 * len(changes.words) and rows[-1]["clip"] == 1 and rows[0]["fate"] == "kept"
    assert both._repr_html_().count("<table>") == 2 and both[1] is changes


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"references": ["a"]}, "2 clips but 1 references"),
        ({"encoder_edit": lambda x: x[:, :5]}, "keep the shape"),
        ({"attn_masks": {"encoder": torch.ones(1, 1, dtype=torch.bool)}}, "log-mels"),
        ({"alignments": "ctc"}, "attention"),
    ],
)
def test_errors_explain_the_remedy(demo, encoded, unchecked, how, words: str) -> None:
    with pytest.raises(PatchError, match=words):
        compare_transcripts(demo, encoded, max_new_tokens=4, **how)


def test_compare_transcript_takes_one_clip(demo, encoded, unchecked) -> None:
    with pytest.raises(PatchError, match="compare_transcripts"):
        compare_transcript(demo, encoded)
    with pytest.raises(PatchError, match="1500"):
        compare_transcript(demo, encoded[:1, :7, :5])
