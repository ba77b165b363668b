"""Corpora of recordings: folders, manifests, data sets; with words and phones where somebody aligned them.

A corpus is a ``Sequence[Recording]``. A ``Clip`` is a recording, or a part of one, with its samples in memory.

- recordings from ``open_corpus`` (anything on disk): ``audio_folder``, ``librispeech``, ``timit``,
  ``common_voice``, ``fleurs``, ``asterisk``, ``manifest``; and from ``from_dataset``
- ``packaged_speech`` ships with the library; ``minimal_pairs``, ``conflict_pairs``, ``semantic_words``, its
  ``speech_metadata``
- words and phones from ``read_alignment`` (a file) and ``apply_alignments`` (a corpus): TextGrid, CTM, TIMIT, JSON
- words and phones of recordings with a text from ``align_recording`` and ``align_corpus`` (forced alignment), texts of
  recordings without one from ``with_own_texts`` (the model's transcript)
- ``Loader`` goes through a corpus and passes over what is broken, ``windows_from`` does so window by window;
  ``split_by_speaker`` and ``folds_by_speaker``
"""

from hooked_whisper.corpora.aligning import CorpusAlignments, align_corpus
from hooked_whisper.corpora.alignments import apply_alignments, read_alignment
from hooked_whisper.corpora.asterisk import asterisk
from hooked_whisper.corpora.clips import Clip
from hooked_whisper.corpora.common_voice import common_voice
from hooked_whisper.corpora.ctm import from_ctm, to_ctm
from hooked_whisper.corpora.fleurs import fleurs
from hooked_whisper.corpora.folders import audio_folder, librispeech, parent_folder, timit
from hooked_whisper.corpora.forced_alignment import align_recording
from hooked_whisper.corpora.hf_datasets import DatasetCorpus, from_dataset
from hooked_whisper.corpora.json_alignments import from_dict, from_json, to_dict, to_json
from hooked_whisper.corpora.label_files import from_timit
from hooked_whisper.corpora.loading import Failure, Loaded, Loader, Windows, windows_of
from hooked_whisper.corpora.manifests import manifest
from hooked_whisper.corpora.opening import open_corpus
from hooked_whisper.corpora.own_texts import own_text_fact, with_own_texts
from hooked_whisper.corpora.packaged import (
    ConflictPair,
    MinimalPair,
    SemanticWord,
    conflict_pairs,
    minimal_pairs,
    packaged_speech,
    semantic_words,
    speech_metadata,
)
from hooked_whisper.corpora.pronunciations import PHONES, cmu_dictionary
from hooked_whisper.corpora.records import Recording, fingerprint
from hooked_whisper.corpora.splits import Split, folds_by_speaker, split_by_speaker
from hooked_whisper.corpora.textgrid import from_textgrid, to_textgrid
from hooked_whisper.corpora.tiers import Tiers, without_stress
from hooked_whisper.corpora.timit import fold_closures, fold_timit
from hooked_whisper.corpora.windows import Cursor, Window, batched, windows_from

__all__ = [
    "PHONES",
    "Clip",
    "ConflictPair",
    "CorpusAlignments",
    "Cursor",
    "DatasetCorpus",
    "Failure",
    "Loaded",
    "Loader",
    "MinimalPair",
    "Recording",
    "SemanticWord",
    "Split",
    "Tiers",
    "Window",
    "Windows",
    "align_corpus",
    "align_recording",
    "apply_alignments",
    "asterisk",
    "audio_folder",
    "batched",
    "cmu_dictionary",
    "common_voice",
    "conflict_pairs",
    "fingerprint",
    "fleurs",
    "fold_closures",
    "fold_timit",
    "folds_by_speaker",
    "from_ctm",
    "from_dataset",
    "from_dict",
    "from_json",
    "from_textgrid",
    "from_timit",
    "librispeech",
    "manifest",
    "minimal_pairs",
    "open_corpus",
    "own_text_fact",
    "packaged_speech",
    "parent_folder",
    "read_alignment",
    "semantic_words",
    "speech_metadata",
    "split_by_speaker",
    "timit",
    "to_ctm",
    "to_dict",
    "to_json",
    "to_textgrid",
    "windows_from",
    "windows_of",
    "with_own_texts",
    "without_stress",
]
