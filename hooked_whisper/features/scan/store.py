"""A scan on disk: parquet tables and a JSON header.

- ``features.parquet``: a row per feature: moments, firing rate, and the histogram as ``cells`` (bins) and ``counts``.
  ``histogram_edges`` in the header are the edges of the bins.
- ``ranges.parquet``: a row per activation range.
- ``examples.parquet``: a row per example: recording, position, seconds, activation, rank, and for the largest ones the
  activations around.
"""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hooked_whisper._support.storage import AnyPath, Place, as_path, local_copy, write_atomic
from hooked_whisper.corpora import Recording
from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.features.scan.records import HISTOGRAM_BINS, Examples, FeatureScan, RangeExamples, Scan

HEADER, FEATURES, RANGES, EXAMPLES = "scan.json", "features.parquet", "ranges.parquet", "examples.parquet"
_STATISTICS = ("mean", "variance", "minimum", "maximum", "firing_rate")


def save_scan(
    folder: AnyPath, bases: Sequence[FeatureScan], corpus: Sequence[Recording], header: dict[str, Any], seconds: float
) -> None:
    """Write the tables, and the header last: a folder with a header is complete.

    seconds: duration of one position.
    """
    _write(folder / FEATURES, pa.concat_tables([_features(basis) for basis in bases]))
    _write(folder / RANGES, pa.concat_tables([_ranges(basis, kind) for basis in bases for kind in basis.ranges]))
    tables = []
    for basis in bases:
        tables.append(_examples(basis, "top", None, basis.top, corpus, seconds))
        tables += [_examples(basis, kind, r.counts.shape[1], r.examples, corpus, seconds) for kind, r in _kinds(basis)]
    _write(folder / EXAMPLES, pa.concat_tables(tables).unify_dictionaries())
    header = header | {
        "format": 1,
        "tables": [FEATURES, RANGES, EXAMPLES],
        "seconds_per_position": seconds,
        "histogram_edges": [None, *HISTOGRAM_BINS.edges[HISTOGRAM_BINS.per_sign + 1 : -1].tolist(), None],
        "sites": [
            {
                "name": basis.name,
                "hook": basis.hook,
                "features": basis.n_features,
                "positions": basis.positions,
                "k": basis.top.values.shape[1],
                "context_positions": (_traces(basis).shape[2] - 1) // 2,
                "ranges": {kind: list(r.examples.values.shape[1:]) for kind, r in _kinds(basis)},
            }
            for basis in bases
        ],
    }
    write_atomic(folder / HEADER, (json.dumps(header, indent=1, ensure_ascii=False) + "\n").encode())


def load_scan(folder: Place) -> Scan:
    """Load a finished scan.

    Raises:
        HookedWhisperError: the folder has no finished scan, or a table is broken or belongs to another scan.
    """
    folder = as_path(folder)
    try:
        header = json.loads((folder / HEADER).read_text(encoding="utf-8"))
        features, ranges, examples = (pq.read_table(local_copy(folder / name)) for name in (FEATURES, RANGES, EXAMPLES))
    except FileNotFoundError as error:
        raise HookedWhisperError(f"no finished scan in {folder}: {error.filename} is missing") from None
    except (ValueError, OSError, pa.ArrowException) as error:
        raise HookedWhisperError(f"the scan in {folder} cannot be read ({error}): scan again") from error
    try:
        bases = {entry["name"]: _basis(entry, features, ranges, examples) for entry in header["sites"]}
    except (KeyError, ValueError, TypeError, IndexError, pa.ArrowException) as error:
        raise HookedWhisperError(f"the tables in {folder} do not fit its {HEADER} ({error}): scan again") from error
    numbers, rows = np.unique(examples["recording"].to_numpy(), return_index=True)
    return Scan(
        header, bases, dict(zip(numbers.tolist(), examples["id"].take(pa.array(rows)).to_pylist(), strict=True))
    )


def _kinds(basis: FeatureScan) -> list[tuple[str, RangeExamples]]:
    return list(basis.ranges.items())


def _traces(basis: FeatureScan) -> np.ndarray:
    assert basis.top.traces is not None
    return basis.top.traces


def _write(path: AnyPath, table: pa.Table) -> None:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def _words(values: Sequence[str] | np.ndarray) -> pa.Array:
    return pa.array(values, pa.string()).dictionary_encode()


def _lists(values: np.ndarray, lengths: np.ndarray, kind: pa.DataType) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind))


def _features(basis: FeatureScan) -> pa.Table:
    n = basis.n_features
    rows, bins = basis.histogram.nonzero()
    filled = np.bincount(rows, minlength=n)
    columns: dict[str, Any] = {
        "site": _words([basis.name] * n),
        "hook": _words([basis.hook] * n),
        "feature": pa.array(np.arange(n, dtype=np.int32)),
        "label": pa.array(basis.labels),
        "positions": pa.array(np.full(n, basis.positions)),
    }
    columns |= {name: pa.array(getattr(basis, name)) for name in _STATISTICS}
    columns["cells"] = _lists(bins.astype(np.int16), filled, pa.int16())
    columns["counts"] = _lists(basis.histogram[rows, bins].astype(np.int64), filled, pa.int64())
    return pa.table(columns)


