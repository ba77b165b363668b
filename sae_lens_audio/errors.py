"""Exceptions of training; the others are those of :mod:`hooked_whisper.errors`."""

from __future__ import annotations

from hooked_whisper.errors import HookedWhisperError


class TrainingError(HookedWhisperError, ValueError):
    """A training run cannot start or continue, or its result is not valid.

    Cause: settings that do not fit each other or the data, a loss that is not finite, a folder with another run.
    Fix: the message names the setting, the file or the batch. Files written before are complete.
    """
