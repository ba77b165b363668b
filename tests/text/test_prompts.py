from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from whisper.tokenizer import get_tokenizer

from hooked_whisper.errors import PromptError
from hooked_whisper.text import Prompter, tokenizer_for

SIZES = (51864, 51865, 51866)
english, multilingual, large_v3 = map(Prompter, SIZES)
# From the published vocabularies, not from the code: eot, sot, no_timestamps, <|0.00|>.
SPECIALS = {
    51864: (50256, 50257, 50362, 50363),
    51865: (50257, 50258, 50363, 50364),
    51866: (50257, 50258, 50364, 50365),
}


@pytest.mark.parametrize("size", SIZES)
def test_special_ids_follow_from_the_size(size: int) -> None:
    tokenizer = Prompter(size).tokenizer
    assert (tokenizer.eot, tokenizer.sot, tokenizer.no_timestamps, tokenizer.timestamp_begin) == SPECIALS[size]
    assert tokenizer.encoding.n_vocab == size


def test_prompts_of_each_vocabulary() -> None:
    assert english.to_tokens("").tolist() == [[50257, 50362]]
    assert multilingual.to_tokens("").tolist() == [[50258, 50259, 50359, 50363]]
    assert large_v3.to_tokens("").tolist() == [[50258, 50259, 50360, 50364]]
    assert multilingual.to_tokens("", timestamps=True).tolist() == [[50258, 50259, 50359]]
    assert multilingual.to_tokens("", language="fr", task="translate").tolist() == [[50258, 50265, 50358, 50363]]
    assert english.to_tokens("", language=None, timestamps=True).tolist() == [[50257]]
    assert large_v3.to_str_tokens(large_v3.to_tokens("", language="Cantonese"))[1] == "<|yue|>"
    for name in ("German", "de", "DE"):
        assert multilingual.to_str_tokens(multilingual.to_tokens("", language=name))[1] == "<|de|>"


@given(st.sampled_from(SIZES), st.text(st.characters(exclude_categories=["Cs"]), max_size=30))
def test_text_is_encoded_exactly_as_given(size: int, text: str) -> None:
    prompter = Prompter(size)
    ids = prompter.to_tokens(text, prompt=False)
    assert ids.dtype == torch.long and ids.shape[0] == 1
    assert prompter.to_string(ids) == text
    assert ids[0].tolist() == get_tokenizer(size != 51864).encode(text, allowed_special="all")
    with_prompt = prompter.to_tokens(text)
    assert with_prompt[0].tolist() == prompter.prompt_ids() + ids[0].tolist()


@given(st.sampled_from(SIZES), st.integers(0, 51863) | st.just(50256))
def test_every_token_prints(size: int, token: int) -> None:
    prompter = Prompter(size)
    (printed,) = prompter.to_str_tokens(token)
    # the multilingual vocabularies have one token of no bytes, left over from GPT-2's end of text
    assert printed or (token == 50256 and size != 51864)
    if token >= prompter.tokenizer.eot:
        assert printed.startswith("<|") and prompter.to_single_token(printed) == token


def test_space_is_part_of_the_token() -> None:
    assert multilingual.to_single_token(" very") == 588
    assert multilingual.to_single_token("very") != 588
    assert multilingual.to_tokens(" very", prompt=False).tolist() == [[588]]


def test_special_tokens_are_written_as_they_print() -> None:
    ids = multilingual.to_tokens("<|0.40|> yes<|30.00|><|endoftext|>", timestamps=True)
    printed = multilingual.to_str_tokens(ids)
    assert printed[3:] == ["<|0.40|>", " yes", "<|30.00|>", "<|endoftext|>"]
    assert multilingual.to_string(ids) == "<|startoftranscript|><|en|><|transcribe|><|0.40|> yes<|30.00|><|endoftext|>"
    assert ids[0, 3] == 50364 + 20


def test_str_tokens_of_text_and_of_parts_of_characters() -> None:
    assert multilingual.to_str_tokens(" very good") == [" very", " good"]
    (snowman,) = multilingual.to_tokens("☃", prompt=False).tolist()
    assert len(snowman) > 1
    pieces = multilingual.to_str_tokens(snowman)
    assert len(set(pieces)) == len(pieces) and all("�" not in piece for piece in pieces)
    assert multilingual.to_string(snowman) == "☃"


def test_batches() -> None:
    tokens = multilingual.to_tokens([" cat", " dog"])
    assert tokens.shape == (2, 5) and multilingual.to_str_tokens(tokens[1])[-1] == " dog"
    with pytest.raises(PromptError, match=r"\[1, 2\]"):
        multilingual.to_tokens([" cat", " two dogs"])
    with pytest.raises(PromptError, match="empty list"):
        multilingual.to_tokens([])
    with pytest.raises(PromptError, match=r"tokens\[i\]"):
        multilingual.to_string(tokens)
    assert multilingual.to_string(torch.zeros(0, dtype=torch.long)) == multilingual.to_string([]) == ""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unbelievably", r"2 tokens, not one: \['un', 'believably'\]; ' unbelievably' is a single token"),
        (" <|en|>", r"\[' ', '<\|en\|>'\]; '<\|en\|>' is a single token"),
        (" very good", r"2 tokens, not one: \[' very', ' good'\]$"),
        ("", r"0 tokens, not one: \[\]$"),
    ],
)
def test_not_a_single_token(text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        multilingual.to_single_token(text)


@pytest.mark.parametrize(
    ("prompter", "options", "message"),
    [
        (multilingual, {"language": "englsh"}, "did you mean 'english'"),
        (multilingual, {"language": "zzzz"}, "such as 'english'$"),
        (multilingual, {"language": "yue"}, "99 languages"),
        (english, {"language": "yue"}, "99 languages"),
        (english, {"language": "de"}, "English-only .* 'de'"),
        (english, {"task": "translate"}, "English-only model cannot translate"),
        (english, {"language": "klingon"}, "unknown language"),
    ],
)
def test_unsupported_requests_are_refused(prompter: Prompter, options: dict[str, str], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        prompter.to_tokens("x", **options)


def test_english_only_takes_english() -> None:
    for language in ("en", "English", None):
        assert english.to_tokens("x", language=language).shape == (1, 3)


@pytest.mark.parametrize("task", ["transcribed", ""])
def test_unknown_task(task: str, unchecked: None) -> None:
    with pytest.raises(PromptError, match="'transcribe' or 'translate'"):
        multilingual.to_tokens("x", task=task)


@pytest.mark.parametrize("token", [-1, 51865, 10**9])
def test_ids_outside_the_vocabulary(token: int) -> None:
    with pytest.raises(PromptError, match="outside the vocabulary of 51865"):
        multilingual.to_str_tokens([token])


def test_small_vocabularies_have_no_tokenizer() -> None:
    prompter = Prompter(1000)
    for call in (
        lambda: prompter.to_tokens(" very"),
        lambda: prompter.to_str_tokens([1]),
        lambda: prompter.to_string([1]),
        lambda: prompter.to_single_token(" very"),
        lambda: prompter.tokenizer,
        lambda: tokenizer_for(1000),
    ):
        with pytest.raises(PromptError, match="no tokenizer for a vocabulary of 1000"):
            call()
