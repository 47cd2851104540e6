"""A knowledge token: learned on a frozen teacher, then shown to the student beside its patches.

Source: ViTPose, arXiv 2204.12484, section 3.4: ``t* = argmin_t MSE(T({t; X}), K_gt)``, where T is the trained teacher,
{t; X} a token after the patches X of a crop, and K_gt what the labels draw. The student learns with the same t*, which
never changes again.

The paper says neither how long and at which rate the token is learned, nor what a student of another width does with
it, nor whether the token stays after training. Here a student of another width has a linear layer of its own before the
token, trained with the rest, and the token stays: it belongs to the function that was trained.
"""

import torch
from pydantic import Field
from torch import Tensor, nn

from posecore.config import Config
from posecore.counting import counted
from posecore.errors import ConfigError
from posecore.methods.batch import DeviceBatch
from posecore.methods.losses import usual_loss
from posecore.methods.teacher import lessons_for
from posecore.models.architecture import ModelConfig
from posecore.models.backbones.vit import VitConfig
from posecore.models.pose_model import PoseModel, build_from
from posecore.models.sources import ModelFolder

_TOKENS = "backbone.knowledge_tokens"
_INITIAL_STD = 0.02


class KnowledgeTokenConfig(Config):
    """Who learns a token.

    Attributes:
        teacher: a trained model with a plain vision transformer.
        teacher_heads: which of its heads answers for a dataset, where that is not the one of the same name, or else the
            one that shares most points.
        number: of tokens; published: 1.
    """

    teacher: ModelFolder
    teacher_heads: dict[str, str] = {}
    number: int = Field(default=1, gt=0)

    def architecture(self, model: ModelConfig) -> ModelConfig:
        """A stand-in of one block: the teacher is read, and this is built for its input size and datasets alone.

        Args:
            model: the teacher's.
        """
        return model.model_copy(update={"backbone": model.backbone.shallow(), "shared_heads": {}, "embedding": None})

    def build(self, model: PoseModel) -> "KnowledgeToken":
        """The method that trains the token.

        Args:
            model: says which datasets have which points, and how large the crops are.

        Raises:
            CheckpointError: the teacher cannot be read.
            ConfigError: it can learn no token from these datasets.
            IntegrityError: it is not the stated one.
        """
        with torch.device("cpu"):  # an outline, of which every rank reads its part, has the teacher whole as well
            return KnowledgeToken(model, self.teacher.read(), self)


