"""Adults and infants: proportions, clothes, poses, and the solids and landmarks they come to."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from posecore.synth.face import EYE_X, EYE_Y, FACE_POINTS, MOUTH_Y, NOSE_TIP_Y, on_head
from posecore.synth.figure import (
    Colour,
    Figure,
    Material,
    Vector,
    cross,
    perpendicular,
    rotation_x,
    rotation_y,
    rotation_z,
    unit,
    vector,
)
from posecore.synth.landmarks import FACE_68

_SIDES = (("left", 1.0), ("right", -1.0))
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_SKIN: tuple[Colour, ...] = (
    (0.96, 0.80, 0.69),
    (0.91, 0.71, 0.57),
    (0.82, 0.60, 0.45),
    (0.66, 0.45, 0.32),
    (0.48, 0.32, 0.22),
    (0.34, 0.22, 0.16),
)
_HAIR: tuple[Colour, ...] = (
    (0.10, 0.08, 0.07),
    (0.24, 0.15, 0.09),
    (0.42, 0.28, 0.16),
    (0.72, 0.56, 0.32),
    (0.55, 0.25, 0.12),
    (0.62, 0.60, 0.58),
)
_OnHead: TypeAlias = Callable[[Vector | list[float]], Vector]
"""From a point in head half-sizes to the body frame."""

_JOINTS = np.linspace(0, 1, 4)[:, None]
"""Where a finger's four points lie between its base and its tip."""

