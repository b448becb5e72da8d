"""The score of sites and cell parameters under a space group (Sultanov et al. 2023, section 4).

The network reads the symmetric multigraph: nodes are sites, edges lead to the images of all sites under the group and
the lattice. The shared backbone passes messages on it, angles between edges included; an output for every edge gives
both scores,

    s_X(i) σ = Σ_e w_e u_e                                                     (section 4.2)
    s_L σ    = mean_e  w'_e G_e / ‖G_e‖²,   G_e = ∂d_e/∂(cell parameters)       (section 4.3)

with u_e the unit vector and d_e the length of an edge; the mean is weighted by the envelope that ends at the cutoff.
w_e and w'_e are read from both ends of the edge, its length, and its direction among the other edges of its site.
Beyond the paper, w'_e is also read from the shares that the cell parameters have in G_e, which names the axes of the
conventional setting, and nodes see the group, whether they are bound to a Wyckoff position, and how much larger than
natural the cell is. What is read is scaled to 20 Å³ an atom by the volumes of the elements.

The network also knows how often groups and Wyckoff positions occur, and completes a request that names a composition by
a group and sites which hold it exactly (:mod:`autoperi.symmetry.orbit_grammar`): the paper leaves the composition open.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from e3nn import o3
from torch import Tensor, nn

from autoperi.errors import RequestError
from autoperi.geometry.segments import segment_sum
from autoperi.nn.backbone import MEAN_VOLUME_PER_ATOM, Backbone, BackboneOutput
from autoperi.nn.config import config_of
from autoperi.nn.mlp import mlp
from autoperi.nn.radial import polynomial_envelope
from autoperi.processes.base import Condition
from autoperi.processes.langevin import Langevin, Scores, SiteState
from autoperi.symmetry.orbit_grammar import Sentence, element_order, grammar
from autoperi.symmetry.sites import PARAMETERS, Sites, sites_of
from autoperi.symmetry.wyckoff import LETTERS, WyckoffPosition, can_fit, wyckoff_positions
from autoperi.units import MAX_ATOMIC_NUMBER

N_GROUPS, N_LETTERS = 231, len(LETTERS)
EDGES = 30.0
"""Mean number of edges of a node, a constant that keeps sums of order one."""


class ScoreLangevin(nn.Module):
    """See the module's docstring.

    Args:
        channels, layers, n_radial, l_max: of the backbone.
        cutoff: Å of the scaled crystal.
        hidden: width of the edges' outputs.
        position_sigma, lattice_sigma, levels: of the process, a :class:`~autoperi.processes.langevin.Langevin`.
        free_sites: sites that are asked for instead of a composition move freely and merge with their images, as in the
            paper; else each takes a Wyckoff position, drawn as often as it occurs, and stays on it.
    """

    element_volume: Tensor
    group_log_p: Tensor
    site_log_p: Tensor

    def __init__(
        self,
        *,
        channels: int = 64,
        layers: int = 4,
        cutoff: float = 5.0,
        n_radial: int = 8,
        l_max: int = 2,
        hidden: int = 64,
        position_sigma: Sequence[float] = (2.0, 0.03),
        lattice_sigma: Sequence[float] = (5.0, 0.15),
        levels: int = 10,
        free_sites: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.free_sites = config_of(locals()), free_sites
        self.process = Langevin(**self.process_options)
        self.backbone = Backbone(channels=channels, layers=layers, cutoff=cutoff, n_radial=n_radial, l_max=l_max)
        self.level = nn.Embedding(levels, channels)
        self.group = nn.Embedding(N_GROUPS, channels)
        nn.init.zeros_(self.group.weight)
        self.size = mlp(1, channels, channels)
        self.centre = nn.Linear(channels, hidden)
        self.neighbour = nn.Linear(channels, hidden, bias=False)
        self.radial = nn.Linear(n_radial, hidden, bias=False)
        self.direction = nn.ModuleList(nn.Linear(channels, hidden, bias=False) for _ in range(l_max))
        self.share = nn.Linear(PARAMETERS, hidden, bias=False)
        self.position_weight = nn.Sequential(nn.SiLU(), mlp(hidden, hidden, 1))
        self.cell_weight = nn.Sequential(nn.SiLU(), mlp(hidden, hidden, 1))
        self.register_buffer("element_volume", torch.full((MAX_ATOMIC_NUMBER + 1,), MEAN_VOLUME_PER_ATOM))
        # how often groups and their positions occur, by logarithms; filled by the training
        self.register_buffer("group_log_p", torch.zeros(N_GROUPS))
        self.register_buffer("site_log_p", torch.zeros(N_GROUPS, N_LETTERS))

    @property
    def process_options(self) -> dict[str, Any]:
        """Options of the process that this network was made for."""
        return {name: self.config[name] for name in ("position_sigma", "lattice_sigma", "levels")}

    # --- scores

    def predict(self, state: SiteState, t: float, condition: Condition | None = None) -> Scores:  # noqa: ARG002
        """Scores times σ at the level of a time."""
        level = self.process.level(t).to(state.parameters.device).expand(len(state.sites))
        return self.scores(state, level)

    def scores(self, state: SiteState, level: Tensor) -> Scores:
        """Scores times σ of crystals at the levels ``[B]``; they turn with the crystal."""
        sites, real, dtype = state.sites, state.parameters.dtype, self.backbone.embedding.weight.dtype
        lattice = sites.lattice(state.parameters)
        batch, owner, first = sites.images(state.frac_coords, lattice)
        volumes = self.element_volume.to(real)[batch.atomic_numbers]
        natural = segment_sum(volumes, batch.batch, len(sites)) / batch.n_atoms
        unit = (natural / MEAN_VOLUME_PER_ATOM).pow(1 / 3)
        scaled = batch.replace(lattice=batch.lattice / unit[:, None, None])
        graph, vectors, fractional = sites.graph(scaled, owner, first, self.backbone.cutoff)
        geometry = self.backbone.geometry_of(graph, vectors.to(dtype))
        volume = torch.linalg.det(sites.conventional(state.parameters)).abs()
        relative = torch.log(volume / sites.volume).unsqueeze(1).to(dtype)
        condition = (self.level(level) + self.group(sites.group) + self.size(relative))[sites.crystal]
        # images of a bound site keep apart, and those of another may become one atom: no number of a group is 0
        condition = condition + self.group.weight[0] * sites.unbound.to(dtype).unsqueeze(1)
        output = self.backbone.features(sites.atomic_numbers, geometry, condition=condition)
        units = geometry.vectors / geometry.distances.clamp(min=1e-9).unsqueeze(-1)
        crystal = sites.crystal[graph.edge_index[0]]
        # ∂d/∂p = u · (∂L/∂p acting on the edge's fractions), [E, 6]
        slopes = sites.lattice_slopes(state.parameters).to(dtype)[crystal]
        gradient = torch.einsum("ea,ekab,eb->ek", fractional.to(dtype), slopes, units)
        square = (gradient**2).sum(-1, keepdim=True).clamp(min=1e-6)
        envelope = polynomial_envelope(geometry.distances / self.backbone.cutoff).unsqueeze(-1)
        hidden = self._edges(output)
        forces = self.position_weight(hidden) * envelope * units
        positions = segment_sum(forces, graph.edge_index[0], len(sites.crystal)) / EDGES**0.5
        stretch = self.cell_weight(hidden + self.share(gradient**2 / square)) * envelope
        total = segment_sum(stretch * gradient / square, crystal, len(sites))
        mean = total / segment_sum(envelope, crystal, len(sites)).clamp(min=1e-6)
        # along the orthonormal free directions, back to the six columns
        cells = torch.einsum("bk,bkj->bj", mean.to(real), sites.ties)
        return Scores(positions.to(real), cells)

    def _edges(self, output: BackboneOutput) -> Tensor:
        """What the outputs of edges read of the backbone, ``[E, hidden]``."""
        geometry = output.geometry
        i, j = geometry.graph.edge_index
        hidden = self.centre(output.scalars)[i] + self.neighbour(output.scalars)[j] + self.radial(geometry.radial)
        for ell, layer in enumerate(self.direction, 1):
            harmonics = o3.spherical_harmonics(ell, geometry.vectors, normalize=True, normalization="norm")
            hidden = hidden + (harmonics.unsqueeze(-1) * layer(output.equivariant[ell])[i]).sum(1)
        return hidden

    # --- which sites hold a composition

    def expected_volume(self, sites: Sites) -> Tensor:
        """Natural volumes ``[B]`` of the conventional cells in Å³ where sites are bound to no Wyckoff position: each as
        many atoms as sites of its group are on average.
        """
        groups, inverse = torch.unique(sites.group, return_inverse=True)
        mean = []
        for group in groups.tolist():
            positions = wyckoff_positions(group)
            share = self._share(group)
            mean.append(float(share @ torch.tensor([p.multiplicity for p in positions], dtype=torch.float64)))
        each = torch.tensor(mean, dtype=sites.volume.dtype, device=sites.volume.device)[inverse[sites.crystal]]
        own = self.element_volume.to(sites.volume)[sites.atomic_numbers]
        return segment_sum((own * each).unsqueeze(1), sites.crystal, len(sites))[:, 0]

    def completed(self, condition: Condition, generators: Sequence[torch.Generator]) -> Condition:
        """The condition with a space group, where it names none, and sites that hold each composition exactly; or,
        where the atoms named are sites, with these, on positions of their own or free (``free_sites``).

        Raises:
            RequestError: sites without a space group.
        """
        groups: list[int] = []
        members: list[list[tuple[int, WyckoffPosition | None]]] = []
        wanted = None if condition.space_group is None else condition.space_group.tolist()
        if condition.are_sites and wanted is None:
            raise RequestError("sites need a space group, whose operations make the atoms; name one")
        for b, atoms in enumerate(condition.atomic_numbers.cpu().split(condition.n_atoms.tolist())):
            numbers = atoms.tolist()
            elements = element_order(numbers)
            counts = tuple(numbers.count(z) for z in elements)
            groups.append(self._group(counts, generators[b]) if wanted is None else int(wanted[b]))
            if condition.are_sites and self.free_sites:
                members.append([(z, None) for z in numbers])
            elif condition.are_sites:
                members.append(
                    list(zip(numbers, self._positions(groups[-1], len(numbers), generators[b]), strict=True))
                )
            else:
                sentence, known = self._sentence(groups[-1], counts, generators[b]), wyckoff_positions(groups[-1])
                members.append([(z, known[k]) for z, own in zip(elements, sentence, strict=True) for k in own])
        table = self.element_volume.double().cpu()
        volumes = [sum(float(table[z]) * (p.multiplicity if p else 0) for z, p in own) for own in members]
        sites = sites_of(groups, members, volumes).to(device=condition.n_atoms.device)
        if condition.are_sites and self.free_sites:
            sites = sites.freed(self.expected_volume(sites))
        return replace(condition, space_group=sites.group, sites=sites)

    def _positions(self, group: int, n: int, generator: torch.Generator) -> list[WyckoffPosition]:
        """Positions of n sites, each drawn as often as it occurs; one without free coordinates is taken once."""
        positions, found = wyckoff_positions(group), list[WyckoffPosition]()
        log_p = self.site_log_p[group, : len(positions)].clone()
        for _ in range(n):
            k = _drawn(log_p, generator)
            found.append(positions[k])
            if positions[k].dof == 0:
                log_p[k] = -torch.inf
        return found

    def _share(self, group: int) -> Tensor:
        """How often sites take each Wyckoff position of a group."""
        return torch.softmax(self.site_log_p[group, : len(wyckoff_positions(group))].double().cpu(), 0)

    def _group(self, counts: tuple[int, ...], generator: torch.Generator) -> int:
        fitting = [g for g in range(1, N_GROUPS) if can_fit(counts, g)]
        return fitting[_drawn(self.group_log_p[fitting], generator)]

    def _sentence(self, group: int, counts: tuple[int, ...], generator: torch.Generator) -> Sentence:
        """Positions, element by element, with a probability proportional to the product of their frequencies."""
        words, state, positions = grammar(group, counts), grammar(group, counts).start, wyckoff_positions(group)
        share = self._share(group)
        mass = _masses(positions, share.tolist(), max(counts))
        found: list[list[int]] = [[] for _ in counts]
        while not words.done(state):
            allowed = words.allowed(state)
            weight = []
            for letter in allowed:
                left = state.left - positions[letter].primitive_multiplicity
                weight.append(float(share[letter]) * mass[letter + (positions[letter].dof == 0)][left])
            p = torch.tensor(weight, dtype=torch.float64).clamp(min=1e-300)
            letter = allowed[_drawn(torch.log(p), generator)]
            found[state.element].append(letter)
            state = words.after(state, letter)
        return tuple(tuple(own) for own in found)


def _masses(positions: Sequence[WyckoffPosition], share: Sequence[float], most: int) -> list[list[float]]:
    """Of each first letter and number of atoms, the sum over the ways of one element to place these of the product of
    the shares of its letters. That other elements may have taken a position without free coordinates is left out.
    """
    mass = [[float(r == 0) for r in range(most + 1)] for _ in range(len(positions) + 1)]
    for k, position in reversed(list(enumerate(positions))):
        size = position.primitive_multiplicity
        mass[k] = list(mass[k + 1])
        for r in range(size, most + 1):
            mass[k][r] += share[k] * mass[k + (position.dof == 0)][r - size]
    return mass


def _drawn(log_p: Tensor, generator: torch.Generator) -> int:
    """A place drawn with probabilities proportional to exp(log_p)."""
    p = torch.softmax(log_p.detach().cpu().double(), 0)
    return int(torch.multinomial(p, 1, generator=generator))


def occurrences(group: Tensor, sites_of_crystal: Tensor, letters: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of how often groups ``[231]`` and, in each, Wyckoff letters ``[231, 27]`` occur, with half a case
    added to each.

    Args:
        group: of each crystal, ``[B]``.
        sites_of_crystal: how many sites each has, ``[B]``.
        letters: index of the letter of each site, crystal after crystal, ``[S]``.
    """
    groups = torch.bincount(group, minlength=N_GROUPS).double() + 0.5
    flat = torch.repeat_interleave(group, sites_of_crystal) * N_LETTERS + letters
    found = torch.bincount(flat, minlength=N_GROUPS * N_LETTERS).double().view(N_GROUPS, N_LETTERS) + 0.5
    return torch.log(groups / groups.sum()).float(), torch.log(found / found.sum(1, keepdim=True)).float()
