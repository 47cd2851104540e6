"""Weights from the Hugging Face hub, by ``organisation/name[@revision][:file]``, always of one exact commit.

``HF_ENDPOINT``, ``HF_HOME``, ``HF_TOKEN`` and ``HF_HUB_OFFLINE`` work as everywhere else.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from posecore.errors import CheckpointError
from posecore.models.saving import CARD_FILE, WEIGHTS_FILE
from posecore.models.weights.files import INDEX_SUFFIX, shard_names
from posecore.models.weights.layout import CONFIG_FILE

_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[\w./+ -]+))?")
_PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HubName:
    """A place on the hub.

    Attributes:
        repository: ``organisation/name``.
        revision: branch, tag or commit; None for the default branch as it is now.
        file: path in the repository; None where the repository holds one model only.
    """

    repository: str
    revision: str | None
    file: str | None


@dataclass(frozen=True, slots=True)
class Downloaded:
    """Files of one commit, in the hub's local cache.

    Attributes:
        path: the weights, the index of their shards, or a folder that holds a whole model of ours.
        commit: what the revision stood for.
    """

    path: Path
    commit: str


def parse_hub_name(text: str) -> HubName | None:
    """``organisation/name[@revision][:file]``, or None if the text is nothing of that form."""
    match = _NAME.fullmatch(text)
    if match is None or ".." in PurePosixPath(match["file"] or "").parts:
        return None
    return HubName(match["repository"], match["revision"], match["file"])


def download(name: HubName) -> Downloaded:
    """Brings a model's files from the hub, or from its local cache where there is no network.

    Raises:
        CheckpointError: the repository, revision or file does not exist, asks for an agreement first, holds several
            models of which none is named, or there is no network and no copy.
    """
    # A third of a second, which files on this machine need not wait for.
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
    from huggingface_hub.errors import HTTPError as HTTPError  # type: ignore[attr-defined]  # of the client it uses

    try:
        return _download(name)
    except GatedRepoError:
        raise CheckpointError(
            f"{name.repository} wants its terms accepted first: open its page on the hub, accept, and set HF_TOKEN."
        ) from None
    except RepositoryNotFoundError:
        raise CheckpointError(f"the hub has no model {name.repository} (or it is private: set HF_TOKEN).") from None
    except RevisionNotFoundError:
        raise CheckpointError(f"{name.repository} has no revision {name.revision} on the hub.") from None
    except (HTTPError, OSError) as error:
        if name.file is not None and (copy := _cached(name)) is not None:
            return copy
        detail = " ".join(str(error).split())[:120]
        raise CheckpointError(
            f"{name.repository} could not be fetched from the hub ({detail}); without a network, download the file "
            "elsewhere and give its path here instead."
        ) from None


def _download(name: HubName) -> Downloaded:
    from huggingface_hub import HfApi

    api = HfApi()
    info = api.model_info(name.repository, revision=name.revision, timeout=_TIMEOUT_S)
    commit = str(info.sha)
    files = {item.rfilename for item in info.siblings or ()}
    if name.file is not None and name.file not in files:
        raise CheckpointError(f"{name.repository} holds no {name.file}; it holds {_listed(files)}.")
    main = name.file or _main_file(name.repository, files)

    def get(file: str) -> Path:
        return Path(api.hf_hub_download(name.repository, file, revision=commit, etag_timeout=_TIMEOUT_S))

    path = get(main)
    if main == CARD_FILE:
        get(WEIGHTS_FILE)
        return Downloaded(path.parent, commit)
    beside = str(PurePosixPath(main).with_name(CONFIG_FILE))
    if beside in files:
        get(beside)
    if main.endswith(INDEX_SUFFIX):
        for shard in shard_names(path):
            get(str(PurePosixPath(main).with_name(shard)))
    return Downloaded(path, commit)


def _main_file(repository: str, files: Collection[str]) -> str:
    if {CARD_FILE, WEIGHTS_FILE} <= set(files):
        return CARD_FILE
    for suffixes in ((INDEX_SUFFIX,), (".safetensors",), _PICKLED):
        found = [file for file in files if file.endswith(suffixes)]
        if len(found) == 1:
            return found[0]
        if WEIGHTS_FILE in found:
            return WEIGHTS_FILE
        if found:
            raise CheckpointError(f"{repository} holds {_listed(found)}; add :<file> to say which.")
    raise CheckpointError(f"{repository} holds no weights, only {_listed(files)}.")


def _cached(name: HubName) -> Downloaded | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import EntryNotFoundError

    try:
        path = Path(
            HfApi().hf_hub_download(name.repository, str(name.file), revision=name.revision, local_files_only=True)
        )
    except EntryNotFoundError:
        return None
    depth = len(PurePosixPath(str(name.file)).parts)
    return Downloaded(path, path.parts[-1 - depth])  # …/snapshots/<commit>/<file>


def _listed(files: Collection[str], limit: int = 6) -> str:
    rest = len(files) - limit
    return ", ".join(sorted(files)[:limit]) + (f" and {rest} more" if rest > 0 else "") if files else "nothing"
