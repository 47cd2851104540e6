"""Adults and infants: their proportions, clothes and poses, drawn at random within what is plausible."""

from dataclasses import dataclass

import numpy as np

from posecore.synth.figure import Colour, Material

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
    """Skin, hair and clothes. ``sleeve`` and ``leg`` say how far they reach: 0 none, 0.5 to the joint, 1 to the end.

    Without ``gloves`` hands are bare.
    """

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
    gloves: Material | None = None


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
