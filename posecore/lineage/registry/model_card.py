"""The model card: one page of Markdown that says what a model is, what it was made from and how well it does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from posecore.lineage.ancestry.permissions import Verdict
from posecore.lineage.versions.dataset_inputs import DatasetUse, short_digest
from posecore.lineage.versions.weights_use import weights_of
from posecore.models.saving import read_card
from posecore.training.recipe import recipe_facts

_REASONS = 5
_TEMPLATE = """\
# {{ name }}
{% if summary %}
{{ summary }}
{% endif %}
Backbone {{ card.architecture.backbone.kind }}\
{% if card.architecture.backbone.embed_dim is defined %} of width {{ card.architecture.backbone.embed_dim }} and depth \
{{ card.architecture.backbone.depth }}{% endif %}, \
input {{ card.architecture.input_size[0] }}×{{ card.architecture.input_size[1] }} (height × width).
{% if parent_uri %}
Made from `{{ parent_uri }}`, which has its own card and data.
{% endif %}
## Heads

| dataset | skeleton | points |
|---|---|---|
{% for dataset, skeleton in card.skeletons.items() -%}
| {{ dataset }} | {{ skeleton.name }} | {{ skeleton.keypoints | length }} |
{% endfor %}
## Data

| split | used for | licence | digest |
|---|---|---|---|
{% for use in datasets -%}
| {{ use.label }} | {{ use.role }} | {{ use.license }} | `{{ short(use.digest) }}` |
{% endfor %}
{% if weights %}
## Weights it started from

| source | layout | licence | SHA-256 |
|---|---|---|---|
{% for use in weights -%}
| {{ use.source }} | {{ use.layout }} | {{ use.license }} | `{{ use.digest[:12] }}` |
{% endfor %}
{% for use in weights if use.note -%}
{{ use.license }}: {{ use.note }}

{% endfor -%}
{% endif -%}
## What it may be used for

By the licences of every dataset, picture and weights behind it, ancestors' and teachers' included.

| use | | why |
|---|---|---|
{% for verdict in verdicts -%}
| {{ verdict.use }} | {{ verdict.word }} | {{ verdict.reasons[:most] | join("; ") }}\
{% if verdict.reasons | length > most %}; and {{ verdict.reasons | length - most }} more{% endif %} |
{% endfor %}
{% if recipe -%}
## Training

{% for name, value in recipe.items() -%}
- {{ name }}: {{ value }}
{% endfor %}
{% endif -%}
## Results
{% if metrics %}
| set | metric | value |
|---|---|---|
{% for set, values in metrics.items() -%}
{% for metric, value in values.items() -%}
| {{ set }} | {{ metric }} | {{ "%.4f" | format(value) }} |
{% endfor -%}
{% endfor %}
{%- else %}
Not evaluated.
{% endif %}
## Limits

Measured only on the sets above; other populations, views and species are unknown until evaluated. Image coordinates
ignore EXIF orientation. A body needs a box; without one the whole image is taken for it.
"""


def model_card(
    name: str,
    model_folder: Path,
    datasets: Sequence[DatasetUse],
    metrics: Mapping[str, Mapping[str, float]],
    verdicts: Sequence[Verdict] = (),
    parent_uri: str | None = None,
    summary: str = "",
) -> str:
    """The card as Markdown.

    Args:
        name: registered model.
        model_folder: the model; its ``model.json`` gives architecture and heads.
        datasets: every split it was trained or evaluated on.
        metrics: by evaluation set and metric.
        verdicts: what it may be used for.
        parent_uri: MLflow URI of the version it was made from.
        summary: one paragraph.
    """
    card = read_card(model_folder).model_dump(mode="json")
    # Markdown, not HTML: MLflow escapes it where it is shown.
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False)
    return environment.from_string(_TEMPLATE).render(
        name=name,
        summary=summary,
        card=card,
        datasets=datasets,
        weights=weights_of(Path(model_folder)),
        metrics=metrics,
        recipe=recipe_facts(card["lineage"]),
        parent_uri=parent_uri,
        verdicts=verdicts,
        most=_REASONS,
        short=short_digest,
    )
