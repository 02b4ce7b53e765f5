"""Where profiles and fitted models lie: the current folder, the source tree, or the installed package."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

_PACKAGE = Path(__file__).resolve().parent.parent


def roots() -> list[Path]:
    """Return the folders searched for ``profiles/`` and ``models/``: the source tree, else the installed assets."""
    return list(_roots())


@functools.lru_cache(maxsize=1)
def _roots() -> tuple[Path, ...]:
    candidates = [_PACKAGE.parent, _PACKAGE / "_assets"]
    # An installed package's parent is site-packages, where a folder "profiles" would be somebody else's.
    if not (_PACKAGE.parent / "pyproject.toml").is_file():
        candidates.pop(0)
    return tuple(c for c in candidates if (c / "profiles").is_dir())


def profile_files() -> list[Path]:
    """Return every shipped profile file, first root first."""
    return list(shipped_profiles().values())


def shipped_profiles() -> Mapping[str, Path]:
    """Return the shipped profile files by hardware id, first root first; listed again when a folder changes."""
    return _listed(tuple((root, (root / "profiles").stat().st_mtime_ns) for root in _roots()))


@functools.lru_cache(maxsize=2)
def _listed(folders: tuple[tuple[Path, int], ...]) -> Mapping[str, Path]:
    seen: dict[str, Path] = {}
    for root, _ in folders:
        for path in sorted((root / "profiles").glob("*.json")):
            seen.setdefault(path.stem, path)
    return MappingProxyType(seen)


def own_profile_files() -> list[Path]:
    """Return the user's own profiles that this process has read by their path."""
    return [path for path in _OWN if path.is_file()]


#: Profiles outside the roots, in the order they were read.
_OWN: list[Path] = []


def remember_profile(path: Path) -> None:
    """Let a profile that was named by its path answer to its id too, in this process; a shipped one goes first.

    Fitted models name their hardware by id.  Only files named after an id that no root has are taken.
    """
    resolved = path.resolve()
    if resolved not in _OWN:
        _OWN.append(resolved)


def find_asset(relative: str) -> Path | None:
    """Return the path of a shipped file or folder given relative to a root, or None."""
    for root in roots():
        if (root / relative).exists():
            return root / relative
    return None
