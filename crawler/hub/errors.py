"""What an answer that is not a success means, by its true cause: the table of the Hub's error codes."""

from __future__ import annotations

from huggingface_hub import errors as hub
from huggingface_hub.utils import hf_raise_for_status, httpx  # type: ignore[attr-defined]

from workspace import HubError, Status
from workspace.text import printable

RETRIED = frozenset({408, 425, 429, 500, 502, 503, 504})
"""HTTP statuses that may pass by themselves."""

_BAD_TOKEN = "Invalid credentials in Authorization header"
_CAUSES: tuple[tuple[type[Exception], Status], ...] = (
    (hub.GatedRepoError, Status.GATED),  # before the class it is one of
    (hub.DisabledRepoError, Status.DISABLED),
    (hub.RepositoryNotFoundError, Status.GONE),
)


class UnansweredError(HubError):
    """A request came to an end without what was asked for.

    Args:
        status: the cause, as it would be booked for a repository.
        reason: a sentence for a person.
        http: the HTTP status, 0 when there was no answer.
        slow: whether the server had too little time for an answer: less may be asked of it.
    """

    def __init__(self, status: Status, reason: str, http: int = 0, *, slow: bool = False) -> None:
        super().__init__(reason)
        self.status, self.reason, self.http, self.slow = status, reason, http, slow


class RetryError(Exception):
    """An answer that may be another one next time.

    Args:
        problem: what to raise when there is no next time.
        wait: seconds the server stated; None when it did not.
    """

    def __init__(self, problem: UnansweredError, wait: float | None = None) -> None:
        super().__init__(problem.reason)
        self.problem, self.wait = problem, wait


def refusal(response: httpx.Response, what: str) -> UnansweredError:  # type: ignore[name-defined, unused-ignore]
    """Return the error for a final answer of a status >= 400, whose body is not read.

    huggingface_hub knows the Hub's codes. A bare 401 means missing or private (the Hub does not tell which to
    strangers), unless it is about our token.
    """
    http = response.status_code
    code, message = response.headers.get("x-error-code", ""), response.headers.get("x-error-message", "")
    told = f" (HTTP {http}: {printable(message or code or 'no message')})"
    if message.startswith(_BAD_TOKEN):
        return UnansweredError(Status.INTERNAL_ERROR, f"the Hub does not accept this token{told}: log in again", http)
    try:
        hf_raise_for_status(httpx.Response(http, headers=_kept(response), request=response.request))
    except hub.RevisionNotFoundError:
        return UnansweredError(Status.FILE_MISSING, f"its listed commit is not there any more{told}", http)
    except hub.EntryNotFoundError:
        return UnansweredError(Status.FILE_MISSING, f"{what} is not there{told}", http)
    except hub.HfHubHTTPError as error:
        for kind, status in _CAUSES:
            if isinstance(error, kind):
                return UnansweredError(status, f"{status.meaning}{told}", http)
    if http in (401, 404, 410):
        return UnansweredError(Status.GONE, f"{Status.GONE.meaning}{told}", http)
    if http == 403:
        return UnansweredError(Status.GATED, f"access is refused{told}", http)
    if http == 429:
        return UnansweredError(Status.RATE_LIMITED, f"{what}: the Hub kept asking us to slow down{told}", http)
    if http >= 500 or http in RETRIED:
        problem = f"{what}: the Hub kept answering with an error{told}"
        return UnansweredError(Status.SERVER_ERROR, problem, http, slow=http == 504)
    return UnansweredError(Status.SERVER_ERROR, f"{what}: an answer that makes no sense here{told}", http)


def _kept(response: httpx.Response) -> dict[str, str]:  # type: ignore[name-defined, unused-ignore]
    """Only what the codes are in: a hostile answer's other headers are nobody's business."""
    return {name: value for name, value in response.headers.items() if name in ("x-error-code", "x-error-message")}
