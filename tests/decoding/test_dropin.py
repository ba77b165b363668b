"""openai-whisper's own decode and transcribe give the same tokens with our model inside as with theirs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import whisper
from whisper.decoding import DecodingOptions

from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.decoding import Transcription, decode, generate, transcribe
from hooked_whisper.errors import ArgumentError, HookedWhisperError
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.model import KVCache


@pytest.fixture(scope="module")
def mel(audio: torch.Tensor) -> torch.Tensor:
    return whisper.log_mel_spectrogram(whisper.pad_or_trim(audio))


OPTIONS = {
    "greedy": {"without_timestamps": True},
    "timestamps": {},
    "beam": {"beam_size": 5},
    "beam with patience": {"beam_size": 3, "patience": 2.0, "length_penalty": 0.6, "without_timestamps": True},
    "best of": {"temperature": 0.7, "best_of": 3},
    "sampled": {"temperature": 1.0},
    "prompted": {"prompt": "a very", "prefix": " good"},
    "translate": {"task": "translate", "language": "fr"},
    "unsuppressed": {"suppress_tokens": "", "suppress_blank": False},
    "detect": {"language": None},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_decode_gives_the_same_tokens(name, pair, mel):
    options = DecodingOptions(**{"language": "en", "fp16": False, "sample_len": 16} | OPTIONS[name])
    results = []
    for model in pair:
        torch.manual_seed(11)
        results.append(whisper.decode(model, mel, options))
    theirs, ours = results
    assert ours.tokens == theirs.tokens and ours.text == theirs.text and ours.language == theirs.language
    assert ours.avg_logprob == pytest.approx(theirs.avg_logprob, abs=1e-4)
    assert ours.no_speech_prob == pytest.approx(theirs.no_speech_prob, rel=1e-3)
    assert len(set(theirs.tokens)) > 2, "a degenerate model would prove little"


def test_transcribe_gives_the_same_segments_and_words(pair, audio):
    options = dict(language="en", temperature=0.0, sample_len=12, fp16=False, word_timestamps=True)
    theirs, ours = (whisper.transcribe(model, audio, **options) for model in pair)
    assert ours["text"] == theirs["text"]
    for a, b in zip(ours["segments"], theirs["segments"], strict=True):
        assert a["tokens"] == b["tokens"] and (a["start"], a["end"]) == (b["start"], b["end"])
        for x, y in zip(a["words"], b["words"], strict=True):
            assert (
                x["word"] == y["word"]
                and x["start"] == pytest.approx(y["start"])
                and x["end"] == pytest.approx(y["end"])
            )
            assert x["probability"] == pytest.approx(y["probability"], rel=1e-3)
    assert any(s["words"] for s in theirs["segments"])


def test_our_transcribe_reads_files_without_ffmpeg(pair, audio, tmp_path):
    import soundfile

    _, ours = pair
    soundfile.write(tmp_path / "a.flac", audio.numpy(), 16000, subtype="PCM_24")
    result = transcribe(ours, tmp_path / "a.flac", language="en", temperature=0.0, sample_len=12)
    assert isinstance(result, Transcription) and result.text == result["text"] and result.language == "en"
    assert result.words == [] and result.segments
    direct = transcribe(ours, audio.numpy().astype(np.float32), language="en", temperature=0.0, sample_len=12)
    assert direct.text == result.text


def test_decode_batches_and_encoder_outputs_agree(pair, mel):
    _, ours = pair
    both = torch.stack([mel, mel.flip(-1)])
    with torch.no_grad():
        encoded = ours.embed_audio(both)
    options = {"language": "en", "sample_len": 10}
    rows = [decode(ours, row, **options).tokens for row in both]
    assert [r.tokens for r in decode(ours, both, **options)] == rows
    assert [r.tokens for r in decode(ours, encoded, **options)] == rows
    beams = decode(ours, encoded, beam_size=3, **options)
    assert [r.tokens for r in beams] == [decode(ours, row, beam_size=3, **options).tokens for row in both]


def test_hooks_stay_live_inside_decode(pair, mel):
    _, ours = pair
    seen: list[int] = []
    cross_keys: list[tuple[int, ...]] = []
    with ours.hooks(
        fwd_hooks=[
            ("decoder.blocks.0.hook_resid_pre", lambda x, hook: seen.append(hook.offset)),
            ("decoder.blocks.0.cross_attn.hook_k", lambda x: cross_keys.append(tuple(x.shape))),
        ]
    ):
        plain = decode(ours, mel, language="en", sample_len=6, without_timestamps=True)
    assert seen == [0, 4, 5, 6, 7, 8], "the prompt, then one token a step"
    assert cross_keys == [(1, 1500, 2, 16)], "cross-attention keys are made once per clip"
    with ours.hooks(fwd_hooks=[("encoder.hook_out", torch.zeros_like)]):
        deaf = decode(ours, mel, language="en", sample_len=6, without_timestamps=True)
    assert deaf.tokens != plain.tokens
    assert ours.list_hooks() == {}


def test_generate_equals_the_argmax_of_full_passes(pair, mel):
    _, ours = pair
    with torch.no_grad():
        encoded = ours.embed_audio(torch.stack([mel, mel.flip(-1)]))
        prompt = torch.tensor([[50258, 50259, 50359, 50363]] * 2)
        out = generate(ours, prompt, encoded, max_new_tokens=6)
        assert out.shape == (2, 10)
        expected = prompt
        for _ in range(6):
            expected = torch.cat([expected, ours.logits(expected, encoded)[:, -1:].argmax(-1)], 1)
        assert torch.equal(out, expected)
        banned = int(out[0, 4])
        assert banned not in generate(ours, prompt, encoded, max_new_tokens=6, suppress=[banned])[:, 4:]
        stopped = generate(ours, prompt[:1], encoded[:1], max_new_tokens=6, eot=banned)
        assert stopped[0, 4:].tolist() == [banned]


@pytest.mark.parametrize("token", [-1, -51865, 51865, True])
@pytest.mark.parametrize("argument", ["eot", "suppress"])
def test_generate_refuses_token_ids_outside_the_vocabulary(pair, mel, argument, token):
    _, ours = pair
    with torch.no_grad():
        encoded = ours.embed_audio(mel[None])
    value = token if argument == "eot" else [50257, token]
    with pytest.raises(ArgumentError, match=rf"{argument}.*{token}.*0 to 51864"):
        generate(ours, torch.tensor([[50258]]), encoded, max_new_tokens=1, **{argument: value})


def test_generate_stops_at_the_context(pair, mel):
    _, ours = pair
    with torch.no_grad():
        encoded = ours.embed_audio(mel[None])
        out = generate(ours, torch.full((1, 90), 50258), encoded, max_new_tokens=50)
    assert out.shape == (1, 96)


def test_cached_decoding_of_many_rows_shares_one_clip(pair, mel):
    _, ours = pair
    tokens = torch.randint(0, 50000, (4, 7), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        encoded = ours.embed_audio(mel[None])
        full = ours.logits(tokens, encoded.expand(4, -1, -1))
        cache = KVCache()
        steps = [ours.decoder(tokens[:, a:b], encoded, cache) for a, b in ((0, 3), (3, 4), (4, 7))]
    assert torch.allclose(torch.cat(steps, 1), full, rtol=1e-4, atol=1e-4)
    assert cache[ours.decoder.blocks[0].cross_attn.key].shape[0] == 1


def test_transcribe_needs_the_30_s_window():
    config = WhisperConfig(EncoderConfig(80, 50, 8, 2, 1, 16), DecoderConfig(51865, 16, 8, 2, 1, 16))
    with pytest.raises(HookedWhisperError, match="window of 30 s"):
        transcribe(HookedWhisper(config), np.zeros(16000, np.float32))
