"""What went wrong in a database, as an error of the kit that says what to do.

The one place that knows the drivers' messages and codes. Prompts and passwords stay out of what it says.
"""

from __future__ import annotations

import re

from sqlalchemy.exc import DBAPIError

from llmapi_kit.errors import StoreError, StoreUnavailableError
from llmapi_kit.store.database_url import DatabaseUrl

# By SQLite's message, as Python 3.10 does not have its codes. Source: sqlite.org/rescode.html
SQLITE_PROBLEMS = {
    r"locked|busy": "is locked: another program has written to it for a long time. Try again, or end that program",
    r"disk is full": "has no room left on its disk. Free some space; what was not stored can be sent again then",
    r"readonly": "can't be written to. Check the rights of the file and its folder",
    r"unable to open": "can't be opened. Check that its folder exists and can be written to",
    r"disk I/O error": "can't be read or written: its disk reports an error",
}
SQLITE_DAMAGE = {
    r"not a database": "is a file of another kind. Set LLMAPI_KIT_DATABASE_URL to another place",
    r"malformed": "is damaged. Move the file away to begin with a new one, or restore it from a backup",
}
# By the beginning of SQLSTATE, the longer first. Source: PostgreSQL documentation, appendix A
POSTGRES_PROBLEMS = {
    "08": "can't be reached: the connection was lost",
    "57P": "can't be reached: the server is starting or stopping, or ended the connection",
    "57014": "was too slow, so the statement was stopped",
    "53100": "has no room left on its disk",
    "53": "is out of connections or memory",
    "55P03": "is locked: another program has held a lock for a long time",
    "40": "stopped this to let another transaction go on. Try again",
    "25006": "takes no writes now: it is read-only",
}
NO_RIGHTS = "42501"


def store_error(exc: Exception, place: DatabaseUrl) -> StoreError:
    """The error to raise in place of a driver's."""
    original = exc.orig if isinstance(exc, DBAPIError) and exc.orig is not None else exc
    describe = _sqlite_problem if place.kind == "sqlite" else _postgres_problem
    problem, may_pass = describe(original, place)
    kind = StoreUnavailableError if may_pass else StoreError
    text = str(place)
    return kind(f"{text[0].upper()}{text[1:]} {problem}.")


def cause(exc: Exception, place: DatabaseUrl) -> Exception | None:
    """What may stand as the cause of an error: nothing that has the password in it."""
    password = place.url.password
    return None if password and password in str(exc) else exc


def _sqlite_problem(exc: BaseException, place: DatabaseUrl) -> tuple[str, bool]:
    """What to say, and whether the same may work later."""
    for problems, may_pass in ((SQLITE_PROBLEMS, True), (SQLITE_DAMAGE, False)):
        for pattern, problem in problems.items():
            if re.search(pattern, str(exc)):
                return problem, may_pass
    return _unknown(exc, place), False


def _postgres_problem(exc: BaseException, place: DatabaseUrl) -> tuple[str, bool]:
    """What to say, and whether the same may work later."""
    state = getattr(exc, "sqlstate", None) or ""
    for beginning, problem in POSTGRES_PROBLEMS.items():
        if state.startswith(beginning):
            return problem, True
    if state == NO_RIGHTS:
        return f"refuses it: {_first_line(exc, place)}. Give the user the right to create and change tables", False
    if not state and type(exc).__name__ in ("OperationalError", "InterfaceError"):  # psycopg is an extra
        return f"can't be reached: {_first_line(exc, place)}", True
    return _unknown(exc, place), False


def _unknown(exc: BaseException, place: DatabaseUrl) -> str:
    return f"failed ({type(exc).__name__}: {_first_line(exc, place)})"


def _first_line(exc: BaseException, place: DatabaseUrl) -> str:
    """Of a driver's message; it is the line without the statement's parameters."""
    line = (str(exc).strip().splitlines() or [""])[0].rstrip(".:")
    password = place.url.password
    return line.replace(password, "***") if password else line
