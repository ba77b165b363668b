"""A Hugging Face hub that takes commits, in a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest


@dataclass
class FakeHub:
    """Repositories are folders of ``root``. ``fails``: the method that raises."""

    root: Path
    fails: str = ""
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    tokens: set[str | None] = field(default_factory=set)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
        monkeypatch.setattr(huggingface_hub, "HfApi", self._api)
        return self

    def _api(self, token: str | None = None) -> FakeHub:
        self.tokens.add(token)
        return self

    def _called(self, method: str, **values: Any) -> None:
        self.calls.append((method, values))
        if method == self.fails:
            raise OSError("403 Forbidden")

    def repo_exists(self, repo_id: str, repo_type: str = "model") -> bool:
        return (self.root / repo_id).is_dir()

    def file_exists(self, repo_id: str, filename: str, repo_type: str = "model") -> bool:
        return (self.root / repo_id / filename).is_file()

    def create_repo(self, repo_id: str, **values: Any) -> None:
        self._called("create_repo", repo_id=repo_id, **values)
        (self.root / repo_id).mkdir(parents=True)

    def create_commit(self, repo_id: str, operations: list[Any], **values: Any) -> Any:
        self._called("create_commit", repo_id=repo_id, **values)
        for operation in operations:
            target = self.root / repo_id / operation.path_in_repo
            target.parent.mkdir(parents=True, exist_ok=True)
            content = operation.path_or_fileobj
            target.write_bytes(content if isinstance(content, bytes) else Path(content).read_bytes())
        return SimpleNamespace(commit_url=f"https://hub.test/{repo_id}/commit/1")

    def list_repo_files(self, repo_id: str, revision: str | None = None) -> list[str]:
        folder = self.root / repo_id
        return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
