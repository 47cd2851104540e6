"""``docs/recipes.md``: every recipe as tables, made from the values that runs get."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from posecore.counting import counted
from posecore.models.architecture import ModelConfig
from posecore.training.recipe import Recipe
from posecore.training.recipes import RECIPES

_INTRODUCTION = """\
# Recipes

How each published model was trained, as runs get it: what a run file leaves out of `method`, `loading` and `training`
is taken from the recipe published for its backbone, its method and about as many points. `recipe: NAME` asks for
another one of that backbone, `recipe: none` for none. A run prints every value that is not its recipe's, and keeps the
list with its model (`lineage.recipe` in `model.json`, in the report and in the registry).

`recipe: {auto_scale_lr: true}` multiplies the learning rate by the run's global batch over the recipe's. It is off
unless asked for, as published; a run whose rate per crop is more than twice the recipe's, or less than half, says so.

This page is generated: `posecore models recipes --markdown > docs/recipes.md`.
"""

_OPTIMISATION = (
    "recipe", "backbone", "batch", "rate", "decay", "spares", "layer decay", "drop path", "clip", "schedule"
)  # fmt: skip
_REST = ("recipe", "precision", "average", "method", "input, map σ, blur", "crops", "length")
_SPARED = {"vectors": "vectors, biases, positions", "norms_and_biases": "norms, biases"}


def page() -> str:
    """The page as Markdown, its sources below each table."""
    parts = [_INTRODUCTION]
    for title, belongs in _FAMILIES.items():
        recipes = [recipe for recipe in RECIPES.values() if belongs(recipe)]
        parts += [f"## {title}\n", *_tables(recipes), *_notes(recipes)]
    return "\n".join(parts)


_FAMILIES: Mapping[str, Callable[[Recipe], bool]] = {
    "ViTPose": lambda r: r.name.startswith("vitpose-") and "plus" not in r.name,
    "ViTPose++": lambda r: r.name.startswith("vitpose-plus-"),
    "PoseBH": lambda r: r.name.startswith("posebh-"),
    "RTMPose": lambda r: r.name.startswith("rtmpose-"),
    "DWPose": lambda r: r.name.startswith("dwpose-"),
    "Sapiens": lambda r: r.name.startswith("sapiens-"),
    "Sapiens2": lambda r: r.name.startswith("sapiens2-"),
}


def _tables(recipes: list[Recipe]) -> Iterator[str]:
    yield _table(_OPTIMISATION, map(_optimisation, recipes))
    yield _table(_REST, map(_rest, recipes))


def _optimisation(recipe: Recipe) -> tuple[str, ...]:
    optimizer = recipe.training["optimizer"]
    clip = optimizer["clip_norm"]
    return (
        f"`{recipe.name}`",
        recipe.preset,
        str(recipe.batch),
        f"{optimizer['lr']:g}",
        f"{optimizer['weight_decay']:g}",
        _SPARED[optimizer["undecayed"]],
        f"{optimizer['layer_decay']:g}" if optimizer["layer_decay"] != 1 else "–",
        f"{getattr(_model(recipe).backbone, 'drop_path', 0.0):g}",
        "–" if clip is None else f"{clip:g}",
        _schedule(recipe.training["schedule"]),
    )


def _rest(recipe: Recipe) -> tuple[str, ...]:
    training, model = recipe.training, _model(recipe)
    batchnorm = ", BatchNorm over all GPUs" if training.get("synchronised_batchnorm") else ""
    loading = recipe.fields["loading"]
    late = loading.get("late")
    crops = _crops(loading["augment"])
    if late:
        crops += f"; from epoch {late['from_pass']}: {_crops(late['augment'])}"
    height, width = model.input_size
    spread = "" if model.head.kind == "rtmcc" else f", σ {model.heatmap_sigma:g}, kernel {model.blur_kernel}"
    return (
        f"`{recipe.name}`",
        training.get("engine", {}).get("precision", "not stated") + batchnorm,
        _average(training),
        _method(recipe),
        f"{height}×{width}{spread}",
        crops,
        recipe.length,
    )


def _model(recipe: Recipe) -> ModelConfig:
    return ModelConfig.model_validate({"backbone": recipe.preset, **recipe.fields.get("model", {})})


def _schedule(schedule: Mapping[str, Any]) -> str:
    until = ", whole in the last" if schedule["warmup_reaches"] == "last" else ""
    warmup = f"{counted(schedule['warmup_steps'], 'step')} from {schedule['warmup_start']:g}{until}"
    match schedule["kind"]:
        case "multistep":
            drops = ", ".join(f"{milestone:.4g}" for milestone in schedule["milestones"])
            return f"{warmup}; ×{schedule['gamma']:g} at {drops} of the run"
        case "cosine":
            return f"{warmup}; cosine from {schedule['begin']:g} of the run to {schedule['floor']:g}"
        case _:
            return f"{warmup}; polynomial, power {schedule['power']:g}, to {schedule['floor']:g}"


def _average(training: Mapping[str, Any]) -> str:
    average = training.get("average")
    return "–" if average is None else f"momentum {average['momentum']:g}, warm-up {average['warmup']}"


def _method(recipe: Recipe) -> str:
    fields = {**recipe.fields.get("method", {})}
    kind = fields.pop("kind", "teacher")
    fields |= {name: recipe.fields[name] for name in ("second_stage", "backbone_statistics") if name in recipe.fields}
    settings = [
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in fields.items()
    ]
    return ", ".join([kind, *(setting for setting in settings if not setting.endswith(" None"))])


def _crops(augment: Mapping[str, Any]) -> str:
    degrees, turns = augment["rotation_degrees"], augment["rotation_distribution"]
    said = [
        f"flip {augment['flip_probability']:g}",
        f"half body {augment['half_body_probability']:g} by {augment['half_body_rule']}",
        f"scale 1 ± {augment['scale_factor']:g} {augment['scale_distribution']}",
        f"turn {degrees:g}° {turns}, {augment['rotation_probability']:g}",
        _shift(augment),
    ]
    if augment["appearance"]:
        look = augment["appearance"]
        blurs = f"blurs {look['blur_probability']:g} and {look['median_blur_probability']:g}"
        said.append(f"colour, {blurs}, hole {look['hole_probability']:g}")
    return ", ".join(said)


def _shift(augment: Mapping[str, Any]) -> str:
    how = augment["center_jitter"]
    if how == "off":
        return "no shift"
    extent = f"{augment['center_jitter_extent']:g} {augment['center_jitter_distribution']}"
    return f"shift {extent}, {augment['center_jitter_probability']:g}, {how.replace('_', ' ')}"


def _notes(recipes: list[Recipe]) -> Iterator[str]:
    sources: dict[str, list[str]] = {}
    for recipe in recipes:
        sources.setdefault(recipe.source, []).append(recipe.name)
    for source, names in sources.items():
        yield f"Source of {', '.join(names)}: {source}.\n"
    for sentence in dict.fromkeys(sentence for recipe in recipes for sentence in recipe.unmet):
        yield f"Not done here: {sentence}\n"


def _table(columns: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [columns, tuple("---" for _ in columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"
