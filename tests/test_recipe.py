from __future__ import annotations

import pytest

from geols_precompute.digests import canonical_json
from geols_precompute.errors import RecipeError
from geols_precompute.recipe.files import BUNDLED, assemble_recipe, load_recipe_file
from geols_precompute.recipe.parameters import (
    MapParameters,
    Preprocessing,
    Recipe,
    TrainingHints,
    class_table,
    map_parameters,
    recipe_differences,
)


def recipe(**maps) -> Recipe:
    return Recipe(
        classes=class_table({1: "a", 2: "b"}),
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
        {"seeds": "erosion"}, {"metric": "riemannian"}, {"lam": 0.5}, {"iterations": 5}, {"iterations": "exact"},
        {"decay": 1.0}, {"background": "seeds"}, {"modalities": "joint"}, {"seed_fallback": False},
        {"engine": "geodistk"},
    ],
)  # fmt: skip
def test_every_map_parameter_changes_the_recipe(change):
    assert canonical_json(recipe(**change).as_json()) != canonical_json(recipe().as_json())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"seeds": "random-0"}, "seeds"), ({"seeds": "random"}, "seeds"), ({"seeds": "skeletons"}, "seeds"),
        ({"lam": 1.1}, "lam"), ({"lam": float("nan")}, "lam"), ({"gamma": -1}, "gamma"),
        ({"gamma": float("inf")}, "gamma"), ({"iterations": 0}, "iterations"), ({"iterations": 2.5}, "iterations"),
        ({"iterations": True}, "iterations"), ({"iterations": "all"}, "iterations"), ({"decay": 0}, "decay"),
        ({"decay": "median"}, "decay"), ({"metric": "l2"}, "metric"), ({"background": "zero"}, "background"),
        ({"engine": "cuda"}, "engine"), ({"engine": "geodistk", "metric": "riemannian"}, "geodistk"),
        ({"engine": "geodistk", "iterations": "exact"}, "geodistk"), ({"random_seed": -1}, "random_seed"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused_by_name(change, says):
    with pytest.raises(RecipeError, match=says):
        MapParameters(**change)


def test_class_table_adds_background_and_sorts():
    table = class_table({4: "d", 1: "a"})
    assert [(c.value, c.name) for c in table] == [(0, "background"), (1, "a"), (4, "d")]


@pytest.mark.parametrize(
    "names", [{}, {0: "bg"}, {-1: "x"}, {1: "a", 2: "a"}, {1: ""}, {v: str(v) for v in range(1, 33)}]
)
def test_bad_class_tables_are_refused(names):
    with pytest.raises(RecipeError):
        class_table(names)


@pytest.mark.parametrize(
    "bad",
    [
        {"modalities": ()}, {"modalities": ("a", "a")}, {"modalities": ("a",), "spacing": (1, 0, 1)},
        {"modalities": ("a",), "clip": (5, 5)}, {"modalities": ("a",), "clip": (0, 101)},
        {"modalities": ("a",), "ignore": 0},
    ],
)  # fmt: skip
def test_bad_preprocessing_is_refused(bad):
    with pytest.raises(RecipeError):
        Preprocessing(**bad)


def test_ignore_regions_and_modality_must_fit_the_classes():
    classes, ct = class_table({1: "a"}), Preprocessing(modalities=("ct",))
    with pytest.raises(RecipeError, match="both a class and the ignore"):
        Recipe(classes=classes, preprocessing=Preprocessing(modalities=("ct",), ignore=1))
    with pytest.raises(RecipeError, match="region WT"):
        Recipe(classes=classes, preprocessing=ct, hints=TrainingHints(regions={"WT": (1, 2)}))
    with pytest.raises(RecipeError, match="a is the name of a class and of a region"):
        Recipe(classes=classes, preprocessing=ct, hints=TrainingHints(regions={"a": (1,)}))
    with pytest.raises(RecipeError, match="average, joint, or one of ct"):
        Recipe(classes=classes, preprocessing=ct, maps=MapParameters(modalities="t1"))


def test_precedence_is_default_recipe_preset_flags():
    assert map_parameters([{"preset": "paper", "decay": 2.0}]).decay == 2.0
    assert map_parameters([{"iterations": 9}, {"preset": "code"}]).iterations == 4
    assert map_parameters([{"iterations": 9}, {"preset": "paper"}, {"iterations": 7}]).iterations == 7
    paper = map_parameters([{}, {"preset": "paper"}])
    assert (paper.metric, paper.gamma, paper.iterations, paper.decay) == ("riemannian", 1.0, "exact", 1.0)
    code = map_parameters([{}, {"preset": "code"}])
    assert map_parameters([{"seeds": "erosion", "engine": "geodistk"}, {"preset": "code"}]).seeds == "erosion"
    assert (code.metric, code.lam, code.iterations, code.decay, code.seed_fallback) == ("gradient", 1, 4, "mean", False)
    with pytest.raises(RecipeError, match="unknown map parameter 'lambda'"):
        map_parameters([{"lambda": 1}])


@pytest.mark.parametrize("name", BUNDLED)
def test_bundled_recipes_assemble(name):
    file = load_recipe_file(name)
    made = assemble_recipe(file, data_classes=None, data_modalities=("x",))
    assert made.preprocessing.modalities == file.modalities
    assert [label.value for label in made.classes][1:] == sorted(file.classes)


def test_flags_override_a_recipe():
    made = assemble_recipe(
        load_recipe_file("flare2021"), data_classes={1: "x"}, data_modalities=("ct",), flag_classes={9: "tumour"},
        clip=(1.0, 99.0), map_flags={"seeds": "erosion"},
    )  # fmt: skip
    assert [c.name for c in made.classes] == ["background", "tumour"]
    assert made.preprocessing.clip == (1.0, 99.0)
    assert made.preprocessing.spacing == (2.5, 2.0, 2.0)
    assert made.maps.seeds == "erosion"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clas = 1", "unknown key 'clas'"), ("x = ", "not valid TOML"), ("[classes]\na = 'b'", "invalid literal"),
        ("crop = [1, 2]", "crop"), ("modalities = 3", "modalities must be of type list"),
        ("maps = 5", "maps must be"), ("skull_stripped = 'no'", "skull_stripped must be"),
        ("ignore = 2.5", "ignore must be"), ("[maps]\nseed_fallback = 'no'\n[classes]\n1='a'", "seed_fallback must be"),
        ("[maps]\nseeds = 5\n[classes]\n1='a'", "seeds must be"), ("spacing = ['a','b','c']", "could not convert"),
        ("[maps]\nlam = 7\n[classes]\n1='a'", "lam must be"),
        ("[maps]\nlam = '7'\n[classes]\n1='a'", "lam must be"),
    ],
)  # fmt: skip
def test_bad_recipe_files_say_what_and_where(tmp_path, text, says):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=says):
        assemble_recipe(load_recipe_file(str(path)), data_classes=None, data_modalities=("ct",))


def test_an_unknown_recipe_lists_the_bundled_ones():
    with pytest.raises(RecipeError, match="brats2019, brats2023, flare2021"):
        load_recipe_file("flare22")


def test_nothing_names_the_classes():
    with pytest.raises(RecipeError, match=r"--recipe .* or --classes"):
        assemble_recipe(None, data_classes=None, data_modalities=("ct",))


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
