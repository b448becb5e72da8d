"""The judge: any ASE calculator by name, and crystals relaxed or measured with it."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from autoperi.errors import RequestError
from autoperi.evaluation.common import versions_of
from autoperi.metrics._common import judge_crystals
from autoperi.metrics.parallel import Failure, check_processes, parallel_map
from autoperi.metrics.relaxation import Relaxation, SinglePoint, check_settings, relax_one, single_point

SHORT_NAMES = {
    "autoperi": "autoperi.interfaces.ase:AutoPeriCalculator",
    "chgnet": "chgnet.model.dynamics:CHGNetCalculator",
    "emt": "ase.calculators.emt:EMT",
    "lj": "ase.calculators.lj:LennardJones",
    "morse": "ase.calculators.morse:MorsePotential",
}
"""Calculators that need no more than their name, and where they live."""
REMEDY = (
    f"give one of {', '.join(SHORT_NAMES)}, or package.module:callable such as mace.calculators:mace_mp, or a "
    "calculator of ASE"
)
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
        raise RequestError(f"calculator {label!r} is neither a name nor an ASE calculator; {REMEDY}")
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
        raise RequestError(f"calculator {label!r} made a {type(made).__name__}, which gives no energies; {REMEDY}")
    return made


def check_options(options: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Options as a dictionary.

    Raises:
        RequestError: text that is not a JSON object.
    """
    if options is None:
        return {}
    remedy = 'write them as \'{"use_device": "cpu"}\''
    if isinstance(options, str):
        try:
            options = json.loads(options)
        except json.JSONDecodeError as error:
            raise RequestError(f"options={options!r} is not JSON ({error.msg}); {remedy}") from None
    if not isinstance(options, Mapping):
        raise RequestError(f"options={options!r} are no keyword arguments; {remedy}")
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
    name = spec.lower() if isinstance(spec, str) and spec.lower() in SHORT_NAMES else target
    defaults = _DEFAULTS.get(name, {}) if isinstance(spec, str) else {}
    return {
        "calculator": name,
        "package": package,
        "version": versions_of([package])[package],
        "options": {**defaults, **check_options(options)},
    }


def relax(
    structures: Sequence[Any],
    calculator: Any,
    *,
    options: Mapping[str, Any] | str | None = None,
    processes: int = 1,
    progress: bool | None = None,
    **settings: Any,
) -> list[Relaxation]:
    """Relax crystals one after another.

    Args:
        structures, calculator, options, processes, progress: as in :func:`judge_each`.
        **settings: ``steps``, ``fmax``, ``cell``, ``fix_symmetry``, ``optimizer`` and ``seconds`` of each relaxation;
            see :func:`autoperi.metrics.relaxation.relax_one`, also for what fails.

    Raises:
        RequestError: settings or a calculator that cannot be used.
    """
    given = inspect.signature(relax_one).bind(None, None, **settings)
    given.apply_defaults()
    check_settings(*(given.arguments[name] for name in ("steps", "fmax", "optimizer", "seconds")))
    how: dict[str, Any] = {"options": options, "processes": processes, "progress": progress}
    found = judge_each(relax_one, structures, calculator, settings=settings, description="relaxing", **how)
    return [Relaxation(None, None, None, "failed", r.reason, 0) if isinstance(r, Failure) else r for r in found]


def energies(structures: Sequence[Any], calculator: Any, **how: Any) -> list[SinglePoint]:
    """Energy (eV/atom) of each crystal as it is; arguments as in :func:`judge_each`.

    Raises:
        RequestError: a calculator that cannot be used.
    """
    found = judge_each(single_point, structures, calculator, description="energies", **how)
    return [SinglePoint(None, r.reason) if isinstance(r, Failure) else r for r in found]


@lru_cache(maxsize=1)
def _made(spec: str, options: str) -> Any:
    return make_calculator(spec, options)


def _judged(crystal: Any, *, function: Callable[..., Any], spec: str, options: str, settings: Mapping[str, Any]) -> Any:
    """A crystal's work in another process, which makes its calculator once."""
    return function(crystal, _made(spec, options), **settings)


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
        made = {"spec": calculator, "options": json.dumps(check_options(options), sort_keys=True)}
        job = partial(_judged, function=function, settings=given, **made)
        return parallel_map(job, crystals, processes=processes, progress=progress, description=description)
    return judge_crystals(function, crystals, judge, given, progress=progress, description=description)


def _find(spec: str) -> Any:
    target = SHORT_NAMES.get(spec.lower(), spec)
    module, colon, name = target.partition(":")
    if not colon or not module or not name:
        raise RequestError(f"calculator {spec!r} is not known; {REMEDY}")
    try:
        return pkgutil.resolve_name(target)
    except ImportError as error:
        missing = error.name or module
        remedy = f"install it, for example: pip install {missing.partition('.')[0]}"
        raise RequestError(
            f"calculator {spec!r} needs the module {missing}, which cannot be imported; {remedy}"
        ) from None
    except AttributeError:
        raise RequestError(f"calculator {spec!r}: {module} has no {name}; give package.module:callable") from None
    except ValueError:
        raise RequestError(f"calculator {spec!r} is not known; {REMEDY}") from None


def _is_calculator(thing: Any) -> bool:
    return hasattr(thing, "get_property") or (hasattr(thing, "get_potential_energy") and hasattr(thing, "get_forces"))
