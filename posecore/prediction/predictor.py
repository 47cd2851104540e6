"""A model that answers for photos: boxes or whole images in, keypoints in image pixels out.

Crops, decoding, rescoring and suppression of duplicates are those of evaluation
(:mod:`posecore.evaluation.crops`, :mod:`posecore.evaluation.nms`), so a model answers here as it was judged.
"""

import os
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Generic, Self, TypeVar

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from pydantic import Field, model_validator

from posecore.codecs.grouping import GroupingConfig
from posecore.codecs.scene import SceneReading, SelectionConfig
from posecore.config import Config
from posecore.counting import counted
from posecore.errors import ConfigError, PredictionError
from posecore.evaluation.arrays import Predictions
from posecore.evaluation.crops import predict_heads
from posecore.evaluation.nms import rescore, suppress_duplicates
from posecore.evaluation.scenes import FoundBodies, fit_scene, predict_scenes, scenes_per_pass
from posecore.geometry import crop_matrix
from posecore.loading.augment import Region
from posecore.loading.crop import box_region
from posecore.loading.decoders import decoder_difference
from posecore.models.catalog import CATALOG
from posecore.models.export.backends import Backend, ExportedHeads, Precision, check_backend
from posecore.models.pose_model import HeatmapPath, PoseModel
from posecore.models.presets import PRESETS
from posecore.models.uncertainty import HeadUncertainty, PointUncertainty
from posecore.models.weights.read import read_weights
from posecore.prediction.instances import Boxes, ImagePrediction
from posecore.prediction.photos import Picture, read_picture
from posecore.skeletons.skeleton import Skeleton

_PIXELS_IN_FLIGHT = 64 << 20  # of images that wait for a batch to fill: 200 MB

KeyT = TypeVar("KeyT")


class PredictorSettings(Config):
    """How predictions are made; the defaults of the last two are the published ones.

    Attributes:
        batch_size: crops per forward pass; whole pictures, so many that they have as many pixels as these of 256×192.
        flip_test: average the outputs for crop and mirrored crop: more accurate, twice the time.
        path: where heatmaps come from: ``regression`` is the head, ``prototypes`` and ``average`` (the mean of both)
            need a model with an embedding.
        precision: ``bfloat16`` runs the network under autocast; decoding is always in float32. Weights in bfloat16 as
            well are no way out: ViTPose-B on a CPU gained 5 % of time and strayed 1.6 times as far from float32.
        backend: who runs backbone and heads on a processor: PyTorch; onnxruntime, in float32; or OpenVINO, the fastest
            in either precision. The model is exported when the first picture comes, which takes seconds.
        compile: run backbone and heads through ``torch.compile``. Every pass then has ``batch_size`` crops, the last
            one being filled up, so that each is compiled once.
        keypoint_threshold: keypoints with a lower score do not enter the score of an instance.
        nms_threshold: OKS above which the weaker of two answers to detected boxes, or of two bodies found in a whole
            picture, is dropped; None keeps all.
        scale_range: values that become 0 and 255 of pictures of 16 bits, as in the stage that their model was trained
            behind; None refuses such pictures.
        uncertainty: say how sure every point is, which takes a model calibrated for such answers (``posecore
            calibrate``), or whose covariances are learned; None says it where it is known.
        groups: trait → group that all bodies belong to, such as ``view`` → ``side``, for radii that hold in it.
        grouping: how a model of whole pictures puts points together to bodies.
        selection: which of its bodies a one-stage model answers.
    """

    batch_size: int = Field(default=32, gt=0)
    flip_test: bool = False
    path: HeatmapPath = "regression"
    precision: Precision = "float32"
    backend: Backend = "torch"
    compile: bool = False
    keypoint_threshold: float = Field(default=0.2, ge=0)
    nms_threshold: float | None = Field(default=0.9, gt=0)
    scale_range: tuple[float, float] | None = None
    uncertainty: bool | None = None
    groups: dict[str, str] = {}
    grouping: GroupingConfig = GroupingConfig()
    selection: SelectionConfig = SelectionConfig()

    @property
    def reading(self) -> SceneReading:
        """How outputs of whole pictures are read."""
        return SceneReading(grouping=self.grouping, selection=self.selection)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale_range is not None and not 0 <= self.scale_range[0] < self.scale_range[1] <= 65535:
            raise ValueError("scale_range: two numbers from 0 to 65535, the lower first.")
        if self.backend != "torch" and (self.compile or self.path != "regression"):
            raise ValueError(f"backend: {self.backend} runs heads alone; use torch for compile and for prototypes.")
        return self


