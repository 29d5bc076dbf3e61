from __future__ import annotations

import pytest

from geols_precompute.cli.precompute import asked_recipe
from geols_precompute.digests import canonical_json
from geols_precompute.errors import RecipeError
from geols_precompute.recipe.classes import ClassTable
from geols_precompute.recipe.files import BUNDLED, load_recipe
from geols_precompute.recipe.parameters import (
    MapParameters,
    Preprocessing,
    Recipe,
    ResolvedRecipe,
    TrainingHints,
    preprocessing_json,
    recipe_differences,
)


def recipe(**maps) -> ResolvedRecipe:
    return ResolvedRecipe(
        classes=ClassTable.from_names({1: "a", 2: "b"}),
        preprocessing=Preprocessing(modalities=("ct",)),
        maps=MapParameters(**maps),
    )


def test_canonical_json_is_sorted_blank_free_and_refuses_nan():
    assert canonical_json({"b": [1.0, 0.1], "a": "λ"}) == '{"a":"λ","b":[1.0,0.1]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        canonical_json({"a": float("nan")})


def test_a_number_written_as_int_or_float_gives_the_same_recipe():
    assert recipe(lam=1, decay=2).as_json() == recipe(lam=1.0, decay=2.0).as_json()
    assert canonical_json(recipe(lam=1).as_json()) == canonical_json(recipe(lam=1.0).as_json())


def test_only_parameters_that_take_effect_are_in_the_digest():
    assert recipe(gamma=3).as_json() == recipe().as_json()
    assert recipe(metric="riemannian", lam=0.5).as_json() == recipe(metric="riemannian").as_json()
    assert recipe(random_seed=7).as_json() == recipe().as_json()
    assert recipe(seeds="random-3", random_seed=7).as_json() != recipe(seeds="random-3").as_json()


@pytest.mark.parametrize(
    "change",
    [
        {"seeds": "erosion"},
        {"metric": "riemannian"},
        {"lam": 0.5},
        {"iterations": 5},
        {"iterations": "exact"},
        {"decay": 1.0},
        {"background": "seeds"},
        {"modalities": "joint"},
        {"seed_fallback": False},
        {"engine": "geodistk"},
    ],
)
def test_every_map_parameter_changes_the_recipe(change):
    assert canonical_json(recipe(**change).as_json()) != canonical_json(recipe().as_json())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": "random-0"}, "seeds"),
        ({"seeds": "random"}, "seeds"),
        ({"seeds": "skeletons"}, "seeds"),
        ({"lam": 1.1}, "lam"),
        ({"lam": float("nan")}, "lam"),
        ({"gamma": -1}, "gamma"),
        ({"gamma": float("inf")}, "gamma"),
        ({"iterations": 0}, "iterations"),
        ({"iterations": 2.5}, "iterations"),
        ({"iterations": True}, "iterations"),
        ({"iterations": "all"}, "iterations"),
        ({"decay": 0}, "decay"),
        ({"decay": "median"}, "decay"),
        ({"metric": "l2"}, "metric"),
        ({"background": "zero"}, "background"),
        ({"engine": "cuda"}, "engine"),
        ({"engine": "geodistk", "metric": "riemannian"}, "geodistk"),
        ({"engine": "geodistk", "iterations": "exact"}, "geodistk"),
        ({"random_seed": -1}, "random_seed"),
    ],
)
def test_values_out_of_range_are_refused_by_name(change, says):
    with pytest.raises(RecipeError, match=says):
        MapParameters(**change)


@pytest.mark.parametrize(
    "bad",
    [
        {"modalities": ()},
        {"modalities": ("a", "a")},
        {"modalities": ("a",), "spacing": (1, 0, 1)},
        {"modalities": ("a",), "clip": (5, 5)},
        {"modalities": ("a",), "clip": (0, 101)},
    ],
)
def test_bad_preprocessing_is_refused(bad):
    with pytest.raises(RecipeError):
        Preprocessing(**bad)