def _ranges(basis: FeatureScan, kind: str) -> pa.Table:
    ranges = basis.ranges[kind]
    n, n_ranges = ranges.counts.shape
    return pa.table(
        {
            "site": _words([basis.name] * (n * n_ranges)),
            "kind": _words([kind] * (n * n_ranges)),
            "feature": pa.array(np.repeat(np.arange(n, dtype=np.int32), n_ranges)),
            "range": pa.array(np.tile(np.arange(n_ranges, dtype=np.int16), n)),
            "low": pa.array(ranges.edges[:, :-1].ravel()),
            "high": pa.array(ranges.edges[:, 1:].ravel()),
            "count": pa.array(ranges.counts.ravel().astype(np.int64)),
        }
    )


def _examples(
    basis: FeatureScan, kind: str, n_ranges: int | None, examples: Examples, corpus: Sequence[Recording], seconds: float
) -> pa.Table:
    shape = examples.recordings.shape
    filled = (examples.recordings >= 0).nonzero()
    count = len(filled[0])
    recordings = examples.recordings[filled]
    indices, index = np.unique(recordings, return_inverse=True)
    named = [corpus[int(i)] for i in indices]
    columns: dict[str, Any] = {
        "site": _words([basis.name] * count),
        "kind": _words([kind] * count),
        "feature": pa.array(filled[0].astype(np.int32)),
        "range": pa.array(filled[1].astype(np.int16) if n_ranges else np.full(count, -1, np.int16)),
        "rank": pa.array(filled[-1].astype(np.int16)),
        "value": pa.array(examples.values[filled].astype(np.float32)),
        "recording": pa.array(recordings.astype(np.int32)),
    }
    for name in ("id", "path", "speaker"):
        words = pa.array([str(getattr(recording, name)) for recording in named], pa.string())
        columns[name] = pa.DictionaryArray.from_arrays(pa.array(index.astype(np.int32)), words)
    columns["position"] = pa.array(examples.positions[filled].astype(np.int32))
    columns["seconds"] = pa.array(examples.positions[filled] * seconds)
    if examples.traces is None:
        columns["trace"] = pa.nulls(count, pa.list_(pa.float32()))
    else:
        traces = examples.traces[filled].astype(np.float32)
        columns["trace"] = _lists(traces.ravel(), np.full(count, shape and traces.shape[1]), pa.float32())
    return pa.table(columns)


def _basis(header: dict[str, Any], features: pa.Table, ranges: pa.Table, examples: pa.Table) -> FeatureScan:
    name, n = str(header["name"]), int(header["features"])
    rows = _filtered(features, site=name)
    if len(rows) != n:
        raise ValueError(f"{len(rows)} of {n} features of {name}")
    histogram = np.zeros((n, 1 + HISTOGRAM_BINS.per_sign), np.int64)
    lengths = np.diff(rows["cells"].combine_chunks().offsets.to_numpy())
    bins = rows["cells"].combine_chunks().flatten().to_numpy()
    histogram[np.repeat(np.arange(n), lengths), bins] = rows["counts"].combine_chunks().flatten().to_numpy()
    range_examples = {}
    for kind, shape in header["ranges"].items():
        table = _filtered(ranges, site=name, kind=kind)
        low, high, count = (table[c].to_numpy().reshape(n, shape[0]) for c in ("low", "high", "count"))
        edges = np.concatenate([low, high[:, -1:]], axis=1)
        drawn = _read_examples(_filtered(examples, site=name, kind=kind), (n, *shape), ranged=True)
        range_examples[kind] = RangeExamples(edges, count, drawn)
    around = 2 * int(header["context_positions"]) + 1
    top = _read_examples(_filtered(examples, site=name, kind="top"), (n, int(header["k"])), ranged=False, around=around)
    return FeatureScan(
        name=name,
        hook=str(header["hook"]),
        labels=tuple(rows["label"].to_pylist()),
        positions=int(header["positions"]),
        **{statistic: rows[statistic].to_numpy() for statistic in _STATISTICS},
        histogram=histogram,
        top=top,
        ranges=range_examples,
    )


def _filtered(table: pa.Table, **values: str) -> pa.Table:
    """Rows whose columns have these values; without a copy if the rows are adjacent, as they are written."""
    matches = np.ones(len(table), bool)
    for column, value in values.items():
        codes = table[column].dictionary_encode().unify_dictionaries().combine_chunks()
        words = codes.dictionary.to_pylist()
        matches &= codes.indices.to_numpy() == (words.index(value) if value in words else -1)
    rows = np.flatnonzero(matches)
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return table.slice(int(rows[0]), len(rows))
    return table.take(pa.array(rows))


def _read_examples(table: pa.Table, shape: tuple[int, ...], ranged: bool, around: int = 0) -> Examples:
    columns = ("feature", "range", "rank") if ranged else ("feature", "rank")
    index = tuple(table[c].to_numpy() for c in columns)
    values = np.full(shape, np.nan, np.float32)
    recordings, positions = np.full(shape, -1, np.int32), np.full(shape, -1, np.int32)
    for array, column in ((values, "value"), (recordings, "recording"), (positions, "position")):
        array[index] = table[column].to_numpy()
    traces = None
    if around:
        traces = np.full((*shape, around), np.nan, np.float32)
        if len(table):
            traces[index] = table["trace"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, around)
    return Examples(values, recordings, positions, traces)
