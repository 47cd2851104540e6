"""A graph as a person sees it: sources on the left, nothing on top of anything, all text within its box."""

from pathlib import Path

from posecore.viz.graph_page import GraphEdge, GraphNode, write_graph_page
from tests.support.browser import opened

HOSTILE = "<script>alert(1)</script> & 'so' \"on\""


def page(folder: Path) -> Path:
    nodes = {
        "data": GraphNode("source", HOSTILE, ["/a/very/long/path/that/does/not/fit/into/any/box/of/the/drawing"]),
        "a": GraphNode("split", "infants/train", ["3f2a91c0", "WWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWWW"]),
        "b": GraphNode("split", "coco/train", ["one", "two", "three", "four", "five", "six"]),
        "run": GraphNode("run", "train", []),
        "old": GraphNode("weights", "adults version 1", ["cc"]),
        "new": GraphNode("weights", "infants version 1", ["dd"]),
        "x": GraphNode("version", "infants version 1", []),
        "alias": GraphNode("alias", "infants@champion", []),
        "ring": GraphNode("weights", "a circle", []),
        "gnir": GraphNode("weights", "and back", []),
    }
    edges = [
        *(GraphEdge("data", split, "read") for split in "ab"),
        *(GraphEdge(source, "run", "trained on") for source in "ab"),
        GraphEdge("old", "run", "started from"),
        GraphEdge("run", "new", "made"),
        GraphEdge("old", "new", "started from"),
        GraphEdge("new", "x", "registered as"),
        GraphEdge("x", "alias", "held by"),
        GraphEdge("ring", "gnir", "made"),
        GraphEdge("gnir", "ring", "made"),
    ]
    return Path(str(write_graph_page(folder / "graph.html", "infants version 1", nodes, edges, ["unknown: one thing"])))


def test_the_drawing_in_a_browser(tmp_path: Path) -> None:
    with opened(page(tmp_path), tmp_path / "profile") as driver:
        assert driver.get_log("browser") == []
        assert driver.title == "infants version 1"
        boxes = driver.execute_script(
            "return [...document.querySelectorAll('svg g')].map(g => {"
            "const r = g.querySelector('rect').getBBox();"
            "const t = [...g.querySelectorAll('text')].map(x => x.getBBox());"
            "return {x: r.x, y: r.y, w: r.width, h: r.height,"
            " inside: t.every(b => b.x >= r.x && b.x + b.width <= r.x + r.width && b.y >= r.y"
            " && b.y + b.height <= r.y + r.height), title: g.querySelector('text').textContent}})"
        )
        assert len(boxes) == 10
        assert all(box["inside"] for box in boxes), [box["title"] for box in boxes if not box["inside"]]
        for number, a in enumerate(boxes):
            for b in boxes[number + 1 :]:
                apart = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
                assert apart or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a["title"], b["title"])
        left = [next(box["x"] for box in boxes if box["title"].startswith(name)) for name in (
            "<script>", "infants/train", "train", "infants version 1"
        )]  # fmt: skip
        assert left == sorted(set(left))
        assert len(driver.find_elements("css selector", "svg path")) == 11
        assert "unknown: one thing" in driver.find_element("css selector", ".note").text
        link = driver.find_element("css selector", "svg g:nth-of-type(4) a")
        driver.execute_script("arguments[0].dispatchEvent(new MouseEvent('click', {bubbles: true}))", link)
        assert driver.current_url.endswith("#row-n3")
        row = driver.find_element("id", "row-n3").text
        assert "started from adults version 1" in row
        drawing = driver.find_element("css selector", ".drawing")
        assert drawing.size["width"] <= 1280, "a wide graph scrolls within its frame"
