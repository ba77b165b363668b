"""Convert between seconds, samples, mel frames and encoder positions.

Mel frame ``f`` is centered on sample ``160 f`` (10 ms apart); encoder position ``i`` is centered on frame ``2 i``, at
``0.02 i`` seconds. The cell of a position is the span of times nearest to its center: ``[0, 0.01)`` for position 0,
``[0.02 i - 0.01, 0.02 i + 0.01)`` for position ``i``, and up to the end of the window for the last position. Its
receptive field before attention is wider. All spans are half-open.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from hooked_whisper.audio.mel import HOP, N_FFT, SAMPLE_RATE, Number
from hooked_whisper.errors import AudioError, check_option

Rounding = Literal["nearest", "inner", "outer"]


@dataclass(frozen=True, slots=True)
class TimeMap:
    """Conversions for one window of audio; the defaults are Whisper's 30 s and 1500 positions.

    Args:
        sample_rate: samples per second.
        hop: samples per mel frame.
        stride: mel frames per encoder position (the stride of the second convolution).
        n_ctx: encoder positions in the window (``n_audio_ctx``).

    Every method raises :class:`AudioError` for a time, sample, frame or position outside the window.
    """

    sample_rate: int = SAMPLE_RATE
    hop: int = HOP
    stride: int = 2
    n_ctx: int = 1500

    def __post_init__(self) -> None:
        for name in ("sample_rate", "hop", "stride", "n_ctx"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise AudioError(f"TimeMap: {name} must be a positive integer, got {value!r}")

    # The window -------------------------------------------------------------------------------------------------

    @property
    def n_samples(self) -> int:
        return self.n_ctx * self.samples_per_position

    @property
    def n_frames(self) -> int:
        return self.n_ctx * self.stride

    @property
    def samples_per_position(self) -> int:
        return self.stride * self.hop

    @property
    def seconds_per_position(self) -> float:
        return self.samples_per_position / self.sample_rate

    @property
    def duration(self) -> float:
        """Length of the window in seconds."""
        return self.n_samples / self.sample_rate

    # One point in time ------------------------------------------------------------------------------------------

    def sample(self, seconds: Number) -> int:
        """Return the sample nearest to a time; ``n_samples`` at the end of the window."""
        return round(self._in_window(seconds) * self.sample_rate)

    def frame(self, seconds: Number) -> int:
        """Return the mel frame whose center is nearest to a time."""
        return min(math.floor(self._in_units(seconds, self.hop) + 0.5), self.n_frames - 1)

    def position(self, seconds: Number) -> int:
        """Return the encoder position whose center is nearest to a time, that is, whose cell contains it."""
        return min(math.floor(self._in_positions(seconds) + 0.5), self.n_ctx - 1)

    def seconds(self, position: int) -> float:
        """Return the center of an encoder position in seconds: ``0.02 i``."""
        self._check_index("position", position, self.n_ctx)
        return position * self.samples_per_position / self.sample_rate

    def frame_seconds(self, frame: int) -> float:
        """Return the center of a mel frame in seconds: ``0.01 f``."""
        self._check_index("mel frame", frame, self.n_frames)
        return frame * self.hop / self.sample_rate

    def sample_seconds(self, sample: int) -> float:
        """Return the time of a sample in seconds; ``n_samples`` is the end of the window."""
        self._check_index("sample", sample, self.n_samples + 1)
        return sample / self.sample_rate

    # Spans of time ------------------------------------------------------------------------------------------

    def span(self, start: Number, end: Number, rounding: Rounding = "nearest") -> slice:
        """Return the encoder positions of the span ``[start, end)`` in seconds.

        Args:
            rounding: which positions belong to the span.
                ``"nearest"``: those whose center lies in it. Adjacent spans share no position and leave no gap; a span
                shorter than 20 ms may have none.
                ``"inner"``: those whose entire cell lies in it, possibly none.
                ``"outer"``: those whose cell overlaps it, at least one unless the span is empty.
        """
        check_option("rounding", rounding, get_args(Rounding), AudioError)
        if end < start:
            raise AudioError(f"a span needs start <= end, got [{start}, {end}) seconds")
        first, last = self._in_positions(start), self._in_positions(end)  # cell i is [i - 0.5, i + 0.5) in these units
        if rounding == "nearest":
            begin, stop = math.ceil(first), math.ceil(last)
        elif rounding == "inner":
            begin = math.ceil(first + 0.5) if first > 0 else 0
            # The last cell extends to the end of the window, so only a span up to the end contains it.
            stop = self.n_ctx if last >= self.n_ctx else min(math.floor(last + 0.5), self.n_ctx - 1)
        else:
            begin = min(math.floor(first + 0.5), self.n_ctx - 1)
            stop = min(math.ceil(last + 0.5), self.n_ctx)
        if start == end:
            stop = begin
        return slice(begin, max(begin, stop))

    def span_seconds(self, positions: slice) -> tuple[float, float]:
        """Return the start and end of the cells in seconds; :meth:`span` with any rounding is the inverse."""
        begin, stop, step = positions.indices(self.n_ctx)
        if step != 1 or stop < begin:
            raise AudioError(f"a span of positions is slice(start, stop) with start <= stop, got {positions}")
        return self._cell_start(begin), self._cell_start(stop)

    def n_positions(self, duration: Number) -> int:
        """Return the number of positions of a clip of ``duration`` seconds (``ceil(50 duration)``)."""
        return self.span(0.0, duration).stop

    def receptive_field(self, position: int) -> tuple[int, int]:
        """Return the samples that affect a position before attention, as (first, one past the last).

        Two convolutions of width 3 read mel frames ``2 i - 2 .. 2 i + 2``, and a frame reads the 199 samples on either
        side of its center (the Hann window is 0 at the 200th): samples ``320 i ± 519``. In addition, all samples affect
        the clip's maximum, unless the log-mel has a fixed ``reference_max``.
        """
        self._check_index("position", position, self.n_ctx)
        center, reach = position * self.samples_per_position, 2 * self.hop + N_FFT // 2 - 1
        return max(0, center - reach), min(self.n_samples, center + reach + 1)

    # ------------------------------------------------------------------------------------------------------------

    def _cell_start(self, position: int) -> float:
        if position == 0:
            return 0.0
        if position == self.n_ctx:
            return self.duration
        return (position - 0.5) * self.samples_per_position / self.sample_rate

    def _in_window(self, seconds: Number) -> float:
        # Allow for rounding by a millionth of a second.
        if not -1e-6 <= seconds <= self.duration + 1e-6:  # False for NaN too
            raise AudioError(
                f"{seconds} s is outside the window of 0 to {self.duration:g} s; cut longer audio into windows"
            )
        return min(max(float(seconds), 0.0), self.duration)

    def _in_positions(self, seconds: Number) -> float:
        return self._in_units(seconds, self.samples_per_position)

    def _in_units(self, seconds: Number, samples: int) -> float:
        # Most times have no exact float (1.005 * 16000 < 16080): round to a millionth, so that edges compare equal.
        return round(self._in_window(seconds) * self.sample_rate / samples, 6)

    @staticmethod
    def _check_index(what: str, index: int, size: int) -> None:
        if not 0 <= index < size:
            raise AudioError(f"{what} {index} is outside the window: 0 to {size - 1}")
