"""What lies behind the bodies: rooms, meadows, crib sheets and blankets, as (H, W, 3) float32 reflectance in 0 to 1."""

import cv2
import numpy as np

from posecore.schema import FloatArray


def smooth_noise(rng: np.random.Generator, height: int, width: int, cells: int) -> FloatArray:
    """(height, width) float32 around 0, about -0.5 to 0.5, varying over ``1 / cells`` of the picture."""
    coarse = rng.random((cells, cells), np.float32) - np.float32(0.5)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


def grain(rng: np.random.Generator, height: int, width: int) -> FloatArray:
    """(height, width) float32 white noise between -0.5 and 0.5."""
    raw = np.frombuffer(rng.bytes(height * width), np.uint8).reshape(height, width)
    return raw * np.float32(1 / 255) - np.float32(0.5)


def modulate(canvas: FloatArray, factor: FloatArray) -> None:
    """Multiplies an (H, W, 3) picture by an (H, W) factor in place; numpy's broadcasting takes three times as long."""
    cv2.multiply(canvas, cv2.cvtColor(factor, cv2.COLOR_GRAY2RGB), canvas)


def room(rng: np.random.Generator, height: int, width: int, noise: FloatArray) -> tuple[FloatArray, int]:
    """A wall with a window, pictures or furniture, and a floor; also returns the row where the floor begins."""
    spread = rng.uniform
    horizon = int(height * spread(0.55, 0.78))
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:horizon] = spread(0.35, 0.9) * np.array([1, spread(0.85, 1.05), spread(0.7, 1.1)], np.float32)
    canvas[horizon:] = spread(0.2, 0.6) * np.array([1, spread(0.7, 0.95), spread(0.45, 0.9)], np.float32)
    for _ in range(rng.integers(1, 5)):
        colour = tuple(0.5 * spread(0.1, 0.9) + 0.5 * spread(0.1, 0.9, 3))
        w, h = int(width * spread(0.08, 0.32)), int(height * spread(0.1, 0.4))
        x = int(spread(-0.1, 0.95) * width)
        y = int(spread(0.03, 0.35) * height) if rng.random() < 0.6 else horizon - h + int(0.05 * height)
        cv2.rectangle(canvas, (x, y), (x + w, y + h), colour, -1)
        cv2.rectangle(canvas, (x, y), (x + w, y + h), tuple(spread(0.1, 0.9, 3)), max(1, width // 100))
    for offset in np.linspace(-1.5, 1.5, int(rng.integers(4, 12))):
        far, near = int(width * (0.5 + 0.4 * offset)), int(width * (0.5 + 1.6 * offset))
        shade = tuple(float(v) for v in 0.8 * canvas[-1, 0])
        cv2.line(canvas, (far, horizon), (near, height), shade, 1, cv2.LINE_AA)
    cv2.line(canvas, (0, horizon), (width, horizon), (0.85, 0.83, 0.8), max(1, height // 80))
    light = 1 + np.float32(0.5) * smooth_noise(rng, height, width, 3) + np.float32(0.03) * noise
    modulate(canvas, light)
    return canvas, horizon


def meadow(rng: np.random.Generator, height: int, width: int, noise: FloatArray) -> tuple[FloatArray, int]:
    """Grass, earth or snow under a sky with trees; also returns the row where the ground begins."""
    spread = rng.uniform
    horizon = int(height * spread(0.15, 0.5))
    canvas = np.empty((height, width, 3), np.float32)
    sky = np.array([spread(0.5, 0.8), spread(0.68, 0.85), spread(0.82, 1.0)], np.float32)
    canvas[:horizon] = sky * np.linspace(0.85, 1.1, horizon, dtype=np.float32)[:, None, None]
    grounds = ((0.28, 0.44, 0.16), (0.42, 0.50, 0.20), (0.52, 0.42, 0.28), (0.60, 0.53, 0.38), (0.86, 0.88, 0.92))
    canvas[horizon:] = np.array(grounds[rng.choice(5, p=[0.4, 0.25, 0.15, 0.12, 0.08])], np.float32)
    tree = np.array([0.16, 0.28, 0.13], np.float32) * spread(0.7, 1.5)
    for _ in range(rng.integers(0, 9)):
        radius = int(width * spread(0.05, 0.18))
        colour = tuple(float(v) for v in tree * spread(0.7, 1.3))
        cv2.circle(canvas, (int(spread(0, width)), horizon - radius // 3), radius, colour, -1, cv2.LINE_AA)
    canvas[horizon:] *= np.linspace(0.85, 1.1, height - horizon, dtype=np.float32)[:, None, None]
    blades = cv2.blur(noise, (1, 7)) * np.float32(1.6)
    texture = 1 + np.float32(0.5) * smooth_noise(rng, height, width, 9)
    texture[horizon:] += blades[horizon:]
    texture[:horizon] += np.float32(0.12) * noise[:horizon]
    modulate(canvas, texture)
    return canvas, horizon


def incubator(rng: np.random.Generator, height: int, width: int, noise: FloatArray) -> FloatArray:
    """A sheet on the mattress of an incubator, seen from above: clear walls with round ports, and reflections."""
    spread = rng.uniform
    canvas = _sheet(rng, height, width, noise)
    wall = np.array([0.72, 0.77, 0.80], np.float32) * spread(0.7, 1.15)
    thick = int(height * spread(0.05, 0.1))
    for top in (0, height - thick):
        canvas[top : top + thick] = 0.45 * canvas[top : top + thick] + 0.55 * wall
        for place in (0.28, 0.72):
            radius = int(0.13 * width)
            rim = tuple(float(value) for value in 0.8 * wall)
            cv2.ellipse(canvas, (int(place * width), top + thick // 2), (radius, max(1, thick // 2)), 0, 0, 360, rim, 2)
    for _ in range(int(rng.integers(0, 3))):
        shine = np.zeros((height, width), np.float32)
        start = int(spread(-0.2, 1.0) * width)
        corners = [(start, 0), (start + width // 9, 0), (start + width // 3, height), (start + width // 5, height)]
        cv2.fillPoly(shine, [np.array(corners, np.int32)], spread(0.05, 0.16))
        canvas += shine[..., None] * (1 - canvas)
    return canvas


def bed(rng: np.random.Generator, height: int, width: int, noise: FloatArray) -> FloatArray:
    """A crib sheet or blanket seen from above, at times with the bars of the crib along one edge."""
    spread = rng.uniform
    canvas = _sheet(rng, height, width, noise)
    if rng.random() < 0.3:
        edge, wood = int(width * spread(0.04, 0.1)), tuple(spread(0.45, 0.9) * np.array([1, 0.85, 0.65]))
        cv2.rectangle(canvas, (0, 0), (edge, height), wood, -1)
        for y in range(0, height, max(8, height // 9)):
            cv2.rectangle(canvas, (0, y), (edge, y + max(2, height // 60)), tuple(0.6 * np.array(wood)), -1)
    return canvas


def _sheet(rng: np.random.Generator, height: int, width: int, noise: FloatArray) -> FloatArray:
    """Plain, dotted, striped or checked cloth with wrinkles."""
    spread = rng.uniform
    base = (
        np.array(spread(0.62, 0.97, 3), np.float32)
        if rng.random() < 0.75
        else np.array(spread(0.2, 0.7, 3), np.float32)
    )
    second = np.clip(base + spread(-0.3, 0.2, 3), 0.1, 1).astype(np.float32)
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = base
    step = int(max(6, width * spread(0.05, 0.12)))
    kind = rng.choice(4)
    if kind == 1:
        for row, y in enumerate(range(step // 2, height, step)):
            for x in range((row % 2) * step // 2, width, step):
                cv2.circle(canvas, (x, y), max(1, step // 5), tuple(map(float, second)), -1, cv2.LINE_AA)
    elif kind >= 2:
        for start in range(0, width, step):
            canvas[:, start : start + step // 2] = second
        if kind == 3:
            for start in range(0, height, step):
                canvas[start : start + step // 2] = canvas[start : start + step // 2] * 0.5 + second * 0.5
    wrinkles = smooth_noise(rng, height, width, 7)
    slope = np.float32(10) * (wrinkles - np.roll(wrinkles, (2, 2), (0, 1)))
    modulate(canvas, 1 + np.clip(slope, -0.25, 0.25) + np.float32(0.04) * noise)
    return canvas
