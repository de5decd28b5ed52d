"""Settings of the classify stage, and the regimes: which images a classifier learns from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from cgddi.core.settings import located

REVISION = 1

METHODS = ("baseline", "fairdisco", "patchalign", "reweighting", "resampling")
Kind = Literal["real", "healthy", "lesion_mapped", "semantic"]


class Regime(BaseModel):
    """Which training images a classifier learns from. Validation and test images are real in every regime."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z0-9_]{1,60}$", description="the regime's name in paths and tables")
    sources: tuple[Kind, ...] = Field(min_length=1, description="kinds of image trained on")
    init: str | None = Field(None, description="regime whose weights (same split, method, seed) training starts from")
    ratio: float | None = Field(
        None,
        gt=0,
        description="real : synthetic draws, e.g. 1.0 for as many real as synthetic; None follows the sampler",
    )
    min_concept_images: int | None = Field(
        None,
        ge=1,
        description="semantic images only of concepts with this many real training images; None takes the stage's",
    )
    real_fraction: float | None = Field(
        None,
        gt=0,
        le=1,
        description="share of the real training images used (learning curve); smaller shares are nested in larger",
    )
    real_per_tone: int | None = Field(
        None, ge=2, description="real training images per tone, half of them malignant (FEDD: 10, 20, 30, 40), nested"
    )
    synthetic_per_real: float | None = Field(
        None, gt=0, description="synthetic images used per real training image (learning curve), nested"
    )
    generators: Literal["any", "inside"] = Field(
        "any",
        description="learning curves: semantic images of generators that saw real images outside the subset are used, and every "
        "table is marked (any), or left out (inside); donors and canvases are always inside",
    )

    @model_validator(mode="after")
    def _fits(self) -> Regime:
        if self.init == self.name:
            raise ValueError("a regime cannot start from itself")
        if self.ratio is not None and set(self.sources) <= {"real"}:
            raise ValueError("a ratio needs a synthetic source")
        if self.ratio is not None and "real" not in self.sources:
            raise ValueError("a ratio needs the real source")
        if self.real_fraction is not None and self.real_per_tone is not None:
            raise ValueError("give real_fraction or real_per_tone, not both")
        return self


SYNTHETIC: tuple[Kind, ...] = ("healthy", "lesion_mapped", "semantic")


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
        made.append(Regime(name=f"real_{percent}", sources=("real",), real_fraction=percent / 100))
        made.append(
            Regime(name=f"synthetic_real_{percent}", sources=("real",), real_fraction=percent / 100, init="synthetic")
        )
        within = {"real_fraction": percent / 100, "generators": "inside"}
        made.append(Regime(name=f"within_{percent}", sources=SYNTHETIC, **within))
        made.append(Regime(name=f"within_real_{percent}", sources=("real",), init=f"within_{percent}", **within))
    made += [Regime(name=f"synthetic_x{n}", sources=SYNTHETIC, synthetic_per_real=n) for n in (1, 5, 20, 100)]
    return {regime.name: regime for regime in made}


REGIMES: dict[str, Regime] = _regimes()
"""Regimes by name: the published three, the sources ablation (method.md), mixing and the learning curves (FEDD)."""


class Training(BaseModel):
    """Backbone and optimisation; a field left None takes the method's published value (see `DEFAULTS`)."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    backbone: str | None = Field(None, description="timm backbone (ResNet-18; PatchAlign: ViT-B/16)")
    weights: str | None = located(
        None,
        description="`hub` (timm's pretrained weights, from the hub or its cache), `random`, or a local .safetensors file",
    )
    epochs: int | None = Field(None, ge=1, description="epochs (15; PatchAlign 20)")
    batch_size: int | None = Field(None, ge=2, description="images per step (64; PatchAlign 32)")
    learning_rate: float | None = Field(None, gt=0, description="Adam's learning rate (1e-4)")
    lr_step: int | None = Field(None, ge=0, description="epochs between decays (2); 0 keeps the rate (PatchAlign)")
    lr_gamma: float | None = Field(None, gt=0, le=1, description="factor of each decay (0.9)")
    clip_norm: float | None = Field(
        None, ge=0, description="gradient norm is clipped to this; 0 does not clip (PatchAlign 1.0)"
    )
    frozen_tensors: int | None = Field(None, ge=0, description="first parameter tensors kept fixed (0; PatchAlign 50)")


class LabelTexts(BaseModel):
    """Embeddings of the label texts that PatchAlign aligns image patches with."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str | None = located(
        None,
        description=".safetensors file with tensor `embeddings` (m, d) and metadata `labels`, a JSON list of m concept slugs",
    )
    text_encoder: str | None = located(
        None,
        description="text encoder that embeds the texts: its local folder, or the folder or hub id of a diffusers model with one",
    )
    template: str = Field("{concept}", description="text of a label; {concept} is the slug with spaces for dashes")


