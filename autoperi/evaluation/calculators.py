"""The judge: any ASE calculator by name, and crystals relaxed or measured with it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from autoperi.errors import RequestError
from autoperi.metrics.parallel import Failure, check_processes, parallel_map
from autoperi.metrics.relaxation import Relaxation, SinglePoint, check_settings, relax_one, single_point
from autoperi.progress import progress_bar

SHORT_NAMES = {
    "autoperi": "autoperi.interfaces.ase:AutoPeriCalculator",
    "chgnet": "chgnet.model.dynamics:CHGNetCalculator",
    "emt": "ase.calculators.emt:EMT",
    "lj": "ase.calculators.lj:LennardJones",
    "morse": "ase.calculators.morse:MorsePotential",
}
"""Calculators that need no more than their name, and where they live."""
_DEFAULTS: dict[str, dict[str, Any]] = {"chgnet": {"on_isolated_atoms": "error"}}
"""CHGNet has no energy for an atom without neighbours within its cutoff: a failed crystal with that reason, not a
number.
"""


def make_calculator(spec: Any, options: Mapping[str, Any] | str | None = None) -> Any:
    """An ASE calculator.

    Args:
        spec: a short name (``autoperi``, ``chgnet``, ``emt``, ``lj``, ``morse``); ``package.module:callable``, as in
            ``mace.calculators:mace_mp``; a callable that makes a calculator; or a calculator.
        options: keyword arguments of the callable, or JSON of them.

    Raises:
        RequestError: an unknown name, a package that is not installed, options that it does not take, or something made
            that cannot give energies; the message names ``spec`` and the remedy.
    """
    given = check_options(options)
    if _is_calculator(spec) and not isinstance(spec, type):
        if given:
            raise RequestError(
                f"options={given!r} do not go with a calculator that is already made; give its class or name instead"
            )
        return spec
    label = spec if isinstance(spec, str) else getattr(spec, "__name__", None) or repr(spec)[:80]
    factory = _find(spec) if isinstance(spec, str) else spec
    if not callable(factory):
        raise RequestError(f"calculator {label!r} is neither a name nor an ASE calculator; {_remedy()}")
    arguments = {**_DEFAULTS.get(str(spec).lower(), {}), **given} if isinstance(spec, str) else given
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # some announce their device
            made = factory(**arguments)
    except ImportError as error:
        raise RequestError(
            f"calculator {label!r} needs the package {error.name or error}, which is not installed; install it"
        ) from None
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise RequestError(
            f"calculator {label!r} with options {arguments!r} cannot be made ({type(error).__name__}: {reason}); "
            "check its options"
        ) from None
    if not _is_calculator(made):
        raise RequestError(f"calculator {label!r} made a {type(made).__name__}, which gives no energies; {_remedy()}")
    return made


def check_options(options: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Options as a dictionary.

    Raises:
        RequestError: text that is not a JSON object.
    """
    if options is None:
        return {}
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except json.JSONDecodeError as error:
            raise RequestError(
                f'options={options!r} is not JSON ({error.msg}); write them as \'{{"use_device": "cpu"}}\''
            ) from None
    if not isinstance(options, Mapping):
        raise RequestError(f'options={options!r} are no keyword arguments; write them as \'{{"use_device": "cpu"}}\'')
    return {str(name): value for name, value in options.items()}


def describe_calculator(spec: Any, options: Mapping[str, Any] | str | None = None) -> dict[str, Any]:
    """Name, package, version and options of a judge, for the JSON of a report; nothing is made or imported."""
    if isinstance(spec, str):
        target = SHORT_NAMES.get(spec.lower(), spec)
        module = target.partition(":")[0]
    else:
        named = spec if isinstance(spec, type) or not _is_calculator(spec) else type(spec)
        module = getattr(named, "__module__", "")
        target = f"{module}:{getattr(named, '__qualname__', type(named).__name__)}"
    package = module.partition(".")[0]
    try:
        version: str | None = importlib.metadata.version(package)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        version = None
    name = spec.lower() if isinstance(spec, str) and spec.lower() in SHORT_NAMES else target
    defaults = _DEFAULTS.get(name, {}) if isinstance(spec, str) else {}
    return {
        "calculator": name,
        "package": package,
        "version": version,
        "options": {**defaults, **check_options(options)},
    }


