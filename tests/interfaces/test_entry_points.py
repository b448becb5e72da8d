"""What pyproject.toml registers with ASE and pymatgen, through their own functions in a process that knows of nothing
else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import sys, warnings

warnings.simplefilter("error", UserWarning)  # how both tell of a plugin that does not load
import ase.io
from ase.build import bulk

assert not {"torch", "pymatgen", "pandas"} & set(sys.modules), "importing ASE must stay light"
from autoperi.interfaces.pymatgen import GenerateTransformation

GenerateTransformation(n=2)
assert "torch" not in sys.modules, "a transformation loads nothing before it is applied"

ase.io.write("two.parquet", [bulk("Cu"), bulk("Si")])
assert len(ase.io.read("two.parquet")) == 2
assert [len(atoms) for atoms in ase.io.read("two.parquet", ":")] == [1, 2]

from pymatgen.core import Lattice, Structure

assert Structure.from_file("two.parquet").formula == "Cu1"
salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
salt.properties["autoperi"] = {"seed": 3, "origin": "prototype"}
for name in ("salt.extxyz", "salt.extxyz.gz", "salt.parquet"):
    salt.to(name)
    again = Structure.from_file(name)
    assert again.sites == salt.sites, name
    assert again.properties["autoperi"] == salt.properties["autoperi"], name
assert Structure.from_str(salt.to(fmt="extxyz"), fmt="extxyz") == salt
assert ase.io.read("salt.extxyz").info["autoperi"]["seed"] == 3
assert Structure.from_file("two.parquet", index=-1).formula == "Si2"
try:
    Structure.from_file("two.parquet", index=2)
except ValueError as error:
    assert "index=2 is not in a file of 2 crystals" in str(error)
else:
    raise AssertionError("there is no third crystal")

try:
    from ase._4.plugins import plugins
except ImportError:  # another ASE
    pass
else:
    assert "autoperi" in {plugin.name for plugin in plugins.calculators}
    assert "autoperi-parquet" in {plugin.name for plugin in plugins.io_formats}
"""


def test_ase_and_pymatgen_find_what_is_registered(tmp_path: Path) -> None:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in entries.items()) for group, entries in groups.items()]
    installed = tmp_path / "path" / "autoperi-0.0.0.dist-info"  # found before that of an older installation
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: autoperi\nVersion: 0.0.0\n", encoding="utf-8")
    (installed / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    path = os.pathsep.join([str(installed.parent), str(ROOT)])
    subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": path}, timeout=300
    )