class Predictor:
    """Answers for images, many at a time.

    Args:
        model: is put into evaluation mode, and onto the device.
        settings: how.
        device: where to run; None leaves the model where it is.

    Raises:
        ConfigError: the settings want prototypes, and the model has none, or to compile an ONNX file, or to say how
            sure answers are of which nothing is known.
    """

    def __init__(
        self, model: PoseModel, settings: PredictorSettings | None = None, device: str | torch.device | None = None
    ) -> None:
        self.model = model.eval() if device is None else model.eval().to(device)
        self.settings = settings or PredictorSettings()
        self._networks: dict[tuple[str, ...], ExportedHeads] = {}
        if self.settings.backend != "torch":
            check_backend(model, self.settings.backend, self.settings.precision)
            model.refuse_scenes(f"backend {self.settings.backend}")
        model.check_path(self.settings.path)
        self._check_uncertainty()
        difference = decoder_difference(model.card.lineage)
        if difference is not None:
            warnings.warn(difference, stacklevel=2)
        if self.settings.compile:
            if model.config.backbone.finished:
                raise ConfigError("compile: an ONNX file is run by onnxruntime as it is; leave compile out.")
            for module in (model.backbone, *model.heads.values()):
                module.compile()
            if self.settings.path != "regression":
                model.embedding_head.compile()

    def __repr__(self) -> str:
        heads = ", ".join(
            f"{head}: {counted(each.num_keypoints, 'point')}" for head, each in self.model.skeletons.items()
        )
        height, width = self.model.input_size
        return f"Predictor({heads}; input {height}x{width})"

    def _check_uncertainty(self) -> None:
        promised = [each for each in map(self.promised, self.model.skeletons) if each is not None]
        read = {self.model.card.heeded(head, self.settings.reading).stated for head in self.model.skeletons}
        flip = f"{'with' if self.settings.flip_test else 'without'} flip test"
        how = ", ".join([flip, f"by {self.settings.path}", *sorted(read - {""})])
        learned = all(self.model.codec(head).learns_covariances for head in self.model.skeletons)
        if not promised and ((self.settings.uncertainty and not learned) or self.settings.groups):
            raise ConfigError(
                f"uncertainty: the model was not calibrated for answers {how}; calibrate it (posecore calibrate)."
            )
        for each in promised:
            each.check_groups(self.settings.groups)

    @classmethod
    def load(
        cls,
        source: str | Path,
        settings: PredictorSettings | None = None,
        expect: str | None = None,
        skeletons: Mapping[str, Skeleton] | None = None,
    ) -> Self:
        """Reads a model folder or any published checkpoint, onto a GPU if there is one.

        Args:
            source: as for :func:`~posecore.models.weights.read.read_weights`, or a preset of which a single model with
                heads was published.
            settings: how to predict.
            expect: preset or published model the weights must be of.
            skeletons: by dataset, in the order of the file's heads, where it does not say.

        Raises:
            PredictionError: the source is the name of an architecture of which no or several models were published.
            ConfigError: the settings want prototypes, and the model has none.
            CheckpointError: there are no such weights, or they are not what was expected.
            IntegrityError: a file is not the one that was written.
        """
        if str(source) in PRESETS and str(source) not in CATALOG and not Path(source).exists():
            trained = [row.name for row in CATALOG.values() if row.preset == source and row.heads]
            if len(trained) != 1:
                raise PredictionError(
                    f"{source} is an architecture, and one without weights would guess; name a trained model: a "
                    f"folder, a file, or what was published of it ({', '.join(trained) or 'nothing'})."
                )
            source = trained[0]
        return cls(read_weights(source, expect, skeletons), settings, best_device())

    def head(self, name: str | None) -> str:
        """The head meant by the name of a dataset or of a skeleton; None means the model's first.

        Raises:
            PredictionError: none or several are meant; the message lists what there is.
        """
        skeletons = self.model.skeletons
        if name is None:
            return next(iter(skeletons))
        meant = [name] if name in skeletons else [head for head, found in skeletons.items() if found.name == name]
        if len(meant) != 1:
            known = ", ".join(
                f"{head} ({found.name}, {counted(found.num_keypoints, 'point')})" for head, found in skeletons.items()
            )
            raise PredictionError(
                f"the model has {len(meant) or 'no'} head{'s'[: len(meant)]} {name!r}; it has {known}. "
                "Name one of the datasets."
            )
        return meant[0]

    def predict(
        self,
        images: Sequence[Picture],
        boxes_xywh: Sequence[Boxes | NDArray[np.floating] | Sequence[Sequence[float]] | None] | None = None,
        dataset: str | None = None,
        depths: Sequence[NDArray[np.floating] | None] | None = None,
    ) -> list[ImagePrediction]:
        """The bodies in each image, by one head.

        Args:
            images: (H, W, 3) uint8 RGB arrays, bytes of JPEG or PNG files, or paths of such files.
            boxes_xywh: per image (N, 4) boxes, or :class:`Boxes` to say how sure a detector was of each, or None for
                the whole image; left out altogether, every image is taken whole. A model of whole pictures finds all
                bodies by itself and takes none.
            dataset: whose points to find, by the name of a dataset or skeleton; None means the model's first.
            depths: per image (H, W) distances in metres, 0 where not known, or None; for a model that takes depth,
                which answers for images without it as well.

        Returns:
            One per image, in order.

        Raises:
            PredictionError: an image or its depth cannot be used, a box cannot be cropped, or the model has no such
                head.
        """
        head = self.head(dataset)
        return [found[head] for found in self.predict_heads(images, boxes_xywh, [head], depths)]

    def predict_heads(
        self,
        images: Sequence[Picture],
        boxes_xywh: Sequence[Boxes | NDArray[np.floating] | Sequence[Sequence[float]] | None] | None = None,
        datasets: Sequence[str] = (),
        depths: Sequence[NDArray[np.floating] | None] | None = None,
    ) -> list[dict[str, ImagePrediction]]:
        """As :meth:`predict` by several heads at once; none named means all of the model.

        Heads that look at the same crops share the work of the backbone, unless it has experts.
        """
        if (
            isinstance(images, str | bytes | os.PathLike)
            or getattr(images, "ndim", 1) in (2, 3)
            or hasattr(images, "convert")
        ):
            raise PredictionError("images is a list of pictures, and one was given; put it into a list: [picture].")
        boxes = [None] * len(images) if boxes_xywh is None else boxes_xywh
        if len(boxes) != len(images):
            raise PredictionError(
                f"{counted(len(boxes), 'list')} of boxes for {counted(len(images), 'image')}; give one for each."
            )
        beside = [None] * len(images) if depths is None else depths
        if len(beside) != len(images):
            raise PredictionError(
                f"{counted(len(beside), 'depth')} for {counted(len(images), 'image')}; give one (or None) for each."
            )
        if any(depth is not None for depth in beside) and not self.model.takes_depth:
            raise PredictionError("depth was given, but the model takes pictures alone; leave the depth out.")
        items = (
            (
                f"image {number}",
                read_picture(image, f"image {number}", scale_range=self.settings.scale_range),
                _as_boxes(of_image),
                depth,
            )
            for number, (image, of_image, depth) in enumerate(zip(images, boxes, beside, strict=True))
        )
        return [found for _, found in self._stream(items, datasets)]

    def stream(
        self, images: Iterable[tuple[KeyT, UInt8[np.ndarray, "H W 3"], Boxes | None]], datasets: Sequence[str] = ()
    ) -> Iterator[tuple[KeyT, dict[str, ImagePrediction]]]:
        """As :meth:`predict_heads` for any number of images, which are taken and answered in order.

        Batches are filled across images; at most as many images wait for one as hold 64 million pixels.

        Args:
            images: key (named in errors and handed back), RGB image, and boxes, None for the whole image.
            datasets: names of heads or skeletons; none means all.
        """
        yield from self._stream(((key, image, boxes, None) for key, image, boxes in images), datasets)

    def _stream(
        self,
        images: Iterable[tuple[KeyT, UInt8[np.ndarray, "H W 3"], Boxes | None, NDArray[np.floating] | None]],
        datasets: Sequence[str],
    ) -> Iterator[tuple[KeyT, dict[str, ImagePrediction]]]:
        heads = [self.head(name) for name in datasets] or list(self.model.skeletons)
        if self.model.config.whole_scenes:
            yield from self._scenes(((key, image, boxes) for key, image, boxes, _ in images), heads)
            return
        queues: list[_Queue[KeyT]] = [_Queue(group) for group in self._heads_by_crop(heads)]
        waiting: deque[_Waiting[KeyT]] = deque()
        for key, image, given, depth in images:
            if depth is not None and depth.shape != image.shape[:2]:
                raise PredictionError(f"{key}: its depth is {depth.shape}, not {image.shape[:2]} as the picture.")
            boxes = Boxes.whole(image.shape[:2]) if given is None else given
            boxes.check(image.shape[:2], str(key))
            entry = _Waiting(key, boxes, image.size // 3, heads, left=len(boxes) * len(queues))
            waiting.append(entry)
            for queue in queues:
                queue.crops += [self._crop(image, depth, entry, row, queue.heads[0]) for row in range(len(boxes))]
                while len(queue.crops) >= self.settings.batch_size:
                    self._answer(queue)
            if sum(other.num_pixels for other in waiting) > _PIXELS_IN_FLIGHT:
                self._drain(queues)
            while waiting and not waiting[0].left:
                yield self._finished(waiting.popleft())
        self._drain(queues)
        for entry in waiting:
            yield self._finished(entry)

    def _scenes(
        self, images: Iterable[tuple[KeyT, UInt8[np.ndarray, "H W 3"], Boxes | None]], heads: Sequence[str]
    ) -> Iterator[tuple[KeyT, dict[str, ImagePrediction]]]:
        """Answers of a model that finds bodies in whole pictures."""
        size = scenes_per_pass(self.settings.batch_size, self.model.input_size)
        waiting: list[tuple[KeyT, NDArray[np.uint8], Region]] = []
        for key, image, boxes in images:
            if boxes is not None:
                raise PredictionError(
                    f"{key}: boxes were given, and the model finds bodies in whole pictures by itself; leave boxes and "
                    "detector out."
                )
            waiting.append((key, *fit_scene(image, self.model.input_size)))
            if len(waiting) == size:
                yield from self._answers(waiting, heads)
                waiting.clear()
        if waiting:
            yield from self._answers(waiting, heads)

    def _answers(
        self, scenes: Sequence[tuple[KeyT, NDArray[np.uint8], Region]], heads: Sequence[str]
    ) -> Iterator[tuple[KeyT, dict[str, ImagePrediction]]]:
        found = predict_scenes(
            self.model,
            heads,
            np.stack([image for _, image, _ in scenes]),
            np.concatenate([region.center for _, _, region in scenes]),
            np.concatenate([region.scale for _, _, region in scenes]),
            flip_test=self.settings.flip_test,
            precision=self.settings.precision,
            reading=self.settings.reading,
        )
        for place, (key, _, _) in enumerate(scenes):
            yield key, {head: self._of_scene(head, found[head][place]) for head in heads}

    def _of_scene(self, head: str, bodies: FoundBodies) -> ImagePrediction:
        count, skeleton = len(bodies.scores), self.model.skeletons[head]
        found = Predictions(
            image_ids=("",),
            image_row=np.zeros(count, np.int64),
            instance_row=np.arange(count),
            keypoints=bodies.keypoints,
            keypoint_scores=bodies.keypoint_scores,
            scores=bodies.scores,
            category_id=np.ones(count, np.int64),
            crop_area=bodies.areas,
            covariances=bodies.covariances,
        )
        if self.settings.nms_threshold is not None and skeleton.oks_sigmas is not None:
            found = suppress_duplicates(found, skeleton.oks_sigmas, self.settings.nms_threshold)
        return ImagePrediction(
            head=head,
            keypoints=found.keypoints,
            keypoint_scores=found.keypoint_scores,
            scores=found.scores,
            bbox_xywh=bodies.bbox_xywh[found.instance_row],
            box_scores=np.ones(len(found)),
            box_rows=np.arange(len(found)),
            points=skeleton.names,
            uncertainty=self._how_far_off(head, found),
        )

    def _how_far_off(self, head: str, found: Predictions) -> PointUncertainty | None:
        """What was promised of bodies of a scene, or else what the model says of itself."""
        if found.covariances is None or self.settings.uncertainty is False:
            return None
        promised = self.promised(head)
        if promised is None:
            learned = self.model.codec(head).learns_covariances
            return PointUncertainty.unproven(found.covariances) if learned else None
        return promised.apply(found.covariances, found.keypoint_scores, self.settings.groups)

    def _heads_by_crop(self, heads: Sequence[str]) -> list[list[str]]:
        """Heads together that look at the same crops."""

        def crop(head: str) -> tuple[str, float]:
            return self.model.codec(head).crop, self.model.conventions[head].padding

        return [list(group) for _, group in groupby(sorted(heads, key=crop), key=crop)]

    def _crop(
        self,
        image: NDArray[np.uint8],
        depth: NDArray[np.floating] | None,
        entry: "_Waiting[KeyT]",
        row: int,
        head: str,
    ) -> "_Crop[KeyT]":
        height, width = self.model.input_size
        region = box_region(entry.boxes.bbox_xywh[row], width / height, self.model.conventions[head].padding)
        matrix = crop_matrix(region.center, region.scale, np.zeros(()), (height, width), self.model.codec(head).crop)
        pixels = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        beside = None
        if self.model.takes_depth:
            beside = np.zeros((height, width), np.float32)
            if depth is not None:
                cv2.warpAffine(depth.astype(np.float32), matrix, (width, height), dst=beside, flags=cv2.INTER_NEAREST)
        return _Crop(entry, row, pixels, region.center, region.scale, beside)

    def _drain(self, queues: "list[_Queue[KeyT]]") -> None:
        for queue in queues:
            while queue.crops:
                self._answer(queue)

    def _answer(self, queue: "_Queue[KeyT]") -> None:
        """Runs the network on one batch of a queue and notes the answers with the images they belong to."""
        size = self.settings.batch_size
        batch, queue.crops = queue.crops[:size], queue.crops[size:]
        padded = batch + batch[:1] * (size - len(batch)) if self.settings.compile else batch
        answers = predict_heads(
            self.model,
            queue.heads,
            np.stack([crop.pixels for crop in padded]),
            np.stack([crop.center for crop in padded]),
            np.stack([crop.scale for crop in padded]),
            flip_test=self.settings.flip_test,
            precision=self.settings.precision,
            path=self.settings.path,
            depth=np.stack([crop.depth for crop in padded if crop.depth is not None])
            if self.model.takes_depth
            else None,
            network=self._network(queue.heads),
            uncertainty=any(self.promised(head) for head in queue.heads),
        )
        for head, answer in answers.items():
            for place, crop in enumerate(batch):
                spread = None if answer.covariances is None else answer.covariances[place]
                crop.entry.bodies[head].append(
                    _Body(answer.keypoints[place], answer.scores[place], spread, crop.row, float(crop.scale.prod()))
                )
        for crop in batch:
            crop.entry.left -= 1

    def _network(self, heads: Sequence[str]) -> ExportedHeads | None:
        backend, key = self.settings.backend, tuple(heads)
        if backend == "torch":
            return None
        if key not in self._networks:
            self._networks[key] = ExportedHeads(self.model, heads, backend, self.settings.precision)
        return self._networks[key]

    def _finished(self, entry: "_Waiting[KeyT]") -> tuple[KeyT, dict[str, ImagePrediction]]:
        return entry.key, {head: self._prediction(head, entry) for head in entry.bodies}

    def _prediction(self, head: str, entry: "_Waiting[KeyT]") -> ImagePrediction:
        bodies, boxes = entry.bodies[head], entry.boxes
        skeleton = self.model.skeletons[head]
        count, num_keypoints = len(bodies), skeleton.num_keypoints
        box_scores = np.ones(count) if boxes.scores is None else boxes.scores
        keypoint_scores = np.array([body.scores for body in bodies]).reshape(count, num_keypoints)
        promised = self.promised(head)
        spread = (
            np.array([body.covariances for body in bodies]).reshape(count, num_keypoints, 2, 2) if promised else None
        )
        found = Predictions(
            image_ids=("",),
            image_row=np.zeros(count, np.int64),
            instance_row=np.array([body.row for body in bodies], np.int64),
            keypoints=np.array([body.keypoints for body in bodies]).reshape(count, num_keypoints, 2),
            keypoint_scores=keypoint_scores,
            scores=rescore(box_scores, keypoint_scores, self.settings.keypoint_threshold),
            category_id=np.ones(count, np.int64),
            crop_area=np.array([body.crop_area for body in bodies]),
            covariances=spread,
        )
        if boxes.scores is not None and self.settings.nms_threshold is not None and skeleton.oks_sigmas is not None:
            found = suppress_duplicates(found, skeleton.oks_sigmas, self.settings.nms_threshold)
        rows, sure = found.instance_row, None
        if promised is not None and found.covariances is not None:
            sure = promised.apply(found.covariances, found.keypoint_scores, self.settings.groups)
        return ImagePrediction(
            head=head,
            keypoints=found.keypoints,
            keypoint_scores=found.keypoint_scores,
            scores=found.scores,
            bbox_xywh=boxes.bbox_xywh[rows],
            box_scores=box_scores[rows],
            box_rows=rows,
            points=skeleton.names,
            uncertainty=sure,
        )

    def promised(self, head: str) -> HeadUncertainty | None:
        """What is promised of a head's answers; None where nothing is, or nothing is to be said."""
        if self.settings.uncertainty is False:
            return None
        made_by = (self.settings.flip_test, self.settings.path, self.settings.reading)
        return self.model.card.uncertainty_of(head, *made_by)


def best_device() -> torch.device:
    """A GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _as_boxes(given: Boxes | NDArray[np.floating] | Sequence[Sequence[float]] | None) -> Boxes | None:
    if given is None or isinstance(given, Boxes):
        return given
    values = np.asarray(given, np.float64)
    if values.size and (values.ndim != 2 or values.shape[1] != 4):
        raise PredictionError(f"boxes of shape {values.shape} were given; boxes are (N, 4): x, y, width, height.")
    return Boxes(values.reshape(-1, 4))


class _Waiting(Generic[KeyT]):
    """An image whose crops are not all answered."""

    def __init__(self, key: KeyT, boxes: Boxes, num_pixels: int, heads: Sequence[str], left: int) -> None:
        self.key = key
        self.boxes = boxes
        self.num_pixels = num_pixels
        self.left = left
        self.bodies: dict[str, list[_Body]] = {head: [] for head in heads}
        """Per head, in the order of the boxes."""


@dataclass(frozen=True, slots=True, eq=False)
class _Body:
    """What a head says of a crop, which box it answers, and px² of its crop."""

    keypoints: Float[np.ndarray, "k 2"]
    scores: Float[np.ndarray, " k"]
    covariances: Float[np.ndarray, "k 2 2"] | None
    row: int
    crop_area: float


@dataclass(frozen=True, slots=True, eq=False)
class _Crop(Generic[KeyT]):
    entry: _Waiting[KeyT]
    row: int
    pixels: UInt8[np.ndarray, "h w 3"]
    center: Float[np.ndarray, " 2"]
    scale: Float[np.ndarray, " 2"]
    depth: Float[np.ndarray, "h w"] | None


class _Queue(Generic[KeyT]):
    """Crops that wait for a batch, for the heads that look at them."""

    def __init__(self, heads: list[str]) -> None:
        self.heads = heads
        self.crops: list[_Crop[KeyT]] = []
