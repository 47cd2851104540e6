"""From solids to a picture: light, hollows, cloth stripes, grain, shadows on the ground, and the sensor."""

import cv2
import numpy as np
from numpy.typing import NDArray

from posecore.schema import FloatArray
from posecore.synth.background import modulate
from posecore.synth.figure import Material, Vector
from posecore.synth.raster import Raster


def shade(
    rng: np.random.Generator,
    raster: Raster,
    materials: list[Material],
    canvas: FloatArray,
    noise: FloatArray,
    horizon: int | None,
) -> NDArray[np.uint8]:
    """Lights the solids and lays them over the background.

    Args:
        rng: draws light, exposure and white balance.
        raster: the drawn solids.
        materials: of part 1, 2, ….
        canvas: (H, W, 3) float32 background reflectance in 0 to 1; used up.
        noise: (H, W) float32 white noise, -0.5 to 0.5.
        horizon: row where the ground begins, None for a bed seen from above.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    height = len(noise)
    light = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-1.0, -0.2), -1.0])
    light /= np.sqrt(light @ light)
    ambient, exposure = rng.uniform(0.40, 0.62), rng.uniform(0.82, 1.12)
    tint = (1 + rng.normal(0, 0.03, 3)).astype(np.float32)
    stripes = rng.uniform(-0.6, 0.6)
    drawn = raster.part > 0
    _cast_shadow(canvas, drawn, horizon, light)
    rows, columns = np.flatnonzero(drawn.any(1)), np.flatnonzero(drawn.any(0))
    if len(rows):
        window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
        part, inside = raster.part[window], drawn[window]
        nx, ny = raster.normal[0][window], raster.normal[1][window]
        nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0))
        diffuse = nx * np.float32(light[0]) + ny * np.float32(light[1]) - nz * np.float32(light[2])
        brightness = np.float32(ambient) + np.float32(1.05 - ambient) * np.maximum(diffuse, 0)
        depth = np.where(inside, raster.depth[window], raster.depth[window][inside].max() + 30)
        hollow = depth - cv2.blur(depth, (9, 9))
        brightness *= 1 - np.clip(hollow * np.float32(8.0 / height), 0, np.float32(0.38))
        strength = np.array([0.0, *(2 * material.grain for material in materials)], np.float32).take(part)
        strength *= cv2.blur(noise[window], (1, 3))
        strength += 1
        brightness *= strength
        colours = np.array([(0, 0, 0), *(material.colour for material in materials)], np.float32).take(part, axis=0)
        if any(material.second is not None for material in materials):
            _add_stripes(colours, part, materials, stripes, height)
        modulate(colours, brightness)
        cv2.copyTo(colours, inside.astype(np.uint8), canvas[window])
    modulate(canvas, np.float32(exposure) + np.float32(0.025) * noise)
    canvas *= tint
    return np.asarray(cv2.GaussianBlur(cv2.convertScaleAbs(canvas, alpha=255), (3, 3), 0.6), np.uint8)


def _add_stripes(
    colours: FloatArray, part: NDArray[np.uint16], materials: list[Material], slant: float, height: int
) -> None:
    per_px = np.array([0.0, *(1 / m.stripe_px if m.second is not None else 0.0 for m in materials)], np.float32)
    seconds = np.array([(0, 0, 0), *(m.second or m.colour for m in materials)], np.float32)
    rows, columns = np.nonzero((per_px > 0).take(part))
    striped = part[rows, columns]
    across = (rows + slant * columns) * (256 / height)  # the same pattern at every picture size
    odd = (across * per_px[striped]).astype(np.int32) & 1 == 1
    colours[rows[odd], columns[odd]] = seconds[striped[odd]]


def _cast_shadow(canvas: FloatArray, drawn: NDArray[np.bool_], horizon: int | None, light: Vector) -> None:
    """Darkens the ground near bodies: under the feet of upright ones, around lying ones."""
    height, width = drawn.shape
    small = cv2.resize(drawn.astype(np.float32), (width // 4, height // 4), interpolation=cv2.INTER_AREA)
    reach = 0.03 * height / 4 if horizon is None else 0.012 * height / 4
    shift = np.array([[1, 0, -light[0] * 2 * reach], [0, 1, reach]], np.float32)
    small = cv2.GaussianBlur(cv2.warpAffine(small, shift, (width // 4, height // 4)), (0, 0), max(0.8, height / 100))
    if horizon is not None:
        fade = np.clip((np.arange(height // 4) * 4 - horizon) / (0.5 * height), 0, 1).astype(np.float32)
        small = small * fade[:, None]
    shadow = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    modulate(canvas, 1 - np.float32(0.45) * shadow)
