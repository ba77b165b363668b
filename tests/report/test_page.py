"""The page: nothing from outside, everything escaped, sound and figures inside."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure

from hooked_whisper.findings import Axis, Control, Criterion, Estimate, Example, Finding, Measurement, Span, Table
from hooked_whisper.findings.core.figures import INK
from hooked_whisper.findings.core.finding import STATUSES
from hooked_whisper.findings.registry import REGISTRY
from hooked_whisper.report import ModelCard, model_card, render_page, write_page
from hooked_whisper.report.figures import picture, themed
from hooked_whisper.report.overview import facts, plain
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


class DrawnFinding(Finding):
    """A finding with two figures that depend on no experiment."""

    def draw(self) -> list[Figure]:
        figures = []
        for title in ("Share by margin", "Share by offset"):
            figure = Figure(figsize=(4, 3), facecolor="none")
            axes = figure.add_subplot()
            axes.plot([0, 1, 2], [0.1, 1, 0.2], color=INK)
            axes.set_title(title, color=INK)
            figure.set_label(f"{title}. 0: 10 %, 1: 100 %")
            figures.append(figure)
        return figures


class UndrawableFinding(Finding):
    def draw(self) -> list[Figure]:
        return [self.measurement("renamed since").values]


def finding(text: str = "the red cat sat", name: str = "u0", kind: type[Finding] = DrawnFinding) -> Finding:
    table = Table(text, text, (text, "n"), ((text, "1"),))
    profile = Measurement("gone by offset", (Axis("offset", (-60, 0, 60)),), np.array([0.1, 1, 0.2]))
    return kind(
        "F4",
        text,
        text,
        text,
        text,
        {"origin": text, "reference": "truth"},
        {"p": text},
        (Criterion("gone", Estimate(0.95, 0.91, 0.99), 0.9, "at least", unit="x"),),
        (Control(text, text, {"gone": Estimate(0.1)}),),
        measurements=(profile,),
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


def test_page_has_no_external_urls(page: str) -> None:
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
    assert len(pictures) == 4  # two figures, a thumbnail, a waveform
    assert all(p["role"] == "img" and p["aria-label"] for p in pictures)
    assert "prefers-color-scheme: dark" in page and "@media print" in page and 'name="viewport"' in page
    assert "<del>the red cat sat</del>" in re.sub(r"\s+", " ", page)
    assert "s-reproduced" in page


def words_of(html: str) -> str:
    """Text of the page without tags, in one line."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def row(html: str) -> str:
    """Text of the first finding's row in the summary."""
    return words_of(html[html.index('<li class="row"') : html.index("</ol>")])


def criteria(*values: tuple[float, float]) -> tuple[Criterion, ...]:
    return tuple(Criterion(f"number {i}", Estimate(v), needs, "at least") for i, (v, needs) in enumerate(values))


def test_the_summary_shows_the_number_that_decided() -> None:
    html = render_page([replace(finding(), criteria=criteria((0.994, 0.9), (0.565, 0.9)), controls=())])
    assert "not reproduced 1 of 2 criteria met number 1 0.565 needs at least 0.9 ✗ missed" in row(html)
    assert "0.994" not in row(html) and "0.994" in html


def test_a_number_beside_its_threshold_has_digits_enough_to_differ() -> None:
    html = render_page([replace(finding(), criteria=criteria((0.64025, 0.64)), controls=())])
    assert "0.6403 needs at least 0.64" in row(html) or "0.6402 needs at least 0.64" in row(html)


def test_deciding_control_is_shown_with_its_number() -> None:
    meets = Control("shuffled", "d", {"gone": Estimate(0.93)})
    html = render_page([replace(finding(), controls=(meets,))])
    assert "0.95 x needs at least 0.9 x ✗ a control meets it too: shuffled, 0.93" in row(html)


def test_an_unmet_gate_is_a_precondition() -> None:
    gate = Criterion("clips", Estimate(20), 100, "at least", role="gate")
    html = render_page([replace(finding(), criteria=(gate, *finding().criteria))])
    assert "measured, no verdict" in row(html) and "clips 20 needs at least 100 ✗ precondition not met" in row(html)


