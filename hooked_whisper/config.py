"""Frozen configurations. Encoder and decoder have separate ones, so they can differ in depth and MLP width."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from whisper.model import ModelDimensions

# fields of HookedTransformerConfig, and what to use
_STACKS = ("encoder", "decoder")
_PER_STACK = ("n_layers", "n_heads", "d_head", "d_mlp", "n_ctx")
_ELSEWHERE = {
    "device": "use model.device",
    "dtype": "use model.dtype",
    "act_fn": "every MLP of Whisper uses the exact GELU",
    "normalization_type": "Whisper has layer norms with gain and bias; from_pretrained(fold_ln=True) folds them",
    "default_prepend_bos": "model.to_tokens(text, prompt=...) writes or omits Whisper's prompt",
}

VOCABULARIES = (51864, 51865, 51866)  # English only, 99 languages, 100 languages


@dataclass(frozen=True)
class EncoderConfig:
    """Shape of the audio encoder. One position is 20 ms (two mel frames of 10 ms)."""

    n_mels: int = 80
    n_ctx: int = 1500
    d_model: int = 384
    n_heads: int = 6
    n_layers: int = 4
    d_mlp: int = 1536

    def __post_init__(self) -> None:
        _check_shape(self)
        if self.d_model % 2 or self.d_model < 4:
            raise ValueError(f"EncoderConfig: d_model must be even and at least 4 (sinusoids), got {self.d_model}")

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads

    @property
    def n_frames(self) -> int:
        """Mel frames of the encoder's window: two per position."""
        return 2 * self.n_ctx


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of the text decoder."""

    n_vocab: int = 51865
    n_ctx: int = 448
    d_model: int = 384
    n_heads: int = 6
    n_layers: int = 4
    d_mlp: int = 1536

    def __post_init__(self) -> None:
        _check_shape(self)

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


@dataclass(frozen=True)
class WhisperConfig:
    """Shapes of both stacks, the model's name, and its vocabulary.

    alignment_heads: the cross-attention heads known to follow the audio, as (block, head).
    vocabulary: the released vocabulary whose ids the model uses: 51864 (English), 51865 (99 languages) or 51866 (100
        languages); ``n_vocab`` is larger where tokens were added. 0: another tokenizer. ``None``: inferred from the
        sizes, see :attr:`token_layout`.
    """

    encoder: EncoderConfig
    decoder: DecoderConfig
    name: str = "whisper"
    alignment_heads: tuple[tuple[int, int], ...] | None = None
    vocabulary: int | None = None

    def __post_init__(self) -> None:
        if self.vocabulary is not None and not (
            self.vocabulary == 0 or (self.vocabulary in VOCABULARIES and self.vocabulary <= self.decoder.n_vocab)
        ):
            raise ValueError(
                f"vocabulary must be one of {', '.join(map(str, VOCABULARIES))}, at most n_vocab "
                f"{self.decoder.n_vocab}, or 0 for another tokenizer, got {self.vocabulary!r}"
            )
        if self.encoder.d_model != self.decoder.d_model:
            raise ValueError(
                f"encoder d_model {self.encoder.d_model} and decoder d_model {self.decoder.d_model} must be equal: "
                "cross-attention reads the encoder's output without a projection in between"
            )
        for block, head in self.alignment_heads or ():
            if not (0 <= block < self.decoder.n_layers and 0 <= head < self.decoder.n_heads):
                raise ValueError(f"alignment head ({block}, {head}) does not exist in {self.decoder}")

    def __getattr__(self, name: str) -> Any:
        if name in _PER_STACK:
            sizes = " or ".join(f"cfg.{part}.{name} ({getattr(vars(self).get(part), name)})" for part in _STACKS)
            answer = f"Whisper has two stacks: use {sizes}"
        else:
            answer = _ELSEWHERE.get(name, "")
        raise AttributeError(f"WhisperConfig has no {name}{': ' if answer else ''}{answer}", name=name, obj=self)

    @property
    def d_model(self) -> int:
        """Width of the residual stream of both stacks."""
        return self.decoder.d_model

    @property
    def d_vocab(self) -> int:
        """TransformerLens' name of ``decoder.n_vocab``."""
        return self.decoder.n_vocab

    @property
    def model_name(self) -> str:
        """TransformerLens' name of ``name``."""
        return self.name

    @property
    def token_layout(self) -> int | None:
        """The released vocabulary whose ids this model uses; ``None`` if ``vocabulary`` and the sizes leave it open.

        51866 tokens are large-v3's vocabulary only with its 128 mel bins; with 80, tokens were added to another one.
        """
        if self.vocabulary is not None:
            return self.vocabulary or None
        n_vocab = self.decoder.n_vocab
        if n_vocab in (51864, 51865):
            return n_vocab
        return 51866 if n_vocab >= 51866 and self.encoder.n_mels == 128 else None

    @classmethod
    def from_dims(
        cls, dims: ModelDimensions, name: str = "whisper", alignment_heads: tuple[tuple[int, int], ...] | None = None
    ) -> WhisperConfig:
        """Return the configuration for openai-whisper's ``ModelDimensions`` (the ``dims`` of its checkpoints)."""
        encoder = EncoderConfig(
            n_mels=dims.n_mels,
            n_ctx=dims.n_audio_ctx,
            d_model=dims.n_audio_state,
            n_heads=dims.n_audio_head,
            n_layers=dims.n_audio_layer,
            d_mlp=4 * dims.n_audio_state,
        )
        decoder = DecoderConfig(
            n_vocab=dims.n_vocab,
            n_ctx=dims.n_text_ctx,
            d_model=dims.n_text_state,
            n_heads=dims.n_text_head,
            n_layers=dims.n_text_layer,
            d_mlp=4 * dims.n_text_state,
        )
        return cls(encoder, decoder, name, alignment_heads)

    @property
    def dims(self) -> ModelDimensions:
        """The same shape under openai-whisper's names."""
        return ModelDimensions(
            n_mels=self.encoder.n_mels,
            n_audio_ctx=self.encoder.n_ctx,
            n_audio_state=self.encoder.d_model,
            n_audio_head=self.encoder.n_heads,
            n_audio_layer=self.encoder.n_layers,
            n_vocab=self.decoder.n_vocab,
            n_text_ctx=self.decoder.n_ctx,
            n_text_state=self.decoder.d_model,
            n_text_head=self.decoder.n_heads,
            n_text_layer=self.decoder.n_layers,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the configuration as JSON data."""
        data = asdict(self)
        if self.vocabulary is None:  # files of earlier versions have no such field
            del data["vocabulary"]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> WhisperConfig:
        """Return the configuration of :meth:`to_dict`.

        Raises:
            ValueError: fields are missing or unknown; names them.
        """
        heads = data.get("alignment_heads")
        return cls(
            encoder=_from_dict(EncoderConfig, data.get("encoder"), "encoder"),
            decoder=_from_dict(DecoderConfig, data.get("decoder"), "decoder"),
            name=str(data.get("name", "whisper")),
            alignment_heads=None if heads is None else tuple((int(b), int(h)) for b, h in heads),
            vocabulary=data.get("vocabulary"),
        )


def _from_dict(cls: Any, data: Any, where: str) -> Any:
    names = {f.name for f in fields(cls)}
    if not isinstance(data, dict) or set(data) != names:
        got = sorted(data) if isinstance(data, dict) else data
        raise ValueError(f"config field {where!r} needs exactly {sorted(names)}, got {got}")
    return cls(**data)


def _check_shape(cfg: EncoderConfig | DecoderConfig) -> None:
    for f in fields(cfg):
        value = getattr(cfg, f.name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(cfg).__name__}: {f.name} must be a positive integer, got {value!r}")
    if cfg.d_model % cfg.n_heads:
        raise ValueError(f"{type(cfg).__name__}: d_model {cfg.d_model} is not a multiple of n_heads {cfg.n_heads}")


# (n_mels, d_model, heads, encoder blocks, decoder blocks, vocabulary) of every released checkpoint
_SIZES = {
    "tiny": (80, 384, 6, 4, 4, 51865),
    "base": (80, 512, 8, 6, 6, 51865),
    "small": (80, 768, 12, 12, 12, 51865),
    "medium": (80, 1024, 16, 24, 24, 51865),
    "large-v1": (80, 1280, 20, 32, 32, 51865),
    "large-v2": (80, 1280, 20, 32, 32, 51865),
    "large-v3": (128, 1280, 20, 32, 32, 51866),
    "large-v3-turbo": (128, 1280, 20, 32, 4, 51866),
}
ALIASES = {"large": "large-v3", "turbo": "large-v3-turbo"}


def _released(name: str, n_mels: int, d: int, heads: int, enc: int, dec: int, vocab: int) -> WhisperConfig:
    return WhisperConfig(
        EncoderConfig(n_mels, 1500, d, heads, enc, 4 * d), DecoderConfig(vocab, 448, d, heads, dec, 4 * d), name
    )


RELEASED: dict[str, WhisperConfig] = {name: _released(name, *size) for name, size in _SIZES.items()} | {
    f"{name}.en": _released(f"{name}.en", *_SIZES[name][:-1], 51864) for name in ("tiny", "base", "small", "medium")
}

OFFICIAL_MODEL_NAMES: tuple[str, ...] = (*RELEASED, *ALIASES)
"""Names of the models that OpenAI released, for ``HookedWhisper.from_pretrained``; ``"demo"`` is packaged."""
