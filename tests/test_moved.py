"""Old import paths go on working, with a warning that names the new one."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest

from autoperi._moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_is_the_new_one_and_says_so(old: str) -> None:
    sys.modules.pop(old, None)
    with pytest.warns(DeprecationWarning, match=f"{old} is called {MOVED[old]} since AutoPeri 0.2"):
        module = import_module(old)
    assert module is import_module(MOVED[old])
    assert module.__spec__ is not None
    assert module.__spec__.name == MOVED[old]


def test_a_function_that_moved_out_of_its_module() -> None:
    from autoperi.models import autoperi_gnn
    from autoperi.processes.flow import crystal_noise

    with pytest.warns(DeprecationWarning, match="autoperi.processes.flow"):
        assert autoperi_gnn.crystal_noise is crystal_noise
    with pytest.raises(AttributeError, match="no attribute 'crystal_noises'"):
        autoperi_gnn.crystal_noises  # noqa: B018


def test_no_new_name_warns() -> None:
    code = "import autoperi.auto, autoperi.cli.train, autoperi.metrics, autoperi.models.autoperi_gnn"
    done = subprocess.run(
        [sys.executable, "-W", "error:.*since AutoPeri 0.2:DeprecationWarning", "-c", code],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
