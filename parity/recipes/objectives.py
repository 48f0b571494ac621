"""What a run learns by: one frozen dataclass for each objective, which a recipe names.

Standard-library types only. `vit_jax/objectives/` and `vit_torch/objectives/` compute them, a file for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..configs.registry import build, close_match, shown


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Cross entropy of the model's logits with the labels, smoothed and mixed as the recipe says.

    Attributes:
        name: Which objective this is: `classification`, or `distillation`, which has fields of its own.
    """

    name: Literal["classification"] = "classification"

    def checkpoints(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Path and `open_checkpoint` keywords of each model that helps and never changes, by its name; here none."""
        return {}


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Cross entropy with the labels, and a loss against a frozen teacher (Touvron et al. 2020, arXiv:2012.12877).

    loss = (1 - alpha) * cross_entropy(labels) + alpha * loss_of_teacher, where the teacher's loss is

    - `hard`: the cross entropy with the teacher's class (eq. 3, where alpha is 1/2);
    - `soft`: temperature^2 * KL(softmax(teacher / temperature), softmax(student / temperature)) of each image (eq. 2;
      Hinton et al. 2015, arXiv:1503.02531). DeiT's code divides it by the number of classes, too; its equation doesn't.

    A student with a distillation token has a head for each loss, and one without has one head for both.

    Attributes:
        name: Which objective this is: `classification`, or `distillation`, which has fields of its own.
        teacher: The teacher's checkpoint, as `parity.checkpoints.open_checkpoint` takes it. It is given the student's
            images, resized to its own input size and normalised in its own way.
        teacher_options: What that checkpoint doesn't say of itself: keywords of `open_checkpoint`.
        kind: `hard` or `soft`.
        alpha: The share of the teacher's loss, from 0 to 1.
        temperature: What logits are divided by in the soft loss.
    """

    name: Literal["distillation"] = "distillation"
    teacher: str = ""
    teacher_options: Mapping[str, Any] = field(default_factory=dict)
    kind: Literal["hard", "soft"] = "hard"
    alpha: float = 0.5
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Raises ValueError where a field can't be used."""
        if self.kind not in ("hard", "soft"):
            raise ValueError(f"objective.kind: got {self.kind!r}, expected 'hard' or 'soft'")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"objective.alpha: got {self.alpha}, expected a value in [0, 1]")
        if not self.temperature > 0:
            raise ValueError(f"objective.temperature: got {self.temperature}, expected a value above 0")
        if self.kind == "hard" and self.temperature != 1:
            raise ValueError(f"objective.temperature: got {self.temperature}, expected 1 with kind 'hard'")

    def checkpoints(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Path and `open_checkpoint` keywords of each model that helps and never changes, by its name.

        Raises:
            ValueError: No teacher is named.
        """
        if not self.teacher:
            raise ValueError("objective.teacher: got none, expected the path of the teacher's checkpoint")
        return {"teacher": (self.teacher, self.teacher_options)}


Objective = Classification | Distillation

OBJECTIVES: dict[str, type[Objective]] = {"classification": Classification, "distillation": Distillation}


def objective_from_dict(data: Any) -> Objective:
    """The objective of its JSON values.

    Raises:
        ValueError: No object, an unknown objective or field (with a close match), or a value that it rejects.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"objective: got {type(data).__name__}, expected an object")
    name = data.get("name")
    if not isinstance(name, str) or name not in OBJECTIVES:
        match = close_match(str(name), OBJECTIVES)
        raise ValueError(f"objective.name: got {shown(name)}, expected one of {', '.join(OBJECTIVES)}{match}")
    fields = dict(data)
    if isinstance(fields.get("teacher_options"), Mapping):
        options = fields["teacher_options"].items()
        fields["teacher_options"] = {key: tuple(value) if isinstance(value, list) else value for key, value in options}
    return build(OBJECTIVES[name], fields, "objective")
