"""Settings of the classify stage, and the regimes: which images a classifier learns from."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from cgddi.core.errors import UserError
from cgddi.core.lineage import KINDS
from cgddi.core.settings import Precision, Settings, located, neutral, setting

REVISION = 3

METHODS = ("baseline", "fairdisco", "patchalign", "reweighting", "resampling")


class Regime(Settings):
    """Which training images a classifier learns from. Validation and test images are real in every regime."""

    name: str = Field(pattern=r"^[a-z0-9_]{1,60}$", description="the regime's name in paths and tables")
    sources: tuple[str, ...] = Field(
        min_length=1,
        description="what is trained on: real, healthy, lesion_mapped, semantic; or a set of given images, by its name under "
        "`synthetic:` (NAME, or one kind of it: NAME/semantic)",
    )
    init: str | None = setting(None, "regime whose weights (same split, method, seed) training starts from")
    ratio: float | None = setting(
        None, "real : synthetic draws, e.g. 1.0 for as many real as synthetic; None follows the sampler", gt=0
    )
    min_concept_images: int | None = setting(
        None, "semantic images only of concepts with this many real training images; None takes the stage's", ge=1
    )
    real_fraction: float | None = setting(
        None, "share of the real training images used (learning curve); smaller shares are nested in larger", gt=0, le=1
    )
    real_per_tone: int | None = setting(
        None, "real training images per tone, half of them malignant (FEDD: 10, 20, 30, 40), nested", ge=2
    )
    synthetic_per_real: float | None = setting(
        None, "synthetic images used per real training image (learning curve), nested", gt=0
    )
    generators: Literal["any", "inside"] = setting(
        "any",
        "learning curves: semantic images of generators that saw real images outside the subset are used, and every "
        "table is marked (any), or left out (inside); donors and canvases are always inside",
    )
    labels: Literal["own", "shuffled", "canvas"] = setting(
        "own",
        "negative controls: synthetic images with lesions change labels among those of their tone and kind (shuffled), "
        "or every synthetic image has the label of the photo that its canvas was made of (canvas; with `sources: [healthy]` "
        "healthy skin is called diseased)",
    )

    @model_validator(mode="after")
    def _fits(self) -> Regime:
        if self.init == self.name:
            raise ValueError("a regime cannot start from itself")
        if self.ratio is not None and set(self.sources) <= {"real"}:
            raise ValueError("a ratio needs a synthetic source")
        if self.ratio is not None and "real" not in self.sources:
            raise ValueError("a ratio needs the real source")
        if self.labels != "own" and set(self.sources) <= {"real"}:
            raise ValueError("labels of real photos are their own: a control needs a synthetic source")
        if self.real_fraction is not None and self.real_per_tone is not None:
            raise ValueError("give real_fraction or real_per_tone, not both")
        return self


SYNTHETIC = KINDS[1:]


def _regimes() -> dict[str, Regime]:
    made = [
        Regime(name="real", sources=("real",)),
        Regime(name="synthetic", sources=SYNTHETIC),
        Regime(name="synthetic_real", sources=("real",), init="synthetic"),
        Regime(name="mixed", sources=("real", *SYNTHETIC), ratio=1.0),
        Regime(name="healthy_mapped", sources=("healthy", "lesion_mapped")),
        Regime(name="semantic", sources=("semantic",)),
    ]
    for percent in (5, 10, 15, 20):
        share = {"real_fraction": percent / 100}
        within = {**share, "generators": "inside"}
        made.append(Regime(name=f"real_{percent}", sources=("real",), **share))
        made.append(Regime(name=f"synthetic_real_{percent}", sources=("real",), init="synthetic", **share))
        made.append(Regime(name=f"within_{percent}", sources=SYNTHETIC, **within))
        made.append(Regime(name=f"within_real_{percent}", sources=("real",), init=f"within_{percent}", **within))
    made += [Regime(name=f"synthetic_x{n}", sources=SYNTHETIC, synthetic_per_real=n) for n in (1, 5, 20, 100)]
    return {regime.name: regime for regime in made}


REGIMES: dict[str, Regime] = _regimes()
"""Regimes by name: the published three, the sources ablation (method.md), mixing and the learning curves (FEDD)."""


LADDER = ("real", "synthetic_x1", "synthetic_x5", "synthetic_x20", "synthetic_x100")
"""Regimes of the ladder: real photos, and ever more synthetic images for each of them."""


def regime_of(spec: dict[str, Any]) -> Regime:
    """The regime of a classify job's spec: a name of `REGIMES`, or a regime written out.

    Raises:
        UserError: an unknown name, or not a regime.
    """
    named = spec["regime"]
    if isinstance(named, str):
        if named not in REGIMES:
            known = ", ".join(REGIMES)
            raise UserError(f"no regime {named!r}; built in are {known}. Others are written out in the config.")
        return REGIMES[named]
    try:
        return Regime.model_validate(named)
    except ValidationError as error:
        raise UserError(f"settings of stage classify: {error}") from error


class Training(Settings):
    """Backbone and optimisation; a field left None takes the method's published value (see `DEFAULTS`)."""

    backbone: str | None = setting(None, "timm backbone (ResNet-18; PatchAlign: ViT-B/16)")
    weights: str | None = located(
        None,
        "`hub` (timm's pretrained weights, from the hub or its cache), `random`, a .safetensors file (timm's, or a "
        "classifier's of ours), or a folder or hub id with a model.safetensors",
    )
    epochs: int | None = setting(None, "epochs (15; PatchAlign 20)", ge=1)
    batch_size: int | None = setting(None, "images per step, of all processes together (64; PatchAlign 32)", ge=2)
    learning_rate: float | None = setting(None, "Adam's learning rate (1e-4)", gt=0)
    lr_step: int | None = setting(None, "epochs between decays (2); 0 keeps the rate (PatchAlign)", ge=0)
    lr_gamma: float | None = setting(None, "factor of each decay (0.9)", gt=0, le=1)
    clip_norm: float | None = setting(None, "gradient norm is clipped to this; 0 does not clip (PatchAlign 1.0)", ge=0)
    frozen_tensors: int | None = setting(None, "first parameter tensors kept fixed (0; PatchAlign 50)", ge=0)


