"""The files of a public set from the Hugging Face hub, at one commit."""

import re
from fnmatch import fnmatch
from pathlib import Path

from trivet.data.public._registry import PublicSource
from trivet.errors import DataError

_COMMIT = re.compile(r"[0-9a-f]{40}")


def download(source: PublicSource, split: str, revision: str | None) -> tuple[list[Path], str]:
    """Paths in the hub's cache, and the commit.

    A branch or tag is refused: it may name other rows tomorrow, and a study must be able to say what it
    asked.

    Raises:
        DataError: the set is not on the hub, no commit is given or known, or the hub does not give the files.
    """
    hub = source.hub
    if hub is None or split not in hub.files:
        raise DataError(
            f"{source.name} ({split}) has no place on the hub that could be loaded",
            hint=f"get it from {source.source} and give the path of the file or folder",
        )
    revision = revision or hub.revision
    if revision is None:
        raise DataError(
            f"no revision of {hub.repository} is known to load; name the commit you want",
            where=source.name,
            hint="copy the 40 digits of a commit from the repository's history on the hub, or give a path",
        )
    if not _COMMIT.fullmatch(revision):
        raise DataError(
            f"{revision!r} is not a full commit (40 hexadecimal digits)",
            where=source.name,
            hint="branches and tags can move; name the commit",
        )
    return _fetch(hub.repository, hub.files[split], revision, source), revision


def _fetch(repository: str, patterns: tuple[str, ...], revision: str, source: PublicSource) -> list[Path]:
    import httpx
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    where = f"{repository}@{revision[:12]}"
    try:
        names = HfApi().list_repo_files(repository, repo_type="dataset", revision=revision)
        wanted = sorted(name for name in names if any(fnmatch(name, pattern) for pattern in patterns))
        paths = [
            Path(hf_hub_download(repository, name, repo_type="dataset", revision=revision)) for name in wanted
        ]
    except (HfHubHTTPError, OfflineModeIsEnabled, httpx.HTTPError, OSError) as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"the hub does not give the files: {type(error).__name__}: {first}",
            where=where,
            hint=f"check the network, or get the set from {source.source} and give its path",
        ) from None
    if not wanted:
        raise DataError(
            f"has no file like {' or '.join(patterns)}",
            where=where,
            hint=f"its files: {', '.join(sorted(names)[:20])}; download the right one and give its path",
        )
    return paths
