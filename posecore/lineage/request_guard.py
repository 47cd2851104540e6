"""What stands before ``mlflow models serve``: requests are measured and their names checked before MLflow reads them.

MLflow's scoring server reads a body of any size, drops unknown columns and misspelt parameters with a line in its own
log, and answers an error with a stack trace that names the server's files. It has no place for a hook, so
:func:`guard_scoring_server` puts this ASGI middleware into the one application that the server is about to create.
"""

import binascii
import logging
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

import orjson

from posecore.counting import counted
from posecore.errors import PredictionError
from posecore.lineage.pyfunc_signature import IMAGE_COLUMN, INPUT_COLUMNS, PARAMETERS
from posecore.lineage.serving_limits import ServingLimits

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]
App: TypeAlias = Callable[[Message, Receive, Send], Awaitable[None]]

_SERVER = "mlflow.pyfunc.scoring_server.app"
_RECORDS, _SPLIT = "dataframe_records", "dataframe_split"
_MARKS = (b"{", b"[", b",")
"""Every value of a JSON document but the first comes after one of these; base64 has none of them."""
_MARKS_PER_ROW = 2 * len(INPUT_COLUMNS)
_MARKS_BESIDE = 100

_log = logging.getLogger(__name__)


class _Refused(PredictionError):
    """A request that MLflow never sees."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message

    def __str__(self) -> str:
        return self.message


class RequestGuard:
    """ASGI middleware before ``/invocations``.

    Args:
        app: the scoring server.
        limits: of one request.
    """

    def __init__(self, app: App, limits: ServingLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with 400 (names), 413 (size) or 415 (form) and one sentence."""
        if scope["type"] != "http" or scope["path"] != "/invocations" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value for name, value in scope["headers"]}
            _check_form(headers.get(b"content-type", b"").decode("latin-1"))
            body = checked_body(await self._body(headers, receive), self._limits)
        except _Refused as refused:
            await _answer(send, refused.status, str(refused))
            return
        await self._app(scope, _once(body, receive), _without_server_details(send))

    async def _body(self, headers: dict[bytes, bytes], receive: Receive) -> bytes:
        limit = self._limits.max_bytes
        stated = headers.get(b"content-length", b"0")
        too_large = _Refused(
            413, f"the request has more than max_bytes = {limit} bytes; send fewer pictures at a time."
        )
        if not stated.isdigit() or len(stated) > 18 or int(stated) > limit:
            raise too_large
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise _Refused(400, "the request ended before its body did.")
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise too_large
            if not message.get("more_body", False):
                return b"".join(parts)


def guard_scoring_server(limits: ServingLimits) -> bool:
    """Guards the application that MLflow's scoring server creates next, once it has loaded its model.

    Returns:
        Whether this process is such a server; elsewhere nothing is done.
    """
    if _SERVER not in sys.modules:
        return False
    import fastapi

    plain = fastapi.FastAPI

    class Guarded(plain):  # type: ignore[misc, valid-type]
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.add_middleware(RequestGuard, limits=limits)
            fastapi.FastAPI = plain  # type: ignore[misc]

    fastapi.FastAPI = Guarded  # type: ignore[misc]
    return True


def checked_body(body: bytes, limits: ServingLimits) -> bytes:
    """The body of a request whose every name is known; a picture that is no base64 is made an empty one.

    MLflow would refuse the whole request for one such picture; the model answers an empty one with an error of its own.

    Args:
        body: JSON.
        limits: of one request.

    Raises:
        PredictionError: the body is no JSON, has another form, more rows than allowed, or an unknown name.
    """
    rows_word = f"max_bodies = {counted(limits.max_bodies, 'row')}; send fewer pictures at a time."
    if sum(map(body.count, _MARKS)) > _MARKS_PER_ROW * limits.max_bodies + _MARKS_BESIDE:
        # Before anything is parsed: a short text can make a great many objects.
        raise _Refused(413, f"the request has more values than belong to {rows_word}")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _Refused(400, f"the body is not JSON ({error}).") from None
    forms = {_RECORDS, _SPLIT} & document.keys() if isinstance(document, dict) else set()
    if len(forms) != 1:
        raise _Refused(400, f"the body is a JSON object with either {_RECORDS} or {_SPLIT}, and optionally params.")
    form = forms.pop()
    _check_names("field", document.keys(), (form, "params"))
    params = document.get("params") or {}
    if not isinstance(params, dict):
        raise _Refused(400, "params is a JSON object of parameters by name.")
    _check_names("parameter", params.keys(), PARAMETERS)
    rows, columns = _table(form, document[form])
    _check_names("column", columns, INPUT_COLUMNS)
    if len(rows) > limits.max_bodies:
        raise _Refused(413, f"the request has {counted(len(rows), 'row')}, more than {rows_word}")
    key = IMAGE_COLUMN if form == _RECORDS else columns.index(IMAGE_COLUMN) if IMAGE_COLUMN in columns else None
    unreadable = [row for row in rows if key is not None and not _is_base64(_image(row, key))]
    for row in unreadable:
        row[key] = ""
    return orjson.dumps(document) if unreadable else body


def _table(form: str, table: Any) -> tuple[list[Any], list[Any]]:
    """Rows and names of columns."""
    if form == _RECORDS:
        if not isinstance(table, list) or not all(isinstance(row, dict) for row in table):
            raise _Refused(400, f"{_RECORDS} is a list of objects, one per body.")
        return table, sorted({name for row in table for name in row})
    columns, rows = (table.get(key) for key in ("columns", "data")) if isinstance(table, dict) else (None, None)
    if (
        not isinstance(columns, list)
        or not isinstance(rows, list)
        or not all(isinstance(row, list) and len(row) == len(columns) for row in rows)
    ):
        raise _Refused(400, f"{_SPLIT} is an object of columns, a list of names, and data, a list of rows as long.")
    return rows, columns


def _image(row: Any, key: Any) -> Any:
    return row.get(key) if isinstance(row, dict) else row[key]


def _is_base64(value: Any) -> bool:
    try:
        binascii.a2b_base64(value)
    except (TypeError, ValueError):
        return False
    return True


def _check_names(what: str, given: Any, known: tuple[str, ...]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        raise _Refused(400, f"there is no {what} {str(unknown[0])[:60]!r}; there are {', '.join(known)}.")


def _check_form(content_type: str) -> None:
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise _Refused(
            415,
            f"pictures are sent as application/json, their bytes in base64, not as {content_type[:60] or 'nothing'!r}.",
        )


def _once(body: bytes, receive: Receive) -> Receive:
    waiting = [body]

    async def received() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return received


def _without_server_details(send: Send) -> Send:
    """Passes answers on; of an error only what concerns the client, the rest goes to the server's log."""
    start: list[Message] = []
    parts: list[bytes] = []

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            start.append(message)
        elif not start:
            await send(message)
        else:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                await _answer(send, *_public(start[0]["status"], b"".join(parts)))

    return sent


def _public(status: int, body: bytes) -> tuple[int, str]:
    """Status and message for the client, from MLflow's answer."""
    try:
        answer = orjson.loads(body)
        message = str(answer["message"])
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return status, body.decode("utf-8", "replace")
    if "stack_trace" in answer:
        _log.error("a request could not be answered: %s", answer["stack_trace"])
        return 500, "the request could not be answered; the server's log says why."
    return status, message.rpartition("\nError: ")[2].strip()  # before it, MLflow prints the table it was given


async def _answer(send: Send, status: int, message: str) -> None:
    body = orjson.dumps({"error_code": "BAD_REQUEST" if status < 500 else "INTERNAL_ERROR", "message": message})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
