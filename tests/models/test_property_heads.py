from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from autoperi import AutoPeri
from autoperi.data.convert import to_batch
from autoperi.data.crystal import CrystalBatch
from autoperi.errors import RequestError, WeightsError
from autoperi.hub.bundle import Bundle, load_bundle, save_bundle
from autoperi.hub.networks import LoadedBundle, network_component
from autoperi.laws import check_invariant
from autoperi.models.formation_energy import FormationEnergy
from autoperi.models.property_heads import (
    CrystalFeatures,
    PropertyHeads,
    PropertyPrediction,
    encode,
    encoder_fingerprint,
    node_features,
    properties_of,
)
from autoperi.pipelines.score import _HEADS as HEADS
from autoperi.pipelines.score import NAMES, columns_of
from autoperi.registry import kind_named
from autoperi.testing import tiny_crystals

torch.set_num_threads(1)
SHAPE = {"members": 2, "width": 8, "hidden": 8, "embedding": 4}
ALL = {"band_gap": SHAPE, "elastic": SHAPE, "phonon": SHAPE, "formation_energy": {"members": 0}}


def encoder(seed: int = 0) -> FormationEnergy:
    torch.manual_seed(seed)
    return FormationEnergy(channels=8, layers=2).eval()


def heads(model: FormationEnergy, groups: dict[str, Any] | None = None, seed: int = 1) -> PropertyHeads:
    """Untrained heads with descriptors and scales that are not the initial ones."""
    torch.manual_seed(seed)
    found = PropertyHeads(
        features=32, descriptors=5, heads=ALL if groups is None else groups, encoder=encoder_fingerprint(model.backbone)
    )
    found.descriptors.normal_()
    found.feature_mean.normal_()
    found.feature_std.uniform_(0.5, 2.0)
    return found.eval()


