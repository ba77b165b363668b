"""The attention viewer: what the page holds is what the model computed, escaped, offline, and within its size."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.audio import SAMPLE_RATE
from hooked_whisper.corpora import Clip, Recording
from hooked_whisper.errors import ArgumentError
from hooked_whisper.interventions import window_masks
from hooked_whisper.protocols import Alignment, HeadRef, Interval
from hooked_whisper.synthetic import SyntheticCorpus
from hooked_whisper.viewer import AttentionView, attention_view_html, view_attention
from hooked_whisper.viewer.packing import LEVELS, PackedMap
from hooked_whisper.viewer.patterns import pattern_name

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return HookedWhisper.from_pretrained("demo", device="cpu")


@pytest.fixture(scope="module")
def clip() -> Clip:
    return SyntheticCorpus.default().clips()[0]


def pattern(model: HookedWhisper, clip: Clip, head: HeadRef) -> np.ndarray:
    """The pattern by run_with_cache, ``[query, key]``."""
    name = pattern_name(head.stack, head.block)
    tokens = model.to_tokens(f" {clip.text}")
    _, cache = model.run_with_cache(model.to_mel(clip.samples), tokens, names_filter=[name])
    return cache[name][0, head.head].double().numpy()


@pytest.mark.parametrize("stack", ["encoder", "decoder", "cross"])
def test_the_page_holds_the_pattern_to_one_part_in_131070(model, clip, stack) -> None:
    view = view_attention(model, clip, stack=stack)
    n = model.time.n_positions(clip.duration)
    assert len(view.heads) == model.cfg.encoder.n_layers * model.cfg.encoder.n_heads and view.positions_per_cell == 1
    for head in view.heads[::5]:
        expected = pattern(model, clip, head)[: n if stack == "encoder" else None]
        inside = expected if stack == "decoder" else expected[:, :n]
        assert view.values(head).shape == inside.shape
        assert np.abs(view.values(head) - inside).max() <= inside.max() * (0.5 / LEVELS) + 1e-6
        if stack != "decoder":
            assert np.abs(view.outside(head) - expected[:, n:].sum(1)).max() < 1e-4


def test_pooled_cells_add_up_keys_and_average_queries(model, clip) -> None:
    full = view_attention(model, clip, heads=["encoder 1.0"])
    pooled = view_attention(model, clip, heads=["encoder 1.0"], max_megabytes=len(full.to_html()) / 1e6 - 0.008)
    width, n = pooled.positions_per_cell, len(full.columns.spans)
    assert width > 1 and f"{width} encoder positions" in pooled.resolution and pooled.resolution in pooled.to_html()
    starts = np.arange(0, n, width)
    sums = np.add.reduceat(np.add.reduceat(full.values("encoder 1.0"), starts, axis=1), starts, axis=0)
    expected = sums / np.diff([*starts, n])[:, None]
    assert np.allclose(pooled.values("encoder 1.0"), expected, atol=1e-4 * expected.max())
    # whatever the resolution, a row inside and outside of the clip adds up to 1
    for view in (full, pooled):
        assert np.allclose(view.values("encoder 1.0").sum(1) + view.outside("encoder 1.0"), 1, atol=5e-3)
    assert pooled.columns.spans[0][0] == 0 and pooled.columns.spans[-1][1] == pytest.approx(clip.duration)


def test_packing_is_exact_to_half_a_step() -> None:
    values = np.random.default_rng(0).random((7, 5)) ** 8
    packed = PackedMap.pack(values)
    assert np.abs(packed.values() - values).max() <= values.max() * (0.5 / LEVELS) * (1 + 1e-9)
    assert (PackedMap.pack(np.zeros((2, 3))).values() == 0).all()


def facts_of(html: str) -> dict:
    return json.loads(re.search(r'<script type="application/json" id="facts">(.*?)</script>', html, re.DOTALL)[1])


def test_nothing_of_the_clip_is_markup_and_nothing_is_loaded(model, clip) -> None:
    words = (Interval(0.1, 0.4, HOSTILE), Interval(0.4, 0.6, '"&<b>'))
    hostile = Clip.aligned(clip.samples, Alignment(HOSTILE, "", "hello", clip.duration, words))
    view = view_attention(model, hostile, stack="cross", transcript="<b>cat</b> & red", title=HOSTILE)
    html = view.to_html()
    assert "<img" not in html and html.count("</script>") == 2 and "<b>" not in html
    facts = facts_of(html)
    assert [word[2] for word in facts["words"]] == [HOSTILE, '"&<b>'] and "<" in "".join(facts["rows"]["labels"])
    frame = view._repr_html_()
    assert frame.startswith("<iframe srcdoc=") and frame.count("<") == 2  # the page is one escaped attribute
    outside = re.sub(r"http://www\.w3\.org/\S+", "", html)
    assert not re.search(r"https?://|//cdn|@import|url\(", outside)


def test_tokens_have_the_times_of_their_words(model, clip) -> None:
    view = view_attention(model, clip, stack="decoder")
    words = {word.label: (word.start, word.end) for word in clip.alignment.words}
    for label, span in zip(view.rows.labels, view.rows.spans, strict=True):
        assert span == words.get(label.strip())
    cross = view_attention(model, clip, stack="cross")
    assert cross.rows.spans[:-1] == view.rows.spans[1:] and cross.rows.labels[:-1] == view.rows.labels[1:]
    assert "alignment" in cross.words_source


def test_words_of_a_transcript_are_timed_by_cross_attention(model, clip) -> None:
    view = view_attention(model, clip.samples, transcript=clip.text)
    assert [word.label for word in view.words] == clip.text.split() and "estimated" in view.words_source
    assert view_attention(model, clip.samples, transcript=clip.text, words=()).words == ()
    assert view_attention(model, clip.samples).words_source == ""


def test_part_of_a_recording_has_its_own_words(model, clip) -> None:
    start = clip.alignment.words[1].start
    part = Clip(clip.recording, clip.samples[round(start * SAMPLE_RATE) :], offset=start)
    view = view_attention(model, part)
    assert view.words[0].label == clip.alignment.words[1].label
    assert view.words[0].start == pytest.approx(0, abs=1e-6) and view.words[-1].end <= view.seconds


def test_a_cache_gives_the_same_page_without_another_pass(model, clip, monkeypatch) -> None:
    mel, tokens = model.to_mel(clip.samples), model.to_tokens(f" {clip.text}")
    _, cache = model.run_with_cache(mel, tokens, names_filter=["encoder.blocks.1.attn.hook_pattern", "*cross*pattern"])
    expected = view_attention(model, clip, heads=[(1, 0), (1, 2)])
    cross = view_attention(model, clip, stack="cross")
    monkeypatch.setattr(model, "embed_audio", None)
    from_cache = view_attention(model, clip, heads=[(1, 0), (1, 2)], cache=cache)
    assert np.allclose(from_cache.values((1, 2)), expected.values((1, 2)), atol=1e-5)
    assert {head.block for head in view_attention(model, clip, cache=cache).heads} == {1}
    cross_from_cache = view_attention(model, clip, stack="cross", cache=cache)
    assert np.allclose(cross_from_cache.values("cross 2.1"), cross.values((2, 1)), atol=1e-5)
    alone = view_attention(model, stack="cross", tokens=tokens, cache=cache, duration=clip.duration)
    assert alone.audio is None and "<audio id" not in alone.to_html() and len(alone.heads) == len(cross.heads)


def test_a_mel_shows_its_spectrogram_without_players(model, clip) -> None:
    view = view_attention(model, model.to_mel(clip.samples), duration=1.0, heads=["encoder 0.0"])
    assert view.audio is None and view.spectrogram and view.seconds == 1.0
    assert facts_of(view.to_html())["spectrogram"].startswith("data:image/png") and "<audio id" not in view.to_html()


def test_live_masks_and_an_encoder_output_are_shown(model, clip) -> None:
    with model.hooks(attn_masks=window_masks(model, 3)):
        masked = view_attention(model, clip, heads=[(2, 0)])
    n = len(masked.rows.spans)
    far = np.abs(np.arange(n)[:, None] - np.arange(n)) > 3
    assert masked.values((2, 0))[far].max() == 0
    silent = view_attention(model, clip, stack="cross", encoder_out=model.embed_audio(model.to_mel(np.zeros(16000))))
    heard = view_attention(model, clip, stack="cross")
    assert np.abs(silent.values("cross 1.0") - heard.values("cross 1.0")).max() > 1e-3


@pytest.mark.parametrize("stack", ["encoder", "cross"])
def test_an_intervention_is_shown_before_and_after(model, clip, stack) -> None:
    masks = window_masks(model, 3)
    view = view_attention(model, clip, stack=stack, attn_masks=masks)
    plain = view_attention(model, clip, stack=stack)
    with model.hooks(attn_masks=masks):
        masked = view_attention(model, clip, stack=stack)
    head = view.heads[-1]
    largest = max(plain.values(head).max(), masked.values(head).max())
    assert np.abs(view.values(head, before=True) - plain.values(head)).max() <= largest * (1.5 / LEVELS)
    assert np.abs(view.values(head) - masked.values(head)).max() <= largest * (1.5 / LEVELS)
    assert np.abs(view.values(head) - view.values(head, before=True)).max() > 0.1 * largest
    with pytest.raises(ArgumentError, match="attn_masks"):
        plain.values(head, before=True)


def test_attention_that_is_not_a_number_is_refused(model, clip) -> None:
    def broken(pattern, hook):
        return pattern * float("nan")

    with pytest.raises(ArgumentError, match=r"encoder 1\.0 has NaN"):
        view_attention(model, clip, heads=[(1, 0)], fwd_hooks=[("encoder.blocks.1.attn.hook_pattern", broken)])


def test_a_recording_and_a_file_name_label_the_page(model, clip, tmp_path) -> None:
    import soundfile

    path = tmp_path / "two words.wav"
    soundfile.write(path, clip.samples, SAMPLE_RATE)
    assert "two words.wav" in view_attention(model, path, heads=[(0, 0)]).to_html()
    recording = Recording("clip-7", clip.samples, text=clip.text)
    view = view_attention(model, recording, stack="cross", heads=["cross 0.1"])
    assert "clip-7" in repr(view) and view.heads == (HeadRef("cross", 0, 1),) and len(repr(view)) < 200


def test_the_page_is_written_whole(model, clip, tmp_path) -> None:
    view = view_attention(model, clip, heads=[(0, 0)], scale="log")
    path = view.save(tmp_path / "new" / "view.html")
    assert path.read_text() == view.to_html() == attention_view_html(model, clip, heads=[(0, 0)], scale="log")
    assert [file.name for file in path.parent.iterdir()] == ["view.html"] and isinstance(view, AttentionView)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stack": "cros"}, "did you mean 'cross'"),
        ({"scale": "logarithmic"}, "'log'"),
        ({"heads": []}, "at least one"),
        ({"heads": ["cross 1.0"]}, "stack='cross'"),
        ({"heads": [(9, 0)]}, "9"),
        ({"heads": [(0, 0)], "selected": (0, 1)}, "encoder 0.1"),
        ({"stack": "cross", "tokens": " red"}, "transcript=' red'"),
        ({"stack": "cross", "tokens": [1, 2], "transcript": "red"}, "not both"),
        ({"stack": "cross", "tokens": torch.zeros(2, 3, dtype=torch.long)}, "[2, 3]"),
        ({"stack": "decoder"}, "transcript="),
        ({"duration": 0}, "above 0"),
        ({"words": [(0.0, 1.0, "red")]}, "Interval"),
        ({"encoder_out": torch.zeros(1, 4, 4)}, "[1, 4, 4]"),
        ({"max_megabytes": 0.01}, "max_megabytes"),
        ({"max_megabytes": float("nan")}, "max_megabytes is a number above 0"),
        ({"duration": float("inf")}, "duration is a number of seconds above 0"),
    ],
)
def test_wrong_arguments_are_refused_with_the_remedy(model, clip, unchecked, options, words) -> None:
    with pytest.raises(ArgumentError) as caught:
        view_attention(model, clip.samples, **options)
    assert words in str(caught.value)


def test_a_cache_that_does_not_fit_is_refused(model, clip) -> None:
    tokens = model.to_tokens(f" {clip.text}")
    _, cache = model.run_with_cache(model.to_mel([clip.samples] * 2), tokens.repeat(2, 1))
    with pytest.raises(ArgumentError, match=r"encoder\.blocks\.\*\.attn\.hook_pattern"):
        view_attention(model, clip, cache=cache)
    with pytest.raises(ArgumentError, match=r"slice\(batch=0\)"):
        view_attention(model, clip, stack="cross", cache=cache)
    with pytest.raises(ArgumentError, match="tokens of that pass"):
        view_attention(model, clip, stack="cross", cache=cache.slice(batch=0), transcript="red cat")
    with pytest.raises(ArgumentError, match="give audio"):
        view_attention(model)
    assert view_attention(model, clip, stack="cross", cache=cache.slice(batch=0)).heads
