"""Edits: what the page sends becomes an intervention, and the Python beside it does exactly the same."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hooked_whisper.errors import HookedWhisperError
from hooked_whisper.explorer import Edits, Shelf, Swap
from hooked_whisper.interventions import TranscriptChange

seconds = st.floats(0, 30, allow_nan=False)
WORD = 1  # of the packaged clip that the tests cut


def word(shelf: Shelf, clip: str = "demo-1", n: int = WORD) -> tuple[float, float]:
    word = shelf[clip].words[n]
    return round(word.start, 3), round(word.end, 3)


def every_kind(shelf: Shelf) -> dict[str, Edits]:
    span = word(shelf)
    swap = Swap(*span, "demo-2", round(shelf["demo-2"].words[0].start, 3))
    return {
        "nothing": Edits(),
        "cut": Edits(cuts=(span,)),
        "swap": Edits(swaps=(swap,)),
        "cut and swap": Edits(cuts=(word(shelf, n=0),), swaps=(swap,)),
        "window": Edits(window=3),
        "heads": Edits(heads=(("encoder", 1, 2), ("cross", 2, 0), ("decoder", 0, 1))),
        "neurons": Edits(units=((2, 5), (3, 100))),
        "all": Edits((word(shelf, n=0),), (swap,), 40, (("cross", 1, 1),), ((1, 7),)),
    }


@pytest.mark.parametrize("kind", ["nothing", "cut", "swap", "cut and swap", "window", "heads", "neurons", "all"])
def test_the_python_code_of_edits_makes_the_same_change(kind: str, shelf: Shelf, demo) -> None:
    edits = every_kind(shelf)[kind]
    change = edits.apply(demo, shelf.with_residuals("demo-1"), shelf.__getitem__, shelf.silence)
    code = edits.python("demo", shelf["demo-1"], shelf.__getitem__)
    printed: list[TranscriptChange] = []
    exec(compile(code, "the page's Python", "exec"), {"print": printed.append})
    (same,) = printed
    assert (same.before, same.after, same.error) == (change.before, change.after, change.error)
    assert [w.fate for w in same.words] == [w.fate for w in change.words]
    for w, v in zip(same.words, change.words, strict=True):
        assert w.logprob_change == (None if v.logprob_change is None else pytest.approx(v.logprob_change, abs=1e-3))
    assert max(map(len, code.splitlines())) < 200


def test_cut_word_changes_the_text_and_an_empty_edit_does_not(shelf: Shelf, demo) -> None:
    kinds = every_kind(shelf)
    nothing = kinds["nothing"].apply(demo, shelf["demo-1"], shelf.__getitem__)
    assert nothing.before == nothing.after == shelf["demo-1"].text
    start, end = word(shelf, n=0)[0], word(shelf, n=2)[1]
    assert Edits(cuts=((start, end),)).apply(demo, shelf["demo-1"], shelf.__getitem__).wer > 0
    none = Edits(cuts=((start, end),), margin=0.0).apply(demo, shelf["demo-1"], shelf.__getitem__)
    wide = Edits(cuts=((start, end),), margin=0.2).apply(demo, shelf["demo-1"], shelf.__getitem__)
    assert none.logprob_change != wide.logprob_change
    assert Edits.from_json({"heads": ["cross 2.1"]}) == Edits(heads=(("cross", 2, 1),))
    narrow = Edits(window=0).apply(demo, shelf["demo-1"], shelf.__getitem__)
    wide = Edits(window=1499).apply(demo, shelf["demo-1"], shelf.__getitem__)
    assert narrow.wer > 0 and wide.wer == 0


def test_an_edit_runs_only_the_encoder_blocks_that_it_reaches(shelf: Shelf, demo, monkeypatch) -> None:
    clip, kinds = shelf.with_residuals("demo-1"), every_kind(shelf)
    assert shelf.silence.shape == clip.encoded.shape
    runs: list[int] = []
    for number, block in enumerate(demo.encoder.blocks):
        forward = block.forward
        monkeypatch.setattr(
            block, "forward", lambda *a, _forward=forward, _n=number, **k: (runs.append(_n), _forward(*a, **k))[1]
        )
    reached = {"nothing": [], "cut": [], "swap": [], "window": [0, 1, 2, 3], "heads": [1, 2, 3], "neurons": [2, 3]}
    for kind, blocks in reached.items():
        runs.clear()
        kinds[kind].apply(demo, clip, shelf.__getitem__, shelf.silence)
        assert runs == blocks, kind


def test_residual_streams_in_memory_are_limited(demo, monkeypatch) -> None:
    shelf = Shelf(demo)
    one_clip = 4 * 1500 * 128 * 4
    monkeypatch.setattr("hooked_whisper.explorer.clips.MOST_RESIDUAL_BYTES", 2 * one_clip)
    for key in ("demo-0", "demo-1", "demo-2"):
        assert shelf[key].clean.resid
    assert not shelf["demo-0"].clean.resid and shelf["demo-1"].clean.resid
    assert shelf.with_residuals("demo-0").clean.resid and not shelf["demo-1"].clean.resid
    monkeypatch.setattr("hooked_whisper.explorer.clips.MOST_RESIDUAL_BYTES", one_clip - 1)
    small = Shelf(demo)
    assert not small.with_residuals("demo-1").clean.resid
    change = Edits(heads=(("encoder", 1, 2),)).apply(demo, small["demo-1"], small.__getitem__)
    expected = Edits(heads=(("encoder", 1, 2),)).apply(demo, shelf["demo-2"], shelf.__getitem__)
    assert change.before != expected.before and change.words


def test_a_decoder_that_loops_is_stopped(shelf: Shelf, demo) -> None:
    clip = shelf["demo-1"]
    assert len(clip.clean.ids[0]) < clip.most_tokens < 60
    assert f"max_new_tokens={clip.most_tokens}" in Edits().python("demo", clip, shelf.__getitem__)


spans = st.tuples(seconds, seconds).map(sorted).map(list).filter(lambda s: round(s[0], 3) < round(s[1], 3))


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "cuts": st.lists(spans, max_size=4),
            "window": st.none() | st.integers(0, 2000),
            "heads": st.lists(
                st.tuples(st.sampled_from(["encoder", "decoder", "cross"]), st.integers(0, 40), st.integers(0, 40)).map(
                    list
                ),
                max_size=4,
            ),
            "units": st.lists(st.tuples(st.integers(0, 40), st.integers(0, 6000)).map(list), max_size=4),
        },
    )
)
def test_well_formed_files_are_read(data) -> None:
    edits = Edits.from_json(data)
    assert len(edits.cuts) == len(data.get("cuts", ()))
    assert edits.window == data.get("window")
    assert {tuple(h) for h in data.get("heads", ())} == set(edits.heads)


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["cuts", "margin", "swaps", "window", "heads", "units", "eval"]), json, max_size=3)
    | json
)
def test_other_files_raise_library_errors(data) -> None:
    with contextlib.suppress(HookedWhisperError):
        Edits.from_json(data)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"cuts": [[1, 0.5]]}, r"got \[1.0, 0.5\]"),
        ({"cuts": [[0, 31]]}, "0 to 30 seconds, got 31"),
        ({"cuts": [[0, float("nan")]]}, "0 to 30 seconds, got nan"),
        ({"window": -1}, "window must be a whole number.*got -1"),
        ({"heads": [["middle", 0, 0]]}, "head.*'middle'"),
        ({"heads": ["encoder 2"]}, "head.*'encoder 2'"),
        ({"margin": -1}, "margin must be from 0"),
        ({"units": [[0]]}, r"a neuron.*got \[0\]"),
        ({"swaps": [{"start": 0, "end": 5, "clip": "x", "begin": 28}]}, "less than 5.00 s after second 28"),
        ({"burn": 1}, "edit 'burn'"),
        ({"cuts": [[0, 1]] * 1000}, "got 1000 cuts.*200"),
    ],
)
def test_errors_name_the_cause(data, says: str) -> None:
    with pytest.raises(HookedWhisperError, match=says):
        Edits.from_json(data)


def test_missing_hook_points_are_named(shelf: Shelf, demo) -> None:
    for edits in (Edits(heads=(("encoder", 9, 0),)), Edits(units=((0, 9999),)), Edits(heads=(("cross", 0, 99),))):
        with pytest.raises(HookedWhisperError):
            edits.apply(demo, shelf["demo-1"], shelf.__getitem__)
    with pytest.raises(HookedWhisperError, match="clip 'gone'"):
        Edits(swaps=(Swap(0.0, 1.0, "gone", 0.0),)).apply(demo, shelf["demo-1"], shelf.__getitem__)
