"""``generate`` and ``relax_lattice`` as transformations of pymatgen.

They work wherever pymatgen takes an ``AbstractTransformation``: ``StandardTransmuter``, ``TransformedStructure`` with
its history, ``MontyEncoder`` and ``MontyDecoder``. A transformation holds names and numbers alone, never a network: it
goes through JSON and pickles as it is, and :func:`load_model` loads the model when the first crystal comes, once a
process.

A transformation gives the same crystal whenever it is applied to the same crystal: a seed that is not given is drawn
when the transformation is made, and kept. In a ranked list each crystal comes with the transformation that gives it
alone, which pymatgen writes into the history of a ``TransformedStructure``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, fields, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from ase.data import chemical_symbols
from pymatgen.core import Composition, Structure
from pymatgen.transformations.transformation_abc import AbstractTransformation

from autoperi.chemistry.formula import parse_formula
from autoperi.data.checks import whole_number
from autoperi.data.elements import element_number
from autoperi.data.formats import plain
from autoperi.errors import RequestError, StructureError
from autoperi.hub.store import DEFAULT_MODEL
from autoperi.pipelines.request import check_steps, make_request

if TYPE_CHECKING:
    from autoperi.auto import AutoPeri

MAX_LOADED_MODELS = 4
_HISTORY_KEYS = ("input_structure", "output_parameters", "_snl")
"""What ``TransformedStructure`` adds to the dict of a transformation."""
_MODEL_KEYS = ("model", "revision", "sha256", "versions", "seed", "index")
"""What the provenance of a crystal says of its making; the rest it says of the crystal, and a ranked list with it."""


@lru_cache(maxsize=MAX_LOADED_MODELS)
def load_model(model: str, revision: str | None, device: str) -> AutoPeri:
    """The model of a transformation, loaded once a process.

    Raises:
        WeightsError, HubError: it is missing or damaged. RequestError: this machine has no such device.
    """
    from autoperi.auto import AutoPeri

    return AutoPeri.from_pretrained(model, revision=revision, device=device)


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _ModelTransformation(AbstractTransformation):
    """A transformation by a model, which is not loaded before it is needed; its options are checked when it is made."""

    model: str | os.PathLike[str] = DEFAULT_MODEL
    revision: str | None = None
    device: str = "auto"

    def __new__(cls, *_: Any, **options: Any) -> Any:
        known = [f.name for f in fields(cls)]
        if unknown := sorted(set(options) - set(known)):
            raise RequestError(f"options {unknown} are not known to {cls.__name__}; it takes {', '.join(known)}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        if isinstance(self.model, os.PathLike):  # other processes may work in other directories
            self.__dict__["model"] = os.path.abspath(os.fspath(self.model))  # noqa: PTH100
        for f in fields(self):
            value = self.__dict__[f.name] = plain(getattr(self, f.name))
            if isinstance(f.default, bool) and not isinstance(value, bool):
                raise RequestError(f"{f.name}={value!r} is neither True nor False; give one of the two")
            if f.name in ("model", "revision", "device") and not isinstance(value, str) and value is not f.default:
                raise RequestError(f"{f.name}={value!r} is no text; give a name such as {f.default or 'main'!r}")
        self.__dict__.update(self._checked())

    def _checked(self) -> dict[str, Any]:
        """The options that checking changed.

        Raises:
            RequestError: an option that cannot be honoured.
        """
        raise NotImplementedError

    def _load(self) -> AutoPeri:
        peri = load_model(str(self.model), self.revision, self.device)
        self.__dict__["_commit"] = peri.bundle.revision
        return peri

    def as_dict(self) -> dict[str, Any]:
        """All options, JSON-serialisable; once applied, ``revision`` is the commit of the hub repository that was
        used.
        """
        return {**super().as_dict(), "revision": self.__dict__.get("_commit") or self.revision}

    @classmethod
    def from_dict(cls, d: Mapping[str, Any]) -> Any:
        """From :meth:`as_dict`, or from such an entry of the history of a ``TransformedStructure``.

        Raises:
            RequestError: an option that is unknown or cannot be honoured.
        """
        return super().from_dict({k: v for k, v in d.items() if k not in _HISTORY_KEYS})

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and all(getattr(self, f.name) == getattr(other, f.name) for f in fields(self))

    def __hash__(self) -> int:
        return hash((type(self), self.model, self.revision))

    def __repr__(self) -> str:
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) != f.default}
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in given.items())})"


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class _GeneratingTransformation(_ModelTransformation):
    """A transformation, one to many, by ``AutoPeri.generate``."""

    n: int = 1
    place: int = 0
    steps: int | None = None
    finish: int = 0
    rank: str = "energy"
    seed: int | None = None
    batch_size: int | str = "auto"
    strict: bool = True

    @property
    def is_one_to_many(self) -> bool:
        """True: ``apply_transformation`` takes ``return_ranked_list``."""
        return True

    def apply_transformation(
        self, structure: Structure, return_ranked_list: bool | int = False
    ) -> Structure | list[dict[str, Any]]:
        """Generate from a crystal, which is not changed.

        Args:
            structure: the crystal.
            return_ranked_list: False for one structure, True for a list of ``n``, a number for a list of as many.

        Returns:
            The structure at ``place``, with its provenance in ``.properties["autoperi"]``. Or a list of dicts, best
            first: ``structure``; ``transformation``, which gives this structure alone; ``energy`` in eV and
            ``energy_above_minimum`` in eV/atom within the list, by the potential if that ranked, else the predicted
            formation energy, in either case before ``finish``, both None by a model that predicts no energy; and what
            its provenance says of it, such as ``log_likelihood``.

        Raises:
            RequestError: what is asked for cannot be had. WeightsError: the model cannot be loaded, or lacks what an
            option needs. StructureError: a crystal that cannot be read.
        """
        if not isinstance(structure, Structure):
            raise StructureError(f"a {type(structure).__name__} is no pymatgen Structure; give one")
        as_list, n = bool(return_ranked_list), self.n
        if as_list and not isinstance(return_ranked_list, bool):
            n = whole_number(return_ranked_list, "return_ranked_list")
        options = {name: getattr(self, name) for name in ("steps", "finish", "rank", "seed", "batch_size")}
        options |= {"n": n, "strict": self.strict or n == 1} | self._request(structure)
        made: Any = self._load().generate(**options, progress=False)
        if len(made) <= (0 if as_list else self.place):
            raise RequestError(f"{self!r} made only {len(made)} crystals of {n}; loosen what is asked for")
        return self._ranked_list(made, n) if as_list else made[self.place]

    def _ranked_list(self, made: Sequence[Structure], n: int) -> list[dict[str, Any]]:
        notes = [structure.properties["autoperi"] for structure in made]
        energies = [x.get("potential_energy_per_atom_eV", x["formation_energy_per_atom_eV"]) for x in notes]
        least = min((energy for energy in energies if energy is not None), default=None)
        own = self.as_dict()
        return [
            {
                "structure": structure,
                "transformation": self.from_dict({**own, "n": n, "place": k}),
                "energy": None if energy is None else energy * len(structure),
                "energy_above_minimum": None if energy is None or least is None else round(energy - least, 6),
                **{name: value for name, value in note.items() if name not in _MODEL_KEYS},
            }
            for k, (structure, note, energy) in enumerate(zip(made, notes, energies, strict=True))
        ]

    def _request(self, structure: Structure) -> dict[str, Any]:
        """Options of ``generate`` that come from this crystal."""
        raise NotImplementedError

    def _conditions(self) -> dict[str, Any]:
        """Options of ``generate`` beside those of every such transformation."""
        return {}

    def _checked(self) -> dict[str, Any]:
        checked = {name: getattr(self, name) for name in ("n", "steps", "finish", "rank", "seed")}
        request = make_request(**checked, **self._conditions())
        return {"seed": request.seed, "place": whole_number(self.place, "place", least=0, most=request.n - 1)}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class GenerateTransformation(_GeneratingTransformation):
    """Crystals of a crystal's composition, from nothing else of it.

    The composition is a ratio, that of the reduced formula; a disordered crystal has one too, and what comes is
    ordered.

    Attributes:
        n: crystals to make, and length of a ranked list where no number is given.
        place: which of the ``n``, best first, ``apply_transformation`` returns; 0 is the best.
        seed: of all randomness; None draws one, which is kept.
        space_group, num_atoms, target, steps, finish, rank, batch_size, strict: as in ``AutoPeri.generate``.
        generator: one part of the model alone, there called ``model``.
        model: a bundled name, a directory, or a hub repository ``owner/name``.
        revision: branch, tag or commit of a hub repository.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.

    Raises:
        RequestError: an option that is unknown or cannot be honoured.
    """

    space_group: int | str | None = None
    num_atoms: int | Sequence[int] | None = None
    target: Mapping[str, float] | None = None
    generator: str | None = None

    def _request(self, structure: Structure) -> dict[str, Any]:
        return {"composition": structure.composition.reduced_formula, "model": self.generator, **self._conditions()}

    def _conditions(self) -> dict[str, Any]:
        return {"space_group": self.space_group, "num_atoms": self.num_atoms, "target": self.target}


@dataclass(frozen=True, repr=False, eq=False)
class SubstituteAndRelaxTransformation(_GeneratingTransformation):
    """Other elements on the places of a crystal's own: its space group and orbits stay, cell and free coordinates
    become those that the model gives to the new elements. What comes is the standard primitive cell.

    Attributes:
        species_map: element to the element that takes its places, such as ``{"Na": "K"}``; others stay. There is one
            such crystal.
        composition: instead of it, what the crystal is to consist of, such as ``"KBr"``, with the crystal's numbers of
            atoms: every way to put the elements on the places is a crystal.
        strict: whether fewer ways than ``n`` are an error.
        n, place, seed, steps, finish, rank, batch_size, model, revision, device: as of
            :class:`GenerateTransformation`.

    Raises:
        RequestError: an option that is unknown or cannot be honoured.
    """

    species_map: Mapping[str, str] | None = None
    composition: Any = None
    _: KW_ONLY
    strict: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.species_map, Mapping):
            self.__dict__["species_map"] = {str(old): str(new) for old, new in self.species_map.items()}
        if hasattr(self.composition, "get_el_amt_dict"):
            self.__dict__["composition"] = self.composition.get_el_amt_dict()
        super().__post_init__()

    def _checked(self) -> dict[str, Any]:
        if (self.species_map is None) == (self.composition is None):
            raise RequestError("give either species_map, such as {'Na': 'K'}, or the composition that is wanted")
        if self.composition is not None:
            parse_formula(self.composition)
        elif not isinstance(self.species_map, Mapping) or not self.species_map:
            raise RequestError(f"species_map={self.species_map!r} maps no element; give a dict such as {{'Na': 'K'}}")
        for symbol in (s for pair in (self.species_map or {}).items() for s in pair):
            element_number(symbol, error=RequestError)
        return super()._checked()

    def _request(self, structure: Structure) -> dict[str, Any]:
        if self.species_map is None:
            return {"composition": self.composition, "like": structure}
        from autoperi.pipelines.template import template_of

        template = template_of(structure)
        new = {
            element_number(a, error=RequestError): element_number(b, error=RequestError)
            for a, b in self.species_map.items()
        }
        places = {z: new.get(z, z) for z in template.content}
        formula = structure.composition.reduced_formula
        if places.keys().isdisjoint(new):
            raise RequestError(f"{formula} has none of the elements {', '.join(self.species_map)} of species_map")
        if len(set(places.values())) < len(places):
            raise RequestError(f"species_map={self.species_map} makes two elements of {formula} one; keep them apart")
        wanted = Composition({chemical_symbols[places[z]]: count for z, count in template.content.items()})
        like = replace(template, places=places)
        return {"composition": wanted.reduced_formula, "like": like, "n": 1, "strict": True}


@dataclass(frozen=True, kw_only=True, repr=False, eq=False)
class RelaxLatticeTransformation(_ModelTransformation):
    """One to one: a crystal relaxed by ``AutoPeri.relax_lattice``, with the status in
    ``.properties["autoperi"]["relaxation"]``.

    Attributes:
        steps, positions, fix_symmetry: as in ``AutoPeri.relax_lattice``.
        model, revision, device: as of :class:`GenerateTransformation`.

    Raises:
        RequestError: an option that is unknown or cannot be honoured.
    """

    steps: int | None = None
    positions: bool = False
    fix_symmetry: bool = False

    def apply_transformation(self, structure: Structure) -> Structure:
        """A relaxed copy of a crystal.

        Raises:
            StructureError: a crystal that cannot be read. RequestError, WeightsError: the model cannot be loaded, or
                has no potential, which ``positions`` needs.
        """
        options: Any = {"steps": self.steps, "positions": self.positions, "fix_symmetry": self.fix_symmetry}
        return self._load().relax_lattice(structure, **options, progress=False)

    def _checked(self) -> dict[str, Any]:
        if self.steps is not None and self.positions:
            return {"steps": whole_number(self.steps, "steps", least=0)}
        return {"steps": check_steps(self.steps)}


__all__ = ["GenerateTransformation", "RelaxLatticeTransformation", "SubstituteAndRelaxTransformation", "load_model"]
