"""Any provider that speaks OPTIMADE, version 1."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import gcd
from typing import Any, ClassVar
from urllib.parse import urljoin, urlsplit

from autoperi.data.sources.client import Answer, Client, documents_of
from autoperi.data.sources.documents import SOURCES, mapping
from autoperi.data.sources.http import get_json
from autoperi.errors import DataError, RequestError


class Optimade(Client):
    """Any provider by the OPTIMADE standard, version 1: an address, or a name that pymatgen knows."""

    word = "optimade"
    default = "https://optimade.materialsproject.org"
    supports = ("formula", "elements", "chemical_system", "ids", "max_atoms", "filter", "limit")
    fields: ClassVar[str] = (
        "immutable_id,last_modified,lattice_vectors,cartesian_site_positions,species,species_at_sites,dimension_types,"
        "structure_features"
    )

    @classmethod
    def address(cls, endpoint: str | None) -> str:
        """The base URL of a provider, without the version.

        Raises:
            RequestError: neither a URL nor a name that is known.
        """
        from pymatgen.ext.optimade import OptimadeRester

        if endpoint is None or "://" not in endpoint:
            known = OptimadeRester.aliases
            if endpoint not in known:
                raise RequestError(
                    f"endpoint={endpoint!r} is no OPTIMADE provider; give its base URL, or one of {', '.join(known)}"
                )
            endpoint = known[endpoint]
        return super().address(endpoint).removesuffix("/v1")

    def facts(self) -> dict[str, Any]:
        """As every client, from the provider's own ``info``."""
        content = get_json(self.session, f"{self.endpoint}/v1/info")
        meta, data = (mapping(mapping(content).get(name)) for name in ("meta", "data"))
        provider, said = mapping(meta.get("provider")), mapping(data.get("attributes"))
        prefix = str(provider.get("prefix") or "")
        licences = said.get("available_licenses_for_entries") or said.get("available_licenses")
        known = SOURCES[prefix]["licence"] if prefix in SOURCES else None
        return {
            "name": provider.get("name") or urlsplit(self.endpoint).netloc,
            "version": meta.get("api_version") or said.get("api_version"),
            "licence": ", ".join(licences) if licences else known,
            "prefix": prefix,
        }

    def answer(self, place: Any, *, remaining: int | None) -> Answer:
        """A page; the place is the address of the next one, if there is one, and that in the list of ids."""
        url, k = place or (None, 0)
        params = None
        if url is None:
            names = (self.items or [])[k : k + self.page]
            k += len(names)
            wanted = " OR ".join(f'id="{name}"' for name in names)
            conditions = [*self._conditions(), *([f"({wanted})"] if names else [])]
            url = f"{self.endpoint}/v1/structures"
            params = {
                "response_fields": ",".join((self.fields, *self._own_fields)),
                "page_limit": self.size(remaining),
                **({"filter": " AND ".join(conditions)} if conditions else {}),
            }
        content = get_json(self.session, url, params)
        documents = documents_of(content, url)
        following = mapping(content.get("links")).get("next")
        following = following.get("href") if isinstance(following, Mapping) else following
        after = [urljoin(url, str(following)), k] if following and documents else None
        if after is None and k < len(self.items or ()):
            after = [None, k]
        return Answer(content, len(documents), after, url, mapping(content.get("meta")).get("data_returned"))

    def _conditions(self) -> list[str]:
        asked = self.query
        needed = asked.chemical_system or asked.elements
        words = ",".join(f'"{e}"' for e in needed or ())
        return [
            *([f"elements HAS ALL {words}"] if needed else []),
            *([f"nelements={len(asked.chemical_system)}"] if asked.chemical_system else []),
            *([f'chemical_formula_reduced="{_alphabetical(asked.formula)}"'] if asked.formula else []),
            *([f"nsites<={asked.max_atoms}"] if asked.max_atoms is not None else []),
            *([f"({asked.filter})"] if asked.filter else []),
        ]

    @cached_property
    def _own_fields(self) -> list[str]:
        """Numbers and words that the provider defines itself."""
        try:
            content = get_json(self.session, f"{self.endpoint}/v1/info/structures")
        except DataError:  # not every provider describes its fields
            return []
        described = mapping(mapping(mapping(content).get("data")).get("properties"))
        simple = {"float", "integer", "string", "boolean", "number"}
        return [k for k, v in described.items() if k.startswith("_") and _types(mapping(v)) & simple]


def _types(description: Mapping[str, Any]) -> set[str]:
    found = description.get("x-optimade-type") or description.get("type")
    return set(found) if isinstance(found, list) else {str(found)}


def _alphabetical(formula: str) -> str:
    from pymatgen.core import Composition

    counts = {e: int(n) for e, n in Composition(formula).get_el_amt_dict().items()}
    shared = gcd(*counts.values())  # H2O2 is HO to OPTIMADE, and H2O2 to pymatgen
    return "".join(f"{e}{n // shared if n > shared else ''}" for e, n in sorted(counts.items()))
