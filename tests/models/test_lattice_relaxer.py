"""Proposition 4 of EMPNN for the relaxer's passes and for whole relaxations, and what they say of themselves."""

from __future__ import annotations

import pytest
import torch
from ase.build import bulk
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import WeightsError
from autoperi.geometry.lattice import exponent_to, from_lengths_angles, lengths_angles, symmetric_exp, symmetric_matrix
from autoperi.hub.bundle import Bundle, Component
from autoperi.hub.networks import LoadedBundle, network_component
from autoperi.laws import (
    check_invariant,
    check_lattice_field,
    permuted,
    random_orthogonal,
    rebased,
    rotated,
    translated,
)
from autoperi.models.empnn import Empnn
from autoperi.models.lattice_relaxer import LatticeRelaxer
from autoperi.processes.lattice import (
    MIN_STRAIN_TO_CONTINUE,
    LatticeStep,
    _chunks,
    cautious,
    largest_strain,
    lattice_step,
    relax_cells,
)

torch.set_num_threads(1)
SMALL = {"channels": 12, "layers": 2, "hidden": 16, "cutoff": 4.5}


def network(dtype: torch.dtype = torch.float64, **options: float) -> LatticeRelaxer:
    """An untrained network whose fields and doubts are large enough that a broken law shows."""
    torch.manual_seed(1)
    model = LatticeRelaxer(**{**SMALL, **options}).to(dtype)
    with torch.no_grad():
        model.judge[-1].weight.mul_(100)
        model.atom[-1].weight.mul_(2)
        model.log_volume.copy_(0.1 * torch.randn(len(model.log_volume)))
    return model.eval()


def crystals(seed: int, dtype: torch.dtype = torch.float64, sizes: tuple[int, ...] = (1, 3, 5)) -> CrystalBatch:
    g = torch.Generator().manual_seed(seed)
    made = []
    for n in sizes:
        while True:
            lattice = torch.randn(3, 3, generator=g, dtype=torch.float64) * 2 + 3 * torch.eye(3, dtype=torch.float64)
            if (
                8 * n < float(torch.linalg.det(lattice).abs()) < 60 * n
                and float(torch.linalg.vector_norm(lattice, dim=1).min()) > 2
            ):
                break
        made.append(
            (lattice, torch.rand(n, 3, generator=g, dtype=torch.float64), torch.randint(1, 90, (n,), generator=g))
        )
    return CrystalBatch.from_list(made, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_pass_is_equivariant_and_its_doubt_invariant(dtype: torch.dtype, layers: int) -> None:
    model, batch = network(dtype, layers=layers), crystals(3, dtype)
    with torch.no_grad():
        found = model.step(batch)
        traceless = (
            found.strain - torch.eye(3, dtype=dtype) * found.strain.diagonal(dim1=1, dim2=2).mean(1)[:, None, None]
        )
        assert float(traceless.abs().max()) > 1e-2, "a field of volumes alone would pass half of the laws for nothing"
        assert float(found.spread.std()) > 1e-3
        check_lattice_field(model, batch)
        check_invariant(lambda c: model.step(c).spread, batch)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_whole_relaxations_obey_the_laws(seed: int) -> None:
    """The exponent that leads from the first to the last lattice turns with the crystal and ignores its description."""
    model = network()
    with torch.no_grad():
        model.judge[-1].bias[2:] -= 4  # in no doubt: other shapes, which a supercell does not share, are not tried

    def deformation(batch: CrystalBatch) -> torch.Tensor:
        end = relax_cells(model, batch, passes=3).crystals.lattice
        total = torch.linalg.inv(batch.lattice) @ end  # not symmetric, but a tensor of the crystal all the same
        return 0.5 * (total + total.mT)

    with torch.no_grad():
        check_lattice_field(deformation, crystals(seed), seed=seed)


def _total(model: LatticeRelaxer, batch: CrystalBatch) -> torch.Tensor:
    total = torch.linalg.inv(batch.lattice) @ relax_cells(model, batch, passes=2).crystals.lattice
    return 0.5 * (total + total.mT)


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 10_000))
def test_cells_of_absurd_density_obey_the_laws_too(seed: int) -> None:
    model, batch = network(), crystals(seed)
    dense = batch.replace(lattice=0.1 * batch.lattice)
    with torch.no_grad():
        model.judge[-1].bias[2:] -= 4  # in no doubt
        found = relax_cells(model, dense, passes=0)
        assert torch.allclose(found.crystals.volume, model.natural_volume(dense))
        check_lattice_field(lambda b: _total(model, b), dense, seed=seed)
        # the first step forgets how dense it was
        again = relax_cells(model, batch.replace(lattice=0.05 * batch.lattice), passes=2)
        assert torch.allclose(again.crystals.lattice, relax_cells(model, dense, passes=2).crystals.lattice)


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10_000))
@example(198)  # two ends of equal length, which the order of shapes once told apart
def test_other_shapes_are_those_of_the_crystal_in_every_basis(seed: int) -> None:
    model, batch = network(), crystals(seed, sizes=(2,))
    dense = batch.replace(lattice=0.1 * batch.lattice)
    g = torch.Generator().manual_seed(seed)
    rotation = random_orthogonal(g)
    with torch.no_grad():
        model.judge[-1].bias[2:] += 1
        expected = _total(model, dense)
        sure = network()
        sure.judge[-1].bias[2:] -= 4
        assume(float((expected - _total(sure, dense)).abs().max()) > 1e-3)  # another shape was taken
        assert torch.allclose(_total(model, rotated(dense, rotation)), rotation @ expected @ rotation.T, atol=1e-8)
        for changed in (rebased(dense, g), translated(dense, g), permuted(dense, g)):
            assert torch.allclose(_total(model, changed), expected, atol=1e-8)


