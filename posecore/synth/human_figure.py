"""A human body as solids and landmarks: torso, head with face and hair, arms with hands, legs with feet."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from posecore.synth.face import EYE_X, EYE_Y, FACE_POINTS, MOUTH_Y, NOSE_TIP_Y, on_head
from posecore.synth.figure import (
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
from posecore.synth.human import HumanLook, HumanPose, HumanShape, LimbPose
from posecore.synth.landmarks import FACE_68

_SIDES = (("left", 1.0), ("right", -1.0))
_FINGERS = ("thumb", "forefinger", "middle_finger", "ring_finger", "pinky_finger")
_OnHead: TypeAlias = Callable[[Vector | list[float]], Vector]
"""From a point in head half-sizes to the body frame."""

_JOINTS = np.linspace(0, 1, 4)[:, None]
"""Where a finger's four points lie between its base and its tip."""

_EYE_WHITE = Material((0.95, 0.95, 0.93), grain=0.0)
_PUPIL = Material((0.10, 0.08, 0.07), grain=0.0)


@dataclass(frozen=True, slots=True)
class _Assembly:
    """What every part of a body needs to know of it; ``chest`` is its frame, ``neck_base`` where the neck begins."""

    figure: Figure
    shape: HumanShape
    look: HumanLook
    pose: HumanPose
    detail: bool
    waist: Vector
    chest: Vector
    neck_base: Vector


def build_human(shape: HumanShape, look: HumanLook, pose: HumanPose, detail: bool) -> Figure:
    """The posed body, pelvis at the origin; without ``detail`` (a far-away figure) face and fingers are left out."""
    forward, sideways, turn = pose.spine
    chest = rotation_y(turn) @ rotation_z(sideways) @ rotation_x(forward)
    waist = vector(0.0, 0.38 * shape.torso, 0.0)
    neck_base = waist + chest @ vector(0.0, 0.62 * shape.torso, 0.0)
    figure = Figure()
    body = _Assembly(figure, shape, look, pose, detail, waist, chest, neck_base)
    _add_torso(body)
    _add_head(body)
    shoulders = [_add_arm(body, limb, *side) for side, limb in zip(_SIDES, pose.arms, strict=True)]
    hips = [_add_leg(body, limb, *side) for side, limb in zip(_SIDES, pose.legs, strict=True)]
    figure.mark("thorax", (shoulders[0] + shoulders[1]) / 2, 1.5 * shape.chest[1])
    figure.mark("pelvis", (hips[0] + hips[1]) / 2, 1.5 * shape.belly[1])
    return figure


def _add_torso(body: _Assembly) -> None:
    figure, shape, look = body.figure, body.shape, body.look
    waist, chest, neck_base = body.waist, body.chest, body.neck_base
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


def _add_head(body: _Assembly) -> None:
    figure, shape, look = body.figure, body.shape, body.look
    chest, neck_base = body.chest, body.neck_base
    forward, sideways, turn = body.pose.head
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
    if body.detail:
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


def _add_arm(body: _Assembly, limb: LimbPose, side: str, sign: float) -> Vector:
    figure, shape, look = body.figure, body.shape, body.look
    chest, neck_base = body.chest, body.neck_base
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
    _add_hand(body, wrist, forearm, side, sign)
    return shoulder


def _add_hand(body: _Assembly, wrist: Vector, forearm: Vector, side: str, sign: float) -> None:
    figure, shape = body.figure, body.shape
    skin = body.look.gloves or body.look.skin
    length = shape.hand
    palm = perpendicular(forearm, body.chest @ vector(-sign, 0.0, -0.2))
    thumbwards = cross(palm, forearm) * sign
    frame = np.stack([thumbwards, forearm, palm], axis=1)
    middle = wrist + 0.27 * length * forearm
    figure.ellipsoid(middle, frame, (0.21 * length, 0.30 * length, 0.11 * length), skin)
    figure.mark(f"{side}_hand_root", wrist + 0.04 * length * forearm, 2.2 * shape.limb_radii[2])
    bend = np.deg2rad(body.pose.finger_bend)
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
        if body.detail:
            figure.capsule(base, base + reach * along, radius, 0.8 * radius, skin)


def _add_leg(body: _Assembly, limb: LimbPose, side: str, sign: float) -> Vector:
    figure, shape, look = body.figure, body.shape, body.look
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
    if body.detail:
        figure.capsule(ball - 0.5 * spread, tip - 0.6 * spread, 0.7 * r_ankle, 0.5 * r_ankle, look.shoe)
    return hip