_EYE_WHITE = Material((0.95, 0.95, 0.93), grain=0.0)
_PUPIL = Material((0.10, 0.08, 0.07), grain=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanShape:
    """Lengths and radii in metres; ``head`` is half its width, height and depth."""

    torso: float
    shoulder: float
    hip: float
    upper_arm: float
    forearm: float
    hand: float
    thigh: float
    shank: float
    foot: float
    neck: float
    head: tuple[float, float, float]
    chest: tuple[float, float]
    belly: tuple[float, float]
    limb_radii: tuple[float, ...]
    """Shoulder, elbow, wrist, thigh, knee, ankle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanLook:
    """Skin, hair and clothes. ``sleeve`` and ``leg`` say how far they reach: 0 none, 0.5 to the joint, 1 to the end."""

    skin: Material
    hair: Material
    top: Material
    bottom: Material
    shoe: Material
    sleeve: float
    leg: float
    hair_length: float
    skirt: bool = False
    hat: Material | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LimbPose:
    """Degrees: away from the body, forwards, bending of elbow or knee, and turning of the bend about the limb."""

    abduction: float
    flexion: float
    bend: float
    twist: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanPose:
    """``spine`` and ``head`` are forward, sideways and turning angles in degrees; arms and legs are (left, right)."""

    spine: tuple[float, float, float]
    head: tuple[float, float, float]
    arms: tuple[LimbPose, LimbPose]
    legs: tuple[LimbPose, LimbPose]
    finger_bend: float


def adult_shape(rng: np.random.Generator) -> HumanShape:
    """An adult of 1.5 to 1.95 m, seven and a half heads tall."""
    size = rng.uniform(0.9, 1.13)
    girth = size * rng.uniform(0.88, 1.25)
    wide = size * rng.uniform(0.92, 1.08)
    leg = size * rng.uniform(0.95, 1.05)
    return HumanShape(
        torso=0.50 * size,
        shoulder=0.185 * wide,
        hip=0.095 * wide,
        upper_arm=0.285 * size,
        forearm=0.25 * size,
        hand=0.18 * size,
        thigh=0.42 * leg,
        shank=0.41 * leg,
        foot=0.25 * size,
        neck=0.085 * size,
        head=(0.077 * size, 0.115 * size, 0.095 * size),
        chest=(0.155 * wide, 0.115 * girth),
        belly=(0.135 * girth, 0.11 * girth),
        limb_radii=tuple(girth * r for r in (0.055, 0.041, 0.029, 0.085, 0.056, 0.040)),
    )


def infant_shape(rng: np.random.Generator) -> HumanShape:
    """A baby of 0.55 to 0.75 m: four heads tall, limbs short and round, belly wider than the chest."""
    size = rng.uniform(0.9, 1.15)
    girth = size * rng.uniform(0.9, 1.15)
    return HumanShape(
        torso=0.205 * size,
        shoulder=0.080 * size,
        hip=0.046 * size,
        upper_arm=0.098 * size,
        forearm=0.082 * size,
        hand=0.062 * size,
        thigh=0.112 * size,
        shank=0.102 * size,
        foot=0.075 * size,
        neck=0.012 * size,
        head=(0.067 * size, 0.083 * size, 0.077 * size),
        chest=(0.072 * girth, 0.058 * girth),
        belly=(0.078 * girth, 0.066 * girth),
        limb_radii=tuple(girth * r for r in (0.028, 0.024, 0.018, 0.042, 0.032, 0.022)),
    )


def _cloth(rng: np.random.Generator, pastel: bool) -> Material:
    low, high = (0.62, 0.97) if pastel else (0.08, 0.92)
    # Real clothes are duller than random RGB: half of the way to grey.
    colours = rng.uniform(low, high, (2, 3))
    colours = 0.5 * colours + 0.5 * colours.mean(axis=1, keepdims=True)
    second = tuple(colours[1]) if rng.random() < 0.3 else None
    return Material(tuple(colours[0]), second, stripe_px=rng.uniform(4, 12), grain=rng.uniform(0.05, 0.14))


def _varied(rng: np.random.Generator, colours: tuple[Colour, ...], grain: float) -> Material:
    colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.92, 1.06)
    return Material(tuple(np.minimum(colour, 1)), grain=grain)


def adult_look(rng: np.random.Generator) -> HumanLook:
    """Shirt and trousers, shorts or skirt; hair short, long or under a cap."""
    skirt = bool(rng.random() < 0.15)
    shoe = rng.uniform(0.05, 0.5, 3) if rng.random() < 0.7 else np.array([0.92, 0.92, 0.90])
    return HumanLook(
        skin=_varied(rng, _SKIN, 0.03),
        hair=_varied(rng, _HAIR, 0.3),
        top=_cloth(rng, pastel=False),
        bottom=_cloth(rng, pastel=False),
        shoe=Material(tuple(shoe), grain=0.03),
        sleeve=float(rng.choice([0.0, 0.5, 1.0], p=[0.2, 0.4, 0.4])),
        leg=0.0 if skirt else float(rng.choice([0.5, 1.0], p=[0.3, 0.7])),
        hair_length=float(rng.choice([0.0, 0.5, 1.0], p=[0.45, 0.25, 0.3])),
        skirt=skirt,
        hat=_cloth(rng, pastel=False) if rng.random() < 0.12 else None,
    )


def infant_look(rng: np.random.Generator) -> HumanLook:
    """A sleepsuit, a bodysuit with bare limbs, or only a nappy; little hair, bare feet or socks."""
    skin = _varied(rng, _SKIN, 0.02)
    suit = _cloth(rng, pastel=bool(rng.random() < 0.8))
    nappy = Material((0.95, 0.95, 0.94), grain=0.05)
    kind = rng.random()
    top, sleeve, leg = (suit, 1.0, 1.0) if kind < 0.35 else (suit, 0.5, 0.0) if kind < 0.75 else (skin, 0.0, 0.0)
    return HumanLook(
        skin=skin,
        hair=_varied(rng, _HAIR[:-1], 0.15),
        top=top,
        bottom=suit if leg or rng.random() < 0.5 else nappy,
        shoe=_cloth(rng, pastel=True) if rng.random() < 0.3 else (suit if leg and rng.random() < 0.6 else skin),
        sleeve=sleeve,
        leg=leg,
        hair_length=0.0,
        hat=_cloth(rng, pastel=True) if rng.random() < 0.12 else None,
    )


def adult_pose(rng: np.random.Generator) -> HumanPose:
    """Standing, walking, reaching, sitting or squatting."""
    spread = rng.uniform
    arms = [_adult_arm(rng)]
    arms.append(_adult_arm(rng) if rng.random() < 0.6 else arms[0])
    kind = rng.random()
    if kind < 0.45:
        legs = [LimbPose(abduction=spread(1, 9), flexion=spread(-4, 8), bend=spread(0, 8)) for _ in range(2)]
    elif kind < 0.72:
        swing = spread(12, 38) * rng.choice([-1, 1])
        legs = [
            LimbPose(abduction=spread(0, 6), flexion=sign * swing, bend=spread(5, 20) + max(0.0, -sign * swing))
            for sign in (1, -1)
        ]
    elif kind < 0.86:
        legs = [LimbPose(abduction=spread(3, 22), flexion=spread(65, 92), bend=spread(60, 100)) for _ in range(2)]
    elif kind < 0.94:
        legs = [LimbPose(abduction=spread(15, 35), flexion=spread(60, 110), bend=spread(80, 125)) for _ in range(2)]
    else:
        legs = [
            LimbPose(abduction=spread(2, 8), flexion=spread(-5, 5), bend=spread(0, 6)),
            LimbPose(abduction=spread(10, 60), flexion=spread(10, 80), bend=spread(0, 100)),
        ]
    if rng.random() < 0.5:
        legs.reverse()
    return HumanPose(
        spine=(spread(-6, 18), spread(-9, 9), spread(-15, 15)),
        head=(spread(-15, 20), spread(-12, 12), spread(-35, 35)),
        arms=(arms[0], arms[1]),
        legs=(legs[0], legs[1]),
        finger_bend=spread(0, 50),
    )


def _adult_arm(rng: np.random.Generator) -> LimbPose:
    spread = rng.uniform
    kind = rng.random()
    if kind < 0.38:
        return LimbPose(abduction=spread(7, 24), flexion=spread(-18, 22), bend=spread(5, 40), twist=spread(-30, 30))
    if kind < 0.63:
        return LimbPose(abduction=spread(12, 50), flexion=spread(0, 50), bend=spread(60, 125), twist=spread(-60, 60))
    if kind < 0.80:
        return LimbPose(abduction=spread(5, 40), flexion=spread(50, 105), bend=spread(5, 70), twist=spread(-40, 40))
    return LimbPose(abduction=spread(70, 160), flexion=spread(-10, 25), bend=spread(5, 100), twist=spread(-110, -40))


def infant_pose(rng: np.random.Generator, sitting: bool) -> HumanPose:
    """Curled limbs of a lying baby, or one that sits up."""
    spread = rng.uniform
    arms = tuple(
        LimbPose(abduction=spread(25, 140), flexion=spread(-10, 55), bend=spread(25, 125), twist=spread(-110, 10))
        for _ in range(2)
    )
    if sitting:
        legs = tuple(
            LimbPose(abduction=spread(20, 45), flexion=spread(68, 92), bend=spread(15, 75), twist=spread(-20, 40))
            for _ in range(2)
        )
    else:
        legs = tuple(
            LimbPose(abduction=spread(15, 65), flexion=spread(5, 100), bend=spread(25, 120), twist=spread(-20, 50))
            for _ in range(2)
        )
    return HumanPose(
        spine=(spread(-5, 20), spread(-14, 14), spread(-12, 12)),
        head=(spread(-12, 25), spread(-15, 15), spread(-65, 65) if not sitting else spread(-35, 35)),
        arms=(arms[0], arms[1]),
        legs=(legs[0], legs[1]),
        finger_bend=spread(20, 80),
    )


def build_human(shape: HumanShape, look: HumanLook, pose: HumanPose, detail: bool) -> Figure:
    """The posed body, pelvis at the origin; without ``detail`` (a far-away figure) face and fingers are left out."""
    figure = Figure()
    forward, sideways, turn = pose.spine
    chest = rotation_y(turn) @ rotation_z(sideways) @ rotation_x(forward)
    waist = vector(0.0, 0.38 * shape.torso, 0.0)
    neck_base = waist + chest @ vector(0.0, 0.62 * shape.torso, 0.0)
    _add_torso(figure, shape, look, chest, waist, neck_base)
    _add_head(figure, shape, look, pose, chest, neck_base, detail)
    shoulders = [
        _add_arm(figure, shape, look, pose, limb, chest, neck_base, side_sign, detail)
        for side_sign, limb in zip(_SIDES, pose.arms, strict=True)
    ]
    hips = [
        _add_leg(figure, shape, look, limb, side_sign, detail)
        for side_sign, limb in zip(_SIDES, pose.legs, strict=True)
    ]
    figure.mark("thorax", (shoulders[0] + shoulders[1]) / 2, 1.5 * shape.chest[1])
    figure.mark("pelvis", (hips[0] + hips[1]) / 2, 1.5 * shape.belly[1])
    return figure


def _add_torso(
    figure: Figure, shape: HumanShape, look: HumanLook, chest: Vector, waist: Vector, neck_base: Vector
) -> None:
    upright = np.eye(3)
    wide, deep = shape.chest
    round_wide, round_deep = shape.belly
    middle = waist + chest @ vector(0.0, 0.28 * shape.torso, 0.0)
    figure.ellipsoid(middle, chest, (wide, 0.40 * shape.torso, deep), look.top)
    figure.ellipsoid(
        waist + vector(0, -0.05 * shape.torso, 0), upright, (round_wide, 0.36 * shape.torso, round_deep), look.top
    )
    hips = (max(round_wide, shape.hip + 0.75 * shape.limb_radii[3]), 0.24 * shape.torso, round_deep * 1.02)
    figure.ellipsoid(vector(0.0, -0.02 * shape.torso, 0.0), upright, hips, look.bottom)
    inner = shape.shoulder - shape.limb_radii[0]
    radius = 1.15 * shape.limb_radii[0]
    left, right = (neck_base + chest @ vector(sign * inner, -0.14 * shape.torso, 0) for sign in (1, -1))
    figure.capsule(left, right, radius, radius, look.top)
    for end in (left, right):
        figure.capsule(
            neck_base + chest @ vector(0, 0.01 * shape.torso, 0), end, 0.9 * shape.limb_radii[2], radius, look.top
        )


def _add_head(
    figure: Figure,
    shape: HumanShape,
    look: HumanLook,
    pose: HumanPose,
    chest: Vector,
    neck_base: Vector,
    detail: bool,
) -> None:
    forward, sideways, turn = pose.head
    frame = chest @ rotation_y(turn) @ rotation_z(sideways) @ rotation_x(forward)
    half = np.array(shape.head)
    a, b, c = shape.head
    centre = neck_base + 0.5 * (chest + frame) @ vector(0.0, shape.neck + 0.85 * b, 0.12 * c)

    def at(unit_point: Vector | list[float]) -> Vector:
        return centre + frame @ (half * np.asarray(unit_point))

    figure.capsule(
        neck_base - chest @ vector(0, 0.1 * shape.torso, 0), at([0, -0.45, -0.1]), 0.62 * a + 0.01, 0.58 * a, look.skin
    )
    figure.ellipsoid(at([0, 0.12, -0.05]), frame, (a, 0.88 * b, 0.98 * c), look.skin)
    figure.ellipsoid(at([0, -0.38, 0.18]), frame, (0.72 * a, 0.60 * b, 0.70 * c), look.skin)
    _add_hair(figure, look, at, frame, shape.head)
    for side, sign in _SIDES:
        ear = at([sign * 1.0, -0.02, -0.08])
        figure.ellipsoid(ear, frame, (0.13 * a, 0.22 * b, 0.16 * c), look.skin)
        figure.mark(f"{side}_ear", ear, 0.25 * a, unit(frame @ vector(sign, 0.0, 0.35)))
        eye = on_head(sign * EYE_X, EYE_Y)
        figure.mark(f"{side}_eye", at(eye), 0.3 * a, unit(frame @ (eye / half)))
    figure.mark("nose", at(on_head(0, NOSE_TIP_Y, 0.16)), 0.2 * a, frame[:, 2])
    figure.mark("head_top", at([0, 1.0, -0.05]), 0.5 * b)
    figure.mark("upper_neck", neck_base + chest @ vector(0, 0.02 * shape.torso + 0.3 * shape.neck, 0), 1.6 * a)
    normals = (FACE_POINTS / half) @ frame.T
    normals /= np.sqrt((normals * normals).sum(axis=1, keepdims=True))
    figure.mark_all(FACE_68, centre + (half * FACE_POINTS) @ frame.T, 0.35 * a, normals)
    if detail:
        _add_features(figure, look, at, frame, shape.head)


def _add_hair(figure: Figure, look: HumanLook, at: _OnHead, frame: Vector, head: tuple[float, float, float]) -> None:
    a, b, c = head
    cap = look.hat or look.hair
    figure.ellipsoid(at([0, 0.26, -0.20]), frame, (1.05 * a, 0.84 * b, 0.98 * c), cap)
    if look.hat is not None:
        figure.ellipsoid(at([0, 0.52, 0.55]), frame, (0.80 * a, 0.07 * b, 0.75 * c), look.hat)
    if look.hair_length:
        low = -0.25 - 0.75 * look.hair_length
        figure.capsule(at([0, 0.2, -0.45]), at([0, low, -0.62]), 0.92 * a, 0.72 * a, look.hair)


def _add_features(
    figure: Figure, look: HumanLook, at: _OnHead, frame: Vector, head: tuple[float, float, float]
) -> None:
    a, b, c = head
    lips = Material((0.72 * look.skin.colour[0], 0.42 * look.skin.colour[1], 0.42 * look.skin.colour[2]), grain=0.0)
    figure.ellipsoid(at(on_head(0, NOSE_TIP_Y + 0.06, 0.0)), frame, (0.13 * a, 0.20 * b, 0.22 * c), look.skin)
    figure.ellipsoid(at(on_head(0, MOUTH_Y, 0.02)), frame, (0.30 * a, 0.075 * b, 0.10 * c), lips)
    for sign in (1, -1):
        figure.ellipsoid(at(on_head(sign * EYE_X, EYE_Y, -0.02)), frame, (0.20 * a, 0.085 * b, 0.09 * c), _EYE_WHITE)
        figure.ellipsoid(at(on_head(sign * EYE_X, EYE_Y, 0.05)), frame, (0.095 * a, 0.08 * b, 0.06 * c), _PUPIL)
        brow = on_head(sign * 0.62, EYE_Y + 0.22, 0.03), on_head(sign * 0.18, EYE_Y + 0.27, 0.03)
        figure.capsule(at(brow[0]), at(brow[1]), 0.035 * b, 0.045 * b, look.hair)


def _limb_direction(limb: LimbPose, sign: float) -> Vector:
    abduction, flexion = np.deg2rad(limb.abduction), np.deg2rad(limb.flexion)
    return vector(sign * np.sin(abduction), -np.cos(abduction) * np.cos(flexion), np.cos(abduction) * np.sin(flexion))


def _bent(direction: Vector, towards: Vector, degrees: float) -> Vector:
    return np.cos(np.deg2rad(degrees)) * direction + np.sin(np.deg2rad(degrees)) * perpendicular(direction, towards)


def _add_arm(
    figure: Figure,
    shape: HumanShape,
    look: HumanLook,
    pose: HumanPose,
    limb: LimbPose,
    chest: Vector,
    neck_base: Vector,
    side_sign: tuple[str, float],
    detail: bool,
) -> Vector:
    side, sign = side_sign
    r_shoulder, r_elbow, r_wrist = shape.limb_radii[:3]
    direction = chest @ _limb_direction(limb, sign)
    shoulder = neck_base + chest @ vector(sign * shape.shoulder, -0.13 * shape.torso, 0.0)
    elbow = shoulder + shape.upper_arm * direction
    # An elbow bends forwards; turned about the upper arm it bends towards the midline (twist > 0) or upwards (< 0).
    twist = np.deg2rad(limb.twist)
    pole = chest @ vector(-sign * max(0.0, np.sin(twist)), max(0.0, -np.sin(twist)), np.cos(twist))
    forearm = _bent(direction, pole, limb.bend)
    wrist = elbow + shape.forearm * forearm
    upper = look.top if look.sleeve else look.skin
    lower = look.top if look.sleeve > 0.5 else look.skin
    figure.capsule(shoulder, elbow, r_shoulder, r_elbow, upper if look.sleeve > 0.5 else look.skin)
    if 0 < look.sleeve <= 0.5:
        figure.capsule(shoulder, shoulder + 0.55 * (elbow - shoulder), 1.12 * r_shoulder, 1.12 * r_elbow, upper)
    figure.capsule(elbow, wrist, r_elbow, r_wrist, lower)
    figure.mark(f"{side}_shoulder", shoulder, 1.7 * r_shoulder)
    figure.mark(f"{side}_elbow", elbow, 1.7 * r_elbow)
    figure.mark(f"{side}_wrist", wrist, 2.0 * r_wrist)
    _add_hand(figure, shape, look, pose, wrist, forearm, chest, side_sign, detail)
    return shoulder


def _add_hand(
    figure: Figure,
    shape: HumanShape,
    look: HumanLook,
    pose: HumanPose,
    wrist: Vector,
    forearm: Vector,
    chest: Vector,
    side_sign: tuple[str, float],
    detail: bool,
) -> None:
    side, sign = side_sign
    length = shape.hand
    palm = perpendicular(forearm, chest @ vector(-sign, 0.0, -0.2))
    thumbwards = cross(palm, forearm) * sign
    frame = np.stack([thumbwards, forearm, palm], axis=1)
    middle = wrist + 0.27 * length * forearm
    figure.ellipsoid(middle, frame, (0.21 * length, 0.30 * length, 0.11 * length), look.skin)
    figure.mark(f"{side}_hand_root", wrist + 0.04 * length * forearm, 2.2 * shape.limb_radii[2])
    bend = np.deg2rad(pose.finger_bend)
    finger = np.cos(bend) * forearm + np.sin(bend) * palm
    for number, name in enumerate(_FINGERS):
        if number == 0:
            base = wrist + length * (0.14 * forearm + 0.14 * thumbwards)
            along, reach, radius = unit(forearm + 0.9 * thumbwards + 0.3 * palm), 0.40 * length, 0.055 * length
        else:
            across = 0.16 - 0.105 * (number - 1)
            base = wrist + length * (0.50 * forearm + across * thumbwards)
            along = unit(finger + 0.35 * across / 0.16 * 0.5 * thumbwards)
            reach = length * (0.42, 0.47, 0.43, 0.34)[number - 1]
            radius = 0.045 * length
        names = tuple(f"{side}_{name}{joint}" for joint in (1, 2, 3, 4))
        figure.mark_all(names, base + reach * _JOINTS * along, 3.2 * radius)
        if detail:
            figure.capsule(base, base + reach * along, radius, 0.8 * radius, look.skin)


def _add_leg(
    figure: Figure,
    shape: HumanShape,
    look: HumanLook,
    limb: LimbPose,
    side_sign: tuple[str, float],
    detail: bool,
) -> Vector:
    side, sign = side_sign
    r_thigh, r_knee, r_ankle = shape.limb_radii[3:]
    direction = _limb_direction(limb, sign)
    hip = vector(sign * shape.hip, -0.06 * shape.torso, 0.0)
    knee = hip + shape.thigh * direction
    lateral = vector(1.0, 0.0, 0.0)
    inward = vector(-sign, 0.0, 0.0) * np.sin(np.deg2rad(limb.twist))
    shin = _bent(direction, cross(lateral, direction) + inward, limb.bend)
    ankle = knee + shape.shank * shin
    toes = unit(perpendicular(shin, cross(shin, lateral) + 0.15 * sign * lateral) + 0.35 * shin)
    sole = perpendicular(toes, shin)
    outwards = -sign * cross(sole, toes)
    heel = ankle + 0.45 * r_ankle * sole - 0.20 * shape.foot * toes
    ball = heel + 0.72 * shape.foot * toes + 0.25 * r_ankle * sole
    figure.capsule(hip, knee, r_thigh, r_knee, look.bottom if look.leg else look.skin)
    figure.capsule(knee, ankle, r_knee, r_ankle, look.bottom if look.leg > 0.5 else look.skin)
    if look.skirt:
        figure.capsule(hip, knee, 1.15 * r_thigh, 1.9 * r_knee, look.bottom)
    figure.capsule(heel, ball, 0.95 * r_ankle, 0.85 * r_ankle, look.shoe)
    figure.mark(f"{side}_hip", hip, 1.6 * r_thigh)
    figure.mark(f"{side}_knee", knee, (2.2 if look.skirt else 1.7) * r_knee)
    figure.mark(f"{side}_ankle", ankle, 1.8 * r_ankle)
    spread = 0.10 * shape.foot * outwards
    tip = heel + 0.88 * shape.foot * toes
    figure.mark(f"{side}_big_toe", tip - spread, 1.8 * r_ankle)
    figure.mark(f"{side}_small_toe", tip - 0.08 * shape.foot * toes + spread, 1.8 * r_ankle)
    figure.mark(f"{side}_heel", heel, 1.8 * r_ankle)
    if detail:
        figure.capsule(ball - 0.5 * spread, tip - 0.6 * spread, 0.7 * r_ankle, 0.5 * r_ankle, look.shoe)
    return hip
