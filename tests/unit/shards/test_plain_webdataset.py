"""The page on using shards without this library does what it says, with nothing of this library."""

import re
import subprocess
import sys
from pathlib import Path

from posecore.ingest.run import ingest
from tests.support.small_split import HEIGHT, WIDTH, instance, job, records, write_annotations

PAGE = Path(__file__).parents[3] / "docs" / "plain_webdataset.md"
PLACE = 'folder = "/data/shards/coco/train"\n'
COUNT = """
import sys
assert not any(name.split(".")[0] == "posecore" for name in sys.modules)
print(len(images), len(labelled), len(names), drawn.sum(), points is not None)
"""


def test_every_block_of_the_page_runs(tmp_path):
    source = records(tmp_path / "src", 5)
    runs = {"size": [HEIGHT, WIDTH], "counts": [0, 7, HEIGHT * WIDTH - 7]}
    source[4].instances.append(instance("runs", segmentation=runs, absent=(2,)))
    write_annotations(tmp_path / "src", source)
    ingest(job(tmp_path / "src", tmp_path / "out", images_per_shard=2))
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 6
    assert PLACE in blocks[0]
    program = "".join([PLACE.replace("/data/shards/coco/train", str(tmp_path / "out/tiny/train")), *blocks[1:], COUNT])
    command = [sys.executable, "-I", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["5", "6", "3", "7", "True"]
