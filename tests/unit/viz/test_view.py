"""``posecore view``: what is shown of what is asked, and nothing of what is not."""

import http.client
import re
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from posecore.cli import main
from posecore.cli.view import _found
from posecore.conventions import Conventions
from posecore.evaluation.inference import predict_store
from posecore.evaluation.prediction_files import PredictionOrigin, write_predictions
from posecore.viz.browse import BrowsedSet, Wish
from posecore.viz.view_server import ViewServer, wish_of
from tests.support.browser import beyond, opened_at
from tests.support.dot_worlds import BlobModel, hands_definition, hands_store

EVIL = '"><script>alert(1)</script>'


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A run with what two models said of a split, the second of which is off by 20 px on two right hands."""
    folder = tmp_path_factory.mktemp("view")
    store = hands_store(folder, hands_definition(), num_images=4)
    good = predict_store(BlobModel(Conventions()), store)
    keypoints = good.keypoints.copy()
    keypoints[[2, 5], 1] += [20, 0]
    origin = PredictionOrigin(store=str(store.location), digest=store.manifest.digest, model="m", head="hands")
    for name, said in (("child", good), ("parent", replace(good, keypoints=keypoints))):
        write_predictions(folder / "run/x/evaluation" / name / "hands/predictions.parquet", said, origin)
    return folder


@pytest.fixture(scope="module")
def viewed(run_folder) -> BrowsedSet:
    (found,) = _found([str(run_folder / "run")])
    return found


@pytest.fixture(scope="module")
def server(viewed):
    evil = BrowsedSet(EVIL, viewed.store, {EVIL: viewed.answers[0].predictions})
    with ViewServer([viewed, evil]) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


def test_models_of_several_places_are_called_by_these(run_folder, tmp_path):
    (found,) = _found([str(run_folder / "run" / "x"), str(run_folder / "run/x/evaluation/child")])
    names = [answer.name for answer in found.answers]
    place = run_folder / "run" / "x"
    assert names == [f"{place}: child/hands", f"{place}: parent/hands", str(place / "evaluation" / "child")]
    (found,) = _found([str(place)])
    assert [answer.name for answer in found.answers] == ["child/hands", "parent/hands"]


def get(server: ViewServer, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
    connection = http.client.HTTPConnection(*server.server_address[:2], timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, answer.read(), dict(answer.getheaders())


def test_bodies_are_found_by_error_and_keypoint(viewed):
    assert [answer.name for answer in viewed.answers] == ["child/hands", "parent/hands"]
    assert viewed.rows(Wish()).tolist() == list(range(8))
    assert sorted(viewed.rows(Wish(first=1, order="worst"))[:2]) == [2, 5]
    assert sorted(viewed.rows(Wish(first=1, least=5.0))) == [2, 5]
    assert len(viewed.rows(Wish(first=1, most=5.0))) == 6
    assert len(viewed.rows(Wish(first=1, least=5.0, keypoint=0))) == 0
    assert sorted(viewed.rows(Wish(first=1, least=10.0, keypoint=1))) == [2, 5]
    assert sorted(viewed.rows(Wish(first=0, second=1, order="change"))[:2]) == [2, 5]
    assert viewed.rows(Wish(first=1, subject="nobody")).tolist() == []
    np.testing.assert_allclose(viewed.errors(1, 1)[2] - viewed.errors(0, 1)[2], 100 * 20 / np.sqrt(103.6 * 120), atol=1)
    assert viewed.picture(2, [0, 1], 200).shape[1] > 2 * viewed.picture(2, [], 200).shape[1]


def test_what_a_query_cannot_mean_is_left_out(viewed):
    assert wish_of(viewed, {}) == Wish(first=0, second=1, order="worst")
    assert wish_of(viewed, {"first": ""}) == Wish()
    odd = {
        "first": "7",
        "second": "-1",
        "keypoint": "١",
        "least": "nan",
        "most": "1e999",
        "order": "x",
        "subject": EVIL,
    }
    assert wish_of(viewed, odd) == Wish()
    assert wish_of(viewed, {"first": "1", "least": "5", "order": "best"}) == Wish(first=1, least=5.0, order="best")


def test_the_page_and_its_pictures_are_served_under_their_own_path_only(server):
    status, page, headers = get(server, server.path)
    assert status == 200
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert b"8 bodies" in page
    pictures = re.findall(rb'src="(picture[^"]+)"', page)
    assert len(pictures) == 8
    status, picture, headers = get(server, server.path + pictures[0].decode().replace("&amp;", "&"))
    assert (status, headers["Content-Type"], picture[:2]) == (200, "image/jpeg", b"\xff\xd8")
    host = f"127.0.0.1:{server.server_address[1]}"
    for path in (
        "/", "/picture?row=0", "/../" + server.path, server.path + "../../etc/passwd", server.path + "%2e%2e/x",
        server.path + "picture?row=8", server.path + "picture?row=-1", server.path + "picture?row=..%2f..%2fetc",
        server.path + "picture", server.path[:-1] + "x/", "//etc/passwd",
    ):  # fmt: skip
        assert get(server, path, Host=host)[0] == 404, path
    assert get(server, server.path, Host="evil.example")[0] == 404, "a name that was led to this machine"
    assert get(server, server.path, "POST", Host=host)[0] == 501
    assert get(server, f"{server.path}?set=99999999999999999999&page=99999&x={'y' * 9000}", Host=host)[0] == 200


def test_names_cannot_become_markup(server):
    _, page, _ = get(server, f"{server.path}?set=1&subject={EVIL.replace('>', '%3E').replace('<', '%3C')}")
    assert b"<script" not in page
    assert page.count(b"&lt;script&gt;") >= 3


@pytest.mark.browser
def test_a_browser_shows_two_models_and_filters(server, tmp_path):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select, WebDriverWait

    with opened_at(server.url, tmp_path / "profile") as driver:
        Select(driver.find_element(By.NAME, "first")).select_by_visible_text("parent/hands")
        Select(driver.find_element(By.NAME, "second")).select_by_visible_text("child/hands")
        driver.find_element(By.NAME, "least").send_keys("5")
        driver.find_element(By.TAG_NAME, "button").click()
        WebDriverWait(driver, 20).until(lambda d: "2 bodies" in d.find_element(By.TAG_NAME, "body").text)
        loaded = "return [...document.images].map(image => image.complete && image.naturalWidth)"
        WebDriverWait(driver, 20).until(lambda d: all(d.execute_script(loaded)))
        assert len(driver.execute_script(loaded)) == 2
        assert "parent/hands: " in driver.find_element(By.TAG_NAME, "figcaption").text
        assert beyond(driver, 390) <= 0
        assert driver.get_log("browser") == []


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("run/nowhere", "no such folder."),
        ("rum", r"no such folder; did you mean .*run\?"),
        ("raw", "neither an ingested split nor a folder with predictions.parquet"),
    ],
)
def test_a_place_without_anything_to_see_is_named(
    place: str, said: str, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["view", str(run_folder / place)]) == 1
    assert re.search(said, capsys.readouterr().err)


def test_a_split_alone_is_browsed_without_models(run_folder: Path) -> None:
    (found,) = _found([str(run_folder / "shards" / "hands" / "val")])
    assert found.answers == []
    assert wish_of(found, {"order": "worst", "first": "0"}).first is None


def test_a_port_that_cannot_be_had_is_named(
    run_folder: Path, server: ViewServer, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = str(server.server_address[1])
    assert main(["view", str(run_folder / "run"), "--port", taken]) == 1
    assert f"port {taken}: Address already in use; leave --port out" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["view", str(run_folder / "run"), "--port", "70000"])
    assert "70000 is no port" in capsys.readouterr().err
