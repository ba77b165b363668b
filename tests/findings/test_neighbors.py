"""F10 on the synthetic corpus: embeddings built to cluster by sound, by use, by both, or by neither."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked_whisper.analysis import cosine_matrix, nearest_tokens
from hooked_whisper.findings.neighbors import AUC, Neighbors, draw_pairs
from tests.findings.worlds import small_context, small_model, small_truth


def _embed(context, rows: np.ndarray) -> None:
    tokens = torch.from_numpy(context.truth.tokens)
    with torch.no_grad():
        context.model.decoder.token_embedding.weight[tokens] = torch.from_numpy(rows).float()


def _root(similarity: np.ndarray, d: int = 32) -> np.ndarray:
    """Rows whose inner products are about the given similarities."""
    values, vectors = np.linalg.eigh((similarity + similarity.T) / 2)
    rows = vectors * np.sqrt(np.maximum(values, 0))
    return np.pad(rows, ((0, 0), (0, d - rows.shape[1])))


@pytest.fixture(scope="module")
def contexts():
    rng = np.random.default_rng(0)
    by_kind = {}
    for kind in ("both", "use", "nothing"):
        context = small_context()
        truth = context.truth
        families = truth.sounds_alike + np.eye(len(truth.words))
        use = truth.context_similarity
        use = (use - use.mean()) / use.std()
        if kind == "both":
            rows = _root(2.0 * families + 0.8 * use + 4 * np.eye(len(use)))
        elif kind == "use":
            rows = _root(0.8 * use + np.eye(len(use)))
        else:
            rows = rng.standard_normal((len(use), 32))
        _embed(context, rows)
        by_kind[kind] = context
    return by_kind


def test_sound_and_use_are_found(contexts) -> None:
    finding = Neighbors().run(contexts["both"])
    assert finding.statistic.estimate.value > 0.8
    assert [c.passed for c in finding.criteria] == [True, True, True]
    assert finding.status in ("reproduced", "partly")  # with 16 words an interval may cross
    control = {c.name: c.values[AUC].value for c in finding.controls}
    assert abs(control["untrained model"] - 0.5) < 0.25 and abs(control["shuffled labels"] - 0.5) < 0.2
    assert finding.tables[0].title.startswith("Nearest to '␣rug'")
    assert finding.tables[0].rows[0][0] in ("␣mug", "␣jug")
    assert len(finding.draw()) == 3


def test_embeddings_of_nothing_are_not_reproduced(contexts) -> None:
    assert Neighbors().run(contexts["nothing"]).status == "not reproduced"


def test_use_alone_is_not_enough(contexts) -> None:
    finding = Neighbors().run(contexts["use"])
    assert finding.status == "not reproduced"
    assert not finding.criteria[0].passed


def test_random_pairs_never_sound_alike_and_are_as_frequent() -> None:
    truth = small_truth(small_model())
    pairs = draw_pairs(truth, np.random.default_rng(0))
    assert all(truth.sounds_alike[a, b] for a, b in pairs.alike)
    assert not any(truth.sounds_alike[a, b] or a == b for a, b in pairs.random)
    assert (pairs.alike[:, 0] < pairs.alike[:, 1]).all()


def test_cosines() -> None:
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 3.0]])
    assert cosine_matrix(rows)[0].tolist() == pytest.approx([1, 1, 0])
    centered = cosine_matrix(rows, centered=True)
    assert centered[0, 2] < 0


def test_nearest_tokens_leave_the_word_out_and_show_spaces() -> None:
    model = small_model()
    token = model.to_single_token(" rug")
    with torch.no_grad():
        model.W_E[model.to_single_token("the")] = 2 * model.W_E[token]
    near = nearest_tokens(model, token, 5, embeddings="raw")
    assert near[0].text == "the" and near[0].value == pytest.approx(1)
    assert token not in [t.id for t in near] and len(near) == 5
    among = torch.tensor([token, model.to_single_token(" mug"), model.to_single_token(" jug")])
    assert [t.text for t in nearest_tokens(model, token, 5, among)] in (
        ["␣mug", "␣jug"],
        ["␣jug", "␣mug"],
    )
