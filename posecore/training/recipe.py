"""How a published model was trained, and a run that follows it: what a run file leaves out, and where it departs.

A :class:`Recipe` holds fields of a run file, by the names they have there. :func:`follow` lays them under a run: what
the file says stays, what it leaves out is the recipe's, and every difference that remains is a :class:`Deviation`. That
happens once, before anything starts, so that steps and their fingerprints see resolved values only.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, TypeAlias, TypeVar

from pydantic import BeforeValidator, TypeAdapter
from pydantic_core import to_jsonable_python

from posecore.config import Config, parse_config
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.models.architecture import ModelConfig
from posecore.models.presets import preset_of
from posecore.nearest import choices
from posecore.schema import Json

NONE = "none"
"""Name that a run gives where it follows no recipe."""

_MOST_RATIO = 2.0
"""A rate per crop further from the recipe's than this factor is warned of."""
_UNPUBLISHED = {
    "activation_checkpointing",
    "adapter_dim",
    "depth_input",
    "global_blocks",
    "knowledge_tokens",
    "knowledge_width",
    "window",
}
"""Fields of a backbone that decide how it computes or what is added to it, not what was published."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A published training.

    Attributes:
        name: how a run file asks for it.
        preset: the backbone it was published for.
        source: paper or repository with commit and file.
        job: ``train`` for labels, ``distill`` for a teacher as well.
        keypoints: number of points of the largest published head.
        batch: crops per step that the rate belongs to.
        length: of the run, in words.
        fields: of a run file, nested as there.
        unmet: what was published and is not done here, one sentence each.
    """

    name: str
    preset: str
    source: str
    job: Literal["train", "distill"] = "train"
    keypoints: int
    batch: int
    length: str
    fields: Mapping[str, Json]
    unmet: tuple[str, ...] = ()

    @property
    def method(self) -> str | None:
        """Kind of the method of training, where the recipe says it."""
        method = self.fields.get("method")
        return str(method["kind"]) if isinstance(method, dict) and "kind" in method else None

    @property
    def training(self) -> Mapping[str, Any]:
        """The fields of the loop."""
        training = self.fields["training"]
        assert isinstance(training, dict), self.name
        return training


class RecipeConfig(Config):
    """Which recipe a run follows; its name alone may be given.

    Attributes:
        name: of a recipe (``posecore models recipes``), ``none``, or None for the one published for the backbone.
        auto_scale_lr: multiply the learning rate by the run's global batch over the recipe's.
    """

    name: str | None = None
    auto_scale_lr: bool = False


RecipeChoice: TypeAlias = Annotated[
    RecipeConfig, BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
]
"""Field of a run file: a recipe's name, or ``{name: …, auto_scale_lr: true}``."""


@dataclass(frozen=True, slots=True)
class Deviation:
    """A value of a run that is not the recipe's.

    Attributes:
        field: dotted path in the run file.
        own: the run's value.
        published: the recipe's.
    """

    field: str
    own: Json
    published: Json

    def __str__(self) -> str:
        """In one line."""
        return f"{self.field}: {_shown(self.own)}, published {_shown(self.published)}"


def recipe_facts(lineage: Mapping[str, Json]) -> dict[str, str]:
    """Lines of a report about a model: the recipe it followed, and every departure; none where no run said so.

    Args:
        lineage: of the model's card.
    """
    record = lineage.get("recipe")
    if not isinstance(record, Mapping):
        return {}
    if record["name"] == NONE:
        return {"recipe": NONE}
    departures = "; ".join(record["deviations"]) or "none"
    facts = {"recipe": f"{record['name']} ({record['source']})", "deviations from it": departures}
    return facts | ({"remarks": " ".join(record["remarks"])} if record["remarks"] else {})


