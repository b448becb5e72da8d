"""Materials Project, asked through its own client, mp-api."""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any, ClassVar

from autoperi.data.sources.client import Answer, Client
from autoperi.data.sources.query import Query
from autoperi.errors import AutoPeriError, DataError, RequestError, one_line


class MaterialsProject(Client):
    """Materials Project by its own client, mp-api; the key is that of the environment variable ``MP_API_KEY``."""

    word = "mp"
    default = "https://api.materialsproject.org"
    supports = ("formula", "elements", "chemical_system", "ids", "max_atoms", "max_above_hull", "limit")
    rate = 5.0
    page = 500
    group: ClassVar[int] = 100
    fields: ClassVar[str] = (
        "material_id,structure,formation_energy_per_atom,energy_above_hull,energy_per_atom,uncorrected_energy_per_atom,"
        "band_gap,bulk_modulus,shear_modulus,total_magnetization,symmetry,theoretical,deprecated,last_updated"
    )

    def __init__(self, query: Query, *, endpoint: str | None = None, rate: float | None = None) -> None:
        self.key = os.environ.get("MP_API_KEY", "")
        if len(self.key) != 32:
            raise RequestError(
                f"MP_API_KEY is {'not set' if not self.key else 'no key of 32 characters'}; get one at "
                "https://materialsproject.org/api (free, after a login) and set the environment variable MP_API_KEY"
            )
        try:
            from mp_api.client import MPRester
        except ImportError:
            raise AutoPeriError(
                'Materials Project is asked through mp-api, which is not installed; run `pip install "autoperi[data]"`'
            ) from None
        self._rester = MPRester
        super().__init__(query, endpoint=endpoint, rate=rate)

    def headers(self) -> dict[str, str]:
        """The key."""
        return {"X-API-KEY": self.key}

    @cached_property
    def client(self) -> Any:
        """The open client.

        Raises:
            DataError: nobody answers at the address.
        """
        how: dict[str, Any] = {"use_document_model": False, "mute_progress_bars": True, "session": self.session}
        try:
            return self._rester(self.key, endpoint=f"{self.endpoint}/", **how)
        except Exception as error:
            raise DataError(
                f"{self.endpoint} cannot be reached ({one_line(error)}); check the address and the network"
            ) from None

    def facts(self) -> dict[str, Any]:
        """As every client; the version is that of the database, such as ``2026_09_22``."""
        return {**super().facts(), "version": str(self.client.db_version)}

    def answer(self, place: Any, *, remaining: int | None) -> Answer:
        """A page of ``SummaryDoc`` without deprecated ones; the place is its number, or that in the list of ids."""
        del remaining  # pages of one size, or their numbers would mean other documents
        asked, k = self.query, int(place or 0)
        names = None if self.items is None else self.items[k : k + self.group]
        conditions: dict[str, Any] = {
            "formula": asked.formula,
            "elements": None if asked.elements is None else list(asked.elements),
            "chemsys": None if asked.chemical_system is None else "-".join(asked.chemical_system),
            "material_ids": names,
            "num_sites": None if asked.max_atoms is None else (1, asked.max_atoms),
            "energy_above_hull": None if asked.max_above_hull is None else (0, asked.max_above_hull),
        }
        try:
            found = self.client.materials.summary.search(
                **{name: value for name, value in conditions.items() if value is not None},
                deprecated=False,
                fields=self.fields.split(","),
                chunk_size=self.page,
                num_chunks=1,
                _page=1 if names else k + 1,
                _sort_fields="material_id",
            )
        except AutoPeriError:
            raise
        except Exception as error:  # its own class, and those of requests
            said = one_line(error).replace(self.key, "…")
            remedy = "check the key" if "401" in said or "403" in said else "check the query and the network"
            raise DataError(f"Materials Project gave no page {k + 1} ({said}); {remedy}") from None
        documents = [dict(document) for document in found]
        if self.items is None:
            after = k + 1 if len(documents) == self.page else None
        else:
            after = k + self.group if k + self.group < len(self.items) else None
        return Answer(documents, len(documents), after, f"{self.endpoint}/materials/summary/")
