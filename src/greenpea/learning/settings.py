"""What a person may choose about learning. No torch here, so that the command line starts at once."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from greenpea.outputs import Likelihood

Method = Literal[
    "laplace", "dropout", "bootstrap", "variational-head", "ensemble", "encoder-dropout", "variational"
]  # of `greenpea.learning.uncertainty`


ON_FROZEN = ("laplace", "dropout", "bootstrap")  # methods that need no training of the encoder


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Augmentation(_Settings):
    """How images are varied in training."""

    orientation: Literal["any", "upright"] = Field(
        "any", description="any: the sky has no up, every rotation is as likely; upright: pictures with an up"
    )
    mirror: bool = Field(True, description="mirror images are as likely (false where handedness is asked about)")
    zoom: float = Field(0.1, ge=0, lt=1, description="largest relative change of scale")
    shift: float = Field(0.06, ge=0, lt=0.5, description="largest move, in image widths")
    erase: float = Field(0.0, ge=0, le=1, description="share of images in which one square is blanked")


class Recipe(_Settings):
    """How one `training.fit` runs."""

    epochs: int = Field(30, ge=1, description="at most so many passes over the training subjects")
    learning_rate: float = Field(3e-3, gt=0, description="the largest, after warm-up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's, on matrices and kernels")
    warm_up: float = Field(0.1, ge=0, lt=1, description="share of the steps until the full learning rate")
    patience: int = Field(15, ge=1, description="stop after so many epochs without a better held-out loss")
    average: float = Field(0.99, ge=0, lt=1, description="decay per step of the weights' running average; 0: none")
    clip: float = Field(5.0, gt=0, description="largest norm of the gradient")


class Learning(_Settings):
    """How a model is learned from images and votes."""

    encoder: str = Field(
        "residual",
        description="'residual', or with the extra 'timm': 'timm:NAME' for one of timm's, 'hf-hub:OWNER/NAME' (or "
        "'hf-hub:FOLDER') for a published one with its weights",
    )
    pretrained: bool = Field(False, description="start 'timm:' encoders from their published weights (downloads)")
    width: int = Field(24, ge=4, description="channels of the residual encoder's first stage")
    likelihood: Likelihood = Field("dirichlet-multinomial", description="or 'multinomial': no spread of opinion")
    uncertainty: Method = Field(
        "laplace",
        description="how the network doubts: 'laplace', 'bootstrap', 'variational-head' or 'dropout' (the 2019 anchor) "
        "in its head, for one pass; 'ensemble', 'variational' or 'encoder-dropout' in all of it, for several",
    )
    dropout: float = Field(0.2, ge=0, lt=1, description="share of the embedding silenced in training")
    encoder_dropout: float = Field(0.1, ge=0, lt=1, description="'encoder-dropout': share of channels silenced")
    members: int = Field(5, ge=2, description="'ensemble': networks trained, each from a seed of its own")
    prior: Literal["gaussian", "laplace", "mixture"] = Field(
        "gaussian", description="'variational' and 'variational-head': what weights are like before any data"
    )
    prior_width: float = Field(1.0, gt=0, description="the prior's standard deviation, in units of 1/√(inputs)")
    temperature: float = Field(
        0.1, gt=0, description="weight of the prior in variational training; below 1: surer than Bayes' rule"
    )
    draws: int = Field(30, ge=2, description="draws of the weights in a posterior")
    orientation: Literal["auto", "any", "upright"] = Field(
        "auto", description="do the images have an up? auto: ask a linear probe"
    )
    mirror: bool = Field(True, description="mirror images are as likely")
    zoom: float = Field(0.1, ge=0, lt=1, description="largest relative change of scale in training")
    shift: float = Field(0.06, ge=0, lt=0.5, description="largest move in training, in image widths")
    erase: float = Field(0.0, ge=0, le=1, description="share of images in which one square is blanked")
    epochs: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="auto: about 250,000 images seen, 15 to 150 passes"
    )
    batch_size: Annotated[int, Field(ge=4)] | Literal["auto"] = Field(
        "auto", description="auto: 128, fewer where subjects are few"
    )
    learning_rate: float = Field(3e-3, gt=0, description="the largest, after warm-up")
    weight_decay: float = Field(0.05, ge=0, description="AdamW's, on matrices and kernels")
    patience: int = Field(15, ge=1, description="stop after so many epochs without a better held-out loss")
    freeze: bool = Field(False, description="keep a given encoder as it is and fit the head only")
    recalibrate: bool = Field(True, description="correct sharpness and concentration on the validation votes")
    precision: Literal["auto", "32-true", "bf16-mixed", "16-mixed"] = Field(
        "auto", description="fabric's; auto: bf16-mixed where the processor is fast at it, else 32-true"
    )
    accelerator: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: cuda where there is one")
    devices: int = Field(1, ge=1, description="GPUs that train one network together; on 'cpu', processes")
    seed: int = Field(0, ge=0, description="of everything random in training and in the draws")

    @model_validator(mode="after")
    def _draws_differ(self) -> Learning:
        if self.uncertainty == "dropout" and self.dropout == 0:
            raise ValueError("uncertainty 'dropout' needs dropout above 0: without it all draws are the same")
        if self.uncertainty == "encoder-dropout" and self.encoder_dropout == 0:
            raise ValueError("uncertainty 'encoder-dropout' needs encoder_dropout above 0: else all draws are the same")
        if self.devices > 1 and self.uncertainty.startswith("variational"):
            raise ValueError(
                f"uncertainty {self.uncertainty!r} trains on one device: its loss looks at its own weights"
            )
        if self.freeze and self.uncertainty not in ON_FROZEN:
            raise ValueError(
                f"uncertainty {self.uncertainty!r} is learned together with the encoder, which freeze keeps as it is: "
                f"choose one of {', '.join(ON_FROZEN)}, or freeze = false"
            )
        return self

    @property
    def published(self) -> bool:
        """Whether the encoder begins with published weights: asked for, or named by where they are."""
        return self.pretrained or self.encoder.startswith("hf-hub:")

    def augmentation(self, orientation: Literal["any", "upright"]) -> Augmentation:
        """Return how images are varied, the orientation decided."""
        return Augmentation(
            orientation=orientation, mirror=self.mirror, zoom=self.zoom, shift=self.shift, erase=self.erase
        )

    def recipe(self, subjects: int) -> Recipe:
        """Return the recipe for so many training subjects."""
        epochs = min(150, max(15, 250_000 // max(1, subjects))) if self.epochs == "auto" else self.epochs
        return Recipe(
            epochs=epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            patience=max(self.patience, epochs // 4),
        )

    def batch(self, subjects: int) -> int:
        """Return the batch size for so many training subjects: at least eight batches an epoch, 16 to 128."""
        return min(128, max(16, subjects // 8)) if self.batch_size == "auto" else self.batch_size
