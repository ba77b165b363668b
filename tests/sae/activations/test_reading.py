"""Rows equal what the model computes on a single clip; hook points without vectors are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import HookedWhisperError, UnknownHookError
from sae_lens_audio.activations import CollectOptions, StreamedActivations, collect_activations
from sae_lens_audio.activations.reading import VECTORS, RowReader
from tests.findings.worlds import small_model
from tests.sae.activations.corpora import NEURONS, RESID, alone, corpus, taught

F32 = CollectOptions(dtype="float32", batch=3)
POSITIONS = (
    RESID,
    NEURONS,
    "encoder.conv2.hook_post",
    "encoder.hook_embed",
    "encoder.blocks.0.ln1.hook_normalized",
    "encoder.blocks.0.attn.hook_q",
    "encoder.blocks.0.attn.hook_k",
    "encoder.blocks.1.attn.hook_z",
    "encoder.blocks.1.attn.hook_result",
    "encoder.blocks.1.hook_attn_out",
    "encoder.blocks.1.hook_mlp_out",
    "encoder.blocks.1.mlp.hook_pre",
    "encoder.hook_out",
    "decoder.blocks.0.cross_attn.hook_k",
    "decoder.blocks.1.cross_attn.hook_v",
)
TOKENS = (
    "decoder.hook_embed",
    "decoder.blocks.0.hook_resid_pre",
    "decoder.blocks.0.hook_cross_attn_out",
    "decoder.blocks.0.cross_attn.hook_q",
    "decoder.blocks.1.cross_attn.hook_z",
    "decoder.blocks.1.attn.hook_z",
    "decoder.blocks.1.mlp.hook_post",
    "decoder.blocks.1.hook_resid_post",
    "decoder.ln_final.hook_normalized",
    "unembed.hook_in",
)


@pytest.fixture(scope="module")
def model() -> HookedWhisper:
    return small_model(0)


def test_encoder_rows_are_the_encoders_positions(model, tmp_path):
    recordings = corpus(7)
    store = collect_activations(model, recordings, POSITIONS, tmp_path, F32, progress=False)
    assert store.hooks == POSITIONS and store.unit == "position"
    block = store.read(POSITIONS)
    lengths = [len(alone(model, recording, RESID)) for recording in recordings]
    assert block.recording.tolist() == [k for k, n in enumerate(lengths) for _ in range(n)]
    assert block.position.tolist() == [p for n in lengths for p in range(n)]
    for hook, width, rows in zip(POSITIONS, store.widths, block.rows, strict=True):
        expected = torch.cat([alone(model, recording, hook) for recording in recordings])
        assert rows.shape == expected.shape == (sum(lengths), width)
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5, msg=lambda m, hook=hook: f"{hook}: {m}")


def test_decoder_rows_are_the_tokens_of_the_text(model, tmp_path):
    recordings = corpus(7, longest=1.2)
    store = collect_activations(model, recordings, TOKENS, tmp_path, F32, progress=False)
    assert store.unit == "token"
    block = store.read(TOKENS)
    lengths = [model.to_tokens(f" {recording.text}", prompt=False).shape[1] for recording in recordings]
    assert len(set(lengths)) > 2, "texts of one length would hide mistakes in padding"
    assert block.position.tolist() == [p for n in lengths for p in range(n)]
    for hook, rows in zip(TOKENS, block.rows, strict=True):
        expected = torch.cat([taught(model, recording, hook) for recording in recordings])
        torch.testing.assert_close(rows, expected, rtol=1e-4, atol=1e-5, msg=lambda m, hook=hook: f"{hook}: {m}")


def test_every_point_is_read_or_refused(model):
    """Judged by axes; widths equal those of the tensors."""
    recording = corpus(1, longest=1.2)
    for name, point in model.hook_dict.items():
        vector = point.axes[1:2] in (("position",), ("token",)) and point.axes[-1] in VECTORS and len(point.axes) > 2
        if not vector:
            with pytest.raises(HookedWhisperError, match=r"has axes \["):
                RowReader(model, name, F32)
            continue
        block = StreamedActivations(model, recording, name, options=F32).chunk(0, 0)
        assert block.rows[0].shape == (len(block), RowReader(model, name, F32).widths[0]), name


@pytest.mark.parametrize(
    ("hooks", "match"),
    [
        ("encoder.blocks.0.attn.hook_pattern", r"\[batch, head, query, key\]"),
        ("encoder.blocks.0.attn.hook_attn_scores", r"\[batch, head, query, key\]"),
        ("encoder.hook_mel", r"\[batch, mel, frame\]"),
        ("encoder.blocks.0.ln1.hook_scale", r"\[batch, position, one\]"),
        ("decoder.hook_tokens", r"\[batch, token\]"),
        ("unembed.hook_out", r"\[batch, token, vocab\]"),
        ([RESID, "encoder.blocks.0"], "named twice"),
        ([RESID, "decoder.blocks.0"], "two folders"),
        ([], "name a hook point"),
    ],
)
def test_refused_hook_points_name_their_axes(model, tmp_path, hooks, match):
    with pytest.raises(HookedWhisperError, match=match):
        collect_activations(model, corpus(2), hooks, tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


def test_unknown_points_suggest_near_ones(model, tmp_path):
    with pytest.raises(UnknownHookError, match=r"did you mean encoder.blocks.1.hook_mlp_out"):
        collect_activations(model, corpus(2), "encoder.blocks.1.hook_mpl_out", tmp_path / "out", progress=False)


def test_names_may_be_published_ones_and_patterns(model):
    reader = RowReader(model, ["encoder.blocks.1.mlp.1", "encoder.blocks.*.hook_resid_post"], F32)
    assert reader.hooks == (NEURONS, RESID, "encoder.blocks.1.hook_resid_post")


def test_padding_and_margin(model):
    recordings = corpus(6)
    sizes = {}
    for name, options in {
        "keep": CollectOptions(dtype="float32", padding="keep", batch=4),
        "drop": F32,
        "margin": CollectOptions(dtype="float32", margin=7),
    }.items():
        block = StreamedActivations(model, recordings, RESID, options=options).chunk(0, 0)
        sizes[name] = torch.bincount(block.recording, minlength=6).tolist()
        if name == "keep":
            whole = alone(model, recordings[2], RESID, keep=True)
            rows_of_it = (block.recording == 2).nonzero()[:, 0]
            torch.testing.assert_close(block.rows[0][rows_of_it], whole, rtol=1e-4, atol=1e-5)
            assert block.position[rows_of_it].tolist() == list(range(len(whole)))
    seconds = [len(recording.audio()) / 16000 for recording in recordings]
    filled = [int(np.ceil(round(50 * s, 6))) for s in seconds]
    assert sizes["drop"] == filled
    assert sizes["keep"] == [60 * int(np.ceil(n / 60)) for n in filled]
    assert sizes["margin"] == [n if n % 60 == 0 else n - min(7, n % 60) for n in filled]


@pytest.mark.parametrize(
    ("recording", "reason"),
    [
        (Recording("x", np.zeros(8000, np.float32)), "no text"),
        (Recording("x", np.zeros(8000, np.float32), text="  "), "no text"),
        (Recording("x", np.zeros(20000, np.float32), text="the cat"), "must fit one window of 1.2 s: cut it"),
        (Recording("x", np.zeros(8000, np.float32), text="cat " * 61), "tokens, the decoder has 64"),
        (Recording("x", b"nothing", text="the cat"), "not audio"),
    ],
)
def test_recordings_that_do_not_fit_the_decoder_are_listed(model, tmp_path, recording, reason):
    good = corpus(2, longest=1.2)
    store = collect_activations(model, [good[0], recording, good[1]], "decoder.blocks.1", tmp_path, progress=False)
    assert [(failure["index"], failure["id"]) for failure in store.failures] == [(1, "x")]
    assert reason in store.failures[0]["reason"]
    assert [entry.rows > 0 for entry in store.recordings] == [True, False, True]


def test_special_tokens_in_a_transcript_are_text(model):
    sound = corpus(1, longest=1.2)[0].source
    block = StreamedActivations(model, [Recording("x", sound, text="cat <|endoftext|>")], "decoder.blocks.1").chunk(
        0, 0
    )
    assert len(block) == len(model.tokenizer.encode(" cat <|endoftext|>", disallowed_special=())) > 3


def test_english_only_models_take_no_language():
    cfg = small_model(0).cfg
    english = HookedWhisper(type(cfg)(cfg.encoder, type(cfg.decoder)(51864, 64, 32, 2, 2, 64), "english"))
    block = StreamedActivations(english, corpus(2, longest=1.2), "decoder.blocks.1").chunk(0, 0)
    assert len(block) > 2


def test_an_overflow_names_hook_and_remedy(tmp_path):
    loud = small_model(1)
    with torch.no_grad():
        loud.encoder.blocks[1].mlp.up.bias[3] = 1e5
    recordings = corpus(3)
    with pytest.raises(HookedWhisperError, match=r"mlp.hook_post: an activation of recording 'clip-00', position 0 .*"):
        collect_activations(loud, recordings, NEURONS, tmp_path / "half", progress=False)
    with pytest.raises(HookedWhisperError, match=r"float16 ends at 6.55e.04: collect with dtype='bfloat16' or"):
        collect_activations(loud, recordings, NEURONS, tmp_path / "half", progress=False)
    for dtype in ("bfloat16", "float32"):
        options = CollectOptions(dtype=dtype)
        store = collect_activations(loud, recordings, NEURONS, tmp_path / dtype, options, progress=False)
        assert store.read(NEURONS).rows[0][:, 3].min() > 9.9e4


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_an_activation_that_is_not_finite_is_located(bad):
    sick = small_model(1)

    def spoil(x, hook):
        x[2, 17, 5] = bad  # the third window of the batch
        return x

    recordings = corpus(5, longest=1.2)
    with sick.hooks([(NEURONS, spoil)]):
        for dtype in ("float16", "float32"):
            blocks = StreamedActivations(
                sick, recordings, [RESID, NEURONS], options=CollectOptions(dtype=dtype, padding="keep"), seed=0
            )
            order = np.random.default_rng([0, 0]).permutation(5)
            where = f"{NEURONS}: an activation of recording 'clip-{order[2]:02d}', position 17 is not finite"
            with pytest.raises(HookedWhisperError, match=where):
                blocks.chunk(0, 0)


def test_dropped_padding_may_hold_any_value(model):
    """Dropped padding is not checked."""
    recordings = [Recording("short", corpus(1)[0].audio()[:8000])]  # 25 of 60 positions

    def spoil(x, hook):
        x[:, 30:] = torch.nan
        return x

    with model.hooks([(RESID, spoil)]):
        assert len(StreamedActivations(model, recordings, RESID).chunk(0, 0)) == 25


def test_contradictory_options_are_refused(unchecked):
    for change, match in (
        ({"dtype": "int8"}, "dtype must be .float16"),
        ({"padding": "pad"}, "padding must be .drop"),
        ({"shard_rows": 0}, "shard_rows of a store is a whole number of at least 1"),
        ({"batch": -1}, "batch"),
        ({"margin": -1}, "margin"),
        ({"padding": "keep", "margin": 1}, "margin needs padding='drop'"),
    ):
        with pytest.raises(HookedWhisperError, match=match):
            CollectOptions(**change)
    assert CollectOptions(margin=2).padding_rule == "dropped, margin 2"
    assert CollectOptions(padding="keep").padding_rule == "kept" and CollectOptions().padding_rule == "dropped"
