"""Tables of README and docs are what their files give."""

from __future__ import annotations

import pytest

from docs.tools.readme_tables import PAGES, ROOT, deciding, filled
from hooked_whisper.findings.finding import Criterion, Estimate, Finding


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_tables_are_what_their_files_give(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m docs.tools.readme_tables"


def test_the_deciding_number_is_the_one_that_failed() -> None:
    good = Criterion("good", Estimate(1.0, 0.9, 1.1), 0.5, "at least")
    unclear = Criterion("unclear", Estimate(0.6, 0.4, 0.8), 0.5, "at least")
    bad = Criterion("bad", Estimate(0.1), 0.5, "at least")

    def of(*criteria: Criterion) -> str:
        return deciding(Finding("F0", "t", "c", "p", "m", {}, {}, criteria=criteria)).name

    assert of(good, unclear, bad) == "bad" and of(good, unclear) == "unclear" and of(good) == "good"


def test_an_unknown_table_is_refused() -> None:
    with pytest.raises(KeyError):
        filled("<!-- table: nonsense docs/data/findings.demo.json -->\n<!-- end of table -->")
