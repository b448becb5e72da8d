"""p(space group, orbits, which element sits where | composition): an autoregressive network over the sentences of a
grammar.

The composition is read by a transformer encoder, one token an element. A space group is chosen among those that can
hold it, then one orbit after another, by a transformer decoder whose every choice is masked by what
:class:`~autoperi.symmetry.orbit_grammar.Grammar` allows. Probabilities of all groups and sentences of a composition
therefore add up to one exactly, and none of them misses the composition or the number of atoms. P1 is no exception: its
sentences have one orbit an atom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from autoperi.nn.config import config_of
from autoperi.symmetry.orbit_grammar import Sentence, SentenceState, grammar
from autoperi.symmetry.wyckoff import LETTERS, can_fit, wyckoff_positions
from autoperi.units import MAX_ATOMIC_NUMBER

N_GROUPS, N_LETTERS = 231, len(LETTERS)
"""Space groups, of which number 0 is none, and letters of Wyckoff positions."""
N_SITES = 1732
"""Wyckoff positions of all 230 groups (1,731), and row 0 for none."""
MAX_DISTINCT_COUNT = 60
"""Atoms of an element in a cell, or of the whole cell, beyond which the network reads all counts alike."""
GROUP_FEATURES, SITE_FEATURES, ELEMENT_FEATURES = 10, 8, 8
BEAM_WIDTH = 32
"""Unfinished sentences that a beam search keeps."""


class SentenceBatch(NamedTuple):
    """B sentences, padded to E elements and T words.

    Attributes:
        elements: atomic numbers, 0 where there is none, ``[B, E]``; counts: atoms in the primitive cell, ``[B, E]``.
        group: ``[B]``; groups: which can hold the counts, ``[B, 231]``.
        element: index of the element of each word, ``[B, T]``; left: its atoms before the word, ``[B, T]``.
        letter: the words, -1 beyond the end, ``[B, T]``; allowed: which words could stand there, ``[B, T, 27]``.
    """

    elements: Tensor
    counts: Tensor
    group: Tensor
    groups: Tensor
    element: Tensor
    left: Tensor
    letter: Tensor
    allowed: Tensor

    def to(self, *, device: torch.device | str) -> SentenceBatch:
        """The same on a device."""
        return SentenceBatch(*(t.to(device) for t in self))


@dataclass(frozen=True)
class OrbitAnswer:
    """One way to build a composition.

    Attributes:
        group: space group.
        sentence: letters of each element's orbits, in the order of the elements that were given.
        log_p: natural log of its probability.
    """

    group: int
    sentence: Sentence
    log_p: float


class OrbitNetwork(nn.Module):
    """p(space group, orbits | composition); see the module's docstring.

    Args:
        channels, heads: of the transformers.
        layers, encoder_layers: of decoder and encoder.
        dropout: while training.
    """

    element_table: Tensor
    group_table: Tensor
    site_table: Tensor
    site_row: Tensor

    def __init__(
        self, *, channels: int = 96, layers: int = 3, encoder_layers: int = 2, heads: int = 4, dropout: float = 0.1
    ) -> None:
        super().__init__()
        self.config = config_of(locals())
        # what is known of elements, groups and positions; filled by tables(), kept with the weights, so that training
        # needs no symmetry library
        self.register_buffer("element_table", torch.zeros(MAX_ATOMIC_NUMBER + 1, ELEMENT_FEATURES))
        self.register_buffer("group_table", torch.zeros(N_GROUPS, GROUP_FEATURES))
        self.register_buffer("site_table", torch.zeros(N_SITES, SITE_FEATURES))
        self.register_buffer("site_row", torch.zeros(N_GROUPS, N_LETTERS, dtype=torch.long))
        self.element = nn.Embedding(MAX_ATOMIC_NUMBER + 1, channels)
        self.element_features = nn.Linear(ELEMENT_FEATURES, channels)
        self.count = nn.Embedding(MAX_DISTINCT_COUNT + 1, channels)
        self.total = nn.Embedding(MAX_DISTINCT_COUNT + 1, channels)
        self.left = nn.Embedding(MAX_DISTINCT_COUNT + 1, channels)
        self.group = nn.Embedding(N_GROUPS, channels)
        self.group_features = nn.Linear(GROUP_FEATURES, channels)
        self.site = nn.Embedding(N_SITES, channels)
        self.site_features = nn.Linear(SITE_FEATURES, channels)
        for table in (self.element, self.count, self.total, self.left, self.group, self.site):
            nn.init.normal_(table.weight, std=0.05)
        options: dict[str, Any] = {"dropout": dropout, "batch_first": True, "norm_first": True, "activation": "gelu"}
        layer = nn.TransformerEncoderLayer(channels, heads, 2 * channels, **options)
        self.encoder = nn.TransformerEncoder(layer, encoder_layers, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoder(
            nn.TransformerDecoderLayer(channels, heads, 2 * channels, **options), layers
        )
        self.which_group = nn.Sequential(
            nn.LayerNorm(channels), nn.Linear(channels, 2 * channels), nn.GELU(), nn.Linear(2 * channels, channels)
        )
        self.group_bias = nn.Parameter(torch.zeros(N_GROUPS))
        self.previous = nn.Linear(channels, channels)
        self.previous_element = nn.Linear(channels, channels)
        self.query = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, channels))
        self.site_bias = nn.Embedding(N_SITES, 1)
        nn.init.zeros_(self.site_bias.weight)
        self.scale = channels**-0.5

    def encode(self, elements: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
        """One token an element ``[B, E, C]``, and which tokens are padding ``[B, E]``."""
        counts = counts.clamp(max=MAX_DISTINCT_COUNT)
        total = self.total(counts.sum(1).clamp(max=MAX_DISTINCT_COUNT)).unsqueeze(1)
        tokens = (
            self.element(elements) + self.element_features(self.element_table[elements]) + self.count(counts) + total
        )
        padding = elements == 0
        return self.encoder(tokens, src_key_padding_mask=padding), padding

    def group_log_p(self, memory: Tensor, padding: Tensor, groups: Tensor) -> Tensor:
        """ln p(group | composition) among ``groups`` ``[B, 231]``; -inf elsewhere."""
        weight = (~padding).to(memory.dtype).unsqueeze(-1)
        pooled = (memory * weight).sum(1) / weight.sum(1)
        table = self.group.weight + self.group_features(self.group_table)
        scores = self.which_group(pooled) @ table.T + self.group_bias
        return torch.log_softmax(scores.masked_fill(~groups, -torch.inf), -1)

    def word_log_p(
        self,
        memory: Tensor,
        padding: Tensor,
        group: Tensor,
        element: Tensor,
        left: Tensor,
        letter: Tensor,
        allowed: Tensor,
    ) -> Tensor:
        """ln p(word | what stands before it), ``[B, T, 27]``; -inf for words that are not allowed, 0 beyond the end."""
        t = element.shape[1]
        rows = self.site_row[group]  # [B, 27]
        sites = self.site(rows) + self.site_features(self.site_table[rows])
        own = memory.gather(1, element.unsqueeze(-1).expand(-1, -1, memory.shape[-1]))
        # the word before, and the element it was said of, shifted by one: no word sees itself
        chosen = sites.gather(1, letter.clamp(min=0).unsqueeze(-1).expand(-1, -1, sites.shape[-1]))
        said = self.previous(chosen) + self.previous_element(own)
        before = torch.cat([torch.zeros_like(said[:, :1]), said[:, :-1]], 1)
        of_group = (self.group(group) + self.group_features(self.group_table[group])).unsqueeze(1)
        tokens = before + own + self.left(left.clamp(max=MAX_DISTINCT_COUNT)) + of_group
        # a position of a sentence attends to those before it and to all elements
        later = torch.ones(t, t, dtype=torch.bool, device=tokens.device).triu(1)
        hidden = self.decoder(tokens, memory, tgt_mask=later, tgt_is_causal=True, memory_key_padding_mask=padding)
        scores = self.scale * self.query(hidden) @ sites.transpose(1, 2) + self.site_bias(rows).squeeze(-1).unsqueeze(1)
        # beyond the end nothing is allowed; a softmax over nothing would be NaN, so all is let through and set to 0
        nothing = ~allowed.any(-1, keepdim=True)
        return torch.log_softmax(scores.masked_fill(~(allowed | nothing), -torch.inf), -1).masked_fill(nothing, 0.0)

    def forward(self, batch: SentenceBatch) -> tuple[Tensor, Tensor]:
        """ln p(group | composition) and ln p(sentence | composition, group), each ``[B]``."""
        memory, padding = self.encode(batch.elements, batch.counts)
        groups = self.group_log_p(memory, padding, batch.groups).gather(1, batch.group.unsqueeze(1)).squeeze(1)
        words = self.word_log_p(memory, padding, batch.group, batch.element, batch.left, batch.letter, batch.allowed)
        return groups, _said(words, batch.letter)

    def log_probabilities(
        self, elements: Sequence[int], counts: Sequence[int], answers: Sequence[tuple[int, Sentence]]
    ) -> tuple[Tensor, Tensor]:
        """ln p(group | composition) and ln p(sentence | composition, group) of ways to build one composition, each
        ``[K]``.

        Args:
            elements, counts: as in :meth:`likeliest`.
            answers: space group and sentence of each.

        Raises:
            RequestError: a sentence that misses the composition.
        """
        counts = tuple(int(c) for c in counts)
        if not answers:
            return torch.zeros(0), torch.zeros(0)
        grammars = [grammar(g, counts) for g, _ in answers]
        sentences = [
            [(state, word, g.allowed(state)) for state, word in g.words(sentence)]
            for g, (_, sentence) in zip(grammars, answers, strict=True)
        ]
        group = torch.tensor([g for g, _ in answers])
        groups = fitting_groups(tuple(sorted(counts))).unsqueeze(0)
        with torch.no_grad():
            memory, padding = self.encode(torch.tensor([list(elements)]), torch.tensor([counts]))
            of_group = self.group_log_p(memory, padding, groups)[0, group]
            element, left, letter, allowed = _padded(sentences)
            every = memory.expand(len(answers), -1, -1), padding.expand(len(answers), -1)
            log_p = self.word_log_p(*every, group, element, left, letter, allowed)
        return of_group, _said(log_p, letter)

    def likeliest(
        self,
        elements: Sequence[int],
        counts: Sequence[int],
        *,
        limit: int,
        space_group: int | None = None,
        beam: int = BEAM_WIDTH,
    ) -> list[OrbitAnswer]:
        """The likeliest ways to build a composition, best first, found by beam search.

        Args:
            elements: atomic numbers in the order of :func:`~autoperi.symmetry.orbit_grammar.element_order`.
            counts: atoms of each in the primitive cell.
            limit: number of answers.
            space_group: only this one; probabilities are then given the group.
            beam: unfinished sentences that are kept.
        """
        counts = tuple(int(c) for c in counts)
        groups = fitting_groups(tuple(sorted(counts)))
        if space_group is not None:
            groups = groups & (torch.arange(N_GROUPS) == space_group)
        if not bool(groups.any()):
            return []
        with torch.no_grad():
            memory, padding = self.encode(torch.tensor([list(elements)]), torch.tensor([counts]))
            log_groups = self.group_log_p(memory, padding, groups.unsqueeze(0))[0]
            order = torch.argsort(log_groups, descending=True, stable=True)[: min(beam, int(groups.sum()))].tolist()
            partial = [_Partial(float(log_groups[g]), g, (), grammar(g, counts).start) for g in order]
            done: list[_Partial] = []
            while partial:
                partial = self._longer(partial, memory, padding, counts)
                done += [p for p in partial if grammar(p.group, counts).done(p.state)]
                done = sorted(done, key=_best_first)[:limit]
                # log-probabilities only fall as sentences grow, so what lies below the last answer cannot overtake it
                bar = done[-1].log_p if len(done) == limit else -torch.inf
                rest = [p for p in partial if p.log_p > bar and not grammar(p.group, counts).done(p.state)]
                partial = sorted(rest, key=_best_first)[:beam]
        return [OrbitAnswer(p.group, _by_element(p, counts), round(p.log_p, 9)) for p in done]

    def _longer(
        self, partial: list[_Partial], memory: Tensor, padding: Tensor, counts: tuple[int, ...]
    ) -> list[_Partial]:
        group = torch.tensor([p.group for p in partial])
        options = [grammar(p.group, counts).allowed(p.state) for p in partial]
        # the next word is asked for alone, so it does not matter what could have stood in the place of earlier ones
        words = [
            [*((*word, ()) for word in p.words), (p.state, 0, mine)] for p, mine in zip(partial, options, strict=True)
        ]
        every = memory.expand(len(partial), -1, -1), padding.expand(len(partial), -1)
        log_p = self.word_log_p(*every, group, *_padded(words))[:, -1]
        found = []
        for p, mine, row in zip(partial, options, log_p.tolist(), strict=True):
            g = grammar(p.group, counts)
            for word in mine:
                value = round(p.log_p + row[word], 9)
                found.append(_Partial(value, p.group, (*p.words, (p.state, word)), g.after(p.state, word)))
        return found


def _padded(sentences: Sequence[Sequence[tuple[SentenceState, int, Sequence[int]]]]) -> tuple[Tensor, ...]:
    """``element``, ``left``, ``letter`` and ``allowed`` of a :class:`SentenceBatch` from each sentence's words: the
    state before it, the word, and which could stand there.
    """
    k, t = len(sentences), max(map(len, sentences))
    element, left = (torch.zeros(k, t, dtype=torch.long) for _ in range(2))
    letter, allowed = torch.full((k, t), -1), torch.zeros(k, t, N_LETTERS, dtype=torch.bool)
    for row, words in enumerate(sentences):
        for j, (state, word, options) in enumerate(words):
            element[row, j], left[row, j], letter[row, j] = state.element, state.left, word
            allowed[row, j, list(options)] = True
    return element, left, letter, allowed


def _said(log_p: Tensor, letter: Tensor) -> Tensor:
    """Sum of the words' log-probabilities, ``[B]``; nothing is said beyond the end."""
    said = log_p.gather(2, letter.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return torch.where(letter >= 0, said, torch.zeros_like(said)).sum(1)


class _Partial(NamedTuple):
    log_p: float
    group: int
    words: tuple[tuple[SentenceState, int], ...]
    state: SentenceState


def _best_first(p: _Partial) -> tuple[float, int, tuple[int, ...]]:
    return (-p.log_p, p.group, tuple(k for _, k in p.words))


def _by_element(p: _Partial, counts: tuple[int, ...]) -> Sentence:
    return tuple(tuple(word for state, word in p.words if state.element == e) for e in range(len(counts)))


@lru_cache(maxsize=1024)
def fitting_groups(counts: tuple[int, ...]) -> Tensor:
    """Which groups can hold these counts, ``[231]``."""
    return torch.tensor([g > 0 and can_fit(counts, g) for g in range(N_GROUPS)])


def tables() -> dict[str, Tensor]:
    """The buffers of :class:`OrbitNetwork`: descriptors of elements, groups and Wyckoff positions."""
    from autoperi.chemistry.descriptors import element_descriptors
    from autoperi.symmetry.spacegroup import CRYSTAL_SYSTEMS, space_group

    group_table, site_table = torch.zeros(N_GROUPS, GROUP_FEATURES), torch.zeros(N_SITES, SITE_FEATURES)
    site_row = torch.zeros(N_GROUPS, N_LETTERS, dtype=torch.long)
    row = 1
    for number in range(1, N_GROUPS):
        group = space_group(number)
        size = len(group.primitive.rotations)
        inversion = any((r == -torch.eye(3).numpy()).all() for r in group.primitive.rotations)
        group_table[number, CRYSTAL_SYSTEMS.index(group.crystal_system)] = 1.0
        log_size = torch.log(torch.tensor(float(size))) / 4
        group_table[number, 7:] = torch.tensor([log_size, group.n_centring / 4, float(inversion)])
        for k, p in enumerate(wyckoff_positions(number)):
            site_row[number, k] = row
            site_table[row, p.dof] = 1.0
            logs = torch.log(torch.tensor([float(p.primitive_multiplicity), size / p.primitive_multiplicity]))
            site_table[row, 4:6] = logs / 4
            site_table[row, 6] = float(p.primitive_multiplicity == size)
            site_table[row, 7] = k / N_LETTERS
            row += 1
    elements = torch.as_tensor(element_descriptors(), dtype=torch.float32)
    return {"element_table": elements, "group_table": group_table, "site_table": site_table, "site_row": site_row}
