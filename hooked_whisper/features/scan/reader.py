"""Accumulate what a scan reports about the features of one basis: statistics, top examples, and samples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.baselines import MelBands
from hooked_whisper.features.hook_basis import HookBasis
from hooked_whisper.features.scan.moments import Moments
from hooked_whisper.features.scan.ranges import RANGE_KINDS, make_ranges
from hooked_whisper.features.scan.records import (
    HISTOGRAM_BINS,
    TAIL_BINS,
    Examples,
    FeatureScan,
    RangeExamples,
    ScanOptions,
)
from hooked_whisper.features.scan.sampling import Sampler
from hooked_whisper.features.scan.state import Accumulator, WindowFeatures
from hooked_whisper.features.scan.topk import TopActivations
from hooked_whisper.hooked import HookedWhisper

_UPDATE_EVERY = 30_000  # positions; an update of the sampling levels takes as long as a window


class FeatureReader:
    """Accumulates the features of one hook point and basis, window after window.

    Raises:
        HookedWhisperError: the hook point has no vector per encoder position, or the basis is ``MelBands``.
    """

    def __init__(self, model: HookedWhisper, hook_basis: HookBasis, options: ScanOptions) -> None:
        self.hook = encoder_point(model, hook_basis.hook)
        self.name = hook_basis.name or self.hook
        if isinstance(hook_basis.basis, MelBands):
            raise HookedWhisperError("a scan cannot read mel bands: use evaluate_bases")
        self.basis, self.options = hook_basis.basis, options
        self.labels = axis_labels(model, self.hook) if self.basis is None else tuple(self.basis.labels)
        n, device = len(self.labels), model.device
        per_second = 1 / model.time.seconds_per_position
        self.top = TopActivations(
            n,
            options.k,
            round(options.context_s * per_second),
            options.one_per_recording,
            round(options.separation_s * per_second),
            device,
        )
        self.moments = Moments(n, HISTOGRAM_BINS, device)
        self.sampler = Sampler(n, options.rows, options.per_bin, TAIL_BINS, device)
        self._updated_at = 0

    @property
    def parts(self) -> dict[str, Accumulator]:
        return {"top": self.top, "moments": self.moments, "sampler": self.sampler}

    def state(self) -> dict[str, Tensor]:
        return {
            f"{part}.{name}": tensor
            for part, accumulator in self.parts.items()
            for name, tensor in accumulator.state().items()
        }

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part, accumulator in self.parts.items():
            prefix = f"{part}."
            accumulator.load({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})

    def add(self, activations: Tensor, recording: int, name: str, first: int, priority: Tensor) -> None:
        """Add the activations ``[position, ...]`` of one window, without padding.

        Raises:
            HookedWhisperError: an activation is not finite, or the basis has a different number of features and labels.
        """
        x = activations.flatten(1).float().contiguous()
        if self.basis is not None:
            x = self.basis.encode(x)
        if x.shape[1] != len(self.labels):
            raise HookedWhisperError(
                f"{self.name}: the basis has {x.shape[1]} features and {len(self.labels)} labels: give a label for each"
            )
        window = WindowFeatures(x, recording, first, priority)
        largest, smallest = x.amax(0), x.amin(0)
        if not (torch.isfinite(largest) & torch.isfinite(smallest)).all():
            raise HookedWhisperError(
                f"{self.name}: an activation of recording {name!r} is not finite (from position {first} on): check "
                "the weights and the audio; full precision avoids overflow"
            )
        self.top.add(window, largest)
        self.moments.add(window, largest, smallest)
        self.sampler.add(window)
        if self.moments.count >= 2 * self._updated_at or self.moments.count >= self._updated_at + _UPDATE_EVERY:
            self._updated_at = int(self.moments.count)
            self.sampler.update_levels(self._tail_counts())

    def merge(self, other: FeatureReader) -> None:
        """Add the counts of a reader of the same basis on other recordings. Do not use ``other`` afterwards."""
        for name, part in self.parts.items():
            part.merge(other.parts[name])

    def _tail_counts(self) -> Tensor:
        """Positions in each bin of the tail sample; each is a whole number of the histogram's bins."""
        return self.moments.histogram[:, 1:].unflatten(1, (TAIL_BINS.per_sign, -1)).sum(2)

    def result(self) -> FeatureScan:
        """Results so far."""
        histogram = self.moments.histogram
        count = int(self.moments.count)
        fires = histogram[:, 1:].sum(1)
        top = self.top.ranked()
        options, counted = self.options, self._tail_counts()
        ranges: dict[str, RangeExamples] = {}
        for kind in RANGE_KINDS:
            edges, counts = make_ranges(histogram, HISTOGRAM_BINS, kind, options.ranges)
            drawn = self.sampler.draw(counted, edges, options.per_range, options.one_per_recording)
            examples = Examples(*map(_array, drawn))
            ranges[kind] = RangeExamples(_array(edges), _array(counts), examples)
        return FeatureScan(
            name=self.name,
            hook=self.hook,
            labels=self.labels,
            positions=count,
            mean=_array(self.moments.mean),
            variance=_array(self.moments.variance),
            minimum=_array(self.moments.smallest),
            maximum=_array(self.moments.largest),
            firing_rate=_array(fires / max(count, 1)),
            histogram=_array(histogram),
            top=Examples(*map(_array, top)),
            ranges=ranges,
        )


def encoder_point(model: HookedWhisper, name: str) -> str:
    """Canonical name of a hook point.

    Raises:
        HookedWhisperError: the name matches several points, or a point without a vector per encoder position.
    """
    hooks = model.hook_names(name)
    if len(hooks) != 1:
        raise HookedWhisperError(f"{name!r} matches {len(hooks)} hook points: name one")
    axes = model.hook_dict[hooks[0]].axes
    if not hooks[0].startswith("encoder.") or axes[:2] != ("batch", "position"):
        raise HookedWhisperError(
            f"{hooks[0]} has axes [{', '.join(axes)}], expected an encoder point with [batch, position, ...] such as "
            "encoder.blocks.2.mlp.hook_post"
        )
    return hooks[0]


def axis_labels(model: HookedWhisper, hook: str) -> tuple[str, ...]:
    """Labels ``"0", "1", ...`` of a point's features, or ``"head.dimension"`` where it has further axes."""
    lengths = model.hook_dict[hook].shape({})[2:]
    return tuple(".".join(map(str, index)) for index in itertools.product(*map(range, lengths)))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