def test_a_cube_is_left_for_a_shape_in_less_doubt() -> None:
    class Centred(LatticeRelaxer):
        """Moves nothing, and doubts everything but face-centred cubic lattices."""

        def step(self, batch: CrystalBatch) -> LatticeStep:
            target = from_lengths_angles(
                torch.ones(1, 3, dtype=torch.float64), torch.full((1, 3), 60.0, dtype=torch.float64)
            )
            target = target * (batch.volume / torch.linalg.det(target)).pow(1 / 3)[:, None, None]
            far = torch.linalg.matrix_norm(exponent_to(batch.lattice, target))
            return LatticeStep(
                torch.zeros_like(batch.lattice),
                torch.stack([far, far], -1) + 1e-3,
                torch.ones(len(batch), dtype=torch.bool),
            )

    model = Centred(**SMALL)
    one = CrystalBatch.from_list([(torch.eye(3), [[0, 0, 0]], [29]), (torch.eye(3) * 3.0, [[0, 0, 0]], [29])])
    with torch.no_grad():
        found = relax_cells(model, one, passes=2)
        natural = model.natural_volume(one)
    lengths, angles = lengths_angles(found.crystals.lattice)
    assert torch.allclose(angles[0], torch.full((3,), 60.0, dtype=torch.float64), atol=1e-6)
    assert float(found.crystals.volume[0]) == pytest.approx(float(natural[0]))
    assert torch.allclose(lengths[1], torch.full((3,), 3.0, dtype=torch.float64)), (
        "a cell of sensible density is never exchanged"
    )


def test_symmetry_is_kept_and_cubic_cells_stay_cubic() -> None:
    model, batch = (
        network(),
        to_batch([bulk("NaCl", "rocksalt", a=5.9, cubic=True), bulk("Si", a=5.0)], dtype=torch.float64),
    )
    with torch.no_grad():
        found = relax_cells(model, batch, passes=3)
    ratio = torch.linalg.inv(batch.lattice) @ found.crystals.lattice
    scale = ratio.diagonal(dim1=1, dim2=2).mean(1)
    assert torch.allclose(ratio, scale[:, None, None] * torch.eye(3, dtype=torch.float64), atol=1e-10)
    assert float((scale - 1).abs().min()) > 1e-3


