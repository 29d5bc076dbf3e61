"""The report's page in a real browser: the slider changes pixels and numbers as computed here by other means."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from base64 import b64decode

import numpy as np
import pytest
from click.testing import CliRunner
from matplotlib import colormaps
from matplotlib.image import imread
from train_fixtures import make_stores

from geols_precompute import LabelStore, VolumeStore, softlabel
from geols_precompute.cli.store import store

webdriver = pytest.importorskip("selenium.webdriver")

METHODS = ("one-hot", "LS", "SVLS", "GeoLS")

pytestmark = pytest.mark.skipif(
    not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no Chromium (chromium, chromium-driver)"
)


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return make_stores(
        tmp_path_factory.mktemp("stores"),
        cases=6,
        vary=True,
        absent=(3,),
        modalities=2,
        ignore=9,
        spacing=(2.0, 1.0, 1.0),
    )


@pytest.fixture(scope="module")
def page(out, tmp_path_factory):
    """The page of a store, in a browser that may not use the network."""
    path = tmp_path_factory.mktemp("report") / "report.html"
    arguments = ["report", str(out / "labels.zarr"), "-o", str(path), "--alpha", "0.1"]
    done = CliRunner().invoke(store, arguments)
    assert done.exit_code == 0, done.output
    options = webdriver.ChromeOptions()
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--window-size=1400,2000",
    ):
        options.add_argument(flag)
    # every host is nowhere
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.get(path.as_uri())
    until(lambda: driver.find_elements("css selector", "#pictures canvas"))
    yield driver
    errors = [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    driver.quit()
    assert errors == []


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def choose(page, name, value):
    """Set a control as a person would: an event follows."""
    page.execute_script(
        "const e = document.getElementById(arguments[0]);"
        "if (e.type === 'checkbox') e.checked = arguments[1]; else e.value = arguments[1];"
        "e.dispatchEvent(new Event('input'))",
        name,
        value,
    )


def show(page, case):
    options = [o.text for o in page.find_elements("css selector", "#case option")]
    choose(page, "case", str(options.index(case)))
    views = "state.views.length && state.views[0].pictures[0].canvas.isConnected"
    until(lambda: page.execute_script(f"return report.cases[state.case].id === arguments[0] && {views}", case))
    until(
        lambda: (
            page.execute_script("return [...state.views[0].slice.present].sort().join()")
            == page.execute_script("return report.cases[state.case].present.join()")
        )
    )


def go_to(page, *voxel):
    """Go to a voxel z,y,x as a click in the first view does."""
    page.execute_async_script("goTo(arguments[0], state.views[0]).then(arguments[1])", [int(n) for n in voxel])


def look_at(page, view, row, column):
    page.execute_script("readAt(state.views[arguments[0]], arguments[1], arguments[2])", view, row, column)
    return reading(page)


def reading(page):
    """The voxel that is read, and the numbers of its table [map and methods,class]."""
    voxel, numbers = page.execute_script(
        "const table = document.getElementById('probabilities');"
        "const rows = [...table.tBodies[0].rows].map((row) => [...row.querySelectorAll('td')]);"
        "return [table.dataset.voxel, rows.map((cells) => cells.map((cell) => Number(cell.dataset.value)))]"
    )
    return tuple(int(n) for n in voxel.split(",")), np.array(numbers).T


def soft_labels(out, case, alpha, normalize):
    """The map g and the soft labels of every method, by the library."""
    labels, label = LabelStore.open(out / "labels.zarr"), VolumeStore.open(out / "volumes.zarr").label(case)
    return [
        labels.class_maps(case),
        softlabel.one_hot(label, 3),
        softlabel.soft_label(label, method="ls", n_classes=3, alpha=alpha),
        softlabel.soft_label(label, method="svls", n_classes=3),
        labels.soft_label(case, label, alpha=alpha, normalize="sum" if normalize else "none"),
    ]


def canvas_of(page, view, method):
    return page.find_element("css selector", f"canvas[data-view='{view}'][data-method='{method}']")


def pixels(page, view, method):
    """A canvas as the browser shows it, [row,column,rgb]."""
    canvas = canvas_of(page, view, method)
    url = page.execute_script("return arguments[0].toDataURL()", canvas)
    return np.round(imread(io.BytesIO(b64decode(url.split(",")[1])))[..., :3] * 255).astype(int)


@pytest.mark.parametrize(
    ("case", "alpha", "normalize"),
    [
        ("case_00", 0.0, True),
        ("case_00", 0.1, True),
        ("case_00", 0.37, False),
        ("case_03", 0.37, True),
        ("case_03", 1.0, True),
        ("case_03", 1.0, False),
    ],
)
def test_the_numbers_at_voxels_are_those_of_the_library(page, out, case, alpha, normalize):
    show(page, case)
    choose(page, "alpha", str(alpha))
    choose(page, "normalize", normalize)
    expected = soft_labels(out, case, alpha, normalize)
    rng = np.random.default_rng(0)
    for view in range(3):
        go_to(page, *(rng.integers(n) for n in expected[0].shape[1:]))
        H, W = page.execute_script("return state.views[arguments[0]].size", view)
        for row, column in [(0, 0), (H - 1, W - 1), *((int(rng.integers(H)), int(rng.integers(W))) for _ in range(5))]:
            voxel, found = look_at(page, view, row, column)
            for name, got, soft in zip(("g", *METHODS), found, expected, strict=True):
                assert got == pytest.approx(soft[(slice(None), *voxel)], abs=2e-6), (name, voxel)


def test_the_slider_by_keyboard_changes_pixels_and_numbers(page, out):
    show(page, "case_00")
    choose(page, "alpha", "0.1")
    choose(page, "normalize", True)
    choose(page, "quantity", "class")
    before, unchanged = pixels(page, 0, "GeoLS"), pixels(page, 0, "SVLS")
    slider = page.find_element("id", "alpha")
    slider.send_keys("\ue014" * 20)  # arrow to the right
    assert page.find_element("id", "alpha-value").text == "0.30"
    assert not np.array_equal(pixels(page, 0, "GeoLS"), before)
    assert np.array_equal(pixels(page, 0, "SVLS"), unchanged)
    slider.send_keys("\ue012" * 20)
    assert np.array_equal(pixels(page, 0, "GeoLS"), before)
    choose(page, "quantity", "leaving")
    header = page.find_element("css selector", "#classes thead").text
    assert "leaves the class at α = 0.1" in header


@pytest.mark.parametrize("alpha", [0.1, 0.6])
@pytest.mark.parametrize("method", METHODS)
def test_a_pixel_has_the_colour_of_its_probability(page, out, method, alpha):
    show(page, "case_01")
    choose(page, "alpha", str(alpha))
    choose(page, "normalize", True)
    choose(page, "quantity", "class")
    choose(page, "class", "2")
    choose(page, "opacity", "1")
    soft = soft_labels(out, "case_01", alpha, True)[1 + METHODS.index(method)][2]
    # the first view is axial: rows from the front, columns from the right, and so are y and x of these stores
    z = page.execute_script("return report.cases[state.case].centre[0]")
    (y, x), (H, W) = page.execute_script("return [state.views[0].starts, state.views[0].size]")
    expected = soft[z, y : y + H, x : x + W]
    shown = pixels(page, 0, method)
    zoom = shown.shape[0] // H
    middle = shown[zoom // 2 :: zoom, zoom // 2 :: zoom][:H, :W]
    colours = np.round(colormaps["viridis"](np.clip(expected, 0, 1))[..., :3] * 255)
    # the mark and the borders are drawn over some pixels; the page's table of colours is coarser than viridis itself
    close = np.abs(middle - colours).max(axis=2) <= 6
    assert close.mean() > 0.9
    choose(page, "opacity", "0.75")
    choose(page, "quantity", "leaving")


def test_the_numbers_of_the_data_set_follow_the_slider(page, out):
    choose(page, "alpha", "0.2")
    for normalize in (True, False):
        choose(page, "normalize", normalize)
        leaving = []
        for case in LabelStore.open(out / "labels.zarr").cases:
            label = VolumeStore.open(out / "volumes.zarr").label(case)
            *_, soft = soft_labels(out, case, 0.2, normalize)
            others = soft[[0, 2]].sum(axis=0)[label == 1]
            leaving.append(100 * others.mean())
        cells = page.find_elements("css selector", "#classes tbody tr:nth-child(2) td")
        assert float(cells[-1].get_attribute("data-value")) == pytest.approx(np.median(leaving), abs=1e-3)


def test_arrow_keys_move_the_voxel_and_it_is_read_out(page):
    show(page, "case_00")
    canvas = canvas_of(page, 1, "GeoLS")  # coronal: rows run from the head to the feet, z of these stores to the head
    before, _ = look_at(page, 1, 3, 4)
    canvas.send_keys("\ue015")  # arrow down
    until(lambda: reading(page)[0] != before)
    after, _ = reading(page)
    assert [int(b) - int(a) for a, b in zip(before, after, strict=True)] == [-1, 0, 0]
    spoken = page.find_element("id", "voxel")
    assert spoken.get_attribute("aria-live") == "polite"
    assert re.match(
        rf"z {after[0]}, y {after[1]}, x {after[2]}: m0 [-\d.e]+, m1 [-\d.e]+; labelled \w+\. GeoLS at α = ",
        spoken.text,
    )


def test_slices_are_scrolled_by_keys_and_slider_and_read_as_they_lie(page, out):
    show(page, "case_00")
    expected = soft_labels(out, "case_00", 0.1, True)
    choose(page, "alpha", "0.1")
    choose(page, "normalize", True)
    places = page.execute_script("return state.views[0].slices.map((slice) => slice.at)")
    assert places == list(range(places[0], places[0] + len(places)))  # there is room for all of so small a case
    start = places.index(page.execute_script("return state.point[0]"))
    canvas_of(page, 0, "image").send_keys("\ue00f")  # page down
    until(lambda: page.execute_script("return state.views[0].slice.number") == start + 1)
    voxel, found = look_at(page, 0, 2, 5)
    assert voxel[0] == places[start + 1]
    assert found[4] == pytest.approx(expected[4][(slice(None), *voxel)], abs=2e-6)
    page.find_element("css selector", "input[data-view='0']").send_keys("\ue011")  # home
    until(lambda: page.execute_script("return state.views[0].slice.number") == 0)
    voxel, found = look_at(page, 0, 2, 5)
    assert voxel[0] == places[0]
    assert found[4] == pytest.approx(expected[4][(slice(None), *voxel)], abs=2e-6)


def test_the_window_makes_intensities_black_and_white(page, out):
    show(page, "case_02")
    image = VolumeStore.open(out / "volumes.zarr").intensities("case_02")[1]
    z = page.execute_script("return report.cases[state.case].centre[0]")
    (y, x), (H, W) = page.execute_script("return [state.views[0].starts, state.views[0].size]")
    choose(page, "modality", "1")
    low, high = np.percentile(image, [20, 60])
    choose(page, "window-from", str(low))
    choose(page, "window-to", str(high))
    assert page.execute_script("return document.getElementById('window').selectedOptions[0].textContent") == "as typed"
    shown = pixels(page, 0, "image")
    zoom = shown.shape[0] // H
    middle = shown[zoom // 2 :: zoom, zoom // 2 :: zoom, 0][:H, :W]
    grey = 255 * np.clip((image[z, y : y + H, x : x + W] - low) / (high - low), 0, 1)
    assert (np.abs(middle - grey) <= 1).mean() > 0.7  # but where letters, borders and the mark are
    choose(page, "modality", "0")
    choose(page, "window", "0")
    assert float(page.find_element("id", "window-from").get_attribute("value")) < low + 1000


def test_what_is_enlarged_lies_around_the_point(page):
    show(page, "case_01")
    H, W = page.execute_script("return state.views[0].size")
    canvas = canvas_of(page, 0, "one-hot")
    whole = pixels(page, 0, "one-hot")
    choose(page, "zoom", "2")
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    top, left, height, width = page.execute_script(
        "const s = seen(state.views[0]); return [s.top, s.left, s.height, s.width]"
    )
    assert (height, width) == (H / 2, W / 2)
    assert not np.array_equal(pixels(page, 0, "one-hot"), whole)
    webdriver.ActionChains(page).move_to_element(canvas).perform()  # its middle
    view = page.execute_script("return [state.reading.view.number, state.reading.row, state.reading.column]")
    assert view[0] == 0
    assert abs(view[1] - (top + height / 2)) <= 1
    assert abs(view[2] - (left + width / 2)) <= 1
    choose(page, "zoom", "1")
    assert np.array_equal(pixels(page, 0, "SVLS").shape, whole.shape)


def test_the_oddest_case_is_named_where_there_is_no_flag(page):
    ranking = page.execute_script("return report.ranking")
    odd = next(entry for entry in ranking if entry["reason"] != "nothing")
    said = page.execute_script(
        "const kept = report.flags; report.flags = []; fillFlags();"
        "const text = document.getElementById('flags').textContent; report.flags = kept; fillFlags(); return text"
    )
    assert said == f"No flag. The oddest case is {odd['id']}: {odd['reason']}."


def test_every_control_has_a_name_and_every_picture_a_text(page):
    for element in page.find_elements("css selector", "input, select"):
        assert element.find_element("xpath", "ancestor::label").get_attribute("textContent").strip()
    for canvas in page.find_elements("css selector", "canvas"):
        assert canvas.get_attribute("aria-label")
        assert canvas.get_attribute("tabindex") == "0"
    for table in page.find_elements("css selector", "table"):
        assert table.find_elements("tag name", "caption")
        assert all(th.get_attribute("scope") for th in table.find_elements("tag name", "th"))
    ids = [e.get_attribute("id") for e in page.find_elements("css selector", "[id]")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_light_and_dark(page, scheme):
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    colours = json.loads(
        page.execute_script(
            "const s = (e) => getComputedStyle(e); return JSON.stringify([s(document.body).color,"
            "s(document.body).backgroundColor, s(document.querySelector('figcaption')).color])"
        )
    )
    text, back, soft = ([int(n) / 255 for n in re.findall(r"\d+", colour)[:3]] for colour in colours)
    assert contrast(text, back) > 7
    assert contrast(soft, back) > 4.5
    assert (sum(back) > 1.5) == (scheme == "light")


def contrast(one, other):
    """The contrast ratio of WCAG 2."""

    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return np.dot(linear, [0.2126, 0.7152, 0.0722])

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
