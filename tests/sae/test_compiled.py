"""Compiled loops equal torch, with ties and NaN; they are built safely, and nothing needs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sae_lens_audio.activations import TensorActivations
from sae_lens_audio.architectures import (
    SAE,
    BatchTopK,
    BatchTopKConfig,
    JumpReLU,
    JumpReLUConfig,
    Matryoshka,
    MatryoshkaConfig,
    TopK,
    TopKConfig,
    TopKTranscoder,
    TopKTranscoderConfig,
)
from sae_lens_audio.architectures.sparse import compiled as module
from sae_lens_audio.architectures.sparse import largest_of_all, largest_of_rows
from sae_lens_audio.architectures.sparse.compiled import SWITCH, CompiledLoops, compiled, compiled_for
from sae_lens_audio.architectures.sparse.select import values_above
from sae_lens_audio.training import Trainer, TrainingConfig

needs_compiler = pytest.mark.skipif(compiled() is None, reason="there is no C compiler")
build: Callable[[], CompiledLoops | None] = compiled.__wrapped__


@pytest.fixture
def loops() -> CompiledLoops:
    built = compiled()
    assert built is not None
    return built


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches compiled loops off."""
    return lambda: monkeypatch.setattr(module, "compiled", lambda: None)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@needs_compiler
@given(
    st.integers(1, 6), st.integers(1, 700), st.integers(1, 700), st.integers(0, 50),
    st.sampled_from(["normal", "ties", "negative", "equal", "infinite"]),
)  # fmt: skip
def test_top_of_rows_equals_topk(rows: int, n: int, k: int, seed: int, kind: str) -> None:
    loops, x, k = compiled(), drawn(rows, n, seed=seed), min(k, n)
    assert loops is not None
    if kind != "normal":
        x = {"ties": x.round(), "negative": -x.abs() - 1, "equal": torch.ones_like(x), "infinite": 4e38 * x.double()}[
            kind
        ].float()
    values, columns = loops.top_of_rows(x, k) or pytest.fail()
    torch.testing.assert_close(values.sort(1).values, x.topk(k).values.sort(1).values, rtol=0, atol=0)
    torch.testing.assert_close(x.gather(1, columns), values, rtol=0, atol=0)
    assert (columns.diff(dim=1) > 0).all(), "in the order of the row, none twice"
    last = values.min(1, keepdim=True).values
    for i in range(rows):  # of equal values, the first
        ties = (x[i] == last[i]).nonzero().flatten()
        assert set(ties[: int((values[i] == last[i]).sum())].tolist()) <= set(columns[i].tolist())


@needs_compiler
def test_nan_is_the_largest(loops: CompiledLoops) -> None:
    x = drawn(3, 500)
    x[0, 7] = torch.nan
    x[1] = -torch.tensor(torch.nan)
    values, columns = loops.top_of_rows(x, 4) or pytest.fail()
    assert 7 in columns[0].tolist() and values[1].isnan().all() and not values[2].isnan().any()


@needs_compiler
@pytest.mark.parametrize("d", [1, 31, 64, 100])
def test_products_equal_gathered_ones(loops: CompiledLoops, threads: None, d: int) -> None:
    rows, table = drawn(40, d), drawn(30, d, seed=1)
    counts = torch.arange(40) % 5  # some bags are empty
    bags = torch.arange(40).repeat_interleave(counts)
    latents = torch.randint(30, (len(bags),), generator=torch.Generator().manual_seed(2))
    actual = loops.products(rows, table, latents, counts.cumsum(0) - counts)
    torch.testing.assert_close(actual, (rows[bags] * table[latents]).sum(1))


@needs_compiler
@given(st.integers(1, 6), st.integers(1, 100), st.integers(0, 50), st.floats(-2, 2, width=32))
def test_values_above_equal_those_of_a_mask(n: int, width: int, seed: int, shift: float) -> None:
    loops, x = compiled(), drawn(n, width, seed=seed)
    assert loops is not None
    lower = drawn(width, seed=seed + 1) + shift
    values, columns, counts = loops.values_above(x, lower) or pytest.fail()
    expected = values_above(x, lower)  # too small for compiled loops
    for actual, other in zip((values, columns, counts), expected, strict=True):
        torch.testing.assert_close(actual, other, rtol=0, atol=0)
    torch.testing.assert_close(values, x[x > lower], rtol=0, atol=0)


@needs_compiler
def test_large_inputs_use_compiled_loops_with_the_same_result(threads: None, plain: Callable[[], None]) -> None:
    x, lower = drawn(64, 3000).round(decimals=1), drawn(3000, seed=1)
    assert compiled_for(x) is not None and compiled_for(x[:2]) is None
    top, all_of_them, above = largest_of_rows(x, 20), largest_of_all(x.flatten(), 5000), values_above(x, lower)
    plain()
    assert compiled_for(x) is None
    torch.testing.assert_close(top[0].sort(1).values, largest_of_rows(x, 20)[0].sort(1).values, rtol=0, atol=0)
    torch.testing.assert_close(
        x.flatten()[all_of_them].sort().values, x.flatten()[largest_of_all(x.flatten(), 5000)].sort().values
    )
    for actual, other in zip(above, values_above(x, lower), strict=True):
        torch.testing.assert_close(actual, other, rtol=0, atol=0)


