"""Numbers and texts that other authors published, copied from their pages.

Sources: github.com/er537/whisper_interpretability ("DOCS": ``docs/index.md``; "BLOG": the blog post of 5 September
2023), model ``tiny``. Values read from figures are accurate to 0.02. Leading spaces of tokens are inferred from the
figures where possible.
"""

from __future__ import annotations

from dataclasses import dataclass

from hooked_whisper.findings.core.records import Table

DOCS = "github.com/er537/whisper_interpretability, docs/index.md"
BLOG = "er537.github.io, blog post of 2023-09-05"


def _pairs(text: str) -> tuple[tuple[str, float], ...]:
    """Parse ``"much 12.83|well 12.54"``. An underscore stands for a space."""
    items = (item.rsplit(" ", 1) for item in text.split("|"))
    return tuple((name.replace("_", " "), float(value)) for name, value in items)


@dataclass(frozen=True)
class TopList:
    """A published list of next tokens with their logits. ``texts`` have the leading space where it is known."""

    prompt: str
    source: str
    entries: tuple[tuple[str, float], ...]


VERY = TopList(
    " very",
    f"{DOCS}; {BLOG}",
    _pairs(
        "_much 12.83|_well 12.54|_good 12.37|_important 12.10|_soon 11.35|_interesting 10.94|_very 10.85|_close 10.70|"
        "_excited 10.59|_happy 10.51|_difficult 10.47|_nice 10.32|_beautiful 10.16|_cool 9.96|_easy 9.96|_simple 9.92|"
        "_great 9.92"
    ),
)
GOOD = TopList(
    "Good",
    DOCS,
    _pairs(
        "bye 8.82|_luck 8.39|_evening 7.59|! 7.51|_morning 7.39|_bye 7.37|_night 6.76|_news 6.48|_afternoon "
        "6.42|_You 6.22|"
        "- 6.10|_for 6.10|_Good 6.10|_Morning 6.08|, 5.84|_Bye 5.74|s 5.71|night 5.70"
    ),
)
TRAFFIC_DOCS = TopList(
    " traffic",
    DOCS,
    _pairs(
        ". 15.53|_is 13.91|, 13.72|_and 13.25|_on 12.98|_in 12.91|_lights 12.51|_police 12.38|_at 12.26|_control 12.22|"
        "_to 12.06|_jam 12.04|j 11.93|_light 11.85|_traffic 11.84|_or 11.82|_was 11.74|_for 11.71|'s 11.66"
    ),
)
TRAFFIC_BLOG = TopList(
    " traffic",
    BLOG,
    _pairs(
        ". 5.70|_traffic 3.74|_and 3.35|, 3.33|_jam 3.28|_on 2.94|_is 2.82|_in 2.77|_lights 2.64|_light 2.62|_from "
        "2.61|"
        "_over 2.46|_for 2.25|_at 2.06|_around 2.04|_to 1.93|_of 1.90|_here 1.62|_or 1.62"
    ),
)
TOP_LISTS = (VERY, GOOD, TRAFFIC_DOCS, TRAFFIC_BLOG)

NEIGHBORS: dict[str, tuple[tuple[str, float], ...]] = {
    "rug": _pairs("lug .448|mug .407|rut .404|rugby .397|tug .383|Rug .380|dag .376|rang .366|rouge .359|rugged .359"),
    "duck": _pairs(
        "Duck .618|ducks .452|uck .342|chicken .337|cutting .314|buck .312|egg .304|rock .301|Cut .295|foot .292"
    ),
    "tea": _pairs("Tea .672|coffee .572|Sa .486|water .479|small .477|key .470|body .465|hair .458|cup .458|food .454"),
    "UK": _pairs(
        "US .422|United .415|British .377|U .336|European .335|EU .330|Un .305|UN .300|English .294|okay .292"
    ),
}

WINDOW_TEXTS = Table(
    "Transcripts of one 10 s clip by tiny, all rows masked",
    DOCS,
    ("k", "transcript"),
    (
        ("full", "hot ones. The show where celebrities answer hot questions while feeding even hotter wings."),
        (
            "100",
            "Hot ones. The show where celebrities answer hot questions, what feeding, eating hot wings. "
            "I am Shana Evans. I'm Join Today.",
        ),
        (
            "75",
            "The show with celebrities and their hot questions, what feeding, eating hot wings. Hi, I'm Shannon, and "
            "I'm "
            "joined today.",
        ),
        ("50", "The show where celebrities enter hot questions, what leading, what leading, what are we."),
        ("20", "I'm joined today."),
        ("10", "(nothing)"),
    ),
)

CUT_TEXTS = Table(
    "Words cut out of one 6 s clip, tiny",
    DOCS,
    ("positions replaced", "what went missing"),
    (
        ("0 to 50 (0-1 s)", "'hot ones.'"),
        ("150 to 175 (3.0-3.5 s)", "'answer hot questions' (the page names 'hot questions' only)"),
    ),
)


def list_table(top: TopList) -> Table:
    """Return a top list as a table, with leading spaces visible."""
    rows = tuple((text.replace(" ", "␣"), f"{value:.2f}") for text, value in top.entries)
    return Table(f"After {top.prompt.replace(' ', '␣')!r}, tiny", top.source, ("token", "logit"), rows)


def neighbor_table(word: str) -> Table:
    """Return the published nearest tokens to a word as a table."""
    rows = tuple((text, f"{value:.3f}") for text, value in NEIGHBORS[word])
    return Table(f"Nearest to {word!r}, size not stated", BLOG, ("token", "cosine"), rows)


BIGRAMS_IN_SHORT = "tiny, after ␣very: much, well, good, important, soon; no controls or intervals"
NEIGHBORS_IN_SHORT = "rug: lug .448, mug .407, rut .404, rugby .397, tug .383; no controls or intervals"
WINDOWS_IN_SHORT = "tiny, one clip: k = 75 still readable, k = 20 three words, k = 10 nothing"
CUTS_IN_SHORT = "tiny, one clip: two cuts, each removes the words under it"
