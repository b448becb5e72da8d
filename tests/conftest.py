from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from autoperi.hub import Bundle


@pytest.fixture(scope="session", autouse=True)
def _own_feature_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or leaves features in the user's cache; those of one session share theirs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOPERI_CACHE", str(tmp_path_factory.mktemp("features")))
        yield


@pytest.fixture(scope="session")
def tiny_bundle() -> Bundle:
    """A complete untrained model; do not change it."""
    from autoperi.testing import tiny_model

    return tiny_model()


@pytest.fixture(scope="session")
def tiny_dir(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_bundle`` as a directory; do not change it."""
    from autoperi.hub import save_bundle

    directory = tmp_path_factory.mktemp("models") / "tiny"
    save_bundle(tiny_bundle, directory)
    return directory
