"""Command-line arguments that select the model and its device, and types of numeric arguments."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.loading import Checkpoint

_MODEL_HELP = (
    "{}; a released name (tiny ... large-v3, turbo; taken from the cache of "
    "openai-whisper or Hugging Face, from an installed package such as 'hooked-whisper[weights]', or downloaded); a "
    "Hugging Face id; a .pt file, whisper.cpp's ggml-*.bin or faster-whisper's model.bin; or a folder"
)


def add_model(
    parser: argparse.ArgumentParser, device: bool = True, default: str | None = "demo", default_help: str = ""
) -> None:
    """Add the group of arguments about the model: ``--model``, and with ``device`` also ``--device`` and ``--threads``.

    default: name of the default model; with ``None``, ``default_help`` says which model is used.
    """
    group = parser.add_argument_group("model")
    text = _MODEL_HELP.format(default_help or "demo (default: packaged, needs no network)")
    group.add_argument("--model", default=default, metavar="M", help=text)
    if device:
        group.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: cuda if available)")
        group.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: PyTorch's)")
    add_verbose(parser)


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add ``--verbose``."""
    parser.add_argument(
        "--verbose", "-v", action="store_true", help="print every warning, details, and the traceback of an error"
    )


def load_model(
    parsed: argparse.Namespace, checkpoint: Checkpoint | None = None
) -> tuple[HookedWhisper, dict[str, str]]:
    """Load the model. Return it with the metadata of its weights.

    checkpoint: the weights of ``parsed.model``, if they have been read already.
    """
    import torch

    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.loading import load_into, resolve

    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    device = device_of(parsed.device)
    checkpoint = resolve(parsed.model) if checkpoint is None else checkpoint
    model = HookedWhisper(checkpoint.config)
    load_into(model, checkpoint)
    model.metadata = dict(checkpoint.metadata)
    return model.to(device).eval(), dict(checkpoint.metadata)


def check_language(model: HookedWhisper, language: str | None) -> None:
    """Check the language before anything slow starts.

    Raises:
        PromptError: if the language is unknown or the model does not have it.
    """
    if language and language != "en":  # every model has English, even one with a custom vocabulary
        model.to_tokens(" a", language=language)


def device_of(name: str | None) -> torch.device:
    """Return the named device, or by default CUDA if available; under ``torchrun``, each process uses a different GPU.

    Raises:
        HookedWhisperError: if the device does not exist.
    """
    import torch

    from hooked_whisper.errors import HookedWhisperError

    if not name:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise HookedWhisperError(f"device {name!r} is not available ({reason}): try --device cpu") from error
    return torch.device(name)


MOST_THREADS = 1024  # more threads or processes can crash the interpreter


def positive(text: str) -> int:
    return _at_least(text, 1)


def threads(text: str) -> int:
    """Parse a number of threads or processes."""
    value = _at_least(text, 1)
    if value > MOST_THREADS:
        raise argparse.ArgumentTypeError(f"needs a whole number from 1 to {MOST_THREADS}, got {text!r}")
    return value


def not_negative(text: str) -> int:
    return _at_least(text, 0)


def _at_least(text: str, least: int) -> int:
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if value < least:
        raise argparse.ArgumentTypeError(f"needs a whole number of at least {least}, got {text!r}")
    return value