def test_lonely_atoms_stay_where_they_are() -> None:
    model = network()
    lonely = CrystalBatch.from_list(
        [(torch.eye(3) * 60, [[0, 0, 0]], [11]), (torch.eye(3) * 50, [[0, 0, 0], [0.5, 0.5, 0.5]], [11, 17])]
    )
    both = CrystalBatch.cat([lonely, crystals(5, sizes=(3,))])
    with torch.no_grad():
        found = relax_cells(model, both, passes=3)
    assert torch.equal(found.crystals.lattice[:2], lonely.lattice)
    assert found.status[:2] == ["isolated", "isolated"]
    assert found.passes[:2].tolist() == [1, 1]
    assert found.status[2] != "isolated"


def test_doubt_becomes_confidence() -> None:
    model, batch = network(), crystals(4)
    with torch.no_grad():
        model.judge[-1].weight.zero_()
        model.judge[-1].bias.copy_(torch.tensor([0.0, 0.0, -4.0, -3.0]))
        found = relax_cells(model, batch, passes=1)
    volume, shape = torch.exp(torch.tensor([-4.0, -3.0], dtype=torch.float64))
    expected = float(torch.sqrt(volume**2 / 3 + 2 / 15 * shape**2))
    assert found.expected_error is not None
    assert found.confidence is not None
    assert torch.allclose(found.expected_error, torch.full((3,), expected, dtype=torch.float64))
    # mean square of uᵀeu over directions u, by sampling
    g = torch.Generator().manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(200_000, 3, generator=g, dtype=torch.float64), dim=-1)
    e = symmetric_matrix(torch.randn(1, 6, generator=g, dtype=torch.float64))[0]
    trace = e.trace()
    shape_norm = torch.linalg.matrix_norm(e - torch.eye(3, dtype=torch.float64) * trace / 3)
    assert float(torch.einsum("ni,ij,nj->n", u, e, u).pow(2).mean()) == pytest.approx(
        float(trace**2 / 9 + 2 / 15 * shape_norm**2), rel=0.02
    )
    assert torch.allclose(found.confidence, 1 - torch.exp(-0.02 / found.expected_error))
    model.calibration = (0.5, 2.0)
    with torch.no_grad():
        again = relax_cells(model, batch, passes=1).expected_error
    assert again is not None
    assert torch.allclose(again, 0.5 * found.expected_error**2)


class Halving(LatticeRelaxer):
    """Goes half of the way to 100 Å³ in each pass."""

    def natural_volume(self, batch: CrystalBatch) -> torch.Tensor:
        return batch.volume

    def step(self, batch: CrystalBatch) -> LatticeStep:
        t = torch.log(100.0 / batch.volume) / 6
        strain = t[:, None, None] * torch.eye(3, dtype=t.dtype)
        return LatticeStep(
            strain, torch.full((len(batch), 2), 0.01, dtype=t.dtype), torch.ones(len(batch), dtype=torch.bool)
        )


def test_passes_end_where_nothing_moves() -> None:
    batch = CrystalBatch.from_list(
        [(torch.eye(3) * v ** (1 / 3), [[0, 0, 0]], [11]) for v in (101.0, 200.0, 110.0, 1e9)]
    )
    found = relax_cells(Halving(caution=0.0), batch, passes=4)
    assert found.passes.tolist() == [1, 4, 3, 4]
    assert float(largest_strain(found.strain)[0]) < MIN_STRAIN_TO_CONTINUE
    assert found.status == ["converged", "max_steps", "converged", "collapsed"]
    assert found.crystals.volume[:3].tolist() == pytest.approx(
        [100 * 1.01**0.5, 100 * 2.0 ** (1 / 16), 100 * 1.1 ** (1 / 8)]
    )
    alone = relax_cells(Halving(caution=0.0), batch[1], passes=4)
    assert torch.equal(alone.crystals.lattice[0], found.crystals.lattice[1])


