"""How much of a damaged picture does ingestion notice, level by level, and what does each level cost?

Photographs of the COCO samples are made smaller, stored as PNG, as sequential and as progressive JPEG, and damaged: a
byte changed, a bit flipped, a block set to zero, doubled or taken out, the end cut. Two decoders (OpenCV, Pillow) say
what became of each file: no decoder opens it, one of them does not, its pixels are others, or it is as good as before
(at most one pixel in a thousand is off by more than 8 of 255). The levels: what ingestion did before it followed files
to their end (header and end mark), ``header`` as it is now, and ``full``.

    POSECORE_SAMPLES=<folder> python benchmarks/damaged_images.py
"""

import argparse
import io
import os
import random
import statistics
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from posecore.errors import ImageHeaderError
from posecore.image_header import ImageFormat, has_end_mark, image_size
from posecore.image_structure import find_damage
from posecore.ingest.job import IngestSettings
from posecore.ingest.source_image import Unusable, read_source_image

CLASSES = ("no decoder opens it", "one decoder does not", "other pixels", "as good as before")


def damaged(data: bytes, generator: random.Random) -> bytes:
    place, length = generator.randrange(len(data)), generator.choice((1, 16, 512))
    block = data[place : place + length]
    rest = data[place + len(block) :]
    kinds: dict[str, Callable[[], bytes]] = {
        "byte": lambda: bytes([generator.randrange(256)]) + data[place + 1 :],
        "bit": lambda: bytes([data[place] ^ 1 << generator.randrange(8)]) + data[place + 1 :],
        "zeros": lambda: bytes(len(block)) + rest,
        "cut": lambda: b"",
        "doubled": lambda: block + block + rest,
        "taken out": lambda: rest,
    }
    return data[:place] + kinds[generator.choice(list(kinds))]()


def by_opencv(data: bytes) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        return None


def by_pillow(data: bytes) -> bool:
    try:
        Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError, ValueError):
        return False
    return True


def fate(data: bytes, healthy: np.ndarray) -> str:
    pixels, by_other = by_opencv(data), by_pillow(data)
    if pixels is None or not by_other:
        return CLASSES[0] if pixels is None and not by_other else CLASSES[1]
    if pixels.shape != healthy.shape or (np.abs(pixels.astype(int) - healthy).max(axis=2) > 8).mean() > 0.001:
        return CLASSES[2]
    return CLASSES[3]


def end_mark_only(data: bytes) -> bool:
    """Whether header and end mark notice the damage."""
    try:
        size = image_size(data)
    except ImageHeaderError:
        return True
    return not (data.endswith(b"\xff\xd9") or has_end_mark(data[-(1 << 16) :], size.format))


def noticed(path: Path, settings: IngestSettings) -> bool:
    return isinstance(read_source_image(path, 0, 0, settings), Unusable)


def microseconds(function: Callable[[bytes], object], files: list[bytes], repeats: int = 7) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        for data in files:
            function(data)
        times.append((time.perf_counter() - start) / len(files))
    return 1e6 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--damages", type=int, default=2000, help="of every format")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="for one file at a time")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    photos = sorted(Path(os.environ["POSECORE_SAMPLES"], "coco").rglob("*.jpg"))
    small = [cv2.resize(cv2.imread(str(path)), (160, 120), interpolation=cv2.INTER_AREA) for path in photos[:40]]
    formats: dict[str, list[bytes]] = {
        name: [cv2.imencode(suffix, image, flags)[1].tobytes() for image in small]
        for name, suffix, flags in (
            ("PNG", ".png", ()),
            ("JPEG", ".jpg", ()),
            ("progressive JPEG", ".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        )
    }
    header, full = IngestSettings(decode_share=0.0), IngestSettings(decode="full")
    path = options.folder / f"posecore-damaged-{os.getpid()}"
    print(f"{'':18}{'':24}{'files':>6}{'end mark':>10}{'header':>8}{'full':>8}")
    for name, healthy in formats.items():
        generator = random.Random(name)
        counts: Counter[tuple[str, str]] = Counter()
        pixels = [by_opencv(data) for data in healthy]
        for number in range(options.damages):
            which = number % len(healthy)
            data = damaged(healthy[which], generator)
            if data == healthy[which]:
                continue
            kind = fate(data, pixels[which])
            path.write_bytes(data)
            counts[kind, "files"] += 1
            counts[kind, "end mark"] += end_mark_only(data)
            counts[kind, "header"] += noticed(path, header)
            counts[kind, "full"] += noticed(path, full)
        for kind in CLASSES:
            files = counts[kind, "files"]
            shares = [
                f"{counts[kind, level] / files:.1%}" if files else "-" for level in ("end mark", "header", "full")
            ]
            print(f"{name:18}{kind:24}{files:6}{shares[0]:>10}{shares[1]:>8}{shares[2]:>8}")
    path.unlink()
    whole = [photo.read_bytes() for photo in photos]
    as_png = [cv2.imencode(".png", cv2.imdecode(np.frombuffer(data, np.uint8), 1))[1].tobytes() for data in whole[:20]]
    for name, settings in (("header, none decoded", header), ("header", IngestSettings()), ("full", full)):
        times = []
        for _ in range(3):
            start = time.process_time()
            for photo in photos:
                read_source_image(photo, 0, 0, settings)
            times.append(1e6 * (time.process_time() - start) / len(photos))
        print(f"reading and judging a photograph, {name}: {statistics.median(times):.0f} us of processor")
    kinds: tuple[tuple[ImageFormat, list[bytes]], ...] = (("jpeg", whole), ("png", as_png))
    for kind, files in kinds:
        kilobytes = sum(map(len, files)) / len(files) / 1e3
        following = microseconds(partial(find_damage, image_format=kind), files)
        decoding = microseconds(by_opencv, files[:20])
        print(f"{kind.upper()} of {kilobytes:.0f} KB: following it {following:.0f} us, decoding it {decoding:.0f} us")


if __name__ == "__main__":
    main()
