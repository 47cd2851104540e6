"""``posecore models``: which published models there are, what one is, and other layouts for it."""

import argparse
from collections import Counter
from typing import TYPE_CHECKING

from posecore.cli.commands import Commands
from posecore.cli.model_argument import add_reading, backbone_alone, stated_skeletons
from posecore.counting import counted
from posecore.errors import QuestionError
from posecore.nearest import did_you_mean

if TYPE_CHECKING:
    from rich.table import Table

    from posecore.models.architecture import ModelCard, ModelConfig


def add(commands: Commands) -> None:
    """Adds ``models list | show | recipes | convert``."""
    group = commands.add_parser("models")
    actions = group.add_subparsers(dest="action", required=True)
    listing = actions.add_parser("list", help="every published model: size, cost, input, terms")
    listing.add_argument("text", nargs="?", default="", help="only names with this in them, for example sapiens")
    listing.set_defaults(run=_list)
    show = actions.add_parser("show", help="architecture, heads, conventions, terms and origin of one model")
    show.add_argument("model", help="published name, preset, file, folder, or organisation/name[@revision][:file]")
    add_reading(show)
    show.set_defaults(run=_show)
    recipes = actions.add_parser("recipes", help="how every published model was trained, as run files get it")
    recipes.add_argument("text", nargs="?", default="", help="only names with this in them, for example sapiens")
    recipes.add_argument("--markdown", action="store_true", help="all of them as the page docs/recipes.md")
    recipes.set_defaults(run=_recipes)
    convert = actions.add_parser("convert", help="write a model in another layout")
    convert.add_argument("source", help="file, folder, published name, or organisation/name[@revision][:file]")
    convert.add_argument("target", help="file (.safetensors, .pth) or folder to write, as the layout has it")
    convert.add_argument(
        "--layout", required=True, help="posecore (ours) or a published one; an unknown name lists them"
    )
    convert.add_argument("--expert", metavar="DATASET", help="merge this dataset's expert: a plain model with one head")
    add_reading(convert)
    convert.add_argument("--license", metavar="ID", help="terms of the file's weights, where nothing states them")
    convert.set_defaults(run=_convert)