@needs_compiler
def test_numbers_of_values_out_of_range_are_left_to_torch(loops: CompiledLoops) -> None:
    x = drawn(64, 2000)
    assert loops.top_of_rows(x, 0) is None and loops.top_of_rows(x, 2001) is None
    assert largest_of_rows(x, 0)[0].shape == (64, 0) and len(largest_of_all(x.flatten(), 0)) == 0
    with pytest.raises(RuntimeError):
        largest_of_rows(x, 2001)


def test_other_tensors_use_torch() -> None:
    x = torch.zeros(300, 300)
    assert compiled_for(x.double()) is None and compiled_for(x.T[1:]) is None and compiled_for(x.to("meta")) is None
    batched = drawn(2, 300, 300)
    values = torch.func.vmap(lambda rows: largest_of_rows(rows, 3)[0])(batched)
    torch.testing.assert_close(values.sort(2).values, batched.topk(3).values.sort(2).values)
    y = drawn(300, 300).requires_grad_()
    largest_of_rows(y, 3)[0].sum().backward()  # a value of the encoder keeps its gradient
    assert y.grad is not None and y.grad.sum() == 900


D, F = 24, 512


def sae_of(name: str) -> SAE:
    return {
        "topk": lambda: TopK(TopKConfig(D, F, k=8)),
        "batchtopk": lambda: BatchTopK(BatchTopKConfig(D, F, k=8)),
        "matryoshka": lambda: Matryoshka(MatryoshkaConfig(D, F, k=8, widths=(100, F))),
        "jumprelu": lambda: JumpReLU(JumpReLUConfig(D, F, bandwidth=0.3, initial_threshold=0.5)),
        "transcoder": lambda: TopKTranscoder(TopKTranscoderConfig(D, F, d_out=D, k=8, skip=True)),
    }[name]()


def trained(name: str, steps: int = 12, folder: Path | None = None, until: int = 0) -> SAE:
    x = drawn(3000, D)
    source = TensorActivations({"in": x, "out": x.flip(1)}) if name == "transcoder" else TensorActivations(x)
    config = TrainingConfig(steps=steps, batch=512, lr=3e-3, dead_after=1500)
    with Trainer(sae_of(name), source, config, folder) as trainer:
        if not until:
            return trainer.fit(progress=False)
        while trainer.number < until:
            trainer.step()
        trainer.save()
        return trainer.sae


@needs_compiler
@pytest.mark.parametrize("name", ["topk", "batchtopk", "matryoshka", "jumprelu", "transcoder"])
def test_training_is_the_same_without_them(name: str, plain: Callable[[], None]) -> None:
    with_loops = trained(name)
    plain()
    torch.testing.assert_close(trained(name).state_dict(), with_loops.state_dict(), rtol=1e-3, atol=1e-4)


@needs_compiler
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    trained("topk", folder=tmp_path, until=7)
    torch.testing.assert_close(
        trained("topk", folder=tmp_path).state_dict(), trained("topk").state_dict(), rtol=0, atol=0
    )


# Building -------------------------------------------------------------------------------------------------------------


@needs_compiler
def test_they_are_built_once_and_silently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with ThreadPoolExecutor(3) as pool:
        assert all(pool.map(lambda _: build(), range(3)))
    assert capfd.readouterr() == ("", "")
    (library,) = (tmp_path / "sae-lens-audio").iterdir()
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("compiled again"))
    assert library.suffix == ".so" and build() is not None


@pytest.mark.parametrize("reason", ["switch", "no compiler", "failing compiler", "shared cache", "no cache"])
def test_without_them_there_is_only_torch(reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    if reason == "switch":
        monkeypatch.setenv(SWITCH, "0")
    elif reason == "no compiler":
        monkeypatch.setenv("PATH", "")
        monkeypatch.delenv("CC", raising=False)
    elif reason == "failing compiler":
        monkeypatch.setenv("CC", "false")
    elif reason == "shared cache":
        (tmp_path / "sae-lens-audio").mkdir()
        (tmp_path / "sae-lens-audio").chmod(0o777)
    else:
        (tmp_path / "sae-lens-audio").touch()
    assert build() is None


def test_importing_builds_nothing(tmp_path: Path) -> None:
    code = "import sae_lens_audio, torch; sae_lens_audio.TopK(sae_lens_audio.TopKConfig(4, 8, k=2))(torch.ones(3, 4))"
    environment = {"XDG_CACHE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert not (tmp_path / "sae-lens-audio").exists()
