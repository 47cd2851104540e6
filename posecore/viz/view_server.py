"""A page of this machine alone, to browse splits and what models said of them.

It listens on loopback, answers to its own name only (so that no page elsewhere can have a name led here), and under a
path that nobody else on the machine knows. A request names sets, bodies and models by number: no file is ever
named by one. The page has no script; every form is a link.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from posecore.errors import PoseCoreError
from posecore.viz.browse import ORDERS, BrowsedSet, Wish
from posecore.viz.encoded import encode_jpeg
from posecore.viz.page import render

_PER_PAGE = 24
_PICTURE_PX = 300
_LONGEST = 4096
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; img-src 'self' data:; style-src 'unsafe-inline'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
}


class ViewServer(ThreadingHTTPServer):
    """Serves the page until it is shut down.

    Args:
        sets: what there is to see.
        port: 0 takes a free one.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, sets: Sequence[BrowsedSet], port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.sets = sets
        self.path = f"/{secrets.token_urlsafe(16)}/"
        self.names = {f"{name}:{self.server_address[1]}" for name in ("127.0.0.1", "localhost")}

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.server_address[1]}{self.path}"


class _Handler(BaseHTTPRequestHandler):
    server: ViewServer
    server_version = "posecore"
    sys_version = ""
    timeout = 30

    def do_GET(self) -> None:
        """The page, or a picture of it."""
        address = urlsplit(self.path)
        place, own = address.path, self.server.path
        if self.headers.get("Host") not in self.server.names or not place.startswith(own):
            self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"There is nothing here.\n")
            return
        asked = {name: values[-1] for name, values in parse_qs(address.query[:_LONGEST]).items()}
        viewed = _chosen(self.server.sets, asked.get("set"))
        try:
            if place == own:
                page = _page(self.server.sets, viewed, asked)
                self._answer(HTTPStatus.OK, "text/html; charset=utf-8", page)
            elif place == f"{own}picture" and (row := _number(asked.get("row"), len(viewed.truth))) is not None:
                wish = wish_of(viewed, asked)
                answers = [each for each in (wish.first, wish.second) if each is not None]
                picture = encode_jpeg(viewed.picture(row, answers, _PICTURE_PX))
                self._answer(HTTPStatus.OK, "image/jpeg", picture)
            else:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain; charset=utf-8", b"There is nothing here.\n")
        except PoseCoreError as error:
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", f"{error}\n".encode())

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: what is looked at is nobody's business."""


def wish_of(viewed: BrowsedSet, asked: Mapping[str, str]) -> Wish:
    """What a query asks of a set; what it cannot mean is left out."""
    many = len(viewed.answers)
    first = _number(asked.get("first"), many)
    second = _number(asked.get("second"), many)
    if "first" not in asked and many:
        first, second = 0, 1 if many > 1 else None
    if first is None:
        first, second = second, None
    subject, order = asked.get("subject", ""), asked.get("order", "")
    return Wish(
        first=first,
        second=second,
        subject=subject if subject in viewed.subjects else "",
        keypoint=_number(asked.get("keypoint"), viewed.skeleton.num_keypoints),
        least=_decimal(asked.get("least")),
        most=_decimal(asked.get("most")),
        order=order if order in ORDERS else "split" if first is None else "worst",
    )


def _page(sets: Sequence[BrowsedSet], viewed: BrowsedSet, asked: Mapping[str, str]) -> bytes:
    wish = wish_of(viewed, asked)
    rows = viewed.rows(wish)
    last = max(0, (len(rows) - 1) // _PER_PAGE)
    page = min(_number(asked.get("page"), 1 << 40) or 0, last)
    shown = rows[page * _PER_PAGE : (page + 1) * _PER_PAGE]
    number = list(sets).index(viewed)
    both = _query(number, replace(wish, subject="", keypoint=None, least=None, most=None))
    return render(
        "view.html.j2",
        sets=sets,
        viewed=viewed,
        number=number,
        wish=wish,
        orders=[order for order in ORDERS if order == "split" or wish.first is not None],
        total=len(rows),
        page=page,
        last=last,
        turned={turn: _query(number, wish, page=page + turn) for turn in (-1, 1) if 0 <= page + turn <= last},
        cards=[(f"picture?{both}&row={row}", viewed.caption(int(row), wish)) for row in shown],
    )


def _query(number: int, wish: Wish, **more: int) -> str:
    values = {"set": number, **vars(wish), **more}
    text = {name: "" if value is None else str(value) for name, value in values.items()}
    return urlencode(text)


def _chosen(sets: Sequence[BrowsedSet], text: str | None) -> BrowsedSet:
    return sets[_number(text, len(sets)) or 0]


def _number(text: str | None, below: int) -> int | None:
    """A number from 0 to below ``below``; None for anything else."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 15:
        return None
    return value if (value := int(text)) < below else None


def _decimal(text: str | None) -> float | None:
    try:
        value = float(text or "nan")
    except ValueError:
        return None
    return value if 0 <= value <= 1e6 else None
