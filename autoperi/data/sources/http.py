"""Requests to a provider: paced, tried again where the provider is busy, and explained in one line where they fail."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.util.retry import Retry

from autoperi._version import __version__
from autoperi.errors import DataError, one_line

TRIES = 5
"""How often a request is tried again where a provider is busy or a connection breaks."""
BUSY = (429, 500, 502, 503, 504)
"""After these a request is tried again, when the time of ``Retry-After`` is over, or twice as long each time."""
MAX_WAIT_S = 60.0
"""The longest time of ``Retry-After`` that is waited for: some providers name hours."""
TIMEOUT_S = (10, 60)
"""For a connection, and for the next bytes."""


class _Retry(Retry):
    def get_retry_after(self, response: Any) -> float | None:
        wait = super().get_retry_after(response)
        return None if wait is None else min(wait, MAX_WAIT_S)


class PacedAdapter(HTTPAdapter):
    """An adapter that sends at most ``rate`` requests a second; :class:`urllib3.util.retry.Retry` tries again."""

    def __init__(self, rate: float) -> None:
        # after the last try the answer itself comes back, so that its words can be shown
        retry = _Retry(total=TRIES, backoff_factor=0.5, status_forcelist=BUSY, raise_on_status=False)
        super().__init__(max_retries=retry)
        self._wait, self._last = 1.0 / rate, -1.0 / rate

    def send(self, *args: Any, **options: Any) -> requests.Response:
        """Wait for the turn, then send."""
        time.sleep(max(0.0, self._last + self._wait - time.monotonic()))
        self._last = time.monotonic()
        return super().send(*args, **options)


def paced_session(rate: float, headers: Mapping[str, str] | None = None) -> requests.Session:
    """A session of at most ``rate`` requests a second."""
    session = requests.Session()
    session.headers.update({"User-Agent": f"autoperi/{__version__}", **(headers or {})})
    for scheme in ("http://", "https://"):
        session.mount(scheme, PacedAdapter(rate))
    return session


def get(session: requests.Session, url: str, params: Mapping[str, Any] | None = None) -> requests.Response:
    """The answer to a request.

    Raises:
        DataError: no answer, or one that says no.
    """
    try:
        response = session.get(url, params=params, timeout=TIMEOUT_S)
    except requests.RequestException as error:
        raise DataError(f"{url} cannot be reached ({one_line(error)}); check the address and the network") from None
    if not response.ok:
        tries = f" after {TRIES + 1} tries" if response.status_code in BUSY else ""
        raise DataError(f"{url} answered {response.status_code}{tries}: {_said(response)}")
    return response


def get_json(session: requests.Session, url: str, params: Mapping[str, Any] | None = None) -> Any:
    """The JSON of an answer.

    Raises:
        DataError: as :func:`get`, and an answer that is no JSON.
    """
    response = get(session, url, params)
    try:
        return response.json()
    except ValueError:
        raise DataError(f"{url} answered with something else than JSON; check the address") from None


def _said(response: requests.Response) -> str:
    """What the provider says is wrong."""
    try:
        content = response.json()
        errors = content.get("errors") or [content]
        return one_line(ValueError(errors[0].get("detail") or errors[0].get("title") or content))
    except Exception:
        return response.reason or "it says no more"
