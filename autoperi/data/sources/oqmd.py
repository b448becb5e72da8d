"""OQMD, asked through its REST service."""

from __future__ import annotations

from typing import Any, ClassVar

from autoperi.data.sources.client import Answer, Client, documents_of
from autoperi.data.sources.documents import mapping
from autoperi.data.sources.http import get_json


class Oqmd(Client):
    """OQMD's REST service: formation energies with cells and sites."""

    word = "oqmd"
    default = "https://oqmd.org"
    supports = ("formula", "elements", "chemical_system", "max_atoms", "max_above_hull", "filter", "limit")
    fields: ClassVar[str] = (
        "name,entry_id,calculation_id,icsd_id,formationenergy_id,duplicate_entry_id,spacegroup,prototype,ntypes,natoms,"
        "volume,unit_cell,sites,band_gap,delta_e,stability,fit,calculation_label"
    )

    def answer(self, place: Any, *, remaining: int | None) -> Answer:
        """A page; the place is the offset."""
        asked, offset = self.query, int(place or 0)
        needed = asked.chemical_system or asked.elements
        conditions = [
            *([f"element_set={','.join(needed)}"] if needed else []),
            *([f"ntypes={len(asked.chemical_system)}"] if asked.chemical_system else []),
            *([f"natoms<{asked.max_atoms + 1}"] if asked.max_atoms is not None else []),
            # its grammar has no "at most"; energies have no more digits
            *([f"stability<{asked.max_above_hull + 1e-9:.9f}"] if asked.max_above_hull is not None else []),
            *([f"({asked.filter})"] if asked.filter else []),
        ]
        size = self.size(remaining)
        params = {
            "fields": self.fields,
            **({"composition": asked.formula} if asked.formula else {}),
            **({"filter": " AND ".join(conditions)} if conditions else {}),
            "format": "json",
            "limit": size,
            "offset": offset,
        }
        url = f"{self.endpoint}/oqmdapi/formationenergy"
        content = get_json(self.session, url, params)
        documents = documents_of(content, url)
        more = bool(mapping(content.get("links")).get("next")) and bool(documents)
        total = mapping(content.get("meta")).get("data_available")
        return Answer(content, len(documents), offset + len(documents) if more else None, url, total)
