"""One site's part in a scan: everything that is counted, kept or sampled about its features."""

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
from hooked_whisper.features.scan.state import Accumulator, Stretch
from hooked_whisper.features.scan.topk import TopK
from hooked_whisper.hooked import HookedWhisper

_LOOK = 30_000  # positions between looks at what has become common: a look costs as much as a window


class FeatureReader:
    """Takes in the activations of one hook point, window after window."""

    def __init__(self, model: HookedWhisper, site: HookBasis, options: ScanOptions) -> None:
        self.hook = encoder_point(model, site.hook)
        self.name = site.name or self.hook
        if isinstance(site.basis, MelBands):
            raise HookedWhisperError("mel bands are read off the mel, which a scan does not: see evaluate_bases")
        self.basis, self.options = site.basis, options
        self.labels = axis_labels(model, self.hook) if site.basis is None else tuple(site.basis.labels)
        n, device = len(self.labels), model.device
        per_second = 1 / model.time.seconds_per_position
        self.top = TopK(
            n,
            options.k,
            round(options.context_s * per_second),
            options.one_per_recording,
            round(options.separation_s * per_second),
            device,
        )
        self.moments = Moments(n, HISTOGRAM_BINS, device)
        self.sampler = Sampler(n, options.rows, options.per_bin, TAIL_BINS, device)
        self._looked = 0

    @property
    def parts(self) -> dict[str, Accumulator]:
        return {"top": self.top, "moments": self.moments, "sampler": self.sampler}

    def state(self) -> dict[str, Tensor]:
        return {f"{part}.{name}": tensor for part, one in self.parts.items() for name, tensor in one.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        for part, one in self.parts.items():
            prefix = f"{part}."
            one.load({name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)})

    def add(self, activations: Tensor, recording: int, name: str, first: int, priority: Tensor) -> None:
        """``activations [position, ...]`` of one window, padding left out.

        Raises:
            HookedWhisperError: an activation that is not finite, or a basis of another width.
        """
        x = activations.flatten(1).float().contiguous()
        if self.basis is not None:
            x = self.basis.encode(x)
        if x.shape[1] != len(self.labels):
            raise HookedWhisperError(
                f"{self.name}: the basis gives {x.shape[1]} features, but has {len(self.labels)} labels"
            )
        stretch = Stretch(x, recording, first, priority)
        largest, smallest = x.amax(0), x.amin(0)
        if not (torch.isfinite(largest) & torch.isfinite(smallest)).all():
            raise HookedWhisperError(
                f"{self.name}: an activation of recording {name!r} is not finite (after position {first}): check the "
                "weights and the audio; full precision avoids overflow"
            )
        self.top.add(stretch, largest)
        self.moments.add(stretch, largest, smallest)
        self.sampler.add(stretch)
        if self.moments.count >= 2 * self._looked or self.moments.count >= self._looked + _LOOK:
            self._looked = int(self.moments.count)
            self.sampler.look(self._tail_counts())

    def merge(self, other: FeatureReader) -> None:
        """Take in what another reader of the same site has seen of other recordings; it is of no use afterwards."""
        for name, part in self.parts.items():
            part.merge(other.parts[name])

    def _tail_counts(self) -> Tensor:
        """Positions in each of the tail's bins, which are whole numbers of the histogram's."""
        return self.moments.histogram[:, 1:].unflatten(1, (TAIL_BINS.per_sign, -1)).sum(2)

    def result(self) -> FeatureScan:
        """What was found so far."""
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
    """The point's own name; an error for what a scan cannot read."""
    found = model.hook_names(name)
    if len(found) != 1:
        raise HookedWhisperError(f"{name!r} means {len(found)} hook points: give one site for each")
    axes = model.hook_dict[found[0]].axes
    if not found[0].startswith("encoder.") or axes[:2] != ("batch", "position"):
        raise HookedWhisperError(
            f"{found[0]} has axes [{', '.join(axes)}]: a scan reads encoder points with [batch, position, ...], "
            "such as encoder.blocks.2.mlp.hook_post"
        )
    return found[0]


def axis_labels(model: HookedWhisper, hook: str) -> tuple[str, ...]:
    """``"0", "1", ...``, or ``"head.dimension"`` where a point has more than one axis beside batch and position."""
    lengths = model.hook_dict[hook].shape({})[2:]
    return tuple(".".join(map(str, index)) for index in itertools.product(*map(range, lengths)))


def _array(x: Tensor) -> np.ndarray:
    return x.detach().cpu().numpy()
