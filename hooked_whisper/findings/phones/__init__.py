"""One evaluation of phones, shared by F5, F7 and F8."""