def relax(
    structures: Sequence[Any],
    calculator: Any,
    *,
    options: Mapping[str, Any] | str | None = None,
    steps: int = 500,
    fmax: float = 0.05,
    cell: bool = True,
    fix_symmetry: bool = False,
    optimizer: str = "FIRE",
    seconds: float | None = None,
    processes: int = 1,
    progress: bool | None = None,
) -> list[Relaxation]:
    """Relax crystals one after another; see :func:`autoperi.metrics.relaxation.relax_one` for the settings and what
    fails.

    Args:
        structures: pymatgen structures or ASE atoms.
        calculator: as :func:`make_calculator` takes it.
        options: of the calculator.
        steps, fmax, cell, fix_symmetry, optimizer, seconds: of each relaxation.
        processes: more than one needs the calculator by name (each process makes its own).
        progress: show a bar; None shows it on a terminal.

    Raises:
        RequestError: settings or a calculator that cannot be used.
    """
    check_settings(steps, fmax, optimizer, seconds)
    settings = {
        "steps": steps,
        "fmax": fmax,
        "cell": cell,
        "fix_symmetry": fix_symmetry,
        "optimizer": optimizer,
        "seconds": seconds,
    }
    results = judge_each(
        relax_one,
        structures,
        calculator,
        options=options,
        settings=settings,
        processes=processes,
        progress=progress,
        description="relaxing",
    )
    return [Relaxation(None, None, None, "failed", r.reason, 0) if isinstance(r, Failure) else r for r in results]


def energies(
    structures: Sequence[Any],
    calculator: Any,
    *,
    options: Mapping[str, Any] | str | None = None,
    processes: int = 1,
    progress: bool | None = None,
) -> list[SinglePoint]:
    """Energy (eV/atom) of each crystal as it is; arguments as :func:`relax`.

    Raises:
        RequestError: a calculator that cannot be used.
    """
    results = judge_each(
        single_point,
        structures,
        calculator,
        options=options,
        processes=processes,
        progress=progress,
        description="energies",
    )
    return [SinglePoint(None, r.reason) if isinstance(r, Failure) else r for r in results]


@dataclass(frozen=True)
class _Job:
    """A crystal's work in another process, which makes its calculator once."""

    function: Callable[..., Any]
    spec: str
    options: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __call__(self, crystal: Any) -> Any:
        return self.function(crystal, _made(self.spec, self.options), **self.settings)


@lru_cache(maxsize=1)
def _made(spec: str, options: str) -> Any:
    return make_calculator(spec, options)


def judge_each(
    function: Callable[..., Any],
    structures: Sequence[Any],
    calculator: Any,
    *,
    options: Mapping[str, Any] | str | None = None,
    settings: Mapping[str, Any] | None = None,
    processes: int = 1,
    progress: bool | None = None,
    description: str = "judging",
) -> list[Any]:
    """``function(crystal, calculator, **settings)`` of each crystal, as :func:`autoperi.metrics.elastic.elastic` and
    phonons take it.

    Args:
        function: importable from a module, returns its failures instead of raising them.
        structures: pymatgen structures or ASE atoms.
        calculator: as :func:`make_calculator` takes it.
        options: of the calculator.
        settings: keyword arguments of ``function``.
        processes: more than one needs the calculator by name (each process makes its own).
        progress, description: of the bar.

    Returns:
        Results in order; with several processes a :class:`~autoperi.metrics.parallel.Failure` where ``function``
        raised.

    Raises:
        RequestError: a calculator that cannot be used.
    """
    given = dict(settings or {})
    crystals = list(structures)
    judge = make_calculator(calculator, options)  # its errors come before any work
    if check_processes(processes) > 1:
        if not isinstance(calculator, str):
            raise RequestError(
                f"processes={processes} needs a calculator by name, for each process to make its own; give the name, "
                "or processes=1"
            )
        job = _Job(function, calculator, json.dumps(check_options(options), sort_keys=True), given)
        return parallel_map(job, crystals, processes=processes, progress=progress, description=description)
    results = []
    with progress_bar(len(crystals), enabled=progress, description=description) as bar:
        for crystal in crystals:
            results.append(function(crystal, judge, **given))
            bar.update()
    return results


def _find(spec: str) -> Any:
    target = SHORT_NAMES.get(spec.lower(), spec)
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise RequestError(f"calculator {spec!r} is not known; {_remedy()}")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        missing = error.name or module
        package = missing.partition(".")[0]
        raise RequestError(
            f"calculator {spec!r} needs the module {missing}, which cannot be imported; install it, for example: pip "
            f"install {package}"
        ) from None
    for part in name.split("."):
        if not hasattr(found, part):
            raise RequestError(f"calculator {spec!r}: {module} has no {name}; give package.module:callable")
        found = getattr(found, part)
    return found


def _remedy() -> str:
    return f"give one of {', '.join(SHORT_NAMES)}, or package.module:callable such as mace.calculators:mace_mp, or a calculator of ASE"


def _is_calculator(thing: Any) -> bool:
    return hasattr(thing, "get_property") or (hasattr(thing, "get_potential_energy") and hasattr(thing, "get_forces"))