class ClassifySettings(BaseModel):
    """How a classifier is trained; defaults as in method.md, Classifiers, for DDI."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: Literal["malignancy", "concept", "partition"] = Field(
        "malignancy",
        description="what is predicted: malignant or not, the disease, or the class that `partition` gives it",
    )
    partition: dict[str, str] = Field(
        {},
        description="concept slug -> class, for task `partition` (Fitzpatrick17k's benign, malignant, non-neoplastic)",
    )
    training: Training = Field(Training(), description="for all methods")
    methods: dict[Literal["baseline", "fairdisco", "patchalign", "reweighting", "resampling"], Training] = Field(
        {}, description="for one method, over `training`"
    )
    image_size: int = Field(224, ge=16, description="side of the picture the network sees (FairDisCo: 224)")
    resize: int | None = Field(
        None, ge=16, description="side before the centre crop; None takes 8/7 of image_size (256 for 224)"
    )
    crop_scale: tuple[float, float] = Field((0.8, 1.0), description="RandomResizedCrop's share of the area (FairDisCo)")
    rotation: float = Field(15.0, ge=0, le=180, description="largest rotation in degrees (FairDisCo)")
    hflip: float = Field(0.5, ge=0, le=1, description="probability of mirroring (FairDisCo)")
    selection: Literal["validation", "test", "last"] = Field(
        "validation",
        description="images on which the best epoch is chosen; `test` is the published practice and marks every table it "
        "touches; `last` chooses none",
    )
    selection_metric: Literal["balanced_accuracy", "accuracy", "loss"] = Field(
        "balanced_accuracy", description="chosen by this, ties by the lower loss (published: accuracy)"
    )
    finetune_learning_rate: float = Field(
        1e-5, gt=0, description="when starting from another regime's weights (thesis)"
    )
    finetune_epochs: int = Field(20, ge=1, description="largest number of epochs then (thesis)")
    patience: int = Field(5, ge=1, description="fine-tuning stops after this many epochs without a better one")
    sampler: Literal["class", "tone_class", "tone_class_concept", "none"] = Field(
        "class",
        description="draw with replacement, every group of this name equally often (FairDisCo: class); tone_class_concept: every "
        "tone and class equally often, and every disease within them",
    )
    kind_shares: dict[Kind, Annotated[float, Field(ge=0)]] = Field(
        {},
        description="how the draws of a group are divided over kinds of image, e.g. {lesion_mapped: 1, semantic: 1}, so that no "
        "source drowns the other; kinds not named keep their share by number, as all do when this is empty (published)",
    )
    max_train_images: int | None = Field(
        None, ge=1, description="most images drawn per epoch; None: as many as there are"
    )
    images_per_epoch: int | None = Field(
        None,
        ge=2,
        description="images drawn per epoch whatever their number, so that a regime with few images takes as many steps as one "
        "with many; None follows the number of images and max_train_images (published)",
    )
    min_concept_images: int = Field(
        11,
        ge=1,
        description="semantic images only of concepts with this many real training images (paper: more than 10)",
    )
    healthy_label: Literal["benign", "exclude"] = Field(
        "benign", description="healthy images count as benign, or are left out"
    )
    confusion_weight: float | None = Field(
        None, ge=0, description="weight of Lconf; None: FairDisCo 1.0, PatchAlign 0.5"
    )
    contrastive_weight: float = Field(0.8, ge=0, description="weight of FairDisCo's contrastive loss")
    contrastive_temperature: float = Field(0.1, gt=0, description="its temperature")
    alignment_weight: float = Field(1.0, ge=0, description="weight of PatchAlign's MGOT")
    label_texts: LabelTexts = Field(LabelTexts(), description="label texts of PatchAlign")
    allow_absent_tones: bool = Field(
        False, description="train or test although a tone has no image there (out-of-tone splits need not set it)"
    )
    amp: bool = Field(True, description="bfloat16 autocast and channels-last memory on a GPU")
    workers: int = Field(4, ge=0, description="processes that decode and augment; 0 does both in the training process")
    verify: bool = Field(True, description="check every image against the index (sha256) before training")

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
_VIT = {"backbone": "vit_base_patch16_224.augreg_in21k", "epochs": 20, "batch_size": 32, "lr_step": 0, "clip_norm": 1.0}
DEFAULTS: dict[str, Training] = {
    name: Training(**{**_SHARED, **(_VIT | {"frozen_tensors": 50} if name == "patchalign" else {})}) for name in METHODS
}
"""Published training settings by method (method.md, Classifiers; reweighting and resampling train as the baseline does)."""


def training_of(settings: ClassifySettings, method: str) -> Training:
    """All training settings of a method: its own, else those for all methods, else the published ones."""
    own = settings.methods.get(method, Training()).model_dump(exclude_none=True)
    shared = settings.training.model_dump(exclude_none=True)
    return Training(**{**DEFAULTS[method].model_dump(), **shared, **own})
