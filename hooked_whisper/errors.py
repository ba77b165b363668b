"""Exceptions. Each says what went wrong and what to do next.

Every class also inherits a fitting builtin, so that ``except ValueError`` catches it too.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class HookedWhisperError(Exception):
    """Base of all exceptions that this package raises on purpose."""

    def __str__(self) -> str:
        # KeyError would print the repr of its argument: quotes around the sentence, escaped newlines.
        return BaseException.__str__(self)


class UnknownHookError(HookedWhisperError, KeyError):
    """A hook name, glob, regex or predicate matches no hook point of this model.

    Cause: a typing error, a block this model does not have, or a pattern that matches nothing.
    Fix: take one of the close names in the message; ``hooked-whisper hooks`` lists all of them.
    """


class HookShapeError(HookedWhisperError, ValueError):
    """A hook returned something that cannot replace its activation.

    Cause: a shape, dtype or device that differs from the point's, or something that is not a tensor.
    Fix: return ``None`` (to read only) or a tensor like the argument; the message names point and axes.
    """


class CacheSizeError(HookedWhisperError, MemoryError):
    """The requested activations would take more memory than the limit allows.

    Cause: attention scores or patterns of many encoder blocks, or a large batch.
    Fix: request fewer points, positions or clips, store a smaller dtype, or raise the limit; the message has the
    estimate.
    """


class MaskError(HookedWhisperError, ValueError):
    """An attention mask does not fit.

    Cause: a shape that does not broadcast to [batch, head, query, key], a wrong dtype, or a key without an attention.
    Fix: give a bool (True = may attend) or an additive float mask under a key that the message lists.
    """


class CheckpointError(HookedWhisperError, ValueError):
    """A checkpoint cannot be read, or does not fit the model.

    Cause: a truncated or foreign file, missing or unexpected keys, or code where weights should be.
    Fix: fetch the file again, or convert it: the message names the file and the keys.
    """


class MissingWeightsError(CheckpointError):
    """The weights of a known model are not on this machine and cannot be downloaded.

    Cause: they are not cached and not installed, and there is no connection, or ``local_files_only`` forbids one.
    Fix: run the command in the message, or load from a file; the message lists every place that was searched.
    """


class UploadError(HookedWhisperError, ConnectionError):
    """Files could not be uploaded to the Hugging Face hub.

    Cause: no connection, no token or no right to write to the repository, or the hub refused the files.
    Fix: log in with ``hf auth login`` or pass ``token=``, then call again; the message says what is in the repository.
    """


class UnknownModelError(HookedWhisperError, ValueError):
    """No model has this name.

    Cause: a typing error, or a path that does not exist.
    Fix: take one of the close names in the message, or give the path of a local file or folder.
    """


class AudioError(HookedWhisperError, ValueError):
    """Audio cannot be read or used.

    Cause: a missing, empty, broken or unknown file; NaN or infinity in it; too short or too long; a wrong shape.
    Fix: the message names the file or array and what to do with it.
    """


class MissingExtraError(HookedWhisperError, ImportError):
    """An optional package is missing.

    Cause: the extra that contains it is not installed.
    Fix: run the ``pip install hooked-whisper[...]`` in the message.
    """


class PromptError(HookedWhisperError, ValueError):
    """Text cannot be turned into tokens, or tokens into text, for this model.

    Cause: an unknown language, a task an English-only model does not have, texts of unequal token lengths in one batch,
    a word of several tokens where one is needed, or a vocabulary without a tokenizer.
    Fix: the message lists the choices or the pieces.
    """


class PatchError(HookedWhisperError, ValueError):
    """A patch, its hook point or its metric does not fit the model or the pair of runs.

    Cause: a component or axis the point does not have, a span outside the window, runs of different lengths.
    Fix: the message names the point, its axes and the request.
    """


class ConfigError(HookedWhisperError, ValueError):
    """A configuration has a value that is out of range or contradicts another value.

    Cause: a size below 1, ``k`` above the number of features, an option that this architecture does not have.
    Fix: the message names the field, what was given and what is expected.
    """


class ShapeError(HookedWhisperError, ValueError):
    """A tensor does not have the shape or the values that a function needs.

    Cause: activations of another width, rows and targets of different lengths, no rows at all, NaN or infinity.
    Fix: the message gives both shapes; most often the activations are of another hook point than the SAE's.
    """


class AlignmentError(HookedWhisperError, ValueError):
    """A transcript cannot be aligned with the audio, or heads cannot be scored on these clips.

    Cause: no words, a transcript too long for the decoder, no audio, a head the model does not have, no word times.
    Fix: the message names what is missing and what to give.
    """


class ArgumentError(HookedWhisperError, ValueError, TypeError):
    """An argument has a value or a type that the function does not take.

    Cause: an unknown option, a path or list where a tensor is needed, numbers out of range, an empty list.
    Fix: the message names the argument, what was given, what is expected, and the nearest option.
    """


def check_option(argument: str, value: Any, options: Iterable[str], error: type[Exception] = ArgumentError) -> str:
    """Return ``value`` if it is one of ``options``.

    Raises:
        ``error``: it is not; the message lists the options and proposes the most similar.
    """
    known = tuple(options)
    if isinstance(value, str) and value in known:
        return value
    near = closest(value, known, 1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    *others, last = map(repr, known)
    listed = f"{', '.join(others)} or {last}" if others else last
    raise error(f"{argument} must be {listed}, not {value!r:.80}{hint}")


def closest(name: str, names: Iterable[str], n: int = 3) -> list[str]:
    """Return at most ``n`` strings of ``names`` similar to ``name``, best first, ignoring case. May be empty."""
    by_lower: dict[str, str] = {}
    for candidate in names:
        by_lower.setdefault(candidate.lower(), candidate)
    return [by_lower[match] for match in difflib.get_close_matches(name.lower(), by_lower, n=n, cutoff=0.5)]
