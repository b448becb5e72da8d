"""COD, asked through its search and for its CIFs."""

from __future__ import annotations

import re
from typing import Any

from autoperi.data.sources.client import Answer, Client
from autoperi.data.sources.documents import mapping
from autoperi.data.sources.http import get, get_json
from autoperi.errors import DataError, RequestError


class Cod(Client):
    """COD: a search, or a list of its numbers, and then one CIF after another."""

    word = "cod"
    default = "https://www.crystallography.net/cod"
    supports = ("formula", "elements", "chemical_system", "ids", "limit")

    def listing(self) -> list[str] | None:
        """The numbers that are asked for, or that the search finds, those without coordinates left out."""
        from pymatgen.core import Composition

        asked = self.query
        if asked.ids is not None:
            numbers = [name.lower().removeprefix("cod-").removesuffix(".cif") for name in asked.ids]
            for name, number in zip(asked.ids, numbers, strict=True):
                if not re.fullmatch(r"\d{7}", number):
                    raise RequestError(f"ids: {name!r} is no number of COD; they have seven digits, such as 9008565")
            return numbers
        elements = asked.chemical_system or asked.elements or ()
        if not asked.formula and not elements:
            raise RequestError("COD is asked by ids, formula, elements or chemical_system; give one of them")
        params: dict[str, Any] = {"format": "json"} | {f"el{k}": e for k, e in enumerate(elements, start=1)}
        if asked.chemical_system:
            params |= {"strictmin": len(elements), "strictmax": len(elements)}
        if asked.formula:
            params["formula"] = Composition(asked.formula).hill_formula
        found = get_json(self.session, f"{self.endpoint}/result", params)
        if not isinstance(found, list):
            raise DataError(f"{self.endpoint}/result answered with no list of entries; check the address")
        entries = [e for e in map(mapping, found) if "has coordinates" in (e.get("flags") or "has coordinates")]
        return [str(e["file"]) for e in entries if e.get("file")]

    def answer(self, place: Any, *, remaining: int | None) -> Answer:
        """A CIF; the place is that in the list."""
        del remaining
        numbers, k = self.items or [], int(place or 0)
        if k >= len(numbers):
            return Answer([], 0, None, self.endpoint, 0)
        url = f"{self.endpoint}/{numbers[k]}.cif"
        try:
            text = get(self.session, url).content.decode("utf-8", errors="replace")
        except DataError as error:
            if " answered 404" not in str(error):
                raise
            text = ""  # a number that was withdrawn must not stop the others
        if text and "data_" not in text:
            raise DataError(f"{url} answered with something else than a CIF; check the address")
        content = {"cod": numbers[k], "cif": text}
        return Answer(content, 1, k + 1 if k + 1 < len(numbers) else None, url, len(numbers))
