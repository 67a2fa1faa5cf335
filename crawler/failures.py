"""What an answer that is not a success means, by its true cause: the table of the Hub's error codes."""

from __future__ import annotations

from collections.abc import Mapping

from workspace import HubError, Status
from workspace.text import printable

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may pass by themselves."""

_DISABLED = "Access to this resource is disabled."
_BAD_TOKEN = "Invalid credentials in Authorization header"


class UnansweredError(HubError):
    """A request came to an end without what was asked for.

    Args:
        status: the cause, as it would be booked for a repository.
        reason: a sentence for a person.
        http: the HTTP status, 0 when there was no answer.
    """

    def __init__(self, status: Status, reason: str, http: int = 0) -> None:
        super().__init__(reason)
        self.status, self.reason, self.http = status, reason, http


def refusal(http: int, headers: Mapping[str, str], what: str) -> UnansweredError:
    """Return the error for a final answer of status ``http`` >= 400; ``headers`` have lower-case names.

    A bare 401 means missing or private (the Hub does not tell which to strangers), unless it is about our token.
    """
    code, message = headers.get("x-error-code", ""), headers.get("x-error-message", "")
    said = f" (HTTP {http}: {printable(message or code or 'no message')})"
    if message.startswith(_BAD_TOKEN):
        return UnansweredError(Status.INTERNAL_ERROR, f"the Hub does not accept this token{said}: log in again", http)
    if code == "GatedRepo":
        return UnansweredError(Status.GATED, f"{Status.GATED.meaning}{said}", http)
    if message == _DISABLED:
        return UnansweredError(Status.DISABLED, f"{Status.DISABLED.meaning}{said}", http)
    if code == "EntryNotFound":
        return UnansweredError(Status.FILE_MISSING, f"{what} is not there{said}", http)
    if code == "RevisionNotFound":
        return UnansweredError(Status.FILE_MISSING, f"its listed commit is not there any more{said}", http)
    if code == "RepoNotFound" or http in (401, 404, 410):
        return UnansweredError(Status.GONE, f"{Status.GONE.meaning}{said}", http)
    if http == 403:
        return UnansweredError(Status.GATED, f"access is refused{said}", http)
    if http == 429:
        return UnansweredError(Status.RATE_LIMITED, f"{what}: the Hub kept asking us to slow down{said}", http)
    if http >= 500 or http in RETRIED:
        return UnansweredError(Status.SERVER_ERROR, f"{what}: the Hub kept answering with an error{said}", http)
    return UnansweredError(Status.SERVER_ERROR, f"{what}: an answer that makes no sense here{said}", http)


class RetryError(Exception):
    """An answer that may be another one next time.

    Args:
        problem: what to raise when there is no next time.
        wait: seconds the server stated; None when it did not.
    """

    def __init__(self, problem: UnansweredError, wait: float | None = None) -> None:
        super().__init__(problem.reason)
        self.problem, self.wait = problem, wait
