"""The page: nothing from outside, everything escaped, sound and figures inside."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from hooked_whisper.findings import Axis, Control, Criterion, Estimate, Example, Finding, Measurement, Span, Table
from hooked_whisper.findings.registry import REGISTRY
from hooked_whisper.report import ModelCard, model_card, render_page, write_page
from hooked_whisper.report.figures import picture, themed
from hooked_whisper.report.sound import damped, waveform
from tests.findings.worlds import small_context, small_model, utterance

HOSTILE = '<script>alert("x")</script>'
QUOTED = '"><img src=x onerror=alert(1)>'


class Parser(HTMLParser):
    """Elements with their attributes; text by element; whether tags nest."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.stack: list[str] = []
        self.problems: list[str] = []

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))
        if tag not in ("meta", "link", "br", "img", "input"):
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs) -> None:
        self.elements.append((tag, {k: v or "" for k, v in attrs}))

    def handle_endtag(self, tag) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.problems.append(f"</{tag}>")


def parse(html: str) -> Parser:
    parser = Parser()
    parser.feed(html)
    parser.close()
    return parser


def finding(text: str = "the red cat sat", name: str = "u0") -> Finding:
    table = Table(text, text, (text, "n"), ((text, "1"),))
    fate = Measurement(
        "fate of words",
        (
            Axis("cut", ("the word", "another word", "silence")),
            Axis("word", ("target", "others")),
            Axis("fate", ("kept", "replaced", "deleted")),
        ),
        np.full((3, 2, 3), 1 / 3),
    )
    profile = Measurement(
        "target word gone by offset of the cut", (Axis("offset", (-60, 0, 60)),), np.array([0.1, 1, 0.2])
    )
    return Finding(
        "F4",
        text,
        text,
        text,
        text,
        {"origin": text, "reference": "truth"},
        {"p": text},
        (Criterion("gone", Estimate(0.95, 0.91, 0.99), 0.9, "at least", unit="x"),),
        (Control(text, text, {"gone": Estimate(0.1)}),),
        measurements=(fate, profile),
        examples=(Example(name, text, text, (("full", text), (text, "")), (Span(0.2, 0.4, text),), text),),
        tables=(table,),
        published=(table,),
        published_summary=text,
        notes=(text,),
    )


@pytest.fixture(scope="module")
def page() -> str:
    card = ModelCard("demo", (("command", "make"),))
    return render_page([finding()], [utterance("u0", "the red cat sat")], card, {"version": "1", "command": "c"})


def test_nothing_comes_from_outside(page: str) -> None:
    parser = parse(page)
    assert not re.search(r"https?://", page) and "xmlns" not in page and "@import" not in page
    for tag, attributes in parser.elements:
        for key in ("src", "href", "xlink:href", "data", "action"):
            value = attributes.get(key, "")
            assert value == "" or value.startswith(("#", "data:")), (tag, key, value[:60])


