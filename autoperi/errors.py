"""Errors a user can act on: each message is one line that names the value and the remedy.

All of them derive from :class:`AutoPeriError`, which is a :class:`ValueError`, so that code which knows
nothing of AutoPeri still catches them; the command line turns every one into exit code 2.
"""

from __future__ import annotations

from typing import Any


class AutoPeriError(ValueError):
    """Base class of every error that AutoPeri raises on purpose."""


class RequestError(AutoPeriError):
    """What was asked of ``generate``, ``relax_lattice`` or ``score`` cannot be honoured."""


class StructureError(AutoPeriError):
    """A crystal that no model can read: disordered, not periodic, NaN, zero volume, unknown element."""


class DataError(AutoPeriError):
    """A file of crystals or labels that cannot be read or written."""


class WeightsError(AutoPeriError):
    """A model directory or weights file that is missing, damaged, or not what its config says."""


class HubError(WeightsError):
    """A model repository that cannot be reached, is private, or does not hold the file."""


class AutoPeriWarning(UserWarning):
    """What a user should know of a result that is not an error; the command line prints these warnings and no
    others.
    """


class GenerationInterrupted(KeyboardInterrupt):
    """``generate`` was interrupted; nothing that was finished is lost.

    Attributes:
        finished: the crystals that were done, ranked.
        wanted: how many were asked for.
    """

    def __init__(self, finished: list[Any], wanted: int) -> None:
        super().__init__(f"interrupted after {len(finished)} of {wanted} crystals")
        self.finished, self.wanted = finished, wanted


class RelaxationInterrupted(KeyboardInterrupt):
    """``relax_lattice(positions=True)`` was interrupted; nothing that was finished is lost.

    Attributes:
        finished: the first crystals, relaxed, in order.
        wanted: how many were given.
    """

    def __init__(self, finished: list[Any], wanted: int) -> None:
        super().__init__(f"interrupted after {len(finished)} of {wanted} crystals")
        self.finished, self.wanted = finished, wanted


class ExplorationInterrupted(KeyboardInterrupt):
    """``explore`` was interrupted; nothing that was finished is lost.

    Attributes:
        finished: the :class:`~autoperi.workflows.explore_files.Exploration` of the compositions that were done; None
            where not every element was among them, without which there is no hull.
        done: compositions that were done.
        wanted: how many there are.
    """

    def __init__(self, finished: Any, done: int, wanted: int) -> None:
        super().__init__(f"interrupted after {done} of {wanted} compositions")
        self.finished, self.done, self.wanted = finished, done, wanted


class StreamInterrupted(KeyboardInterrupt):
    """``write_stream`` was interrupted; the shards that were written are whole, and it can be resumed.

    Attributes:
        record: what is in the folder.
        wanted: how many crystals were asked for.
    """

    def __init__(self, record: dict[str, Any], wanted: int) -> None:
        super().__init__(f"interrupted after {record['place']['kept']} of {wanted} crystals")
        self.record, self.wanted = record, wanted


def one_line(error: BaseException) -> str:
    """The message of ``error`` on one line of at most 200 characters, its class where it says nothing."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
