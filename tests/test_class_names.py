"""No two public classes of the packages share a name."""

from docs.tools.style_check import PACKAGES, check_class_names, files_under


def test_no_two_public_classes_share_a_name():
    assert not list(check_class_names(files_under(PACKAGES, ".py")))