def test_tags_nest_and_ids_are_unique(page: str) -> None:
    parser = parse(page)
    assert not parser.problems and not parser.stack
    ids = [a["id"] for _, a in parser.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, a in parser.elements:
        if a.get("href", "").startswith("#"):
            assert a["href"][1:] in ids


def test_sound_figures_and_words_for_them(page: str) -> None:
    parser = parse(page)
    players = [a for tag, a in parser.elements if tag == "audio"]
    assert len(players) == 2 and all(p["src"].startswith("data:audio/mpeg;base64,") for p in players)
    assert all(p["aria-label"] and "controls" in p for p in players)
    pictures = [a for tag, a in parser.elements if tag == "svg"]
    assert len(pictures) == 3 and all(p["role"] == "img" and p["aria-label"] for p in pictures)
    assert "prefers-color-scheme: dark" in page and "@media print" in page and 'name="viewport"' in page
    assert "<del>the red cat sat</del>" in re.sub(r"\s+", " ", page)
    assert "s-reproduced" in page


def test_a_finding_on_clips_of_its_own_says_what_was_said() -> None:
    bare = replace(finding(), inputs={})  # W2 and others choose their clips themselves
    assert "Against what was said" in render_page([bare])


def test_everything_is_escaped() -> None:
    for text in (HOSTILE, QUOTED):
        one = utterance(text, "the red cat sat")
        words = tuple(type(w)(w.start, w.end, text) for w in one.alignment.words)
        object.__setattr__(one.alignment, "words", words)
        card = ModelCard(text, ((text, text),))
        about = dict.fromkeys(("version", "command", "origin", "date", "seconds"), text)
        html = render_page([finding(text, text)], [one], card, about)
        parser = parse(html)
        assert html.count("<script>") == 1 and "<script>alert" not in html
        assert not any("onerror" in a for _, a in parser.elements)
        assert not any(tag == "img" for tag, _ in parser.elements)
        assert not parser.problems and not parser.stack


def test_hostile_words_in_a_figure_are_escaped() -> None:
    one = finding()
    figure = one.draw()[0]
    figure.axes[0].set_title(HOSTILE)
    figure.set_label(QUOTED)
    markup = picture(figure, "k").markup
    assert "<script>" not in markup and "<img" not in markup


def test_every_status_and_an_empty_page_render() -> None:
    broken = Finding("F2", "t", "c", "p", "m", {}, {}, error="ValueError: <b>")
    untestable = Finding("F9", "t", "c", "p", "m", {}, {}, reason_untestable="no truth")
    html = render_page([broken, untestable])
    assert "s-error" in html and "s-not-testable" in html and "ValueError: &lt;b&gt;" in html
    assert not parse(html).problems and render_page([])


def test_a_clip_without_sound_has_no_player() -> None:
    html = render_page([finding()])
    assert "<audio" not in html and "the red cat sat" in html


def test_page_is_written_whole(tmp_path) -> None:
    write_page(tmp_path / "a" / "index.html", [finding()])
    content = (tmp_path / "a" / "index.html").read_text(encoding="utf-8")
    assert content.startswith("\n<!doctype html>") or content.lstrip().startswith("<!doctype html>")
    assert len(content) < 1_000_000


def test_real_findings_draw_into_a_small_page() -> None:
    context = small_context(count=0)
    findings = [REGISTRY[i].run(context) for i in ("F10", "F2", "F4")]
    html = render_page(findings, context.utterances, model_card(context.model, {}))
    assert len(html) < 10e6 and not parse(html).problems


def test_svg_takes_the_page_colours() -> None:
    markup = picture(finding().draw()[1], "key").markup
    assert "var(--ink)" in markup and "#313233" not in markup
    assert all(i.startswith("key-") for i in re.findall(r'id="([^"]*)"', markup))
    assert "<metadata" not in markup and markup.startswith("<svg") and markup.rstrip().endswith("</svg>")
    assert 'aria-label="a b"' in themed('<?xml?><svg width="1pt" viewBox="0 0 1 1"></svg>', "k", "a\nb")


def test_cut_is_turned_down_and_nothing_else() -> None:
    samples = np.ones(16_000, np.float32)
    out = damped(samples, (Span(0.25, 0.5, "w"),))
    assert (out[:3_000] == 1).all() and (out[9_000:] == 1).all() and out[6_000] < 0.1
    assert np.abs(np.diff(out)).max() < 0.02
    assert damped(samples, (Span(0.0, 1.0, "w"),)).shape == samples.shape
    assert damped(samples, ()).tolist() == samples.tolist()


def test_waveform_marks_and_names() -> None:
    drawn = waveform(utterance("u", "the red cat sat", 2.0), (Span(0.5, 1.0, "red"),))
    assert drawn.marks == ((pytest.approx(90), pytest.approx(90)),)
    assert [w.text for w in drawn.words] == ["the", "red", "cat", "sat"]
    assert "red from 0.50 to 1.00 s" in drawn.alt


def test_model_card_reads_the_metadata() -> None:
    wer = '{"sentences": {"wer": 0.05, "low": 0.03, "high": 0.08, "utterances": 300}, "no_speech": {"empty": 1.0}}'
    card = model_card(small_model(), {"wer": wer, "command": "make it", "other": "fact"})
    rows = dict(card.rows)
    assert rows["word error rate, held-out sentences, known speakers"] == "5.0 % [3.0, 8.0] (300 utterances)"
    assert rows["trained by"] == "make it" and rows["other"] == "fact"
    assert dict(model_card(small_model(), {"wer": "not measured"}).rows)["word error rate"] == "not measured"
