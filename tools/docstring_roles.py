"""Extension of Griffe, which reads the docstrings for the API pages (mkdocs.yml names this file).

Roles of reStructuredText become plain code: ``:class:`~autoperi.data.crystal.CrystalBatch``` is shown as
``CrystalBatch``. In a "Raises" section a line that begins no new error goes on with the one above it, also where it is
not indented; Google's style would drop it.
"""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:class|func|meth|attr|mod|data|exc):`(~?)([\w.]+)`")
ERRORS = re.compile(r" *[\w.]+(, [\w.]+)*: ")


class DocstringRoles(Extension):
    """Rewrite the docstring of every object once it is read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by Griffe for each module, class, function and attribute."""
        if obj.docstring:
            obj.docstring.value = _indented(ROLE.sub(_code, obj.docstring.value))


def _code(role: re.Match[str]) -> str:
    """A role as code; a leading ``~`` keeps the last part of the name alone, as in Sphinx."""
    return f"`{role[2].rsplit('.', 1)[-1] if role[1] else role[2]}`"


def _indented(text: str) -> str:
    """The docstring with the continuation lines of its "Raises" section indented."""
    lines, within = [], False
    for line in text.split("\n"):
        within = line == "Raises:" or (within and line.strip() != "")
        lines.append(f"    {line}" if within and line != "Raises:" and not ERRORS.match(line) else line)
    return "\n".join(lines)