@pytest.mark.parametrize(
    ("made", "ignore"),
    [
        (Preprocessing(modalities=("ct",)), None),
        (Preprocessing(modalities=("t1", "t2"), spacing=(2.0, 1.0, 0.5), clip=(1.0, 99.0)), 9),
    ],
)
def test_preprocessing_as_json_holds_the_ignore_value_and_reads_back(made, ignore):
    classes = ClassTable.from_names({1: "a"}, ignore=ignore)
    document = preprocessing_json(made, classes)
    assert set(document) == {"modalities", "ignore", "spacing", "clip"}
    assert document["ignore"] == ignore
    assert Preprocessing.from_json(document) == made
    assert ResolvedRecipe(classes=classes, preprocessing=made).as_json()["preprocessing"] == document


def test_hints_as_json_read_back():
    for hints in (TrainingHints(), TrainingHints(regions={"r": (1, 2)}, crop=(8, 16, 24), skull_stripped=True)):
        assert TrainingHints.from_json(hints.as_json()) == hints


def test_ignore_regions_and_modality_must_fit_the_classes():
    classes, ct = ClassTable.from_names({1: "a"}), Preprocessing(modalities=("ct",))
    with pytest.raises(RecipeError, match="both a class and the ignore"):
        Recipe(classes={1: "a"}, ignore=1).resolve(modalities=("ct",))
    with pytest.raises(RecipeError, match="both a class and the ignore"):
        Recipe(classes={1: "a"}).resolve(modalities=("ct",), ignore=1)
    with pytest.raises(RecipeError, match="region WT"):
        ResolvedRecipe(classes=classes, preprocessing=ct, hints=TrainingHints(regions={"WT": (1, 2)}))
    with pytest.raises(RecipeError, match="a is the name of a class and of a region"):
        ResolvedRecipe(classes=classes, preprocessing=ct, hints=TrainingHints(regions={"a": (1,)}))
    with pytest.raises(RecipeError, match="average, joint, or one of ct"):
        ResolvedRecipe(classes=classes, preprocessing=ct, maps=MapParameters(modalities="t1"))


def test_precedence_is_default_recipe_preset_flags():
    assert MapParameters().changed(preset="paper", decay=2.0).decay == 2.0
    assert MapParameters(iterations=9).changed(preset="code").iterations == 4
    assert MapParameters(iterations=9).changed(preset="paper", iterations=7).iterations == 7
    paper = MapParameters().changed(preset="paper")
    assert (paper.metric, paper.gamma, paper.iterations, paper.decay) == ("riemannian", 1.0, "exact", 1.0)
    code = MapParameters().changed(preset="code")
    assert MapParameters(seeds="erosion", engine="geodistk").changed(preset="code").seeds == "erosion"
    assert (code.metric, code.lam, code.iterations, code.decay, code.seed_fallback) == ("gradient", 1, 4, "mean", False)
    assert MapParameters(iterations=9).changed() == MapParameters(iterations=9)
    with pytest.raises(RecipeError, match="unknown map parameter 'lambda'"):
        MapParameters().changed(**{"lambda": 1})
    with pytest.raises(RecipeError, match="preset must be one of default, code, paper, border, got 'best'"):
        MapParameters().changed(preset="best")


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_recipes_resolve(name):
    asked = load_recipe(name)
    made = asked.resolve(modalities=("x",))
    assert made.preprocessing.modalities == asked.modalities
    assert [label.value for label in made.classes][1:] == sorted(asked.classes)


def test_what_a_recipe_leaves_open_the_data_decide():
    data = {"modalities": ("ct",), "classes": {1: "x"}, "ignore": 9}
    made = Recipe(spacing=(1.0, 1.0, 2.0)).resolve(**data)
    assert (made.preprocessing.modalities, made.classes.names, made.classes.ignore) == (("ct",), ("background", "x"), 9)
    assert made.preprocessing.spacing == (1.0, 1.0, 2.0)
    made = Recipe(classes={2: "y"}, modalities=("mr",), ignore=7).resolve(**data)
    assert (made.preprocessing.modalities, made.classes.names, made.classes.ignore) == (("mr",), ("background", "y"), 7)
    assert made.channels == (1,)
    assert Recipe(maps=MapParameters(background="seeds")).resolve(**data).channels == (0, 1)


