"""Prompts and tokens for each of Whisper's vocabularies, from openai-whisper's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Int
from torch import Tensor

from hooked_whisper.config import VOCABULARIES, WhisperConfig
from hooked_whisper.errors import PromptError, check_option, closest

if TYPE_CHECKING:
    from whisper.tokenizer import Tokenizer

ENGLISH_ONLY, _, _ = VOCABULARIES
N_LANGUAGES = dict(zip(VOCABULARIES, (99, 99, 100), strict=True))  # by size of the vocabulary
TASKS = ("transcribe", "translate")
_ADDED = "<|added {}|>"  # text of a token that the tokenizer does not have


def tokenizer_of(cfg: WhisperConfig, language: str | None = None, task: str | None = None) -> Tokenizer:
    """Return a model's tokenizer. It does not contain tokens that were added to the released vocabulary.

    Raises:
        PromptError: no released vocabulary has the model's ids, or :func:`tokenizer_for` raises.
    """
    layout = cfg.token_layout
    if layout is None:
        raise PromptError(
            f"no tokenizer for the {cfg.decoder.n_vocab} tokens of {cfg.name!r}, with {cfg.encoder.n_mels} mel bins: "
            "its special token ids are unknown. If it is a released vocabulary with added tokens, load it "
            "with vocabulary=51864 (English only), 51865 (99 languages) or 51866 (100 languages); else give token ids "
            "to the model and to model.generate"
        )
    return tokenizer_for(layout, language, task)


def tokenizer_for(n_vocab: int, language: str | None = None, task: str | None = None) -> Tokenizer:
    """Return openai-whisper's tokenizer for a vocabulary size, which determines its special ids (``.sot``, ...).

    Args:
        n_vocab: 51864 (English-only), 51865 (99 languages) or 51866 (100 languages: large-v3, turbo).
        language: a code (``"en"``) or an English name (``"english"``); ``None`` is English.
        task: ``"transcribe"`` or ``"translate"``; ``None`` is ``"transcribe"``.

    Raises:
        PromptError: ``n_vocab`` is another size, the language or task is unknown, or an English-only vocabulary is used
            with another language or ``"translate"``.
    """
    from whisper.tokenizer import get_tokenizer  # imported here because it is slow

    if n_vocab not in N_LANGUAGES:
        known = ", ".join(map(str, N_LANGUAGES))
        raise PromptError(f"no tokenizer for a vocabulary of {n_vocab}: expected {known}; give token ids instead")
    if task is not None:
        check_option("task", task, TASKS, PromptError)
    if language is not None and not isinstance(language, str):
        raise PromptError(f"language is a code such as 'en' or a name such as 'english', not {language!r:.80}")
    code = _language_code(language or "en", N_LANGUAGES[n_vocab])
    if n_vocab == ENGLISH_ONLY:
        if code != "en" or task == "translate":
            request = "translate" if task == "translate" else f"take language {language!r}"
            raise PromptError(f"an English-only model cannot {request}: use a multilingual one")
        return get_tokenizer(multilingual=False)
    return get_tokenizer(
        multilingual=True, num_languages=N_LANGUAGES[n_vocab], language=code, task=task or "transcribe"
    )


def _language_code(language: str, n_languages: int) -> str:
    from whisper.tokenizer import LANGUAGES, TO_LANGUAGE_CODE

    codes = list(LANGUAGES)[:n_languages]
    code = TO_LANGUAGE_CODE.get(language.lower(), language.lower())
    if code in codes:
        return code
    if code in LANGUAGES:
        raise PromptError(f"this vocabulary has {n_languages} languages, and {language!r} is not among them")
    names = [*codes, *(name for name, name_code in TO_LANGUAGE_CODE.items() if name_code in codes)]
    near = closest(language, names)
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
    raise PromptError(f"unknown language {language!r}: give a code such as 'en' or a name such as 'english'{hint}")


@dataclass(frozen=True, slots=True)
class Prompter:
    """Convert text to tokens and back, for a model with ``n_vocab`` tokens.

    ``n_vocab`` may be any size; methods raise :class:`PromptError` if it has no tokenizer. Text is encoded exactly as
    given. A word inside a sentence includes its leading space: the model writes ``" very"``; ``"very"`` is another
    token. Special tokens are written as text: ``<|en|>``, ``<|nospeech|>``, ``<|0.40|>``.
    """

    n_vocab: int
    layout: int | None = None  # size of the released vocabulary, if tokens were added to it

    @classmethod
    def of(cls, cfg: WhisperConfig) -> Prompter:
        """Return the prompter of a model."""
        return cls(cfg.decoder.n_vocab, cfg.token_layout)

    @property
    def tokenizer(self) -> Tokenizer:
        """openai-whisper's tokenizer, for English transcription."""
        return self._tokenizer()

    def prompt_ids(
        self, *, language: str | None = "en", task: str = "transcribe", timestamps: bool = False
    ) -> list[int]:
        """Return the special tokens before the text.

        These are start of transcript, language and task (multilingual models only), and no-timestamps (unless
        ``timestamps``).
        """
        tokenizer = self._tokenizer(language, task)
        return list(tokenizer.sot_sequence if timestamps else tokenizer.sot_sequence_including_notimestamps)

    def to_tokens(
        self,
        text: str | Sequence[str],
        *,
        language: str | None = "en",
        task: str = "transcribe",
        timestamps: bool = False,
        prompt: bool = True,
    ) -> Int[Tensor, "batch token"]:
        """Encode the prompt and the text, one row per text.

        Args:
            text: encoded exactly as given; special tokens may be written out in it.
            language, task, timestamps: see :meth:`prompt_ids`.
            prompt: whether to start with :meth:`prompt_ids`.

        Raises:
            PromptError: the texts have different numbers of tokens, the list is empty, or :func:`tokenizer_for` raises.
        """
        head = self.prompt_ids(language=language, task=task, timestamps=timestamps) if prompt else []
        if not isinstance(text, str | Sequence):
            raise PromptError(f"text must be a string or a list of strings, not {text!r:.80} ({type(text).__name__})")
        texts = [text] if isinstance(text, str) else list(text)
        rows = [head + self._encode(each) for each in texts]
        lengths = [len(row) - len(head) for row in rows]
        if len(set(lengths)) != 1:
            if not texts:
                raise PromptError("an empty list of texts has no tokens: give at least one text")
            raise PromptError(
                f"the texts of a batch must have equally many tokens, these have {lengths}: run them one by one, or "
                "choose words of equal length"
            )
        return torch.tensor(rows, dtype=torch.long)

    def to_str_tokens(self, tokens: str | int | Sequence[int] | Int[Tensor, "..."]) -> list[str]:
        """Return each token as text. Bytes that do not form a character are escaped, as in ``\\xe2``.

        ``tokens`` is one row of ids ([token] or [1, token]), or a text, which is encoded without a prompt.
        """
        ids, encoding = self._ids(tokens), self.tokenizer.encoding
        return [
            _ADDED.format(i)
            if i >= encoding.n_vocab
            else encoding.decode_single_token_bytes(i).decode("utf-8", errors="backslashreplace")
            for i in ids
        ]

    def to_string(self, tokens: int | Sequence[int] | Int[Tensor, "..."]) -> str:
        """Return the text of one row of ids ([token] or [1, token]), including special tokens and timestamps."""
        ids, encoding = self._ids(tokens), self.tokenizer.encoding
        if max(ids, default=0) < encoding.n_vocab:
            return encoding.decode(ids)
        pieces = (
            _ADDED.format(i).encode() if i >= encoding.n_vocab else encoding.decode_single_token_bytes(i) for i in ids
        )
        return b"".join(pieces).decode("utf-8", errors="replace")

    def to_single_token(self, text: str) -> int:
        """Return the id of a text that is one token, such as ``" very"`` or ``"<|en|>"``.

        Raises:
            PromptError: ``text`` is not exactly one token. The message lists its tokens, and says whether adding or
                removing the leading space would help.
        """
        ids = self._encode(text)
        if len(ids) == 1:
            return ids[0]
        other = text.lstrip(" ") if text.startswith(" ") else " " + text
        hint = f"; {other!r} is a single token" if other.strip() and len(self._encode(other)) == 1 else ""
        raise PromptError(f"{text!r} is {len(ids)} tokens, not one: {self.to_str_tokens(ids)}{hint}")

    def _tokenizer(self, language: str | None = None, task: str | None = None) -> Tokenizer:
        return tokenizer_for(self.n_vocab if self.layout is None else self.layout, language, task)

    def _encode(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise PromptError(f"text must be a string, not {text!r:.80} ({type(text).__name__})")
        return self.tokenizer.encode(text, allowed_special="all")

    def _ids(self, tokens: str | int | Sequence[int] | Tensor) -> list[int]:
        if isinstance(tokens, str):
            return self._encode(tokens)
        try:
            ids = torch.as_tensor(tokens)
        except (TypeError, ValueError, RuntimeError):
            raise PromptError(f"tokens are ids [token] or [1, token], or a text, not {tokens!r:.80}") from None
        if ids.numel() and (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool):
            raise PromptError(f"token ids are whole numbers, got {ids.dtype} {ids.tolist()!s:.80}")
        if ids.ndim > 2 or (ids.ndim == 2 and len(ids) != 1):
            raise PromptError(f"tokens of shape {tuple(ids.shape)} are not one row: pass one row, tokens[i]")
        row = [int(i) for i in ids.flatten()]
        for i in row:
            if not 0 <= i < self.n_vocab:
                raise PromptError(f"token id {i} is outside the vocabulary of {self.n_vocab}")
        return row
