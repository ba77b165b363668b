"""A very small corpus, spoken once for all tests of this folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from hooked_whisper.synthetic.corpus import CorpusConfig, build
from hooked_whisper.synthetic.grammar import Grammar, build_grammar

TINY = CorpusConfig(seed=3, train=24, sentences=4, speakers=4, bigrams=3, flite_share=0.25, shard=12)


@pytest.fixture(scope="session")
def grammar() -> Grammar:
    return build_grammar(0)


needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("flite") is None:
        pytest.skip("flite is not installed")
    folder = tmp_path_factory.mktemp("world")
    build(folder, TINY, processes=2)
    return folder


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