def _list(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table

    from posecore.models.catalog import CATALOG

    table = Table(box=None, pad_edge=False)
    for name in ("name", "million", "GFLOPs", "h×w"):
        table.add_column(name, no_wrap=True, justify="left" if name == "name" else "right")
    for name in ("takes", "points", "commercial", "licence"):
        table.add_column(name, no_wrap=True)
    for model in CATALOG.values():
        if options.text not in model.name:
            continue
        table.add_row(
            model.name,
            f"{model.parameters / 1e6:,.2f}",
            f"{2 * model.macs / 1e9:,.1f}",
            "×".join(map(str, model.input_size)),
            "pictures" if model.whole_scenes else "crops",
            "+".join(map(str, model.points)) or "none",
            {True: "yes", False: "no", None: "see terms"}[model.license.commercial_use],
            model.license.id,
        )
    if not table.row_count:
        raise QuestionError(
            f"no published model has {options.text!r} in its name.{did_you_mean(options.text, CATALOG)}"
        )
    # Never narrower than its content: a name that is cut cannot be copied, nor found by grep.
    console = Console(width=max(Console().width, 130))
    console.print(table)
    console.print(
        f"{counted(table.row_count, 'model')}: millions of parameters; arithmetic of one input forward, 2 FLOPs per "
        "multiply-accumulate; crops of single bodies, or whole pictures in which it finds all; points of each head, "
        "none for a backbone alone; whether the terms allow commercial use. "
        "Terms, files and places on the hub: posecore models show NAME. Any backbone is a start for a model of whole "
        "pictures, bottom-up (head associative) or one-stage (head queries); none is published in a form that is read."
    )
    return 0


def _show(options: argparse.Namespace) -> int:
    from rich.console import Console

    from posecore.models.catalog import CATALOG
    from posecore.models.presets import PRESETS
    from posecore.models.weights.read import read_weights

    console = Console(highlight=False)
    if options.model in CATALOG:
        model = CATALOG[options.model]
        lines = [f"{model.name}: preset {model.preset}, layout {model.layout}"]
        lines += [f"file {model.file or 'of any name'}, {f'hub {model.hub}' if model.hub else model.homepage}"]
        card = model.card()
    elif options.model in PRESETS:
        published = [model.name for model in CATALOG.values() if model.preset == options.model]
        console.print(f"{options.model}: a preset; published as {', '.join(published) or 'nothing'}")
        config = _preset(options.model)
        console.print(_architecture(config), soft_wrap=True)
        console.print(f"with one head of 17 points: {_cost(config, {'head': 17})}")
        return 0
    else:
        skeletons = stated_skeletons(options)
        weights = read_weights(options.model, options.expect, skeletons, backbone_only=backbone_alone(options))
        lines = [options.model]
        card = weights.card
    points = {dataset: skeleton.num_keypoints for dataset, skeleton in card.skeletons.items()}
    for line in (*lines, _architecture(card.architecture), _cost(card.architecture, points)):
        console.print(line, soft_wrap=True)
    console.print(_heads(card) if card.skeletons else "no heads: a backbone to start from")
    for line in (*_promises(card), *_terms(card), *_origin(card)):
        console.print(line, soft_wrap=True)
    return 0


def _recipes(options: argparse.Namespace) -> int:
    import yaml

    from posecore.training.recipe_page import page
    from posecore.training.recipes import RECIPES

    if options.markdown:
        print(page(), end="")
        return 0
    asked = [recipe for recipe in RECIPES.values() if options.text in recipe.name]
    if not asked:
        raise QuestionError(f"no recipe has {options.text!r} in its name.{did_you_mean(options.text, RECIPES)}")
    for recipe in asked:
        print(
            f"# {recipe.name}, for {recipe.preset}: {counted(recipe.batch, 'crop')} a step, {recipe.length}\n# "
            f"{recipe.source}"
        )
        print(yaml.safe_dump(dict(recipe.fields), sort_keys=False, default_flow_style=None, width=120))
    return 0


def _cost(config: "ModelConfig", points: dict[str, int]) -> str:
    from posecore.models.cost import model_cost

    uncounted = config.backbone.uncounted_parameters
    if uncounted is not None:
        return f"{counted(uncounted, 'number')} in the graph, whose arithmetic is not counted"
    cost = model_cost(config, points)
    return (
        f"{cost.parameters:,} parameters, {cost.flops / 1e9:,.1f} GFLOPs per input forward (2 per multiply-accumulate)"
    )


def _preset(name: str) -> "ModelConfig":
    from posecore.config import parse_config
    from posecore.models.architecture import ModelConfig

    return parse_config({"backbone": name}, ModelConfig, origin=name)


def _architecture(config: "ModelConfig") -> str:
    fields = config.backbone.model_dump(exclude={"kind"}, exclude_defaults=True)
    settings = ", ".join(f"{name} {value}" for name, value in fields.items())
    height, width = config.input_size
    takes = "whole pictures" if config.whole_scenes else "crops"
    head = f"{config.head.approach} head {config.head.kind}"
    return f"backbone {config.backbone.kind} ({settings}), {head}, {takes} of {height}×{width} (h×w)"


def _heads(card: "ModelCard") -> "Table":
    from rich.table import Table

    table = Table("dataset", "skeleton", "points", "codec", "padding", "shift in flip test")
    for dataset, skeleton in card.skeletons.items():
        conventions = card.conventions[dataset]
        codec = card.architecture.codec(conventions)
        table.add_row(
            dataset,
            skeleton.name,
            str(skeleton.num_keypoints),
            codec.kind,
            f"{conventions.padding:g}",
            "yes" if conventions.flip_shift else "no",
        )
    return table


def _promises(card: "ModelCard") -> list[str]:
    lines = []
    for each in card.uncertainty:
        lines.append(
            f"calibrated: {each.head}, {each.how}, on {each.data}, {each.level:g} of the points of a new {each.unit}"
        )
    return lines


def _terms(card: "ModelCard") -> list[str]:
    from posecore.models.weights.licenses import LICENSES

    lines = [f"licence of {name}: {license_id}" for name, license_id in card.licenses.items()]
    notes = {LICENSES[license_id].note for license_id in card.licenses.values() if license_id in LICENSES}
    return lines + sorted(notes)


def _origin(card: "ModelCard") -> list[str]:
    from posecore.models.weights.read import guessed_heads

    record = card.lineage.get("weights")
    if not isinstance(record, dict):
        return [f"{part}: {value}" for part, value in card.lineage.items()]
    keys = ("source", "revision", "sha256", "layout", "preset")
    lines = [f"{key}: {record[key]}" for key in keys if record.get(key)]
    if guessed := guessed_heads(card):
        listed = ", ".join(f"{counted(count, 'point')}, so {dataset}" for dataset, count in guessed.items())
        lines.append(f"head guessed by its number of points ({listed}); confirm it with --heads {' '.join(guessed)}")
    dropped = record.get("dropped")
    return lines + (_left_out(dropped) if isinstance(dropped, dict) else [])


def _left_out(dropped: "dict[str, str]") -> list[str]:
    reasons = Counter(str(reason) for reason in dropped.values())
    return [f"left out {counted(count, 'tensor')}: {reason}" for reason, count in reasons.items()]


def _convert(options: argparse.Namespace) -> int:
    from posecore.models.merge import merge_experts
    from posecore.models.weights.read import read_weights
    from posecore.models.weights.write import write_weights

    model = read_weights(
        options.source,
        options.expect,
        stated_skeletons(options),
        backbone_only=backbone_alone(options),
        license_id=options.license,
    )
    if options.expert:
        model = merge_experts(model, options.expert)
    dropped = write_weights(model, options.layout, options.target)
    print(f"{options.target}: layout {options.layout}, heads {', '.join(model.heads) or 'none'}")
    print("\n".join((*_origin(model.card), *_left_out(dropped), *_terms(model.card))))
    return 0
