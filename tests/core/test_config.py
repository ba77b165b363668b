"""Configurations: the released sizes, conversions, and what is refused."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
import whisper
from whisper.model import ModelDimensions

from hooked_whisper.config import ALIASES, RELEASED, DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.model import WhisperCore
from tests.core.twins import SIZES

# parameters in millions, as published (encoder, decoder, whole)
MILLIONS = {
    "tiny": (7.6, 29.6, 37.2),
    "small": (87.0, 153.6, 240.6),
    "large-v3-turbo": (635.0, 171.9, 807.0),
}


def test_every_released_name_has_a_size() -> None:
    assert set(whisper.available_models()) == set(RELEASED) | set(ALIASES)
    assert set(ALIASES.values()) <= set(RELEASED)
    assert all(cfg.name == name for name, cfg in RELEASED.items())


@pytest.mark.parametrize("name", MILLIONS)
def test_released_sizes_have_the_published_parameters(name: str) -> None:
    with torch.device("meta"):
        core = WhisperCore(RELEASED[name])
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (core.encoder, core.decoder, core)]
    assert [round(count, 1) for count in counts] == pytest.approx(MILLIONS[name], abs=0.1)
    assert RELEASED[name].encoder.d_head == RELEASED[name].decoder.d_head == 64


@pytest.mark.parametrize(
    ("name", "vocabulary", "multilingual", "languages"),
    [("tiny.en", 51864, False, 99), ("tiny", 51865, True, 99), ("turbo", 51866, True, 100)],
)
def test_vocabularies(name: str, vocabulary: int, multilingual: bool, languages: int) -> None:
    cfg = RELEASED[ALIASES.get(name, name)]
    with torch.device("meta"):
        core = WhisperCore(cfg)
    assert cfg.decoder.n_vocab == vocabulary
    assert (core.is_multilingual, core.num_languages) == (multilingual, languages)


@pytest.mark.parametrize("size", SIZES)
def test_dimensions_of_openai_and_back(size: str) -> None:
    cfg = WhisperConfig.from_dims(SIZES[size], name=size)
    assert cfg.dims == SIZES[size] and cfg.encoder.n_frames == 2 * cfg.encoder.n_ctx
    assert cfg.encoder.d_mlp == 4 * cfg.encoder.d_model


def test_json_and_back() -> None:
    cfg = dataclasses.replace(RELEASED["large-v3-turbo"], alignment_heads=((2, 4), (3, 19)))
    data = json.loads(json.dumps(cfg.to_dict()))
    assert WhisperConfig.from_dict(data) == cfg
    assert WhisperConfig.from_dict(RELEASED["tiny"].to_dict()) == RELEASED["tiny"]
    for broken in (
        {**data, "encoder": None},
        {**data, "decoder": {**data["decoder"], "n_experts": 8}},
        {key: value for key, value in data.items() if key != "decoder"},
    ):
        with pytest.raises(ValueError, match=r"config field '(en|de)coder' needs exactly"):
            WhisperConfig.from_dict(broken)


def test_configurations_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RELEASED["tiny"].encoder.n_layers = 5  # type: ignore[misc]
    assert hash(RELEASED["tiny"]) == hash(WhisperConfig.from_dict(RELEASED["tiny"].to_dict()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: EncoderConfig(n_heads=7), "d_model 384 is not a multiple of n_heads 7"),
        (lambda: DecoderConfig(n_layers=0), "n_layers must be a positive integer, got 0"),
        (lambda: DecoderConfig(n_vocab=-1), "n_vocab must be a positive integer"),
        (lambda: DecoderConfig(n_ctx=448.0), "n_ctx must be a positive integer, got 448.0"),
        (lambda: DecoderConfig(n_ctx=True), "n_ctx must be a positive integer, got True"),
        (lambda: EncoderConfig(d_model=3, n_heads=3), "d_model must be even"),
        (lambda: WhisperConfig(EncoderConfig(), DecoderConfig(d_model=512, n_heads=8)), "must be equal"),
        (lambda: WhisperConfig(EncoderConfig(), DecoderConfig(), alignment_heads=((4, 0),)), r"head \(4, 0\) does not"),
    ],
)
def test_impossible_shapes_are_refused(make: object, words: str, unchecked: None) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_alignment_heads() -> None:
    """Given ones, or all heads of the last half of the blocks, as openai-whisper chooses."""
    dims = ModelDimensions(80, 20, 32, 2, 1, 67, 41, 32, 2, 3)
    configured = WhisperCore(WhisperConfig.from_dims(dims, alignment_heads=((0, 1), (2, 0))))
    assert configured.alignment_heads.indices().T.tolist() == [[0, 1], [2, 0]]
    default = WhisperCore(WhisperConfig.from_dims(dims))
    theirs = whisper.model.Whisper(dims)
    assert torch.equal(default.alignment_heads.to_dense(), theirs.alignment_heads.to_dense())


def test_invalid_inputs_name_what_is_needed(unchecked: None) -> None:
    core = WhisperCore(WhisperConfig.from_dims(SIZES["one_block"]))
    mel, tokens = torch.zeros(2, 80, 40), torch.zeros(2, 3, dtype=torch.int64)
    encoder_out = torch.zeros(2, 20, 32)
    for make, words in (
        (lambda: core.encoder(mel[0]), r"needs a mel \[batch, 80, frame\]"),
        (lambda: core.encoder(mel[:, :79]), r"got \(2, 79, 40\)"),
        (lambda: core.encoder(mel[..., :39]), "even number of frames"),
        (lambda: core.encoder(mel[..., :30]), "needs 40 mel frames, got 30: pad the audio"),
        (lambda: core.encoder(mel[..., :30], slice(0, 14)), "must be 15 of the 20 positions"),
        (lambda: core.encoder(mel[..., :30], slice(10, 25)), "must be 15 of the 20 positions"),
        (lambda: core.decoder(tokens[0], encoder_out), r"tokens must be integers \[batch, token\]"),
        (lambda: core.decoder(tokens.float(), encoder_out), "tokens must be integers"),
        (lambda: core.decoder(tokens.repeat(1, 14), encoder_out), "42 tokens do not fit: this decoder has 41"),
        (lambda: core.decoder(tokens, encoder_out[..., :31]), r"\[batch, position, 32\]"),
        (lambda: core.decoder(tokens.repeat(2, 1), encoder_out), "4 rows of tokens but 2 of encoder output"),
    ):
        with pytest.raises(ValueError, match=words):
            make()


@torch.no_grad()
def test_short_window_starts_at_the_requested_time() -> None:
    core = WhisperCore(WhisperConfig.from_dims(SIZES["one_block"])).eval()
    offsets: list[int] = []
    mel = torch.randn(1, 80, 20)
    with core.hooks([("*.hook_z", lambda x, hook: offsets.append(hook.offset))]):
        early, late = core.encoder(mel, slice(0, 10)), core.encoder(mel, slice(5, 15))
    assert early.shape == late.shape == (1, 10, 32) and not torch.allclose(early, late)
    assert offsets == [0, 5]
