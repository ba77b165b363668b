"""Upload files to the Hugging Face hub, in one commit."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from hooked_whisper._support.files import reason
from hooked_whisper._support.showing import Showing, Summary, counted
from hooked_whisper.errors import ArgumentError, UploadError, check_option

RepoType = Literal["model", "dataset", "space"]
CARD = "README.md"
_SECRET_NAMES = ("*.pem", "*.key", "id_rsa*", "id_ed25519*", "*.env", "credentials*", "token", "*.token", "secrets*")
_TOKEN = re.compile(rb"hf_[A-Za-z0-9]{30,}|sk-[A-Za-z0-9_-]{32,}|AKIA[0-9A-Z]{16}|-----BEGIN [A-Z ]*PRIVATE KEY-----")
_TEXT = (
    ".md", ".json", ".jsonl", ".toml", ".txt", ".html", ".js", ".css", ".csv", ".tsv", ".yaml", ".yml", ".py", ".ipynb",
    ".ini", ".cfg", ".log", ".sh", ".svg", ".xml",
)  # fmt: skip
_RECORDS = (".md", ".json", ".toml", ".yaml", ".yml")  # cards and settings, which name the files of a run
_PLACE = re.compile(rb"(?<![\w.:/~<-])(?:[A-Za-z]:)?/[\w.@+-]+(?:/[\w.@+-]+)+")


@dataclass(frozen=True, repr=False)
class HubUpload(Showing):
    """What was uploaded, or would be.

    files: path in the repository -> bytes.
    url: of the commit; ``None`` after ``dry_run=True``, when nothing was sent.
    notes: what to look at before the repository becomes public.
    """

    repo_id: str
    repo_type: RepoType
    private: bool
    files: Mapping[str, int]
    url: str | None = None
    notes: tuple[str, ...] = ()

    def summary(self) -> Summary:
        total, done = sum(self.files.values()), "to upload" if self.url is None else "uploaded"
        visibility = "private if it is new" if self.private else "public if it is new"
        title = (
            f"{counted(len(self.files), 'file')}, {_size(total)}, {done} to the {self.repo_type} {self.repo_id} "
            f"({visibility})"
        )
        rows = tuple((path, _size(size)) for path, size in self.files.items())
        return Summary(title, (*self.notes, *([] if self.url is None else [self.url])), rows=rows)

    def __str__(self) -> str:
        return repr(self)


def upload(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    *,
    repo_type: RepoType = "model",
    private: bool = True,
    token: str | None = None,
    revision: str | None = None,
    commit_message: str = "Upload with hooked_whisper",
    dry_run: bool = False,
) -> HubUpload:
    """Upload files in one commit; the repository is created if it does not exist.

    Args:
        files: path in the repository -> local file or content.
        repo_id: ``"owner/name"``.
        private: visibility of a new repository; an existing one keeps its own.
        token: of the hub; default: that of ``hf auth login`` or ``HF_TOKEN``. It is not stored.
        revision: branch; default: ``main``.
        dry_run: check everything and return the list of files without contacting the hub.

    Raises:
        ArgumentError: an invalid ``repo_id``, no files, or a file that looks like a secret.
        UploadError: the hub cannot be reached or refuses; the message says what is in the repository.
    """
    check_option("repo_type", repo_type, get_args(RepoType))
    check_repo_id(repo_id)
    if not files:
        raise ArgumentError(f"there are no files to upload to {repo_id}")
    for path, content in files.items():
        _check_harmless(path, content)
    sizes = {path: len(data) if isinstance(data, bytes) else data.stat().st_size for path, data in files.items()}
    plan = HubUpload(repo_id, repo_type, private, sizes, notes=_notes(files))
    if dry_run:
        return plan
    url = _commit(files, repo_id, repo_type, private, token, revision, commit_message)
    return HubUpload(repo_id, repo_type, private, sizes, url, plan.notes)


def folder_files(folder: str | Path, path_in_repo: str = "") -> dict[str, Path]:
    """Return the files of a folder by their path in the repository. Hidden files are left out.

    Raises:
        ArgumentError: it is not a folder, or has a link to a file outside.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArgumentError(f"{folder} is not a folder: give the one with the files to upload")
    prefix = path_in_repo.strip("/") + "/" if path_in_repo.strip("/") else ""
    files: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        if not path.is_file() or any(part.startswith(".") for part in relative.parts):
            continue
        if not path.resolve().is_relative_to(folder.resolve()):
            raise ArgumentError(f"{path} is a link out of the folder, to {path.resolve()}: copy the file, or remove it")
        files[prefix + relative.as_posix()] = path
    return files


