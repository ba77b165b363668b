"""Tables of README and docs are what their files give."""

from __future__ import annotations

import pytest

from docs.tools.readme_tables import PAGES, ROOT, filled


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_tables_equal_their_source_files(page) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m docs.tools.readme_tables"


def test_unknown_table_is_refused() -> None:
    with pytest.raises(KeyError):
        filled("<!-- table: nonsense docs/data/findings.demo.json -->\n<!-- end of table -->")
