"""Corpora of recordings: folders, manifests and data sets, with words and phones where they are aligned.

A corpus is a ``Sequence[Recording]``. A ``Clip`` is a recording, or a part of one, with its samples in memory.

- Recordings: ``open_corpus`` opens anything on disk by ``audio_folder``, ``librispeech``, ``timit``,
  ``common_voice``, ``fleurs``, ``asterisk`` or ``manifest``; ``from_dataset`` wraps a Hugging Face data set.
- ``packaged_speech`` ships with the library, with ``minimal_pairs``, ``conflict_pairs``, ``semantic_words`` and
  ``speech_metadata``.
- Words and phones: ``read_alignment`` reads a TextGrid, CTM, TIMIT, HTK or JSON file and ``apply_alignments`` a folder
  of them. ``align_recording`` and ``align_corpus`` compute them from a text (forced alignment);
  :func:`hooked_whisper.analysis.with_own_texts` takes the model's transcript as the text.
- ``Loader`` decodes a corpus in threads and skips broken recordings; ``windows_from`` cuts it into windows.
  ``split_by_speaker`` and ``folds_by_speaker`` split it.
"""

from hooked_whisper._support.renamed import renamed_names
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
from hooked_whisper.corpora.text_sources import own_alignments_fact, own_text_fact
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
    "own_alignments_fact",
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
    "without_stress",
]

__getattr__ = renamed_names(__name__, {"with_own_texts": "hooked_whisper.analysis:with_own_texts"})