def test_what_does_not_stand_out_from_the_error_is_not_believed() -> None:
    batch = CrystalBatch.from_list([(torch.eye(3) * v ** (1 / 3), [[0, 0, 0]], [11]) for v in (100.5, 102.0, 150.0)])
    volumes = batch.volume
    all_the_way = relax_cells(Halving(caution=0.0), batch, passes=6).crystals
    part = relax_cells(Halving(caution=3.0), batch, passes=6).crystals
    way = torch.log(volumes / all_the_way.volume) / 3**0.5
    expected = volumes * torch.exp(-(3**0.5) * way * way**2 / (way**2 + 0.03**2))
    assert torch.allclose(part.volume, expected, rtol=1e-9)
    assert abs(float(part.volume[0] / volumes[0]) - 1) < 1e-4
    assert abs(float(part.volume[2]) - 100) < 2


def test_caution_weighs_shape_and_volume_by_themselves() -> None:
    start = torch.eye(3, dtype=torch.float64)[None] * 4
    strain = symmetric_matrix(torch.tensor([[0.05, -0.02, 0.0, 0.03, 0.0, 0.01]], dtype=torch.float64))
    end = start @ symmetric_exp(strain)
    assert torch.allclose(
        exponent_to(start, cautious(start, end, torch.full((1, 2), 1e-6, dtype=torch.float64), caution=3.0)), strain
    )
    sure_of_shape = exponent_to(
        start, cautious(start, end, torch.tensor([[1.0, 1e-6]], dtype=torch.float64), caution=3.0)
    )
    assert abs(float(sure_of_shape[0].trace())) < 1e-3 * float(strain[0].trace())
    third = torch.eye(3, dtype=torch.float64) / 3
    assert torch.allclose(sure_of_shape[0] - third * sure_of_shape[0].trace(), strain[0] - third * strain[0].trace())


def test_steps_are_bounded() -> None:
    model, batch = network(max_strain=0.3), crystals(6)
    with torch.no_grad():
        model.atom[-1].weight.mul_(1000)
        strain = model(batch)
        assert float(torch.linalg.matrix_norm(strain).max()) <= 0.3 + 1e-9
        assert float(lattice_step(batch, strain).volume.min()) > 0


def test_the_kind_of_a_component_decides() -> None:
    made = network_component(network(torch.float32))
    assert made.config["kind"] == "relaxer"
    again = LoadedBundle(Bundle("m", {"empnn": made})).find("lattice_relaxer", torch.float32)
    assert isinstance(again, LatticeRelaxer)
    batch = crystals(2, torch.float32)
    with torch.no_grad():
        assert torch.equal(again(batch), network(torch.float32)(batch))
    other = network_component(Empnn(channels=8, layers=1))
    assert isinstance(LoadedBundle(Bundle("m", {"empnn": other})).relaxer(), Empnn)
    with pytest.raises(WeightsError, match="kind"):
        LoadedBundle(Bundle("m", {"empnn": Component({"kind": "other"}, {})})).build_all()


def test_gradients_are_finite_on_perfect_crystals() -> None:
    """Where the shape part vanishes, as in every cubic crystal, its norm has no derivative of its own."""
    model = network(torch.float32)
    batch = to_batch([bulk("NaCl", "rocksalt", a=5.7, cubic=True)], dtype=torch.float32)
    step = model.step(batch.replace(lattice=batch.lattice @ symmetric_exp(torch.zeros(1, 3, 3))))
    (step.strain.sum() + step.spread.sum()).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_batches_hold_so_many_crystals_and_atoms() -> None:
    n_atoms = torch.tensor([5, 2000, 700, 700, 200, 1, 1, 1])
    order = torch.arange(8)
    assert [c.tolist() for c in _chunks(order, n_atoms, 3)] == [[0], [1], [2, 3], [4, 5, 6], [7]]
    assert _chunks(order[:0], n_atoms, 3) == []
    model, batch = network(), crystals(11, sizes=(2, 1, 4, 1, 3))
    with torch.no_grad():
        one, all_of_them = (relax_cells(model, batch, passes=2, batch_size=size).crystals.lattice for size in (1, 5))
    assert torch.allclose(one, all_of_them, rtol=1e-12)
