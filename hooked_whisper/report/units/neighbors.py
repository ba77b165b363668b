"""Similar units of a site: by the direction that they write, and by the moments that activate them most."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked_whisper.features.scan import FeatureScan
from hooked_whisper.hooked import HookedWhisper
from hooked_whisper.protocols import FeatureBasis

N_SIMILAR = 5
SAME_MOMENT = 5  # positions, 0.1 s: two strongest moments at most this far apart are the same
LEAST_SHARED = 0.1  # of the moments; fewer are coincidences
LEAST_COSINE = 0.15

Similar = tuple[tuple[int, float], ...]
"""``(index, similarity)``, most similar first."""


def similar_weights(model: HookedWhisper, hook: str, basis: FeatureBasis | None, units: Sequence[int]) -> list[Similar]:
    """Return for each unit the units with the highest cosine between the directions that they write.

    The directions are rows of an MLP's output weights, or of the decoder of an SAE or basis. Units without such
    directions have no similar ones. Only ``units`` are compared, and cosines below 0.15 are left out.
    """
    directions = _directions(model, hook, basis)
    if directions is None or len(units) < 2:
        return [()] * len(units)
    rows = torch.nn.functional.normalize(directions[list(units)].detach().float(), dim=-1)
    similar: list[Similar] = []
    for first in range(0, len(rows), 1024):
        cosines = rows[first : first + 1024] @ rows.T
        place = torch.arange(len(cosines))
        cosines[place, first + place] = -2.0
        values, places = cosines.topk(min(N_SIMILAR, len(units) - 1), dim=1)
        for row, value in zip(places, values, strict=True):
            keep = value >= LEAST_COSINE
            similar.append(_named(units, row[keep].tolist(), value[keep].tolist()))
    return similar


def _directions(model: HookedWhisper, hook: str, basis: FeatureBasis | None) -> Float[Tensor, "unit d"] | None:
    if basis is not None:
        rows = getattr(basis, "W_dec", None)
        rows = getattr(basis, "directions", None) if rows is None else rows
        return rows if isinstance(rows, Tensor) and rows.ndim == 2 else None
    if not hook.endswith("mlp.hook_post"):
        return None
    return model.encoder.W_out[int(hook.split(".")[2])]


def same_moments(scan: FeatureScan, units: Sequence[int]) -> list[Similar]:
    """Return for each unit the units that share the largest part of its strongest moments.

    The similarity is the share of the unit's strongest examples within 0.1 s of one of the other unit's. Similarities
    below 0.1 are left out.
    """
    from scipy.sparse import coo_array

    recordings, positions = scan.top.recordings[list(units)], scan.top.positions[list(units)]
    place, rank = np.nonzero(recordings >= 0)
    recording, position = recordings[place, rank].astype(np.int64), positions[place, rank].astype(np.int64)
    moment = recording * (1 << 32) + position  # moments of different recordings are far apart
    order = np.argsort(moment, kind="stable")
    moment, place = moment[order], place[order]
    stop = np.searchsorted(moment, moment + SAME_MOMENT, side="right")
    counts = stop - np.arange(len(moment)) - 1  # later moments that are the same as this one
    first = np.repeat(np.arange(len(moment)), counts)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(counts) - counts, counts)
    pairs = np.unique(
        np.concatenate([np.stack([first, place[second]]), np.stack([second, place[first]])], axis=1), axis=1
    )  # (example, other unit), once each
    shape = (len(units), len(units))
    shared = coo_array((np.ones(pairs.shape[1]), (place[pairs[0]], pairs[1])), shape=shape).tocsr()
    n_examples = np.bincount(place, minlength=len(units))
    similar: list[Similar] = []
    for i in range(len(units)):
        row = slice(shared.indptr[i], shared.indptr[i + 1])
        others, shares = shared.indices[row], shared.data[row] / max(1, n_examples[i])
        keep = (others != i) & (shares >= LEAST_SHARED)
        others, shares = others[keep], shares[keep]
        best = np.lexsort((others, -shares))[:N_SIMILAR]
        similar.append(_named(units, others[best].tolist(), shares[best].tolist()))
    return similar


def _named(units: Sequence[int], places: Sequence[int], values: Sequence[float]) -> Similar:
    return tuple((int(units[place]), float(value)) for place, value in zip(places, values, strict=True))
