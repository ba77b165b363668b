"""Special tokens come from the checkpoint's files, since the size of a vocabulary does not determine them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hooked_whisper import HookedWhisper
from hooked_whisper.config import DecoderConfig, EncoderConfig, WhisperConfig
from hooked_whisper.errors import ArgumentError, PromptError
from hooked_whisper.text import Prompter
from tests.loading.sources import small_twins

pytestmark = pytest.mark.filterwarnings("ignore:.*names no alignment heads")

# released vocabulary -> start of transcript, no timestamps
IDS = {51864: (50257, 50362), 51865: (50258, 50363), 51866: (50258, 50364)}


def make_model(n_vocab: int, n_mels: int = 80, vocabulary: int | None = None) -> HookedWhisper:
    torch.manual_seed(0)
    encoder = EncoderConfig(n_mels=n_mels, n_ctx=1500, d_model=16, n_heads=2, n_layers=1, d_mlp=16)
    decoder = DecoderConfig(n_vocab=n_vocab, n_ctx=64, d_model=16, n_heads=2, n_layers=1, d_mlp=16)
    return HookedWhisper(WhisperConfig(encoder, decoder, vocabulary=vocabulary))


def say_only(model: HookedWhisper, token: int) -> None:
    """Make a model whose likeliest next token is always this one."""
    with torch.no_grad():
        model.decoder.ln_final.bias.fill_(1.0)
        model.decoder.token_embedding.weight[token] = 9.0


@pytest.mark.parametrize(
    ("n_vocab", "n_mels", "layout"),
    [(51864, 80, 51864), (51865, 80, 51865), (51866, 128, 51866), (51900, 128, 51866), (51866, 80, None),
     (51900, 80, None), (51863, 80, None), (1000, 80, None), (51865, 128, 51865)],
)  # fmt: skip
def test_vocabulary_follows_from_known_sizes_only(n_vocab: int, n_mels: int, layout: int | None) -> None:
    cfg = WhisperConfig(EncoderConfig(n_mels=n_mels), DecoderConfig(n_vocab=n_vocab))
    assert cfg.token_layout == layout


@pytest.mark.parametrize("vocabulary", IDS)
@pytest.mark.parametrize("added", [1, 2, 100])
def test_ids_are_those_of_the_vocabulary(vocabulary: int, added: int) -> None:
    model = make_model(vocabulary + added, vocabulary=vocabulary)
    start, no_timestamps = IDS[vocabulary]
    assert model.to_tokens("").tolist()[0][:: 3 if vocabulary > 51864 else 1] == [start, no_timestamps]
    assert (model.tokenizer.sot, model.tokenizer.no_timestamps) == (start, no_timestamps)
    assert model.is_multilingual == (vocabulary > 51864)
    assert model.num_languages == (100 if vocabulary == 51866 else 99)


@pytest.mark.parametrize("vocabulary", [51864, 51865])
def test_added_tokens_are_never_decoded(vocabulary: int) -> None:
    model = make_model(vocabulary + 1, vocabulary=vocabulary)
    say_only(model, vocabulary)
    mel = torch.zeros(1, 80, 3000)
    for options in ({}, {"suppress_tokens": None}, {"suppress_tokens": [1, 2]}, {"without_timestamps": True}):
        (result,) = model.decode(mel, language="en", sample_len=4, **options)
        assert all(token < vocabulary for token in result.tokens)
    result = model.transcribe(torch.zeros(16000), language="en", temperature=0, sample_len=4)
    assert all(token < vocabulary for segment in result.segments for token in segment["tokens"])
    assert "yue" not in model.detect_language(mel)[1][0]


@pytest.mark.parametrize(("n_vocab", "n_mels"), [(51866, 80), (51900, 80), (1000, 80), (60000, 80)])
def test_nothing_is_decoded_without_known_phones(n_vocab: int, n_mels: int) -> None:
    model = make_model(n_vocab, n_mels)
    mel = torch.zeros(1, n_mels, 3000)
    for call in (
        lambda: model.to_tokens("a"),
        lambda: model.tokenizer,
        lambda: model.decode(mel, language="en"),
        lambda: model.decode(mel, task="lang_id"),
        lambda: model.transcribe(torch.zeros(16000), language="en"),
        lambda: model.detect_language(mel),
    ):
        with pytest.raises(PromptError, match=rf"{n_vocab} tokens.*vocabulary=51864.*51865.*51866"):
            call()
    assert model.generate(torch.tensor([[1]]), model.embed_audio(mel), max_new_tokens=2).shape == (1, 3)


def test_vocabulary_argument_decides() -> None:
    model = HookedWhisper.from_pretrained(make_model(51866), vocabulary=51865)
    assert model.tokenizer.sot == 50258 and model.cfg.vocabulary == 51865
    with pytest.raises(ArgumentError, match="51866"):
        HookedWhisper.from_pretrained(make_model(51865), vocabulary=51866)


def generation_config(vocabulary: int) -> dict[str, int]:
    start, no_timestamps = IDS[vocabulary]
    return {"decoder_start_token_id": start, "no_timestamps_token_id": no_timestamps}


def added_tokens(vocabulary: int) -> dict[str, int]:
    start, no_timestamps = IDS[vocabulary]
    return {"<|startoftranscript|>": start, "<|notimestamps|>": no_timestamps}


def tokenizer_json(vocabulary: int) -> dict[str, object]:
    return {"added_tokens": [{"content": name, "id": i} for name, i in added_tokens(vocabulary).items()]}


def vocabulary_json(vocabulary: int) -> list[str]:
    names = {i: name for name, i in added_tokens(vocabulary).items()}
    return [names.get(i, f"w{i}") for i in range(51900)]


FILES = {
    "generation_config.json": generation_config, "added_tokens.json": added_tokens, "tokenizer.json": tokenizer_json,
    "vocabulary.json": vocabulary_json,
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(("n_vocab", "vocabulary"), [(51866, 51865), (51865, 51864), (51866, 51864), (51867, 51866)])
def test_folder_declares_its_vocabulary(tmp_path: Path, file: str, n_vocab: int, vocabulary: int) -> None:
    small_twins(n_vocab).hf.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / file).write_text(json.dumps(FILES[file](vocabulary)), encoding="utf-8")
    model = HookedWhisper.from_pretrained(tmp_path, device="cpu")
    assert model.cfg.token_layout == vocabulary
    assert (model.tokenizer.sot, model.tokenizer.no_timestamps) == IDS[vocabulary]
    model.save_pretrained(tmp_path / "ours")
    assert HookedWhisper.from_pretrained(tmp_path / "ours").cfg.token_layout == vocabulary


def test_model_in_memory_declares_its_vocabulary() -> None:
    twins = small_twins(51866)
    twins.hf.generation_config.no_timestamps_token_id = 50363
    assert HookedWhisper.from_pretrained(twins.hf).cfg.token_layout == 51865


@pytest.mark.parametrize("content", ["", "{", "[]", '{"added_tokens": 3}', '{"no_timestamps_token_id": 7}', "null"])
@pytest.mark.parametrize("file", ["generation_config.json", "tokenizer.json", "added_tokens.json", "vocabulary.json"])
def test_other_files_are_refused(tmp_path: Path, file: str, content: str) -> None:
    from hooked_whisper.errors import HookedWhisperError

    small_twins(51866).hf.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    (tmp_path / file).write_text(content, encoding="utf-8")
    try:
        assert HookedWhisper.from_pretrained(tmp_path).cfg.token_layout is None
    except HookedWhisperError:
        assert file == "generation_config.json"


def test_added_tokens_print() -> None:
    prompter = Prompter(51867, 51865)
    assert prompter.to_str_tokens([50258, 51866]) == ["<|startoftranscript|>", "<|added 51866|>"]
    assert prompter.to_string([264, 51865]) == " the<|added 51865|>"


def test_files_of_earlier_versions_are_read() -> None:
    cfg = WhisperConfig(EncoderConfig(), DecoderConfig())
    assert "vocabulary" not in cfg.to_dict() and WhisperConfig.from_dict(cfg.to_dict()) == cfg
    more = replace(cfg, decoder=DecoderConfig(n_vocab=51866), vocabulary=51865)
    assert WhisperConfig.from_dict(more.to_dict()) == more
    for wrong in (51866, 5):
        with pytest.raises(ValueError, match="vocabulary"):
            replace(cfg, vocabulary=wrong)
