"""Transcript changes: texts, fates, times, log-probabilities, and how often the encoder runs."""

from __future__ import annotations

import html
from dataclasses import replace

import pytest
import torch

from hooked_whisper.errors import PatchError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.interventions.ablate import ablate, ablate_heads
from hooked_whisper.interventions.comparison import clean_transcripts, compare_transcript, compare_transcripts
from hooked_whisper.interventions.forced_text import aligned_times, attention_times, words_of_tokens
from hooked_whisper.interventions.masks import window_masks
from hooked_whisper.interventions.replace import replace_encoder
from hooked_whisper.interventions.transcriber import normalize_words
from hooked_whisper.interventions.transcript_changes import TranscriptChanges, WordChange
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
    # the words of the transcript are scored too, whatever text is forced
    plain = compare_transcript(demo, encoded[:1], fwd_hooks=hooks)
    assert [w.logprob_after for w in changes.words] == pytest.approx([w.logprob_after for w in plain.words], abs=1e-4)


@pytest.mark.parametrize(
    ("how", "blocks"),
    [
        (lambda m: {"fwd_hooks": ablate_heads(m, [(1, 0)], stack="cross")}, []),
        (lambda m: {"fwd_hooks": ablate(m, "encoder.hook_out", positions=(0, 9))}, []),
        (lambda m: {"encoder_edit": lambda x: x * 0.5}, []),
        (lambda m: {"attn_masks": window_masks(m, 5, stack="decoder")}, []),
        (lambda m: {"fwd_hooks": ablate_heads(m, [(1, 0)])}, [1, 2, 3]),
        (lambda m: {"attn_masks": window_masks(m, 40, blocks=[2])}, [2, 3]),
        (lambda m: {"fwd_hooks": ablate(m, "encoder.conv1.hook_post", positions=(0, 9))}, [0, 1, 2, 3]),
    ],
)
def test_the_encoder_resumes_at_the_first_block_that_is_changed(demo, mel, monkeypatch, how, blocks) -> None:
    run: list[int] = []
    for number, block in enumerate(demo.encoder.blocks):
        forward = block.forward
        monkeypatch.setattr(
            block, "forward", lambda *a, _forward=forward, _n=number, **k: (run.append(_n), _forward(*a, **k))[1]
        )
    compare_transcript(demo, mel[:1], max_new_tokens=3, **how(demo))
    assert run == [0, 1, 2, 3, *blocks]
    assert not any(demo.list_hooks().values())


def test_a_resumed_encoder_computes_what_a_whole_pass_does(demo, mel) -> None:
    clean = clean_transcripts(demo, mel[:1], resume_blocks=range(4), max_new_tokens=8)
    for block in (0, 2, 3):
        hooks = ablate(demo, f"encoder.blocks.{block}.mlp.hook_post", positions=(0, 60))
        resumed = clean.compare(fwd_hooks=hooks)[0]
        whole = clean_transcripts(demo, mel[:1], max_new_tokens=8).compare(fwd_hooks=hooks)[0]
        assert resumed.after == whole.after
        assert [w.after for w in resumed.forced] == pytest.approx([w.after for w in whole.forced], abs=1e-4)


def test_hooks_of_the_caller_are_applied_once_when_the_encoder_resumes(demo, mel) -> None:
    name = "encoder.blocks.2.hook_resid_pre"
    hooks, own_hooks = ablate_heads(demo, [(2, 0)]), [(name, lambda x: x * 1.5)]
    both = compare_transcript(demo, mel[:1], fwd_hooks=[*own_hooks, *hooks], max_new_tokens=8)
    with demo.hooks(fwd_hooks=own_hooks):
        nested = compare_transcript(demo, mel[:1], fwd_hooks=hooks, text=both.before, max_new_tokens=8)
    assert [w.after for w in nested.forced] == pytest.approx([w.after for w in both.forced], abs=1e-4)


