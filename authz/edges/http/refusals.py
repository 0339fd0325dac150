"""What an operation refuses, as the answer to whoever asked for it."""

import contextlib
from collections.abc import Iterator, Mapping

from starlette.exceptions import HTTPException

from authz.core.delegation.relationship import Refused
from authz.core.errors import AuditUnavailable, Code
from authz.core.ledger import LedgerFull
from authz.core.names import RETRY_AFTER_S
from authz.core.pending import NotPending
from authz.operations import NotPossible, Unknown


class Coded(HTTPException):
    """A refusal for which there is a code."""

    def __init__(
        self, status: int, message: str, code: Code, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Around one operation: what it raises as the HTTP error that it is.

    Raises:
        HTTPException: 400 for what no record may have, 404, 409; 503 where it cannot be recorded.
    """
    try:
        yield
    except Unknown as error:
        raise HTTPException(404, str(error)) from None
    except Refused as refused:
        if refused.code is Code.MALFORMED:
            raise HTTPException(400, refused.reason) from None
        raise Coded(409, refused.reason, refused.code) from None
    except (NotPossible, NotPending, LedgerFull) as error:
        raise HTTPException(409, str(error)) from None
    except AuditUnavailable as error:
        said = f"{error}, and what cannot be recorded is not done"
        raise Coded(
            503, said, Code.AUDIT_UNAVAILABLE, {"retry-after": str(RETRY_AFTER_S)}
        ) from None
    except ValueError as error:
        raise HTTPException(400, str(error)) from None