_JobT = TypeVar("_JobT", bound=Config)


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed(Generic[_JobT]):
    """A run with the recipe it follows.

    Attributes:
        config: the run, complete.
        recipe: None where it follows none.
        deviations: every value that is not the recipe's.
        remarks: what else is worth a line: a scaled rate, a rate that does not fit the batch, what is not done here.
    """

    config: _JobT
    recipe: Recipe | None = None
    deviations: tuple[Deviation, ...] = ()
    remarks: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """To be printed before a run starts."""
        if self.recipe is None:
            yield "recipe    none"
            return
        yield f"recipe    {self.recipe.name} ({self.recipe.source}), {_times(len(self.deviations), 'deviation')}"
        for deviation in self.deviations:
            yield f"deviates  {deviation}"
        for remark in self.remarks:
            yield f"note      {remark}"

    def record(self) -> dict[str, Json]:
        """To be kept with the model, whose card calls it ``recipe`` in its lineage; see :func:`recipe_facts`."""
        if self.recipe is None:
            return {"name": NONE}
        return {
            "name": self.recipe.name,
            "source": self.recipe.source,
            "deviations": [str(deviation) for deviation in self.deviations],
            "remarks": list(self.remarks),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """What a recipe is chosen for.

    Attributes:
        model: the architecture to be trained, with what the method adds to it.
        keypoints: number of points by dataset.
        job: see :class:`Recipe`.
        field: what the run file calls the architecture.
        method: kind of the method, or None where the run file leaves it out.
    """

    model: ModelConfig
    keypoints: Mapping[str, int]
    job: Literal["train", "distill"] = "train"
    field: str = "model"
    method: str | None = None


def follow(config: _JobT, choice: RecipeConfig, pupil: Pupil, recipes: Mapping[str, Recipe]) -> Followed[_JobT]:
    """Completes a run by its recipe.

    Args:
        config: the run as its file states it; has ``training``, and what else a recipe may have fields of.
        choice: which recipe.
        pupil: what is trained.
        recipes: by name.

    Raises:
        ConfigError: there is no such recipe, it was published for another backbone, or the rate cannot be scaled.
    """
    recipe = choose(choice, pupil, recipes)
    if recipe is None:
        if choice.auto_scale_lr:
            raise ConfigError("recipe.auto_scale_lr: without a recipe no batch is known that the rate belongs to.")
        return Followed(config=config)
    complete = filled(config, recipe.fields, origin=f"recipe {recipe.name}")
    remarks = []
    if choice.auto_scale_lr:
        complete, remark = _scaled(complete, recipe)
        remarks.append(remark)
    deviations = (*_deviations(complete, recipe), *_of_architecture(pupil, recipe))
    remarks += [*_odd_rate(complete, recipe), *recipe.unmet]
    return Followed(config=complete, recipe=recipe, deviations=deviations, remarks=tuple(remarks))


def choose(choice: RecipeConfig, pupil: Pupil, recipes: Mapping[str, Recipe]) -> Recipe | None:
    """The recipe that is asked for, or the one published for the backbone, the method and about as many points.

    Returns:
        None where none is wanted, or none was published.

    Raises:
        ConfigError: there is no such recipe, or it was published for another backbone or another kind of job.
    """
    if choice.name == NONE:
        return None
    preset = preset_of(pupil.model.backbone)
    own = [recipe for recipe in recipes.values() if recipe.preset == preset and recipe.job == pupil.job]
    if choice.name is None:
        own = [recipe for recipe in own if pupil.method in (None, recipe.method)] or own
        most = max(pupil.keypoints.values())
        return min(own, key=lambda recipe: abs(math.log(recipe.keypoints / most)), default=None)
    if choice.name not in recipes:
        raise ConfigError(f"recipe: none is called {choice.name!r}.{choices(choice.name, (*recipes, NONE))}")
    recipe = recipes[choice.name]
    if recipe not in own:
        advice = f"recipe: {own[0].name}" if own else f"recipe: {NONE}"
        what = f"{pupil.field}.backbone is {preset or 'of no preset'}"
        raise ConfigError(
            f"recipe: {recipe.name} was published for {recipe.preset} ({recipe.job}), and {what} ({pupil.job}); take "
            f"that backbone, or {advice}."
        )
    return recipe


def filled(config: _JobT, fields: Mapping[str, Json], origin: str) -> _JobT:
    """A configuration with what it leaves out.

    Args:
        config: as it was stated; fields that only have their defaults count as left out.
        fields: what takes their place, nested as in the configuration.
        origin: of these, for error messages.

    Raises:
        ConfigError: the two contradict each other.
    """
    values = {name: getattr(config, name) for name in config.model_fields_set}
    if not fields:
        return config
    for name, published in fields.items():
        values[name] = _filled(getattr(config, name), name in values, published)
    return parse_config(values, type(config), origin=origin)


def pace(model: ModelConfig, recipes: Mapping[str, Recipe]) -> dict[str, Json]:
    """The optimiser's settings that belong to a backbone, whatever it learns: its layer decay, and what is not decayed.

    Returns:
        Fields of :class:`~posecore.training.optimizer.OptimizerConfig`; none where nothing was published.
    """
    preset = preset_of(model.backbone)
    optimizer: Mapping[str, Json] = next((r.training["optimizer"] for r in recipes.values() if r.preset == preset), {})
    return {name: optimizer[name] for name in ("layer_decay", "undecayed") if name in optimizer}


def _filled(own: Any, stated: bool, published: Json) -> Any:
    """A value of a run file with what it leaves out; what it states of another kind stands as it is."""
    if not isinstance(own, Config) or not isinstance(published, dict):
        return own if stated else published
    if published.get("kind", _kind(own)) != _kind(own):
        return own if stated else published
    values = {name: getattr(own, name) for name in own.model_fields_set} if stated else {}
    if _kind(own) is not None:
        values["kind"] = _kind(own)
    for name, value in published.items():
        if name != "kind":
            values[name] = _filled(getattr(own, name), stated and name in own.model_fields_set, value)
    return values


def _kind(config: Config) -> str | None:
    return getattr(config, "kind", None)


def _deviations(config: Config, recipe: Recipe) -> Iterator[Deviation]:
    yield from _departures(config, recipe.fields, "")
    for entry in getattr(config, "datasets", ()):
        if entry.augment is not None:
            yield Deviation(f"datasets.{entry.name}.augment", "its own", "the run's")
    batch = config.training.global_batch  # type: ignore[attr-defined]
    if batch != recipe.batch:
        yield Deviation("training.global_batch", batch, recipe.batch)


def _departures(own: Config, published: Mapping[str, Json], prefix: str) -> Iterator[Deviation]:
    """Where a configuration is not what a recipe says; it may say little, and a name for many values."""
    if published.get("kind", _kind(own)) != _kind(own):
        yield Deviation(f"{prefix}kind", _kind(own), published["kind"])
        return
    for name, value in published.items():
        mine = getattr(own, name)
        if isinstance(mine, Config) and isinstance(value, dict):
            yield from _departures(mine, value, f"{prefix}{name}.")
            continue
        declared: Any = Annotated[type(own).model_fields[name].annotation, type(own).model_fields[name]]
        its = TypeAdapter(declared).validate_python(value)
        yield from _differences({name: _plain(mine)}, {name: _plain(its)}, prefix)


def _of_architecture(pupil: Pupil, recipe: Recipe) -> Iterator[Deviation]:
    """Where the model is not the preset: drop path, head, input size, target spread, conventions."""
    said = recipe.fields.get(pupil.field, {})
    preset = ModelConfig.model_validate({"backbone": recipe.preset, **said})
    names = type(pupil.model).model_fields.keys() - {"shared_heads", "embedding"}
    models = (filled(pupil.model, said, origin=f"recipe {recipe.name}"), preset)
    own, its = (model.model_dump(mode="json", include=set(names)) for model in models)
    for values in (own, its):
        values["backbone"] = {key: item for key, item in values["backbone"].items() if key not in _UNPUBLISHED}
    yield from _differences(own, its, f"{pupil.field}.")


def _differences(own: Mapping[str, Json], published: Mapping[str, Json], prefix: str) -> Iterator[Deviation]:
    if own.get("kind") != published.get("kind"):
        yield Deviation(f"{prefix}kind", own.get("kind"), published.get("kind"))
        return
    for name in [*published, *(name for name in own if name not in published)]:
        mine, its = own.get(name), published.get(name)
        if isinstance(mine, dict) and isinstance(its, dict):
            yield from _differences(mine, its, f"{prefix}{name}.")
        elif mine != its:
            yield Deviation(f"{prefix}{name}", mine, its)


def _plain(value: Any) -> Json:
    return value.model_dump(mode="json") if isinstance(value, Config) else to_jsonable_python(value)


def _scaled(config: _JobT, recipe: Recipe) -> tuple[_JobT, str]:
    """The run with its rate multiplied by its batch over the recipe's."""
    training: Any = config.training  # type: ignore[attr-defined]
    before, factor = training.optimizer.lr, training.global_batch / recipe.batch
    optimizer = training.optimizer.model_copy(update={"lr": before * factor})
    scaled = config.model_copy(update={"training": training.model_copy(update={"optimizer": optimizer})})
    return scaled, (
        f"auto_scale_lr: {before:g} belongs to {counted(recipe.batch, 'crop')} a step; for {training.global_batch} it "
        f"is {before * factor:g}."
    )


def _odd_rate(config: Config, recipe: Recipe) -> Iterator[str]:
    """A sentence where the rate per crop is far from the recipe's."""
    training: Any = config.training  # type: ignore[attr-defined]
    published = recipe.training["optimizer"]["lr"]
    ratio = training.optimizer.lr / training.global_batch * recipe.batch / published
    if not 1 / _MOST_RATIO <= ratio <= _MOST_RATIO:
        fitting = published * training.global_batch / recipe.batch
        yield (
            f"warning: a rate of {training.optimizer.lr:g} for {counted(training.global_batch, 'crop')} a step is "
            f"{ratio:.3g} times the published {published:g} for {recipe.batch}, per crop; recipe.auto_scale_lr would "
            f"make it {fitting:g}."
        )


def _shown(value: Json) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "[" + ", ".join(_shown(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) + "}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _times(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"