def test_one_clean_run_serves_several_interventions(demo, encoded, clips, monkeypatch) -> None:
    alignments = [c.alignment for c in clips]
    clean = clean_transcripts(demo, encoded, alignments=alignments)
    edits = [replace_encoder(demo, alignment.words[0]) for alignment in alignments]
    for edit in edits:
        expected = compare_transcripts(demo, encoded, encoder_edit=edit, alignments=alignments)
        assert clean.compare(encoder_edit=edit) == expected
    with pytest.raises(PatchError, match="2 clips but 1 references"):
        clean.compare(references=["a"])
    with pytest.raises(PatchError, match="blocks 0 to 3"):
        clean_transcripts(demo, demo.to_mel(clips[0].samples), resume_blocks=[9])


def test_every_word_is_scored_and_shown_though_none_changes(demo, encoded, clips) -> None:
    hooks = ablate_heads(demo, [(1, 0)], stack="cross")
    change = compare_transcript(demo, encoded[:1], fwd_hooks=hooks, alignment=clips[0].alignment)
    assert not change.wer and all(w.logprob_change is not None for w in change.words)
    most = change.most_affected
    assert abs(most.logprob_change) == max(abs(w.logprob_change) for w in change.words) > 0
    assert change.logprob_change == pytest.approx(sum(w.change for w in change.forced))
    for text in (repr(change), change._repr_html_()):
        assert all(f"{w.logprob_change:+.2f}" in text for w in change.words)
    table = change.to_pandas()
    assert list(table["logprob_change"]) == [w.logprob_change for w in change.words]
    axes = change.plot().axes[0]
    bars = sorted((bar.get_x(), bar.get_width(), bar.get_height()) for bar in axes.patches)
    for bar, w in zip(bars, change.words, strict=True):
        assert bar == pytest.approx((w.start, w.end - w.start, w.logprob_change))
    assert [tick.get_text() for tick in axes.get_xticklabels()] == [w.before for w in change.words]
    pytest.importorskip("plotly")
    assert len(change.plot(backend="plotly").data[0].x) == len(change.words)


def test_a_decoding_loop_is_cut_with_its_length(demo, encoded) -> None:
    change = compare_transcript(demo, encoded[:1])
    looping = replace(change, after="the " * 200, words=(*change.words, *[WordChange("new", "", "the")] * 200))
    shown = repr(looping)
    assert len(shown) < 2500 and "200 words, 800 characters" in shown and shown.count("\n") < 36
    assert all(f" {w.before} " in shown for w in change.words)
    both = TranscriptChanges((change, looping))
    assert len(repr(both)) < 1200


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
        ({"encoder_edit": lambda x: None}, "returned NoneType"),
        ({"encoder_edit": lambda x: x / 0}, "NaN or infinite"),
        ({"attn_masks": {"encoder": torch.ones(1, 1, dtype=torch.bool)}}, "log-mels"),
        ({"alignments": "ctc"}, "attention"),
    ],
)
def test_errors_explain_the_remedy(demo, encoded, unchecked, how, words: str) -> None:
    with pytest.raises(PatchError, match=words):
        compare_transcripts(demo, encoded, max_new_tokens=4, **how)


def test_recordings_and_words_are_not_tensors_and_edits(demo, encoded, unchecked) -> None:
    for call in (compare_transcript, compare_transcripts, clean_transcripts):
        with pytest.raises(PatchError, match=r"got str: model\.to_mel"):
            call(demo, "speech.wav")
    for compare in (compare_transcripts, lambda *_, **edit: clean_transcripts(demo, encoded[:1]).compare(**edit)):
        with pytest.raises(PatchError, match=r"got 'old': replace_encoder\("):
            compare(demo, encoded[:1], encoder_edit="old")


def test_compare_transcript_takes_one_clip(demo, encoded, unchecked) -> None:
    with pytest.raises(PatchError, match="compare_transcripts"):
        compare_transcript(demo, encoded)
    with pytest.raises(PatchError, match="1500"):
        compare_transcript(demo, encoded[:1, :7, :5])


def test_generation_ends_with_the_text(demo, encoded) -> None:
    prompt, eot = demo.to_tokens(), demo.tokenizer.eot
    tokens, longer = (demo.generate(prompt, encoded[:1], max_new_tokens=24, **end) for end in ({}, {"eot": None}))
    n = tokens.shape[1]
    assert n < longer.shape[1] == prompt.shape[1] + 24 and torch.equal(longer[:, :n], tokens)
    assert tokens[0, -1] == eot and (tokens[0, :-1] != eot).all()
