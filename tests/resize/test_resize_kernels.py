"""Each kernel against the code that it stands for, in float64, up and down, on grids that aren't square."""

from __future__ import annotations

import numpy as np
import pytest
from resize_sources import overshoots, scipy_resize, source, torch_resize

from parity.checkpoints.resize import (
    KERNELS,
    REL_POS_KERNELS,
    resize_grid,
    resize_matrix,
    resize_patch_kernel,
    resize_rel_pos_table,
)
from parity.compare import compare
from parity.configs import VitConfig
from parity.tolerances import PSEUDO_INVERSE, RESIZE

SIZES = range(1, 33)


@pytest.mark.parametrize("new", [(3, 9), (12, 14), (7, 7), (6, 5), (2, 11), (6, 9), (17, 5)])
@pytest.mark.parametrize("kernel", KERNELS)
def test_grids(kernel, new):
    grid = np.random.default_rng(0).standard_normal((6, 5, 11))
    resized = resize_grid(grid, new, kernel)
    assert resized.dtype == np.float64
    assert compare({"grid": resized}, {"grid": source(grid, new, kernel)}).ok(RESIZE.limit)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_pair_of_sizes(kernel):
    rng = np.random.default_rng(0)
    worst = 0.0
    for old in SIZES:
        # Two columns, since PyTorch's antialiased resize is wrong where the new grid has one.
        grid = rng.standard_normal((old, 2, 3))
        for new in SIZES:
            if kernel == "zoom" and overshoots(old, new):
                continue
            columns = resize_matrix(2, 2, kernel)
            resized = np.einsum("ih,hwc,jw->ijc", resize_matrix(old, new, kernel), grid, columns)
            expected = source(grid, (new, 2), kernel)
            worst = max(worst, np.linalg.norm(resized - expected) / np.linalg.norm(expected))
    assert worst < RESIZE.limit


def test_the_edges_that_scipy_loses_are_kept():
    """8 -> 26: 25 * (7 / 25) is more than 7, and SciPy's default gives a row of zeros; its `nearest` doesn't."""
    assert overshoots(8, 26)
    grid = np.random.default_rng(0).standard_normal((8, 8, 3))
    assert not scipy_resize(grid, (26, 26))[-1].any()
    expected = scipy_resize(grid, (26, 26), mode="nearest")
    assert compare({"grid": resize_grid(grid, (26, 26), "zoom")}, {"grid": expected}).ok(RESIZE.limit)


@pytest.mark.parametrize("kernel", sorted(set(KERNELS) - {"bicubic_offset"}))
def test_the_same_size_changes_nothing(kernel):
    assert np.array_equal(resize_matrix(7, 7, kernel), np.eye(7))


@pytest.mark.parametrize("kernel", KERNELS)
def test_kernels_keep_what_is_constant_and_differ_from_each_other(kernel):
    for old, new in ((5, 13), (13, 5), (1, 4), (4, 1)):
        np.testing.assert_allclose(resize_matrix(old, new, kernel).sum(axis=1), 1, rtol=0, atol=RESIZE.limit)
    for other in set(KERNELS) - {kernel}:
        # Antialiasing does nothing on the way up, except to the kernel's width.
        pair = (13, 5) if {kernel, other} == {"bilinear", "bilinear_antialias"} else (5, 13)
        assert np.abs(resize_matrix(*pair, kernel) - resize_matrix(*pair, other)).max() > 1e-4


def test_the_config_knows_the_kernels():
    for field, kernels in (
        ("pos_embed_resize", KERNELS),
        ("patch_resize", KERNELS),
        ("rel_pos_resize", REL_POS_KERNELS),
    ):
        for kernel in kernels:
            assert getattr(VitConfig(**{field: kernel}), field) == kernel
        with pytest.raises(ValueError, match=f"{field}: got 'nearest', expected one of {', '.join(kernels)}$"):
            VitConfig(**{field: "nearest"})


def whole_resize_matrix(old: tuple[int, int], new: tuple[int, int], kernel: str) -> np.ndarray:
    """The matrix of a two-dimensional resize, one basis image at a time, as FlexiViT builds it."""
    basis = np.eye(old[0] * old[1]).reshape(*old, -1)
    return source(basis, new, kernel).reshape(new[0] * new[1], -1)


@pytest.mark.parametrize("new", [(4, 6), (6, 9), (8, 10), (16, 12), (9, 4)])
@pytest.mark.parametrize("resize", ["bilinear", "bicubic_antialias"])
def test_patch_kernels(resize, new):
    kernel = np.random.default_rng(0).standard_normal((5, 3, 6, 9))
    matrix = whole_resize_matrix((6, 9), new, resize)
    expected = (kernel.reshape(5, 3, -1) @ np.linalg.pinv(matrix)).reshape(5, 3, *new)
    resized = resize_patch_kernel(kernel, new, resize)
    assert resized.dtype == np.float64
    assert compare({"kernel": resized}, {"kernel": expected}).ok(PSEUDO_INVERSE.limit)


@pytest.mark.parametrize("resize", ["bilinear", "bicubic_antialias"])
def test_larger_patches_get_the_embeddings_that_the_smaller_ones_had(resize):
    """What the pseudo-inverse is for: on the way up nothing is lost (FlexiViT, section 3.4)."""
    rng = np.random.default_rng(0)
    kernel, patches = rng.standard_normal((5, 3, 6, 9)), rng.standard_normal((7, 3, 6, 9))
    larger = np.stack([resize_grid(patch.transpose(1, 2, 0), (11, 16), resize) for patch in patches])
    embedded = np.einsum("dchw,bhwc->bd", resize_patch_kernel(kernel, (11, 16), resize), larger)
    expected = np.einsum("dchw,bchw->bd", kernel, patches)
    assert compare({"tokens": embedded}, {"tokens": expected}).ok(PSEUDO_INVERSE.limit)


def test_the_class_tokens_rows_of_a_table_stay():
    table = np.random.default_rng(0).standard_normal((7 * 9 + 3, 4))
    for kernel in REL_POS_KERNELS:
        resized = resize_rel_pos_table(table, (4, 5), (6, 3), kernel)
        assert resized.shape == (11 * 5 + 3, 4)
        assert np.array_equal(resized[-3:], table[-3:])


def test_a_bilinear_table_is_resized_as_a_picture_of_distances():
    table = np.random.default_rng(0).standard_normal((7 * 9 + 3, 4))
    expected = torch_resize(table[:-3].reshape(7, 9, 4), (11, 5), "bilinear").reshape(-1, 4)
    resized = resize_rel_pos_table(table, (4, 5), (6, 3), "bilinear")[:-3]
    assert compare({"table": resized}, {"table": expected}).ok(RESIZE.limit)


@pytest.mark.parametrize(("old", "new"), [(4, 6), (6, 4), (14, 24)])
def test_a_geometric_table_keeps_the_middle_and_reaches_the_edge(old, new):
    """Distances 0 and 1 are as they were; the largest new distance is the largest old one (BEiT's fine-tuning code)."""
    matrix = REL_POS_KERNELS["geometric"](2 * old - 1, 2 * new - 1)
    middle = np.zeros((3, 2 * old - 1))
    middle[np.arange(3), old - 2 + np.arange(3)] = 1
    assert np.array_equal(matrix[new - 2 : new + 1], middle)
    np.testing.assert_allclose(matrix.sum(axis=1), 1, rtol=0, atol=RESIZE.limit)
    if new > old:
        assert matrix[-1, -1] > 0.999
        assert matrix[0, 0] > 0.999
