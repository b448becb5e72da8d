"""Options of a request that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoperi.data.elements import symbol_of
from autoperi.errors import RequestError
from autoperi.units import MAX_ATOMIC_NUMBER

if TYPE_CHECKING:
    from autoperi.pipelines.request import Request


def check_elements(request: Request, said: str, elements: set[int]) -> None:
    """Refuse elements that contradict another option; ``said`` is what names them.

    Raises:
        RequestError: naming both.
    """
    system, excluded = request.chemical_system, request.exclude_elements
    if elements & excluded:
        names = ", ".join(sorted(symbol_of(z) for z in elements & excluded))
        raise RequestError(f"{said} contains {names}, which exclude_elements forbids; drop it from one of them")
    if system is not None and elements != system:
        raise RequestError(
            f"{said} is not of the chemical system {'-'.join(sorted(map(symbol_of, system)))}; drop one of the two"
        )


def check_beside_sites(request: Request, sites: Any, num_atoms: Any) -> None:
    """Refuse what contradicts the sites, which were given as ``sites``.

    Raises:
        RequestError: naming both.
    """
    if request.composition is not None:
        raise RequestError(f"sites stand instead of composition={request.asked!s}; drop one of the two")
    if request.space_group is None:
        raise RequestError("sites need a space group, whose operations make the atoms; pass space_group, such as 225")
    assert request.sites is not None
    check_elements(request, f"sites={sites!s}", {z for z, _ in request.sites})
    from autoperi.symmetry.wyckoff import wyckoff_positions  # NumPy, which a wrong option is refused without

    count = sum(n for _, n in request.sites)
    positions = wyckoff_positions(request.space_group)
    # a position without free coordinates is taken once, and any other as often as one likes
    sizes = sorted(p.primitive_multiplicity for p in positions for _ in range(1 if p.dof == 0 else count))
    if sum(sizes[:count]) > request.max_atoms:
        most = f"num_atoms={num_atoms!r}" if num_atoms is not None else f"the default limit of {request.max_atoms}"
        raise RequestError(
            f"sites={sites!s} make at least {sum(sizes[:count])} atoms in the primitive cell of space group "
            f"{request.space_group}, more than {most}; give a larger num_atoms"
        )


def check_number_of_elements(request: Request, given: Any) -> None:
    """Refuse a composition, sites or a chemical system of another number of elements than ``given``.

    Raises:
        RequestError: naming both.
    """
    low, high = request.num_elements or (1, MAX_ATOMIC_NUMBER)
    asked = {"composition": request.composition, "sites": request.sites, "chemical_system": request.chemical_system}
    for name, elements in asked.items():
        if elements is not None and not low <= len(elements) <= high:
            said = f"composition={request.asked!s}" if name == "composition" else name
            raise RequestError(
                f"num_elements={given!r} excludes {said}, which has {len(elements)}; drop one of the two"
            )
