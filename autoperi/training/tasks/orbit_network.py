"""Training of the orbit network: sentences as tensors, and their likelihood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from autoperi.errors import DataError
from autoperi.models.orbit_network import N_LETTERS, SentenceBatch, fitting_groups, tables
from autoperi.symmetry.orbit_grammar import canonical, grammar
from autoperi.training.data import TensorFile
from autoperi.training.prepare import at_most
from autoperi.training.request import Sources, TrainingRequest
from autoperi.training.tasks.base import CrystalTask


@dataclass(frozen=True, eq=False)
class OrbitSentences(TensorFile):
    """Canonical sentences of many crystals: tensors alone, so that training needs no symmetry library.

    Attributes:
        group: ``[B]``; n_elements, n_words: of each crystal, ``[B]``.
        elements, counts: of each crystal in a row, ``[ΣE]``.
        element, left, letter: of each word, ``[ΣT]``; allowed: ``[ΣT, 27]``.
        groups: which can hold the counts, ``[K, 231]``, and kind: which row of it, ``[B]``.
    """

    holds: ClassVar[str] = "sentences of orbits"
    group: Tensor
    n_elements: Tensor
    n_words: Tensor
    elements: Tensor
    counts: Tensor
    element: Tensor
    left: Tensor
    letter: Tensor
    allowed: Tensor
    groups: Tensor
    kind: Tensor

    def __len__(self) -> int:
        return len(self.group)

    @property
    def n_atoms(self) -> Tensor:
        """Words of each sentence, ``[B]``: what batches are padded to."""
        return self.n_words

    def take(self, rows: Tensor) -> tuple[SentenceBatch, dict[str, Tensor]]:
        """The sentences of ``rows``, padded, and ``row`` itself."""
        elements, counts = (_padded(t, self.n_elements, rows, 0) for t in (self.elements, self.counts))
        element, left = (_padded(t, self.n_words, rows, 0) for t in (self.element, self.left))
        letter = _padded(self.letter, self.n_words, rows, -1)
        allowed = _padded(self.allowed, self.n_words, rows, False)
        batch = SentenceBatch(
            elements, counts, self.group[rows], self.groups[self.kind[rows]], element, left, letter, allowed
        )
        return batch, {"row": rows}


def _padded(values: Tensor, lengths: Tensor, rows: Tensor, fill: Any) -> Tensor:
    start = torch.cumsum(lengths, 0) - lengths
    parts = [values[int(start[r]) : int(start[r] + lengths[r])] for r in rows.tolist()]
    return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=fill)


def sentence_table(path: str | Path, *, max_atoms: int | None = None) -> tuple[OrbitSentences, int]:
    """The crystals of a file, of at most ``max_atoms``, as sentences, and how many could not be read so.

    Raises:
        DataError: a file that cannot be read, or no crystal that is small enough.
    """
    from autoperi.data.io import read_table
    from autoperi.symmetry.orbits import contents_of, read_orbits

    table, found, failed = at_most(read_table(path), max_atoms, str(path)), [], 0
    for crystal in zip(table.lattice, table.frac_coords, table.atomic_numbers, strict=True):
        read = read_orbits(*crystal)
        if read is None:
            failed += 1
            continue
        info, orbits = read
        found.append((info.number, *contents_of(orbits)))
    if not found:
        raise DataError(
            f"{path} has no crystal of at most {max_atoms} atoms that could be read as orbits; allow more, or give "
            "other data"
        )
    return orbit_sentences(found), failed


def orbit_sentences(crystals: Sequence[tuple[int, Mapping[int, Sequence[int]], Mapping[int, int]]]) -> OrbitSentences:
    """Crystals, each a space group, the letters (as indices) of each element's orbits, and its atoms of each element,
    as canonical sentences.
    """
    columns: dict[str, list[Any]] = {
        k: [] for k in ("group", "n_elements", "n_words", "elements", "counts", "element", "left", "letter")
    }
    allowed, kinds = [], []
    groups: dict[tuple[int, ...], int] = {}
    for number, letters, content in crystals:
        elements, sentence = canonical(number, letters)
        counts = tuple(content[z] for z in elements)
        rules = grammar(number, counts)
        words = rules.words(sentence)
        columns["group"].append(number)
        columns["n_elements"].append(len(elements))
        columns["n_words"].append(len(words))
        columns["elements"] += elements
        columns["counts"] += counts
        for state, letter in words:
            columns["element"].append(state.element)
            columns["left"].append(state.left)
            columns["letter"].append(letter)
            mask = torch.zeros(N_LETTERS, dtype=torch.bool)
            mask[rules.allowed(state)] = True
            allowed.append(mask)
        kinds.append(groups.setdefault(tuple(sorted(counts)), len(groups)))
    tensors = {k: torch.tensor(v) for k, v in columns.items()}
    return OrbitSentences(
        **tensors,
        allowed=torch.stack(allowed),
        groups=torch.stack([fitting_groups(counts) for counts in groups]),
        kind=torch.tensor(kinds),
    )


class OrbitNetworkTask(CrystalTask):
    """Mean of -ln p(group | composition) - ln p(sentence | composition, group), in nats a crystal."""

    @classmethod
    def sources(cls, request: TrainingRequest) -> Sources:
        """Crystals as sentences, and the network's tables of elements, groups and positions."""
        assert request.val is not None
        train, val = (sentence_table(path, max_atoms=request.max_atoms)[0] for path in (request.data, request.val))
        return Sources(train, val, tables())

    def training_step(self, batch: tuple[SentenceBatch, dict[str, Tensor]], batch_idx: int) -> Tensor:  # noqa: ARG002, D102
        group, sentence = self.model(batch[0])
        self.log("train_nats", -(group + sentence).mean(), batch_size=len(group))
        return -(group + sentence).mean()

    def validation_step(self, batch: tuple[SentenceBatch, dict[str, Tensor]], batch_idx: int) -> None:  # noqa: ARG002, D102
        # the average is taken of a network that is training, and torch copies its mode
        group, sentence = self.average.module.eval()(batch[0])
        self.log("val_group_nats", -group.mean(), batch_size=len(group))
        self.log("val_nats", -(group + sentence).mean(), batch_size=len(group))
