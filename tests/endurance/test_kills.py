"""kill -9 at random moments, and the same command again: the same bytes as without."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.endurance.commands import command, content, make_input, run, run_with_kills


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    make_input(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> dict[str, tuple[float, dict[str, bytes]]]:
    """By command: how long it takes undisturbed, and what it writes."""
    contents = {}
    for what, out in (("collect", "store"), ("scan", "whole-scan"), ("train", "whole-train")):  # train reads the store
        seconds = run(command(what, folder, folder / out))
        contents[what] = seconds, content(folder / out)
    return contents


@pytest.mark.parametrize("what", ["collect", "scan", "train"])
def test_resume_after_one_kill(
    what: str, folder: Path, whole: dict, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    _check(what, folder, whole, tmp_path, kills=1, seed=len(request.node.name))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("what", ["collect", "scan", "train"])
def test_resume_after_many_kills(what: str, folder: Path, whole: dict, tmp_path: Path, seed: int) -> None:
    _check(what, folder, whole, tmp_path, kills=6, seed=seed)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["collect", "scan"])
def test_one_process_resumes_what_two_began(what: str, folder: Path, whole: dict, tmp_path: Path) -> None:
    seconds, expected = whole[what]
    for seed in range(3):
        out = tmp_path / f"{seed}"
        run_with_kills(command(what, folder, out, ranks=2), 1.5 * seconds, 2, seed)
        assert content(out) == expected, f"seed {seed}"
        run(command(what, folder, out))
        assert content(out) == expected, f"seed {seed}"


def _check(what: str, folder: Path, whole: dict, out: Path, kills: int, seed: int) -> None:
    seconds, expected = whole[what]
    run_with_kills(command(what, folder, out / "out"), seconds, kills, seed)
    contents = content(out / "out")
    assert sorted(contents) == sorted(expected), f"seed {seed}"
    assert [name for name in contents if contents[name] != expected[name]] == [], f"seed {seed}"
