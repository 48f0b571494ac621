"""Every tolerance of the project, each with its reason and the largest value that was measured.

A limit leaves room for other processors, BLAS libraries and seeds. It is never raised to make a test pass: a larger
difference has a cause, and the cause is what gets changed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """A limit and where it comes from.

    Attributes:
        limit: Largest difference that passes.
        measured: Largest difference seen when the limit was chosen.
        reason: What the difference is, and why the limit is where it is.
    """

    limit: float
    measured: float
    reason: str


# Relative L2 distance of the twins' outputs from the same parameters and images: logits and every block.
FORWARD: dict[str, Tolerance] = {
    "float64": Tolerance(
        limit=1e-12,
        measured=3.4e-15,
        reason="the order of sums; a mistake is 1e-9 and more, be it one epsilon or one layer in float32",
    ),
    "float32": Tolerance(
        limit=5e-6,
        measured=1.5e-6,
        reason="the order of sums, and each framework's exp, erf and tanh",
    ),
    "bfloat16": Tolerance(
        limit=3e-2,
        measured=1.1e-2,
        reason="8 bits of mantissa, which the frameworks round to after different operations",
    ),
}

# Relative L2 distance of what every submodule of the twins takes and returns.
LAYERS: dict[str, Tolerance] = {
    "float64": Tolerance(
        limit=1e-12,
        measured=7.0e-16,
        reason="as of FORWARD: every place is an intermediate of it",
    ),
    "float32": Tolerance(
        limit=5e-6,
        measured=3.3e-7,
        reason="as of FORWARD; twice that of the block's output within some branches",
    ),
    "bfloat16": Tolerance(
        limit=3e-2,
        measured=8.0e-3,
        reason="as of FORWARD",
    ),
}

# Relative L2 distance of the twins' gradients from the same parameters, images and cotangents: every parameter and the
# images. Where a gradient may cancel it is relative to the scale of what is summed (`parity.compare.layer_scales`).
GRADIENTS: dict[str, Tolerance] = {
    "float64": Tolerance(
        limit=1e-12,
        measured=3.3e-15,
        reason="the order of sums; a wrong term is 1e-9 and more, and no parameter's was above 8.5e-15 of its own norm",
    ),
    "float32": Tolerance(
        limit=1e-5,
        measured=1.6e-6,
        reason="the order of sums, and each framework's derivatives of softmax, norms and activations",
    ),
    "bfloat16": Tolerance(
        limit=1e-1,
        measured=4.2e-2,
        reason="8 bits of mantissa, which the frameworks round to after different operations, forwards and backwards",
    ),
}

# The same of a model with BatchNorm in training mode, by the statistics of the batch.
GRADIENTS_IN_TRAINING: dict[str, Tolerance] = {
    "float64": Tolerance(
        limit=1e-12,
        measured=2.2e-15,
        reason="as of GRADIENTS",
    ),
    "float32": Tolerance(
        limit=1e-5,
        measured=1.4e-6,
        reason="as of GRADIENTS",
    ),
    "bfloat16": Tolerance(
        limit=4e-1,
        measured=2.0e-1,
        reason="ReLU's derivative jumps, and its inputs, centred on zero by BatchNorm, are rounded to 8 bits: where a "
        "share p of their signs differs, gradients do by sqrt(p)",
    ),
}

# Relative L2 distance of a framework's gradients from its own in float64: a training step on real images of about
# 25,000 tokens, from the same float32 parameters. Scales are as of GRADIENTS.
PRECISION: dict[str, Tolerance] = {
    "float32": Tolerance(
        limit=1e-4,
        measured=2.0e-5,
        reason="PyTorch's LayerNorm on a CPU sums its gradients over all tokens one after another; all else 2.3e-6",
    ),
    "bfloat16": Tolerance(
        limit=5e-2,
        measured=2.6e-2,
        reason="8 bits of mantissa in every activation and kernel; a bias that is summed in 8 bits is off by 70 %",
    ),
}

# The same of the gradients' norms.
PRECISION_NORM: dict[str, Tolerance] = {
    "float32": Tolerance(
        limit=1e-4,
        measured=5.3e-6,
        reason="as of PRECISION",
    ),
    "bfloat16": Tolerance(
        limit=4e-2,
        measured=2.2e-2,
        reason="rounding goes either way; a sum whose partial sums are rounded to 8 bits stops growing",
    ),
}

# Both of a model with BatchNorm, and thereby in training mode.
PRECISION_IN_TRAINING: dict[str, Tolerance] = {
    "float32": Tolerance(
        limit=1e-4,
        measured=9.6e-6,
        reason="the rounding of every product and sum",
    ),
    "bfloat16": Tolerance(
        limit=2e-1,
        measured=9.1e-2,
        reason="as of GRADIENTS_IN_TRAINING",
    ),
}

# Relative L2 distance of an average over 1,000 updates in float32, each by 1e-5 of the way, from the same in float64.
PRECISION_AVERAGE = Tolerance(
    limit=5e-6,
    measured=1e-6,
    reason="a rounding of 6e-8 in each update, either way",
)

# Relative difference of each step's loss and gradient norm over 100 AdamW steps from the same parameters. The limit of
# float64 leaves room for thousands of steps, over which rounding grows; no wrong optimiser stays below 1e-8.
TRAINING_LOSS: dict[str, Tolerance] = {
    "float64": Tolerance(
        limit=1e-10,
        measured=1.3e-15,
        reason="the order of sums, once more in every step",
    ),
    "float32": Tolerance(
        limit=1e-5,
        measured=4.7e-7,
        reason="a few units in the last place (1.2e-7); steps of the optimiser keep them from growing fast",
    ),
    "bfloat16": Tolerance(
        limit=5e-2,
        measured=1.1e-2,
        reason="gradients in 8 bits of mantissa: each step goes another way by their rounding; the loss itself 1.8e-3",
    ),
}

# Relative L2 distance of parameters, both moments and the average after those steps; scales as of GRADIENTS. AdamW
# divides by the gradient's own size, so that what is zero but for rounding, the key's part of a qkv bias, moves by it.
TRAINING_STATE: dict[str, Tolerance] = {
    "float64": Tolerance(
        limit=1e-9,
        measured=7.6e-13,
        reason="the key's part of the qkv biases; all else 5e-15",
    ),
    "float32": Tolerance(
        limit=5e-3,
        measured=8.6e-4,
        reason="the key's part of the qkv biases, which changes no output; all else 3e-6",
    ),
    "bfloat16": Tolerance(
        limit=2e-1,
        measured=5.9e-2,
        reason="moments are as far apart as gradients; parameters move by at most the learning rate in each step",
    ),
}

# Relative L2 distance of either twin in float64 from timm, transformers, torchvision or open_clip, of any output.
PEERS = Tolerance(
    limit=1e-12,
    measured=1.6e-15,
    reason="the order of sums; another implementation's mistake or ours is 1e-9 and more",
)

# Relative L2 distance of the sines and cosines of rotary positions in float64 from timm's, which are float32.
ROPE_FLOAT32 = Tolerance(
    limit=2e-6,
    measured=3.3e-7,
    reason="float32's rounding of periods and angles of up to 2 pi / 0.5",
)

# Relative L2 distance of resized position grids in float64 from each source's own code: PyTorch's and SciPy's.
RESIZE = Tolerance(
    limit=1e-14,
    measured=2.0e-15,
    reason="the order of sums of at most a few dozen terms",
)

# Relative L2 distance of positions that the twins resize as they run from the same in float64.
RESIZED_POSITIONS: dict[str, Tolerance] = {
    "float64": Tolerance(limit=1e-14, measured=1.2e-16, reason="as of RESIZE"),
    "float32": Tolerance(limit=3e-7, measured=7.6e-8, reason="a few dozen terms, each rounded to 24 bits"),
    "bfloat16": Tolerance(
        limit=2e-3, measured=1.7e-3, reason="one rounding to 8 bits; kernels and sums in bfloat16 would be up to 3.7e-3"
    ),
}

# The same from timm's and transformers' own loading code, which resizes in float32 whatever it is given.
RESIZE_FLOAT32 = Tolerance(
    limit=1e-5,
    measured=2.3e-6,
    reason="float32's rounding of kernels, grids and pseudo-inverses",
)

# Relative L2 distance of a patch embedding taken to another patch size in float64, by one pseudo-inverse for each side,
# from that by the pseudo-inverse of the whole resize.
PSEUDO_INVERSE = Tolerance(
    limit=1e-13,
    measured=5.4e-15,
    reason="two singular value decompositions of matrices whose condition is below ten",
)

# Largest difference of a preprocessed photograph from the transform of timm, open_clip, torchvision or transformers,
# where that resizes with Pillow, too; in units of 0..255, after both normalisations are undone.
PIXELS = Tolerance(
    limit=1e-3,
    measured=7.6e-6,
    reason="the pixels are equal; where they aren't scaled to [0, 1] first, float32 rounds otherwise",
)

# The same where the other side resizes tensors with PyTorch's kernels: torchvision's and transformers' default.
PIXELS_OF_TENSORS = Tolerance(
    limit=8.0,
    measured=5.0,
    reason="Pillow rounds and clamps after its first pass, and takes another one first for tall images: 1 unit in most "
    "pixels that differ, 3 to 5 in overshoot at hard edges",
)

# What ports of ViTs between frameworks usually allow. No check uses it: docs/parity.md and tests/parity show which
# mistakes it lets through.
USUAL_ELSEWHERE = 0.05

# What tests of such ports usually allow the logits in float32, absolute and relative. No check uses it either.
USUAL_IN_FLOAT32 = 1e-3

# Relative difference of the float32 loss of each of the first 20 steps between one device and any mesh.
MESH_LOSS = Tolerance(
    limit=1e-5,
    measured=1.5e-7,
    reason="sums over the batch and over split axes are taken in another order",
)

# Relative difference of the float32 loss of a few steps between ways to run the same model.
EXECUTION_LOSS = Tolerance(
    limit=1e-6,
    measured=3.1e-7,
    reason="fused and recomputed operations round differently; one unit in the last place is 1.2e-7",
)

# Relative difference of an AdamW step or a loss in float64 from its formula.
FORMULA = Tolerance(
    limit=1e-12,
    measured=4.5e-16,
    reason="the order of a few operations",
)

# Relative difference in float64 of a gradient along a direction from the central difference of two losses.
FINITE_DIFFERENCE = Tolerance(
    limit=1e-7,
    measured=5.1e-9,
    reason="steps of 1e-5: the third derivative times 1e-10, and rounding divided by 1e-5",
)

# Relative difference of a learning rate or of Adam's first step in float32 from the formula in float64.
FORMULA_FLOAT32 = Tolerance(
    limit=5e-7,
    measured=2.2e-7,
    reason="a few roundings of 6e-8 each; what cancels is computed in a form that doesn't",
)

# How many times farther apart float32 runs in two frameworks may be than two runs in one framework whose batches have
# their rows in another order: mean difference of the losses, and distance of the parameters.
DIVERGENCE = Tolerance(
    limit=3.0,
    measured=1.8,
    reason="two chaotic runs are compared with two others; an epsilon of 1e-5 for 1e-6 is 5 to 7 in the losses",
)

# Relative difference of the loss of the first steps with bfloat16 computation from that in float32.
BFLOAT16_LOSS = Tolerance(
    limit=5e-3,
    measured=8.5e-4,
    reason="8 bits of mantissa in every activation",
)