class LabelTexts(Settings):
    """Embeddings of the label texts that PatchAlign aligns image patches with: the concepts' names."""

    file: str | None = located(
        None, ".safetensors file with tensor `embeddings` (m, d) and metadata `labels`, a JSON list of m concept slugs"
    )
    text_encoder: str | None = located(
        None,
        "text encoder that embeds the texts: its local folder, or the folder or hub id of a diffusers model with one",
    )


class ClassifySettings(Settings):
    """How a classifier is trained; defaults as in method.md, Classifiers, for DDI."""

    task: Literal["malignancy", "concept", "partition"] = setting(
        "malignancy",
        "what is predicted: malignant or not, the disease, or the class that `partition` gives it; healthy images "
        "are benign, and left out of task `concept`",
    )
    partition: dict[str, str] = setting(
        {}, "concept slug -> class, for task `partition` (Fitzpatrick17k's benign, malignant, non-neoplastic)"
    )
    training: Training = setting(Training(), "for all methods")
    methods: dict[Literal["baseline", "fairdisco", "patchalign", "reweighting", "resampling"], Training] = setting(
        {}, "for one method, over `training`"
    )
    losses: Literal["formula", "code"] = setting(
        "formula",
        "formula: FairDisCo's and PatchAlign's losses as the papers write them; code: as the published code computes "
        "them, with tone heads of six outputs (three are ever taught, and confusion is over all) and FairDisCo's 1e-5 in the "
        "contrastive terms",
    )
    image_size: int = setting(224, "side of the picture the network sees (FairDisCo: 224)", ge=16)
    resize: int | None = setting(None, "side before the centre crop; None takes 8/7 of image_size (256 for 224)", ge=16)
    selection: Literal["validation", "test", "last"] = setting(
        "validation",
        "images on which the best epoch is chosen; `test` is the published practice and marks every table it "
        "touches; `last` chooses none",
    )
    selection_metric: Literal["balanced_accuracy", "accuracy"] = setting(
        "balanced_accuracy", "chosen by this, ties by the lower loss (published: accuracy)"
    )
    finetune_learning_rate: float = setting(1e-5, "when starting from another regime's weights (thesis)", gt=0)
    finetune_epochs: int = setting(
        5,
        "epochs then, taken out of the method's epochs: training goes on from the best weights that the other regime "
        "had before its last so many epochs; with images_per_epoch: null they come on top (thesis: 20)",
        ge=1,
    )
    patience: int = setting(
        5,
        "fine-tuning stops after this many epochs without a better one; only with images_per_epoch: null, as else "
        "regimes would differ in steps",
        ge=1,
    )
    sampler: Literal["class", "tone_class", "tone_class_concept", "none"] = setting(
        "class",
        "draw with replacement, every group of this name equally often (FairDisCo: class); tone_class_concept: every "
        "tone and class equally often, and every disease within them; none: every image",
    )
    images_per_epoch: int | None = setting(
        4096,
        "images drawn per epoch, whatever their number: an epoch is so many draws, not one pass over the images, and "
        "every regime takes the same number of train steps. null: as many as there are (published: some 500 of real photos, "
        "266,000 of synthetic images, so that regimes differ in training time)",
        ge=1,
    )
    min_concept_images: int = setting(
        11, "semantic images only of concepts with this many real training images (paper: more than 10)", ge=1
    )
    label_texts: LabelTexts = setting(LabelTexts(), "label texts of PatchAlign")
    allow_absent_tones: bool = setting(
        False, "train or test although a tone has no image there (out-of-tone splits need not set it)"
    )
    precision: Precision = setting(
        "bf16", "autocast of the network, on any device; the loss and the optimiser's weights are float32"
    )
    num_processes: int = setting(
        1, "GPUs of one node that train a classifier together, each on its share of every batch", ge=1
    )
    cuda_graphs: bool = neutral(
        False,
        "whether a GPU is given a step as one recorded graph: the same kernels, so the same numbers, launched at once. "
        "PatchAlign's alignment alone is 4,300 kernels a step",
    )
    decoded_cache: str | None = neutral(
        None,
        "folder on each node's own disk for training images as pixels, each decoded once for all runs of the node: "
        "52 GB for the paper's 266,136 at 256 px; may be deleted when no job runs",
    )

    @property
    def resize_to(self) -> int:
        """Side before the centre crop, in pixels."""
        return self.resize or round(self.image_size * 256 / 224)


_SHARED = {
    "backbone": "resnet18",
    "weights": "hub",
    "epochs": 15,
    "batch_size": 64,
    "learning_rate": 1e-4,
    "lr_step": 2,
    "lr_gamma": 0.9,
    "clip_norm": 0.0,
    "frozen_tensors": 0,
}
_PATCHALIGN = {
    "backbone": "vit_base_patch16_224.augreg_in21k",
    "epochs": 20,
    "batch_size": 32,
    "lr_step": 0,
    "clip_norm": 1.0,
    "frozen_tensors": 50,
}
DEFAULTS: dict[str, Training] = {
    name: Training(**(_SHARED | (_PATCHALIGN if name == "patchalign" else {}))) for name in METHODS
}
"""Published training settings by method (method.md, Classifiers; reweighting and resampling train as the baseline does)."""


def training_of(settings: ClassifySettings, method: str) -> Training:
    """All training settings of a method: its own, else those for all methods, else the published ones."""
    own = settings.methods.get(method, Training()).model_dump(exclude_none=True)
    shared = settings.training.model_dump(exclude_none=True)
    return Training(**{**DEFAULTS[method].model_dump(), **shared, **own})