def test_flags_override_a_recipe():
    asked = asked_recipe("flare2021", None, {9: "tumour"}, (1.0, 99.0), {"seeds": "erosion"})
    made = asked.resolve(modalities=("ct",), classes={1: "x"})
    assert [c.name for c in made.classes] == ["background", "tumour"]
    assert made.preprocessing.clip == (1.0, 99.0)
    assert made.preprocessing.spacing == (2.5, 2.0, 2.0)
    assert made.maps.seeds == "erosion"


def test_a_recipe_file_is_below_the_preset_and_the_preset_below_flags(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('[maps]\npreset = "paper"\ndecay = 2.0\niterations = 9\nseeds = "erosion"\n')
    asked = load_recipe(str(path)).maps
    assert (asked.metric, asked.decay, asked.iterations, asked.seeds) == ("riemannian", 2.0, 9, "erosion")
    maps = asked_recipe(str(path), "code", None, None, {"iterations": 7}).maps
    assert (maps.metric, maps.decay, maps.iterations, maps.seeds) == ("gradient", "mean", 7, "erosion")
    for flag in ("gamma", "lam"):
        preset = "code" if flag == "gamma" else "paper"
        with pytest.raises(RecipeError, match=f"--{flag} belongs to --metric"):
            asked_recipe(None, preset, None, None, {flag: 1.0})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clas = 1", "unknown key 'clas'"),
        ("x = ", "not valid TOML"),
        ("[classes]\na = 'b'", "invalid literal"),
        ("crop = [1, 2]", "crop"),
        ("modalities = 3", "modalities must be of type list"),
        ("maps = 5", "maps must be"),
        ("skull_stripped = 'no'", "skull_stripped must be"),
        ("ignore = 2.5", "ignore must be"),
        ("[maps]\nseed_fallback = 'no'\n[classes]\n1='a'", "seed_fallback must be"),
        ("[maps]\nseeds = 5\n[classes]\n1='a'", "seeds must be"),
        ("spacing = ['a','b','c']", "could not convert"),
        ("[maps]\nlam = 7\n[classes]\n1='a'", "lam must be"),
        ("[maps]\nlam = '7'\n[classes]\n1='a'", "lam must be"),
        ("[maps]\nlambda = 1", "unknown map parameter 'lambda'"),
        ("[maps]\npreset = 3", "preset must be one of"),
    ],
)
def test_bad_recipe_files_say_what_and_where(tmp_path, text, says):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=rf"mine\.toml.*{says}"):
        load_recipe(str(path))


def test_a_recipe_file_that_is_no_text(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match=r"mine\.toml: cannot be read"):
        load_recipe(str(path))


def test_an_unknown_recipe_lists_the_bundled_ones():
    with pytest.raises(RecipeError, match="brats2019, brats2023, flare2021"):
        load_recipe("flare22")


def test_nothing_names_the_classes():
    with pytest.raises(RecipeError, match=r"--recipe .* or --classes"):
        Recipe().resolve(modalities=("ct",))


def test_differences_name_each_parameter():
    a, b = recipe(iterations=4).as_json(), recipe(iterations=8, seeds="erosion").as_json()
    assert recipe_differences(a, b) == [
        "maps.iterations: 4, store has 8",
        'maps.seeds: "skeleton", store has "erosion"',
    ]


def test_the_canonical_recipe_is_pinned():
    """A store's recipe_id is public: a change here breaks every published store and needs a new format version."""
    assert canonical_json(recipe().as_json()).decode() == (
        '{"maps":{"background":"complement","decay":"mean","engine":{"name":"numba","version":1},"iterations":4,'
        '"lam":1.0,"metric":"gradient","modalities":"average","seed_fallback":true,"seeds":"skeleton"},'
        '"preprocessing":{"clip":null,"ignore":null,"modalities":["ct"],"spacing":null}}'
    )
