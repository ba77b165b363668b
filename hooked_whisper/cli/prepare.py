"""What every command does first: check output, options, model name, language and corpus, and then load.

All checks run before the weights are loaded, so a wrong argument is reported within seconds.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hooked_whisper.cli.corpus_arguments import check_corpus_options, corpus_of, texts_of
from hooked_whisper.cli.model_arguments import check_language, load_model

if TYPE_CHECKING:
    from hooked_whisper._support.ranks import TorchRanks
    from hooked_whisper._support.storage import Place
    from hooked_whisper.corpora import Recording
    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.loading import Checkpoint


@dataclass(frozen=True, eq=False)
class NamedModel:
    """A model whose name is known to be right.

    Attributes:
        shapes: the model without weights, on the device ``meta``: hook points, widths and tokens.
        checkpoint: the weights, if finding out the shapes required reading them.
    """

    shapes: HookedWhisper
    checkpoint: Checkpoint | None = None


def find_model(name: str) -> NamedModel:
    """Look a model up by name or path. The weights of released models are not read.

    Raises:
        UnknownModelError: no model has this name or path.
    """
    import torch

    from hooked_whisper.config import ALIASES, RELEASED
    from hooked_whisper.hooked import HookedWhisper
    from hooked_whisper.loading import resolve

    short = name.removeprefix("openai/").removeprefix("whisper-")
    config = None if os.path.exists(name) else RELEASED.get(ALIASES.get(short, short))
    checkpoint = None if config else resolve(name)
    with torch.device("meta"):
        return NamedModel(HookedWhisper(config or checkpoint.config), checkpoint)  # type: ignore[union-attr]


def check_output(place: Place) -> None:
    """Check that a folder can be written. URLs are not checked.

    Raises:
        HookedWhisperError: a file is in the way, or the folder cannot be written.
    """
    from hooked_whisper._support.storage import as_path, is_local
    from hooked_whisper.errors import HookedWhisperError

    path = as_path(place)
    if not is_local(path):
        return
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise HookedWhisperError(f"--out {place}: {existing} is a file, expected a folder: give another name")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise HookedWhisperError(f"--out {place}: no permission to write in {existing}: give another folder")


@dataclass(frozen=True, eq=False)
class Session:
    """A loaded model and the recordings to work on. first: whether this process reports to the user."""

    model: HookedWhisper
    corpus: list[Recording]
    ranks: TorchRanks | None
    first: bool


@dataclass(frozen=True, eq=False)
class Prepared:
    """Checked arguments of a command that reads a corpus. described: the corpus in words."""

    parsed: argparse.Namespace
    named: NamedModel
    corpus: list[Recording]
    described: str

    @property
    def shapes(self) -> HookedWhisper:
        """The model without weights, to check hook points and widths."""
        return self.named.shapes

    @contextmanager
    def start(
        self, activity: str, check_model: Callable[[HookedWhisper], None] = lambda model: None
    ) -> Iterator[Session]:
        """Load and check the model, say what begins, and yield the session, in each process of ``torchrun``."""
        import torch

        from hooked_whisper._support.ranks import torchrun_ranks

        model, _ = load_model(self.parsed, self.named.checkpoint)
        check_model(model)
        with torchrun_ranks(torch.device("cpu")) as ranks:  # the processes only wait for each other
            first = ranks is None or ranks.rank == 0
            if first:
                print(f"{activity} {self.described}", file=sys.stderr)
            yield Session(model, texts_of(self.parsed, model, self.corpus, ranks), ranks, first)


def prepare(parsed: argparse.Namespace) -> Prepared:
    """Check ``--out``, the options of the corpus, the model's name, the language, and open the corpus.

    Raises:
        HookedWhisperError: one of them is wrong.
    """
    check_output(parsed.out)
    check_corpus_options(parsed)
    named = find_model(parsed.model)
    check_language(named.shapes, parsed.language)
    corpus, described = corpus_of(parsed)
    return Prepared(parsed, named, corpus, described)


def check_files(files: list[str]) -> None:
    """Check that at least one of the files exists. Single missing files are reported when they are read.

    Raises:
        IsADirectoryError: a path is a folder, and none is a file.
        FileNotFoundError: no file exists.
    """
    from hooked_whisper._support.storage import as_path

    if any(as_path(file).is_file() for file in files):
        return
    for file in files:
        if as_path(file).is_dir():
            raise IsADirectoryError(f"{file} is a folder: give the audio files in it, such as {Path(file) / '*.wav'}")
        raise FileNotFoundError(f"audio file {file} does not exist: check the path and the working folder")
