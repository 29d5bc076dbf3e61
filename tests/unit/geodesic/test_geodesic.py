"""The public distance transform: what it refuses, parity with GeodisTK, layouts, threads, the compiled cache."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from distances import SHAPES, SPACING, digest, random_case

from geols_precompute.errors import InputError, MissingExtraError
from geols_precompute.geodesic import compile_kernels, geodesic_distance
from geols_precompute.geodesic.options import MAX_ITERATIONS

REPOSITORY = Path(__file__).resolve().parents[3]


def assert_relatively_close(actual, expected, tolerance=1e-6):
    np.testing.assert_array_equal(actual == 0, expected == 0)
    np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=0)


def oracle(image, seeds, spacing=SPACING, **options):
    pytest.importorskip("GeodisTK")
    return geodesic_distance(image, seeds, spacing, engine="geodistk", **options)


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("channels", [None, 1, 2, 4])
@pytest.mark.parametrize("iterations", [1, 4])
def test_raster_equals_geodistk(lam, channels, iterations):
    image, seeds = random_case((13, 18, 37), channels=channels)
    options = {"lam": lam, "iterations": iterations}
    assert_relatively_close(geodesic_distance(image, seeds, SPACING, **options), oracle(image, seeds, **options))


@pytest.mark.parametrize("shape", SHAPES)
def test_raster_equals_geodistk_at_any_size(shape):
    image, seeds = random_case(shape, seed=sum(shape), classes=3)
    assert_relatively_close(geodesic_distance(image, seeds, SPACING), oracle(image, seeds))


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e6])
@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_raster_equals_geodistk_at_extreme_intensities(scale, lam):
    image, seeds = random_case((9, 14, 35))
    image = (image / np.abs(image).max() * np.float32(scale) + np.float32(0.5)).astype(np.float32)
    assert_relatively_close(geodesic_distance(image, seeds, SPACING, lam=lam), oracle(image, seeds, lam=lam))


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.1, 3.0, 0.7), (8.0, 0.5, 0.5), np.array([1.5, 0.9, 0.9])])
def test_raster_equals_geodistk_at_any_spacing(spacing):
    image, seeds = random_case((11, 12, 33))
    assert_relatively_close(geodesic_distance(image, seeds, spacing), oracle(image, seeds, spacing))


def test_raster_equals_geodistk_on_real_ct():
    sitk = pytest.importorskip("SimpleITK")
    folder = Path(os.environ.get("GEOLS_TEST_DATA", REPOSITORY / ".." / "shared" / "data")) / "flare" / "ct_001"
    paths = sorted(folder.rglob("*img*.nii*")) + sorted(folder.rglob("*seg*.nii*"))
    if len(paths) != 2:
        pytest.skip(f"no CT in {folder}; set GEOLS_TEST_DATA to the folder of test data")
    image, labels = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in paths)
    image = image.astype(np.float32)
    seeds = np.stack([labels == value for value in (1, 2, 3, 4)])
    assert_relatively_close(geodesic_distance(image, seeds, (3, 3, 3)), oracle(image, seeds, (3, 3, 3)))


def test_memory_order_and_views_do_not_matter():
    image, seeds = random_case((9, 11, 19), channels=2)
    expected = geodesic_distance(image, seeds, SPACING)
    wide_image, wide_seeds = np.repeat(image, 2, axis=-1), np.repeat(seeds, 2, axis=-1)
    read_only = image.copy()
    read_only.flags.writeable = False
    for other_image, other_seeds in [
        (np.asfortranarray(image), np.asfortranarray(seeds)),
        (wide_image[..., ::2], wide_seeds[..., ::2]),
        (image[:, ::-1][:, ::-1], seeds[:, ::-1][:, ::-1]),
        (read_only, seeds),
    ]:
        np.testing.assert_array_equal(geodesic_distance(other_image, other_seeds, SPACING), expected)


@pytest.mark.parametrize("metric", ["gradient", "riemannian"])
@pytest.mark.parametrize("iterations", [4, "exact"])
def test_classes_do_not_influence_each_other(metric, iterations):
    image, seeds = random_case((9, 11, 19), classes=3)
    together = geodesic_distance(image, seeds, SPACING, metric=metric, iterations=iterations)
    for label in range(3):
        alone = geodesic_distance(image, seeds[label : label + 1], SPACING, metric=metric, iterations=iterations)
        np.testing.assert_array_equal(together[label : label + 1], alone)


def test_one_channel_is_the_same_with_and_without_its_axis():
    image, seeds = random_case((6, 7, 18))
    with_axis = geodesic_distance(image[np.newaxis], seeds, SPACING)
    np.testing.assert_array_equal(with_axis, geodesic_distance(image, seeds, SPACING))


@pytest.mark.parametrize("metric", ["gradient", "riemannian"])
def test_four_equal_channels_double_the_norm(metric):
    image, seeds = random_case((6, 7, 18))
    joint = geodesic_distance(np.stack([image] * 4), seeds, SPACING, metric=metric)
    np.testing.assert_array_equal(joint, geodesic_distance(2 * image, seeds, SPACING, metric=metric))


def test_iterations_stop_once_nothing_changes():
    from geols_precompute.geodesic.checks import checked_image, checked_seeds
    from geols_precompute.geodesic.metric import make_formula, make_steps
    from geols_precompute.geodesic.raster import raster_distance

    image, seeds = checked_image(np.zeros((5, 6, 7), np.float32)), np.zeros((1, 5, 6, 7), bool)
    seeds[0, 0, 0, 0] = True
    formula = make_formula("gradient", 1.0, 1.0)
    out = np.empty(seeds.shape, np.float32)
    seeds = checked_seeds(seeds, (5, 6, 7))
    assert raster_distance(image, seeds, formula, make_steps(formula, (1, 1, 1)), 10**9, out) == 2


@pytest.mark.parametrize("engine", ["numba", "geodistk"])
def test_out_is_filled_and_returned(engine):
    if engine == "geodistk":
        pytest.importorskip("GeodisTK")
    image, seeds = random_case((4, 5, 6))
    out = np.full(seeds.shape, -1, np.float32)
    assert geodesic_distance(image, seeds, SPACING, engine=engine, out=out) is out
    np.testing.assert_array_equal(out, geodesic_distance(image, seeds, SPACING, engine=engine))


def test_no_classes_give_no_maps():
    image, seeds = random_case((4, 5, 6))
    for iterations in (4, "exact"):
        assert geodesic_distance(image, seeds[:0], SPACING, iterations=iterations).shape == (0, 4, 5, 6)


def test_a_smaller_volume_after_a_larger_one_sees_none_of_its_memory():
    large, small = random_case((20, 21, 40), seed=1), random_case((5, 6, 7), seed=2)
    expected = geodesic_distance(*small, SPACING)
    geodesic_distance(*large, SPACING)
    np.testing.assert_array_equal(geodesic_distance(*small, SPACING), expected)


def test_threads_give_the_same_bytes():
    expected = digest()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda _: digest(), range(8))) == [expected] * 8


GOOD = random_case((4, 5, 6))


def with_voxel(value):
    image = GOOD[0].copy()
    image[1, 2, 3] = value
    return image


def without_seeds_of_class_1():
    seeds = GOOD[1].copy()
    seeds[1] = False
    return seeds


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (GOOD[0][0], r"image has shape \(5, 6\); it must be \[z,y,x\] or \[modality,z,y,x\]"),
        (GOOD[0][None, None], "image has shape"),
        (np.zeros((0, 5, 6), np.float32), "no side may be empty"),
        (np.zeros((0, 4, 5, 6), np.float32), "no side may be empty"),
        (GOOD[0].astype(np.float64), "image has dtype float64; it must be float32"),
        (GOOD[0].astype(np.int16), "image has dtype int16"),
        (GOOD[0].astype(">f4"), "image has dtype >f4"),
        (GOOD[0].tolist(), "image is a list"),
        (with_voxel(np.nan), "image has 1 voxel.* NaN or infinite"),
        (with_voxel(np.inf), "NaN or infinite"),
        (with_voxel(-np.inf), "NaN or infinite"),
        (with_voxel(1e30), "must lie within"),
    ],
)
def test_bad_images_are_refused(image, message):
    with pytest.raises(InputError, match=message):
        geodesic_distance(image, GOOD[1], SPACING)


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (GOOD[1][0], r"seeds have shape \(4, 5, 6\); they must be \[class,z,y,x\]"),
        (GOOD[1][:, :3], r"seeds have shape .* over the image's \(4, 5, 6\)"),
        (GOOD[1].astype(np.uint8), "seeds has dtype uint8; it must be bool"),
        (GOOD[1].tolist(), "seeds is a list"),
        (without_seeds_of_class_1(), "seeds of class 1 are empty"),
    ],
)
def test_bad_seeds_are_refused(seeds, message):
    with pytest.raises(InputError, match=message):
        geodesic_distance(GOOD[0], seeds, SPACING)


@pytest.mark.parametrize(
    "spacing",
    [
        (1, 1),
        (1, 1, 1, 1),
        (1, 1, 0),
        (1, -1, 1),
        (1, np.nan, 1),
        (np.inf, 1, 1),
        (1e-9, 1, 1),
        1.0,
        None,
        "abc",
        (1, "1", 1),
        (1, True, 1),
    ],
)
def test_bad_spacing_is_refused(spacing):
    with pytest.raises(InputError, match=r"spacing is .* it must be three finite numbers"):
        geodesic_distance(*GOOD, spacing)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "euclidean"}, "metric must be one of gradient, riemannian, got 'euclidean'"),
        ({"metric": ["gradient"]}, "metric must be one of"),
        ({"metric": np.array(["gradient", "riemannian"])}, "metric must be one of"),
        ({"engine": "cuda"}, "engine must be one of numba, geodistk, got 'cuda'"),
        ({"lam": -0.1}, r"lam must be in \[0, 1\], got -0.1"),
        ({"lam": 1.1}, "lam must be in"),
        ({"lam": np.nan}, "lam must be in"),
        ({"lam": "1"}, "lam must be in .* got '1'"),
        ({"lam": True}, "lam must be in .* got True"),
        ({"gamma": -1}, r"gamma must be a number from 0 to 1e\+06, got -1"),
        ({"gamma": np.inf}, "gamma must be .* got inf"),
        ({"gamma": np.nan}, "gamma must be .* got nan"),
        ({"gamma": 10**400}, "gamma must be"),
        ({"iterations": 0}, 'iterations must be a count from 1 to 1000000, or "exact", got 0'),
        ({"iterations": -4}, "iterations must be .* got -4"),
        ({"iterations": 4.0}, "iterations must be .* got 4.0"),
        ({"iterations": True}, "iterations must be .* got True"),
        ({"iterations": "exactly"}, "iterations must be .* got 'exactly'"),
        ({"iterations": MAX_ITERATIONS + 1}, "iterations must be"),
        ({"iterations": np.array([1, 2])}, "iterations must be"),
        ({"engine": "geodistk", "metric": "riemannian"}, "geodistk computes the gradient metric .* only"),
        ({"engine": "geodistk", "iterations": "exact"}, "geodistk computes .* a count of iterations only"),
        ({"out": np.empty((2, 4, 5, 7), np.float32)}, "out has shape"),
        ({"out": np.empty((2, 4, 5, 6))}, "out has dtype float64"),
        ({"out": np.empty((2, 4, 5, 6), np.float32, order="F")}, "out is not C-contiguous"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        geodesic_distance(*GOOD, SPACING, **options)


def test_numbers_of_numpy_are_taken():
    options = {"metric": "riemannian", "lam": np.float32(0.5), "gamma": np.float64(2), "iterations": np.int64(3)}
    plain = {"metric": "riemannian", "gamma": 2.0, "iterations": 3}
    np.testing.assert_array_equal(
        geodesic_distance(*GOOD, SPACING, **options), geodesic_distance(*GOOD, SPACING, **plain)
    )


def test_out_in_the_image_is_refused():
    image, seeds = random_case((4, 5, 6), classes=1)
    with pytest.raises(InputError, match="shares memory"):
        geodesic_distance(image, seeds, SPACING, out=image[np.newaxis])


@pytest.mark.parametrize("iterations", [4, "exact"])
@pytest.mark.parametrize("metric", ["gradient", "riemannian"])
def test_the_largest_numbers_stay_finite(metric, iterations):
    image, seeds = random_case((4, 5, 6), channels=3)
    image = np.where(image > 0, np.float32(1e12), np.float32(-1e12))
    options = {"metric": metric, "gamma": 1e6, "iterations": iterations}
    assert np.isfinite(geodesic_distance(image, seeds, (1e6, 1, 1e-6), **options)).all()


def test_missing_geodistk_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "GeodisTK", None)
    with pytest.raises(MissingExtraError, match=r"GeodisTK is not installed.*geols\[geodistk\]"):
        geodesic_distance(*GOOD, SPACING, engine="geodistk")
    with pytest.raises(MissingExtraError):
        compile_kernels(engine="geodistk")
