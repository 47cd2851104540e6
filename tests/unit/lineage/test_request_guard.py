"""The guard before a served model, asked without a server: what it counts, what it passes on, what it hides."""

import asyncio
import json
from collections.abc import Iterable
from typing import Any

import pytest

from posecore.errors import PredictionError
from posecore.lineage.request_guard import Message, Receive, RequestGuard, Send, checked_body, guard_scoring_server
from posecore.lineage.serving_limits import ServingLimits

LIMITS = ServingLimits(max_bodies=3, max_bytes=1000)


def ask(
    parts: Iterable[bytes], reply: bytes = b"{}", status: int = 200, headers: Iterable[tuple[bytes, bytes]] = ()
) -> tuple[int, bytes, list[bytes], int]:
    """Status and body that a client sees, the bodies the server saw, and how many parts were left unread."""
    waiting = list(parts)
    seen: list[bytes] = []
    sent: list[Message] = []

    async def server(scope: Message, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        seen.append(message["body"])
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": reply[:5], "more_body": True})
        await send({"type": "http.response.body", "body": reply[5:]})

    async def receive() -> Message:
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/invocations", "method": "POST"}
    scope["headers"] = [(b"Content-Type", b"application/json; charset=utf-8"), *headers]
    asyncio.run(RequestGuard(server, LIMITS)(scope, receive, send))
    answer = b"".join(message.get("body", b"") for message in sent)
    return sent[0]["status"], answer, seen, len(waiting)


def table(**changes: Any) -> bytes:
    return json.dumps({"dataframe_records": [{"image": "QUJD"}], **changes}).encode()


def test_a_request_in_parts_is_passed_on_whole_and_its_answer_as_it_is() -> None:
    body = table()
    status, answer, seen, _ = ask([body[:3], b"", body[3:]], reply=b'{"predictions": []}')
    assert (status, answer, seen) == (200, b'{"predictions": []}', [body])


def test_a_body_that_is_too_large_is_not_read_to_its_end() -> None:
    status, answer, seen, left = ask([b" " * 600] * 5)
    assert (status, seen, left) == (413, [], 3)
    assert "max_bytes = 1000" in json.loads(answer)["message"]
    status, _, seen, left = ask([table()], headers=[(b"content-length", b"1001")])
    assert (status, seen, left) == (413, [], 1)
    status, _, seen, _ = ask([table()], headers=[(b"content-length", b"9" * 5000)])
    assert (status, seen) == (413, [])


def test_a_trace_stays_with_the_server(caplog: pytest.LogCaptureFixture) -> None:
    trace = {"error_code": "BAD_REQUEST", "message": "of /srv/model", "stack_trace": "File /srv/model.py"}
    status, answer, *_ = ask([table()], reply=json.dumps(trace).encode(), status=400)
    assert status == 500
    assert json.loads(answer) == {
        "error_code": "INTERNAL_ERROR",
        "message": "the request could not be answered; the server's log says why.",
    }
    assert "File /srv/model.py" in caplog.text


def test_of_an_explained_error_the_table_is_left_out() -> None:
    told = {"error_code": "INVALID_PARAMETER_VALUE", "message": "Failed to predict data '  x\n0  1'. \nError: no head."}
    status, answer, *_ = ask([table()], reply=json.dumps(told).encode(), status=400)
    assert (status, json.loads(answer)["message"]) == (400, "no head.")


def test_only_a_picture_that_is_no_base64_is_changed() -> None:
    rows = [{"image": "QUJD\n", "x": 1}, {"image": "Q"}, {"image": 3}]
    changed = json.loads(checked_body(table(dataframe_records=rows, params={"path": "average"}), LIMITS))
    assert [row["image"] for row in changed["dataframe_records"]] == ["QUJD\n", "", ""]
    assert changed["params"] == {"path": "average"}
    split = {"columns": ["x", "image"], "data": [[1, "QUJD"], [2, None]]}
    body = json.dumps({"dataframe_split": split}).encode()
    assert json.loads(checked_body(body, LIMITS))["dataframe_split"]["data"] == [[1, "QUJD"], [2, ""]]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"[]", "either dataframe_records or dataframe_split"),
        (table(dataframe_split={}), "either dataframe_records or dataframe_split"),
        (table(more=1), "there is no field 'more'; there are dataframe_records, params"),
        (table(params=[1]), "params is a JSON object"),
        (table(params={"flip": 1}), "there is no parameter 'flip'; there are dataset, flip_test, path"),
        (table(dataframe_records={}), "a list of objects, one per body"),
        (table(dataframe_records=[1]), "a list of objects, one per body"),
        (table(dataframe_records=[{"image": "", "q": 1}]), "there is no column 'q'; there are image, x, y, w, h"),
        (b'{"dataframe_split": {"columns": ["image"]}}', "data, a list of rows"),
        (b'{"dataframe_split": {"columns": [["image"]], "data": []}}', "there is no column"),
        (table(dataframe_records=[{"image": ""}] * 4), "4 rows, more than max_bodies = 3"),
        (b"[" * 500 + b"]" * 500, "more values than belong to max_bodies = 3"),
        (b'{"dataframe_records": NaN}', "the body is not JSON"),
    ],
)
def test_other_forms_are_refused(body: bytes, problem: str) -> None:
    with pytest.raises(PredictionError, match=problem):
        checked_body(body, LIMITS)


def test_a_process_that_serves_nothing_is_left_alone() -> None:
    import fastapi

    before = fastapi.FastAPI
    assert not guard_scoring_server(LIMITS)
    assert fastapi.FastAPI is before
