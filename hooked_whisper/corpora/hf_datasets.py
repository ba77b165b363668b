"""A Hugging Face data set with a column of audio as a corpus, read row by row on demand."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, overload

from hooked_whisper.corpora.records import Recording
from hooked_whisper.errors import AudioError, MissingExtraError, closest

if TYPE_CHECKING:
    import datasets


class DatasetCorpus(Sequence[Recording]):
    """The corpus of :func:`from_dataset`: recordings are created on access."""

    def __init__(self, sounds: Any, facts: Any, columns: dict[str, str]) -> None:
        self._sounds, self._facts, self._columns = sounds, facts, columns
        self._digits = len(str(max(0, len(sounds) - 1)))

    def __len__(self) -> int:
        return len(self._sounds)

    @overload
    def __getitem__(self, index: int) -> Recording: ...

    @overload
    def __getitem__(self, index: slice) -> list[Recording]: ...

    def __getitem__(self, index: int | slice) -> Recording | list[Recording]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"the corpus has {len(self)} recordings, index {index} is out of range")
        index %= len(self)
        row = self._facts[index] if self._columns else {}
        said = {field: "" if row[name] is None else str(row[name]) for field, name in self._columns.items()}
        return Recording(
            said.get("id", f"{index:0{self._digits}d}"),
            partial(_sound, self._sounds, index),
            speaker=said.get("speaker", ""),
            text=" ".join(said.get("text", "").split()),
        )


def from_dataset(
    dataset: datasets.Dataset,
    audio: str = "audio",
    text: str | None = None,
    speaker: str | None = None,
    id: str | None = None,
) -> DatasetCorpus:
    """Use one split of a data set as a corpus.

    Audio is decoded by :func:`~hooked_whisper.audio.load_audio` from the stored bytes or paths, so the decoders of
    ``datasets`` are not needed.

    Args:
        audio: a column of ``datasets.Audio``, of paths, or of arrays with their sample rate.
        text, speaker, id: columns of transcripts, speakers and unique ids; without ``id``, rows are numbered.

    Raises:
        AudioError: the data set is streamed or has several splits, a column does not exist, or ids are not unique.
        MissingExtraError: ``datasets`` is not installed.
    """
    try:
        import datasets
    except ImportError:
        raise MissingExtraError(
            "a corpus from a data set needs the package datasets: pip install hooked-whisper[datasets]"
        ) from None
    if isinstance(dataset, datasets.IterableDataset):
        raise AudioError(
            "a streamed data set has no random access: load it with streaming=False, or keep a part of it with "
            "datasets.Dataset.from_list(list(dataset.take(n)), features=dataset.features)"
        )
    if isinstance(dataset, dict):
        raise AudioError(
            f"the data set has several splits: give one of them, such as dataset[{next(iter(dataset), 'train')!r}]"
        )
    if not isinstance(dataset, datasets.Dataset):
        raise AudioError(f"expected a datasets.Dataset, got {type(dataset).__name__}")
    wanted = {"audio": audio, "text": text, "speaker": speaker, "id": id}
    columns = {field: name for field, name in wanted.items() if name is not None}
    for field, name in columns.items():
        if name not in dataset.column_names:
            near = closest(name, dataset.column_names)
            hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise AudioError(f"no column {name!r} for {field}, but {', '.join(dataset.column_names)}{hint}")
    sounds = dataset.select_columns([audio]).with_format(None)
    if isinstance(dataset.features[audio], datasets.Audio):
        sounds = sounds.cast_column(audio, datasets.Audio(decode=False))
    del columns["audio"]
    facts = dataset.select_columns(list(dict.fromkeys(columns.values()))).with_format(None)
    if id is not None and len(set(map(str, facts[id]))) < len(facts):
        raise AudioError(f"column {id!r} has duplicate values: ids must be unique; without id, rows are numbered")
    return DatasetCorpus(sounds, facts, columns)


def _sound(sounds: Any, index: int) -> Any:
    (source,) = sounds[index].values()
    if source is None:
        raise AudioError(f"row {index} of the data set has no audio")
    return source