class KnowledgeToken(nn.Module):
    """The loss of the labels on a teacher's outputs, as a function of nothing but the token.

    The token is the only tensor of this module: what a method registers is optimised, sharded and written to
    checkpoints. The teacher is held whole by every rank and stays in evaluation mode, so that neither its weights nor
    the statistics of its BatchNorm change and no block is dropped.

    Args:
        model: its datasets are learned from, and its input size is that of the crops.
        teacher: the trained model; it is copied.
        config: how many tokens, and whose head answers.

    Raises:
        ConfigError: the teacher has no plain vision transformer or has tokens already, shares no point with a dataset,
            or looks at crops of another size.
    """

    def __init__(self, model: PoseModel, teacher: PoseModel, config: KnowledgeTokenConfig) -> None:
        super().__init__()
        model.refuse_scenes("a knowledge token")
        if model.input_size != teacher.input_size:
            (height, width), (ours, across) = teacher.input_size, model.input_size
            raise ConfigError(f"teacher: it looks at crops of {height}x{width}, and these are {ours}x{across}.")
        self.config = config
        self.lessons = lessons_for(model, teacher, config.teacher_heads)
        taught = _with_room(teacher, config.number)
        taught.requires_grad_(False)
        self.token = taught.get_parameter(_TOKENS).requires_grad_(True)
        self._teacher = (taught,)  # in a tuple, so that it is no part of this module

    @property
    def model(self) -> PoseModel:
        """The teacher with its token."""
        return self._teacher[0]

    def forward(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """The loss terms; a method's forward is :meth:`losses`, so that sharding hooks see every call."""
        return self.losses(batch)

    def losses(self, batch: DeviceBatch) -> dict[str, Tensor]:
        """One scalar per dataset, named ``loss/<dataset>``, of the points that its labels and the teacher share.

        Args:
            batch: the micro-batch, of the teacher's input size.
        """
        teacher = self.model
        if next(teacher.heads.parameters()).device != batch.images.device:
            teacher.to(batch.images.device)
        rows = [(self.lessons[group.dataset].head, group.start, group.stop) for group in batch.groups]
        features = teacher.features(batch.images, rows)
        # A set without crops reaches no weight that learns; stage 3 wants the same way back on every rank.
        terms, reached = {}, 0 * self.token.sum()
        for group in batch.groups:
            lesson = self.lessons[group.dataset]
            codec = teacher.codec(lesson.head)
            outputs = teacher.run_head(lesson.head, features[group.start : group.stop])[:, lesson.teacher_points]
            targets, weights = codec.encode(group.keypoints_crop[:, lesson.points], group.weights[:, lesson.points])
            loss = usual_loss(codec)(codec, outputs, targets, weights, len(batch))
            terms[f"loss/{group.dataset}"] = loss + reached
        return terms


def with_tokens(student: ModelConfig, teacher: ModelConfig, number: int) -> ModelConfig:
    """The student's architecture with room for its teacher's tokens.

    Args:
        student: without.
        teacher: without, too.
        number: of tokens.

    Raises:
        ConfigError: one of the two has no plain vision transformer, has windows, or has knowledge tokens already.
    """
    theirs = _plain(teacher, "teacher")
    ours = _plain(student, "student")
    width = theirs.embed_dim if theirs.embed_dim != ours.embed_dim else None
    backbone = ours.model_copy(update={"knowledge_tokens": number, "knowledge_width": width})
    return student.model_copy(update={"backbone": backbone})


@torch.no_grad()
def take_tokens(student: PoseModel, teacher: PoseModel) -> None:
    """Copies the tokens that a teacher has learned into its student, where they stay as they are.

    Args:
        student: built with :func:`with_tokens`.
        teacher: what :attr:`KnowledgeToken.model` has become.

    Raises:
        ConfigError: the student has no place for them.
    """
    ours, theirs = (model.state_dict().get(_TOKENS) for model in (student, teacher))
    if theirs is None:
        raise ConfigError("token: that model has learned no knowledge tokens.")
    if ours is None or ours.shape != theirs.shape:
        number, width = theirs.shape
        raise ConfigError(
            f"token: the student has no place for {counted(number, 'knowledge token')} of width {width}; set its "
            "backbone's knowledge_tokens, and knowledge_width if its own is another."
        )
    ours.copy_(theirs)


def _plain(model: ModelConfig, who: str) -> VitConfig:
    backbone = model.backbone
    if not isinstance(backbone, VitConfig):
        raise ConfigError(
            f"token: a knowledge token joins the patches of a plain vision transformer (ViTPose, Sapiens), and the "
            f"{who} is a {backbone.kind}; leave token out, or choose another {who}."
        )
    if backbone.window:
        raise ConfigError(
            f"token: a knowledge token is of the whole image, and the {who}'s blocks attend within windows of "
            f"{counted(backbone.window, 'token')}; leave token out, or choose another {who}."
        )
    if backbone.knowledge_tokens:
        raise ConfigError(
            f"token: the {who} has knowledge tokens already, and a second set has no place; leave token out, or choose "
            f"another {who}."
        )
    return backbone


def _with_room(teacher: PoseModel, number: int) -> PoseModel:
    """A copy of a model with random tokens."""
    backbone = _plain(teacher.config, "teacher")
    tokens = nn.init.trunc_normal_(torch.empty(number, backbone.embed_dim), std=_INITIAL_STD)
    backbone = backbone.model_copy(update={"knowledge_tokens": number})
    architecture = teacher.config.model_copy(update={"backbone": backbone})
    card = teacher.card.model_copy(update={"architecture": architecture})
    return build_from(card, {**teacher.state_dict(), _TOKENS: tokens})