def random_cells(dtype: torch.dtype) -> CrystalBatch:
    """Cells of low symmetry, of one, three and six atoms."""
    g = torch.Generator().manual_seed(3)
    cells = []
    for n in (1, 3, 6):
        lattice = torch.eye(3, dtype=torch.float64) * (14 * n) ** (1 / 3) + 0.4 * torch.randn(
            3, 3, generator=g, dtype=torch.float64
        )
        cells.append(
            (lattice, torch.rand(n, 3, generator=g, dtype=torch.float64), torch.randint(1, 90, (n,), generator=g))
        )
    return CrystalBatch.from_list(cells, dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_laws(dtype):
    model, every = encoder().to(dtype), heads(encoder()).to(dtype)

    def outputs(batch: CrystalBatch) -> torch.Tensor:
        with torch.no_grad():
            predictions = every(encode(model, batch))
        columns = [torch.cat([p.mean, p.std], -1) for p in predictions.values()]
        return torch.cat([*columns, predictions["band_gap"].is_metal.unsqueeze(-1)], -1)

    for batch in (to_batch(tiny_crystals()[::4], dtype=dtype), random_cells(dtype)):
        assert outputs(batch).dtype == dtype
        check_invariant(outputs, batch)


def test_crystals_differ():
    """A head that answered the same everywhere would pass every law."""
    batch = to_batch(tiny_crystals(), dtype=torch.float64)
    with torch.no_grad():
        predictions = heads(encoder()).double()(encode(encoder().double(), batch))
    for prediction in predictions.values():
        assert float(prediction.std.std(0).min()) > 1e-4
    assert float(predictions["elastic"].mean.std(0).min()) > 1e-3


def test_encoding_is_what_the_model_itself_sees():
    model, batch = encoder().double(), to_batch(tiny_crystals(), dtype=torch.float64)
    with torch.no_grad():
        found = encode(model, batch)
        scalars, nodes = node_features(model.backbone, batch)
        output = model.backbone(batch)
    torch.testing.assert_close(found.energy, model(batch))
    torch.testing.assert_close(scalars, output.scalars)
    torch.testing.assert_close(nodes[:, 8:16], output.scalars)
    torch.testing.assert_close(nodes[:, 16:24], torch.log1p(output.equivariant[1].norm(dim=1)))


def test_taken_crystals_are_those_crystals():
    batch = to_batch(tiny_crystals(), dtype=torch.float64)
    with torch.no_grad():
        every, some = encode(encoder().double(), batch), encode(encoder().double(), batch[[5, 0, 7]])
    taken = every.take(torch.tensor([5, 0, 7]))
    for name in CrystalFeatures.__dataclass_fields__:
        torch.testing.assert_close(getattr(taken, name), getattr(some, name))


def test_ensemble_by_hand():
    """σ² = s² (spread² + ε²), the mean over members; the formation energy keeps its own mean."""
    model, every = encoder().double(), heads(encoder()).double()
    every.elastic_calibration.copy_(torch.tensor([2.0, 3.0]))
    every.elastic_centre.copy_(torch.tensor([1.0, 0.5]))
    with torch.no_grad():
        features = encode(model, to_batch(tiny_crystals(), dtype=torch.float64))
        inputs = every.inputs(features)
        values = torch.stack([m(features, *inputs) for m in every.members["elastic"]]) + torch.tensor([1.0, 0.5])
        error = every.error(features, "elastic")
        predictions = every(features)
    torch.testing.assert_close(predictions["elastic"].mean, values.mean(0))
    expected = torch.tensor([2.0, 3.0]) * torch.sqrt(((values[0] - values[1]) / 2) ** 2 + error**2)
    torch.testing.assert_close(predictions["elastic"].std, expected.double())
    torch.testing.assert_close(predictions["formation_energy"].mean[:, 0], features.energy)
    assert float(error.min()) > 0


def test_gap_of_a_metal_is_zero_and_never_negative():
    every = heads(encoder(), {"band_gap": SHAPE})
    outputs = torch.tensor([[3.0, 5.0], [3.0, -5.0], [-1.0, -5.0], [3.0, 0.0]])
    values, metal = every.decode(outputs, "band_gap")
    assert values[:, 0].tolist() == pytest.approx([0.0, 3.0, 0.0, 1.5], abs=1e-5)
    torch.testing.assert_close(metal, torch.sigmoid(outputs[:, 1]))


def test_units_of_the_columns():
    one = torch.ones(1, 1)
    columns = properties_of(
        {
            "elastic": PropertyPrediction(torch.tensor([[2.0, 1.0]]), torch.tensor([[0.1, 0.2]]), None),
            "phonon": PropertyPrediction(math.log(500.0) * one, 0.1 * one, None),
            "band_gap": PropertyPrediction(1.5 * one, 0.3 * one, torch.tensor([0.2])),
        }
    )
    numbers = {k: float(v) for k, v in columns.items()}
    expected = {
        "bulk_modulus": 100.0,
        "bulk_modulus_std": 10.0 * math.log(10),
        "shear_modulus": 10.0,
        "shear_modulus_std": 2.0 * math.log(10),
        "last_phonon_peak": 500.0,
        "last_phonon_peak_std": 50.0,
        "band_gap": 1.5,
        "band_gap_std": 0.3,
        "is_metal_probability": 0.2,
    }
    assert numbers == pytest.approx(expected, rel=1e-5)


@pytest.fixture
def with_heads(tiny_bundle: Bundle) -> Bundle:
    """The tiny model with untrained heads of every group, in half precision as they are shipped."""
    model = FormationEnergy(**tiny_bundle.components["formation_energy"].config)
    model.load_state_dict(tiny_bundle.components["formation_energy"].tensors, strict=False)
    torch.manual_seed(0)
    found = PropertyHeads(features=24, descriptors=3, heads=ALL, encoder=encoder_fingerprint(model.backbone))
    component = network_component(found)
    component.tensors = {k: v.half() if k.startswith("members.") else v for k, v in component.tensors.items()}
    return Bundle(
        name="with-heads",
        components={**tiny_bundle.components, "properties": component},
        metadata=dict(tiny_bundle.metadata),
    )


def test_score_of_a_model_with_heads(with_heads, tmp_path):
    save_bundle(with_heads, tmp_path / "model")
    peri = AutoPeri.from_pretrained(tmp_path / "model", device="cpu")
    offered = peri.score_properties
    assert tuple(offered) == NAMES
    assert offered["band_gap"] == ("band_gap_eV", "band_gap_eV_std", "is_metal_probability")
    table = peri.score(tiny_crystals()[:3], properties=["formation_energy", "band_gap", "shear_modulus"])
    assert list(table.columns) == [
        c for name in ("formation_energy", "band_gap", "shear_modulus") for c in offered[name]
    ]
    assert not table.isna().any().any()
    assert (table.filter(like="_std") > 0).all().all()
    assert table["is_metal_probability"].between(0, 1).all()
    every = peri.score(tiny_crystals()[:3], batch_size=1)
    assert set(HEADS) < set(every.columns)
    assert every["shear_modulus_GPa"].tolist() == table["shear_modulus_GPa"].tolist()


def test_score_of_a_model_without_heads(tiny_bundle):
    peri = AutoPeri(tiny_bundle, device="cpu")
    assert not set(HEADS) & set(peri.score(tiny_crystals()[:1]).columns)
    with pytest.raises(RequestError, match="predicts no band_gap; choose from formula"):
        peri.score(tiny_crystals()[:1], properties=["formula", "band_gap"])


def test_columns_of_some_groups():
    model = encoder()
    components = {"formation_energy": network_component(model)}
    bare = columns_of(LoadedBundle(Bundle("bare", components)))
    own = network_component(heads(model, {"elastic": SHAPE}))
    offered = columns_of(LoadedBundle(Bundle("elastic", {**components, "property_heads": own})))
    assert {"bulk_modulus", "shear_modulus"} == set(offered) - set(bare)
    assert offered["formation_energy"] == ("formation_energy_per_atom_eV",)


def test_heads_of_another_encoder_are_refused(with_heads):
    tensors = with_heads.components["formation_energy"].tensors
    tensors = {k: v + 1e-3 if k == "backbone.embedding.weight" else v for k, v in tensors.items()}
    with_heads.components["formation_energy"] = type(with_heads.components["properties"])(
        config=with_heads.components["formation_energy"].config, tensors=tensors
    )
    with pytest.raises(WeightsError, match="trained on another encoder"):
        LoadedBundle(with_heads).build_all()


def test_a_new_encoder_leaves_the_heads_behind(with_heads, tmp_path):
    from autoperi.training.export import export

    torch.manual_seed(5)
    fresh = FormationEnergy(channels=8, layers=1)
    export(with_heads, kind_named("formation_energy"), network_component(fresh), tmp_path / "new", {})
    assert "properties" not in load_bundle(tmp_path / "new").components
    export(with_heads, kind_named("empnn"), with_heads.components["empnn"], tmp_path / "kept", {})
    assert "properties" in load_bundle(tmp_path / "kept").components


def test_unknown_group():
    with pytest.raises(ValueError, match="colour"):
        PropertyHeads(features=4, descriptors=2, heads={"colour": SHAPE})