def check_repo_id(repo_id: str) -> None:
    """
    Raises:
        ArgumentError: not a valid ``owner/name`` of the hub.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    if not isinstance(repo_id, str) or repo_id.count("/") != 1:
        raise ArgumentError(f"repo_id must be 'owner/name', such as 'me/my-whisper', not {repo_id!r:.80}")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ArgumentError(f"repo_id {repo_id!r:.80} is not valid: {reason(error)}") from None


def has_file(repo_id: str, path: str, token: str | None = None) -> bool:
    """Return whether a model repository has a file; False also if there is no repository or no answer."""
    from huggingface_hub import HfApi

    try:
        return bool(HfApi(token=token).file_exists(repo_id, path))
    except Exception:  # the client raises its own errors, the HTTP library's and the system's; the commit reports them
        return False


def _commit(
    files: Mapping[str, Path | bytes],
    repo_id: str,
    repo_type: RepoType,
    private: bool,
    token: str | None,
    revision: str | None,
    message: str,
) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi

    api, created = HfApi(token=token), False
    options: dict[str, Any] = {"space_sdk": "static"} if repo_type == "space" else {}
    try:
        if not api.repo_exists(repo_id, repo_type=repo_type):
            api.create_repo(repo_id, repo_type=repo_type, private=private, exist_ok=True, **options)
            created = True
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        commit = api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type, revision=revision)
    except Exception as error:  # as in has_file
        state = (
            f"the new repository {repo_id} exists but is empty: call again, or delete it on the hub"
            if created
            else "the repository is unchanged: log in (`hf auth login`) or pass token=, and check your rights to write"
        )
        number = counted(len(files), "file")
        raise UploadError(f"{number} could not be uploaded to {repo_id} ({reason(error)}); {state}") from None
    return str(commit.commit_url)


def _check_harmless(path: str, content: Path | bytes) -> None:
    """
    Raises:
        ArgumentError: the name or the text of a file looks like a secret.
    """
    name = path.rpartition("/")[2].lower()
    pattern = next((pattern for pattern in _SECRET_NAMES if fnmatch.fnmatch(name, pattern)), None)
    if pattern is not None:
        raise ArgumentError(f"{path} looks like a secret (its name matches {pattern}): remove it from the folder")
    if name.endswith(_TEXT):
        match = _TOKEN.search(content if isinstance(content, bytes) else Path(content).read_bytes())
        if match is not None:
            raise ArgumentError(f"{path} contains what looks like a secret, {match[0][:6].decode()}...: remove it")


def _notes(files: Mapping[str, Path | bytes]) -> tuple[str, ...]:
    """Warn about texts that name the home directory of this machine, and records that name files on it."""
    home = str(Path.home()).encode()
    naming: dict[str, str] = {}
    places: dict[str, str] = {}
    for path, data in files.items():
        if not path.lower().endswith(_TEXT):
            continue
        content = data if isinstance(data, bytes) else Path(data).read_bytes()
        if len(home) >= 4 and home in content:
            naming[path] = home.decode()
        elif path.lower().endswith(_RECORDS):
            named = (match.decode("utf-8", "replace") for match in _PLACE.findall(content))
            place = next((place for place in named if Path(place).exists()), None)
            if place is not None:
                places[path] = place
    notes = []
    if naming:
        notes.append(f"note: {', '.join([*naming][:3])} names your home directory {home.decode()}")
    if places:
        path, place = next(iter(places.items()))
        notes.append(f"note: {', '.join([*places][:3])} names a place on this machine, {place}")
    return tuple(notes)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**20:.1f} MiB" if n_bytes >= 2**20 else f"{n_bytes / 2**10:.1f} KiB"
