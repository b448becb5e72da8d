"""The providers by the words of the command line."""

from __future__ import annotations

from autoperi.data.sources.client import Client
from autoperi.data.sources.cod import Cod
from autoperi.data.sources.materials_project import MaterialsProject
from autoperi.data.sources.optimade import Optimade
from autoperi.data.sources.oqmd import Oqmd

PROVIDERS: dict[str, type[Client]] = {c.word: c for c in (MaterialsProject, Oqmd, Cod, Optimade)}