def test_every_finding_has_the_same_order(page: str) -> None:
    section = page[page.index('<section id="F4"') :]
    headings = [words_of(h).strip() for h in re.findall(r"<h3[^>]*>(.*?)</h3>", section, flags=re.DOTALL)]
    assert headings == ["Claim", "What we did", "Result", "Figures", "Listen and compare", "Details"]


def test_header_states_model_and_speech() -> None:
    inputs = {"utterances": 100, "seconds": 240.0, "speakers": ["a", "b"], "origin": "my corpus", "reference": "model"}
    rows = {label: (value, remark) for label, value, remark in facts([replace(finding(), inputs=inputs)], None, {})}
    assert rows["Speech"] == ("my corpus", "the model's own transcripts are used as texts")
    assert rows["How much"] == ("100 clips by 2 speakers, 4.0 minutes", "")
    assert rows["1 finding"] == ("1 reproduced", "")
    about = {"origin": "news: 3 clips by 1 speakers, 0.5 minutes; 2 recordings could not be used"}
    rows = {label: (value, remark) for label, value, remark in facts([], ModelCard("tiny", (), "small"), about)}
    assert rows["Model"] == ("tiny", "small") and rows["How much"][0] == "3 clips by 1 speakers, 0.5 minutes"
    assert rows["Speech"] == ("news", "2 recordings could not be used")


def test_a_thumbnail_is_its_figure_used_again(page: str) -> None:
    uses = [a for tag, a in parse(page).elements if tag == "use" and a["href"] == "#F4-0"]
    assert len(uses) == 1 and page.count('id="F4-0"') == 1


def test_a_finding_that_cannot_be_drawn_keeps_its_numbers(caplog: pytest.LogCaptureFixture) -> None:
    html = render_page([finding(kind=UndrawableFinding)])
    assert "0.95" in html and "<figure>" not in html and "F4" in caplog.text


def test_every_verdict_is_explained_once(page: str) -> None:
    for status in STATUSES:
        anchor = f"verdict-{status.replace(',', '').replace(' ', '-')}"
        assert page.count(f'id="{anchor}"') == 1
    assert page.count("Back to the summary") == 2  # of the explanations and of the finding


def test_parameters_are_written_plainly() -> None:
    assert plain({"k": [1, 2.5], "none": float("nan"), "far": float("inf")}) == "k: 1, 2.5; none: –; far: –"


def test_cost_is_in_the_details() -> None:
    assert "It took 12 s, at most 900 MiB of memory." in render_page([replace(finding(), seconds=12.3, peak_mib=900.0)])


def test_a_figure_of_many_points_is_a_bitmap_with_a_thumbnail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hooked_whisper.report.figures._MAX_SVG", 10)
    html = render_page([finding()])
    assert html.count("data:image/png;base64,") == 2 and 'href="#F4-0"' in html
    assert not parse(html).problems


def test_finding_with_fixed_sentences_shows_them() -> None:
    bare = replace(finding(), inputs={})  # W2 and others choose their clips themselves
    assert "Compared with what was said" in render_page([bare])


def test_everything_is_escaped() -> None:
    for text in (HOSTILE, QUOTED):
        clip = utterance(text, "the red cat sat")
        words = tuple(type(w)(w.start, w.end, text) for w in clip.alignment.words)
        object.__setattr__(clip.alignment, "words", words)
        card = ModelCard(text, ((text, text),))
        about = dict.fromkeys(("version", "command", "origin", "date", "seconds"), text)
        html = render_page([finding(text, text)], [clip], card, about)
        parser = parse(html)
        assert html.count("<script>") == 1 and "<script>alert" not in html
        assert not any("onerror" in a for _, a in parser.elements)
        assert not any(tag == "img" for tag, _ in parser.elements)
        assert not parser.problems and not parser.stack


def test_hostile_words_in_a_figure_are_escaped() -> None:
    record = finding()
    figure = record.draw()[0]
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
    assert all(i == "key" or i.startswith("key-") for i in re.findall(r' id="([^"]*)"', markup))
    assert "<metadata" not in markup and markup.startswith("<svg") and markup.rstrip().endswith("</svg>")
    assert 'aria-label="a b"' in themed('<?xml?><svg width="1pt" viewBox="0 0 1 1"></svg>', "k", "a\nb")


def test_cut_lowers_the_sound_only_inside() -> None:
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
