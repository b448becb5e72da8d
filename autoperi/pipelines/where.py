"""Filters of a stream: an expression over the columns of ``score``, or a function of one crystal.

An expression is one of pandas' ``DataFrame.query`` that looks at each row by itself, so that whether a crystal is kept
does not depend on those beside it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autoperi.errors import RequestError, one_line

if TYPE_CHECKING:
    import pandas as pd
    from pymatgen.core import Structure

    from autoperi.hub.networks import LoadedBundle
    from autoperi.pipelines.settings import Settings

_TYPES = {
    **dict.fromkeys(("valid", "charge_neutral"), "boolean"),
    **dict.fromkeys(("n_atoms", "space_group"), "Int64"),
    **dict.fromkeys(("formula", "reason", "space_group_symbol"), "object"),
}
"""Columns of ``score`` that are no float64; what is missing is null in all of them, and no comparison holds of it."""
_EXAMPLES = {"boolean": True, "Int64": 1, "object": "", "float64": 1.0}
_METHODS = frozenset({"abs", "between", "isin", "isna", "notna", "str"})
"""Methods of a column that look at each row by itself; those of ``.str`` do too."""
_NODES = (
    *(ast.Expression, ast.BoolOp, ast.boolop, ast.UnaryOp, ast.unaryop, ast.BinOp, ast.operator, ast.Compare),
    *(ast.cmpop, ast.Name, ast.Constant, ast.List, ast.Tuple, ast.expr_context, ast.Attribute, ast.Call, ast.keyword),
)


def check_where(where: Any) -> Any:
    """``where`` if it is None, a function, or an expression that can be read.

    Raises:
        RequestError: it is neither, or looks at more than its own row.
    """
    if where is not None and not callable(where):
        names_in(where)
    return where


def names_in(where: Any) -> list[str]:
    """The columns that an expression names, in order.

    Raises:
        RequestError: it is no expression, names none, or looks at more than its own row.
    """
    refusal = f"where={where!r} is no expression over columns of score; write one such as 'density_g_per_cm3 > 3'"
    if not isinstance(where, str):
        raise RequestError(refusal)
    try:
        nodes = list(ast.walk(ast.parse(where.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise RequestError(refusal) from None
    for node in nodes:
        strings = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute) and node.value.attr == "str"
        if (
            not isinstance(node, _NODES)
            or (isinstance(node, ast.Attribute) and node.attr not in _METHODS and not strings)
            or (isinstance(node, ast.Call) and not isinstance(node.func, ast.Attribute))
        ):
            raise RequestError(
                f"where={where!r} has {ast.unparse(node)!r} in it, which may look at other crystals than its own; use "
                f"comparisons, arithmetic, and, or, not, in, {', '.join(sorted(_METHODS))}"
            )
    names = list(dict.fromkeys(node.id for node in nodes if isinstance(node, ast.Name)))
    if not names:
        raise RequestError(refusal)
    return names


@dataclass(frozen=True, eq=False)
class Filter:
    """Which crystals an expression keeps; make one with :func:`filter_of`.

    Attributes:
        where: the expression.
        properties: of ``score`` that it needs.
        aliases: names of properties in it, and the column that each stands for: its first.
        score: makes the table of crystals and properties.
    """

    where: str
    properties: tuple[str, ...]
    aliases: dict[str, str]
    score: Callable[[Sequence[Structure], tuple[str, ...]], pd.DataFrame]

    def __call__(self, crystals: Sequence[Structure]) -> list[bool]:
        """Whether each crystal is kept; one of which a number is missing that decides is not."""
        return self.of_table(self.score(crystals, self.properties)) if crystals else []

    def of_table(self, table: pd.DataFrame) -> list[bool]:
        """The same of a table of ``score``.

        Raises:
            RequestError: the expression cannot be computed, or gives no truth values.
        """
        import pandas as pd

        table = table.astype({str(name): _TYPES.get(str(name), "float64") for name in table})
        table = table.assign(**{name: table[column] for name, column in self.aliases.items()})
        try:
            kept = table.eval(self.where.strip(), engine="python")
            if not (pd.api.types.is_bool_dtype(kept) or pd.api.types.is_object_dtype(kept)):
                raise TypeError(f"it gives {getattr(kept, 'dtype', kept)}")
            return pd.array(kept, dtype="boolean").fillna(False).tolist()
        except Exception as error:
            raise RequestError(
                f"where={self.where!r} gives no truth value for each crystal ({one_line(error)}); compare something"
            ) from None


def filter_of(
    where: Any, model: LoadedBundle, settings: Settings
) -> Callable[[Sequence[Structure]], list[bool]] | None:
    """The filter of an expression or of a function of one crystal, tried on a made-up row; None keeps everything.

    Raises:
        RequestError: a name that is no column of this model's ``score``, or an expression without a truth value.
    """
    if where is None:
        return None
    if callable(where):
        return lambda crystals: [bool(where(crystal)) for crystal in crystals]
    import pandas as pd

    from autoperi.pipelines.score import columns_of, score_table

    names, offered = names_in(where), columns_of(model)
    owner = {column: name for name, columns in offered.items() for column in columns}
    aliases = {name: offered[name][0] for name in names if name not in owner and name in offered}
    unknown = [name for name in names if name not in owner and name not in offered]
    if unknown:
        raise RequestError(
            f"where={where!r} names {', '.join(unknown)}, which score of this model has not; its columns are "
            f"{', '.join(owner)}"
        )
    wanted = {owner.get(name, name) for name in names}
    made = Filter(
        where,
        tuple(name for name in offered if name in wanted),
        aliases,
        lambda crystals, properties: score_table(crystals, model, settings, properties=properties, progress=False),
    )
    columns = [column for name in made.properties for column in offered[name]]
    made.of_table(pd.DataFrame([{c: _EXAMPLES[_TYPES.get(c, "float64")] for c in columns}]))
    return made
